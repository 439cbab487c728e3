"""Command-line flags that change a configuration, from a file or from a run."""

import pathlib
import re

import ml_collections
from absl import flags
from ml_collections import config_flags

from sit_jax.common.commands import check_required, new_flags, one_line, parse
from sit_jax.common.errors import InputError
from sit_jax.common.files import check_writable
from sit_jax.config.named import with_paths
from sit_jax.config.rules import LARGEST_SEED
from sit_jax.config.schema import defaults
from sit_jax.config.wrong import explain

LOADING = (AttributeError, KeyError, OSError, TypeError, ValueError)  # raised by ml_collections for wrong input


def make_flags(argv: list[str]) -> flags.FlagValues:
    """Returns the flags shared by the commands on trained weights; `argv` holds the `--config.<key>=value` options.

    Raises InputError if one of these options is wrong.
    """
    if wrong := explain(argv, defaults()):
        raise InputError(wrong)
    values = new_flags()
    flags.DEFINE_enum("weights", "params", ["params", "ema"], "Weights, or their moving average.", flag_values=values)
    description = "--config.<key>=value changes the configuration of the run; keys: sit_jax/config/schema.py."
    try:
        config_flags.DEFINE_config_dict("config", defaults(), description, flag_values=values, sys_argv=argv)
    except LOADING as error:
        raise InputError(one_line(error)) from error
    return values


def add_workdir_flags(values: flags.FlagValues) -> None:
    """Adds --workdir and --step, which name a checkpoint, and --encoder, public weights instead."""
    flags.DEFINE_string("workdir", None, "The work directory of a run of sit_jax.main.", flag_values=values)
    flags.DEFINE_string("encoder", None, "Weights of another project instead (docs/weights.md).", flag_values=values)
    flags.DEFINE_integer("step", None, "Step of the checkpoint. Default: the newest.", flag_values=values)


def add_seed_flag(values: flags.FlagValues, description: str) -> None:
    """Adds --seed, of random choices of a command."""
    flags.DEFINE_integer("seed", 0, description, lower_bound=0, upper_bound=LARGEST_SEED, flag_values=values)


def make_config_flags(argv: list[str]) -> flags.FlagValues:
    """Returns the flags shared by the commands on a configuration file; `argv` holds `--config.<key>=value` options."""
    values, argv = new_flags(), with_paths(argv)
    description = "A name or file of a configuration, with arguments after a colon; --config.<key>=value changes a key."
    config_flags.DEFINE_config_file("config", None, description, flag_values=values, sys_argv=argv)
    return values


def add_out_flag(values: flags.FlagValues) -> None:
    """Adds --out, a JSON file for all results."""
    flags.DEFINE_string("out", None, "A JSON file for all results.", flag_values=values)


def parse_config(
    values: flags.FlagValues, argv: list[str], required: tuple[str, ...], description: str
) -> ml_collections.ConfigDict:
    """Parses the flags of `make_config_flags` and returns the configuration.

    Raises InputError if a flag is wrong, if --config or a flag in `required` is missing, or if --out has no folder.
    """
    argv = with_paths(argv)
    try:
        parse(values, argv, (), description)
        if values["config"].value is not None:
            values.config.lock()  # if the file could not be loaded, the first use raises
    except Exception as error:  # the file may do anything
        raise InputError(explain(argv) or one_line(error)) from error
    if values["config"].value is None:
        raise InputError("--config is missing; for example --config=digits")
    check_required(values, required)
    if "out" in values and values.out:
        check_json_path(values.out)
    return values.config


def check_json_path(out: str) -> None:
    """Raises InputError unless `out`, the value of --out, is a file path in an existing folder."""
    if not pathlib.Path(out).resolve().parent.is_dir():
        raise InputError(f"--out={out}: there is no such folder")
    if pathlib.Path(out).is_dir():
        raise InputError(f"--out={out} is a folder; give the name of a file")
    check_writable(pathlib.Path(out), f"--out={out}: cannot be written ({{}}); choose another file")


def overrides(values: flags.FlagValues) -> dict[str, object]:
    """Returns the values of the `--config.<key>=value` options, by key."""
    names = [name for name in values if name.startswith("config.")]
    return {name.removeprefix("config."): values[name].value for name in names}


def default_workdir(values: flags.FlagValues) -> pathlib.Path:
    """Returns `runs/NAME` for the configuration file `NAME.py`, or `runs/NAME-ARGS` if arguments follow a colon."""
    path, _, arguments = config_flags.get_config_filename(values["config"]).partition(":")
    name = "-".join(filter(None, [pathlib.Path(path).stem, arguments]))
    return pathlib.Path("runs") / re.sub(r"[^\w.=]+", "-", name)
