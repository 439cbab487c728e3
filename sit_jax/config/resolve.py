"""Resolves a configuration: fills in durations in steps and how the model is computed."""

import math

import jax
import ml_collections

from sit_jax.common.errors import InputError
from sit_jax.config import computation as compute


def duration(config: ml_collections.ConfigDict, prefix: str, num_examples: int, batch_size: int) -> int:
    """Returns a duration in steps: the first that is set of `{prefix}steps`, `{prefix}examples` and `{prefix}epochs`.

    Raises InputError if both steps and examples are set.
    """
    steps, examples = config[f"{prefix}steps"], config[f"{prefix}examples"]
    if steps is not None and examples is not None:
        raise InputError(f"both {prefix}steps and {prefix}examples are set; keep one of them")
    if steps is not None:
        return steps
    if examples is None:
        examples = config[f"{prefix}epochs"] * num_examples
    return math.ceil(examples / batch_size)


def resolve(
    config: ml_collections.ConfigDict, num_examples: int, device: jax.Device | None = None
) -> ml_collections.ConfigDict:
    """Returns the configuration with every open value filled in: image size, how it is computed, durations in steps.

    `device` is a device that runs the step; None: the first device of this machine. The warm-up is at most half of the
    training. Raises InputError if the training has no step, if the warm-up is negative, or if both steps and examples
    are set.
    """
    config = ml_collections.ConfigDict(config.to_dict())  # an unlocked copy without placeholders
    with config.unlocked():
        config.data.num_examples = num_examples
    config.data.image_size = config.data.image_size or config.model.image_size
    config.data.bits = config.data.bits or 8
    compute.choose(config, device or jax.devices()[0])
    config.steps = duration(config, "", num_examples, config.batch_size)
    warmup_steps = duration(config.optim, "warmup_", num_examples, config.batch_size)
    config.optim.warmup_steps = min(warmup_steps, config.steps // 2)
    if config.steps < 1:
        raise InputError(f"the training is {config.steps} steps long; set steps, examples or epochs above 0")
    if warmup_steps < 0:
        raise InputError(
            f"the warm-up is {warmup_steps} steps long; set optim.warmup_epochs or optim.warmup_steps to 0 or more"
        )
    return config


def with_steps(config: ml_collections.ConfigDict, steps: int) -> ml_collections.ConfigDict:
    """Returns a resolved configuration with another length; the warm-up is again at most half of it."""
    config = ml_collections.ConfigDict(config.to_dict())
    config.steps = steps
    config.optim.warmup_steps = min(config.optim.warmup_steps, steps // 2)
    return config
