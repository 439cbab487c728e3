"""For configuration files: defaults, other files, arguments after the colon, presets."""

from sit_jax.config.arguments import parse_arg
from sit_jax.config.named import builtin
from sit_jax.config.presets import apply_args, laptop, paper, runlocal, set_variant
from sit_jax.config.schema import defaults

__all__ = ["apply_args", "builtin", "defaults", "laptop", "paper", "parse_arg", "runlocal", "set_variant"]
