"""The options that change a configuration: of a file, or of a run."""

import pathlib
import re

import ml_collections
from absl import flags
from ml_collections import config_flags

from sit_jax.common.commands import new_flags, one_line, parse
from sit_jax.common.errors import InputError
from sit_jax.config.schema import defaults

LOADING = (AttributeError, KeyError, OSError, TypeError, ValueError)  # what ml_collections raises for wrong input


def make_flags(argv: list[str]) -> flags.FlagValues:
    """Returns the flags of every command on trained weights, with `--config.<key>=value` as in `argv`."""
    values = new_flags()
    flags.DEFINE_enum("weights", "params", ["params", "ema"], "The weights, or their average.", flag_values=values)
    description = "--config.<key>=value changes the configuration of the run; keys: sit_jax/config/schema.py."
    try:
        config_flags.DEFINE_config_dict("config", defaults(), description, flag_values=values, sys_argv=argv)
    except LOADING as error:
        raise InputError(one_line(error)) from error
    return values


def add_workdir_flags(values: flags.FlagValues) -> None:
    """Adds the flags that name one checkpoint."""
    flags.DEFINE_string("workdir", None, "The work directory of a run of sit_jax.main.", flag_values=values)
    flags.DEFINE_integer("step", None, "The checkpoint. Default: the newest.", flag_values=values)


def make_config_flags(argv: list[str]) -> flags.FlagValues:
    """Returns the flags of every command on a configuration file, with `--config.<key>=value` as in `argv`."""
    values = new_flags()
    description = "A file of configs/, with arguments after a colon; --config.<key>=value changes it."
    config_flags.DEFINE_config_file("config", None, description, flag_values=values, sys_argv=argv)
    return values


def add_out_flag(values: flags.FlagValues) -> None:
    """Adds the flag for the file of all figures."""
    flags.DEFINE_string("out", None, "A JSON file for all figures.", flag_values=values)


def parse_config(
    values: flags.FlagValues, argv: list[str], required: tuple[str, ...], description: str
) -> ml_collections.ConfigDict:
    """Parses flags of `make_config_flags` and returns the configuration; raises InputError where they are wrong."""
    try:
        parse(values, argv, (), description)
        if values["config"].value is not None:
            values.config.lock()  # a file that could not be loaded raises at the first use
    except LOADING as error:
        raise InputError(one_line(error)) from error
    if values["config"].value is None:
        raise InputError("--config is missing; for one: --config=configs/digits.py")
    for name in required:
        if not values[name].value:
            raise InputError(f"--{name} is missing; --help lists all options")
    if "out" in values and values.out:
        check_json_path(values.out)
    return values.config


def check_json_path(out: str) -> None:
    """Raises InputError unless `--out` names a file in a folder that exists."""
    if not pathlib.Path(out).resolve().parent.is_dir():
        raise InputError(f"--out={out}: there is no such folder")
    if pathlib.Path(out).is_dir():
        raise InputError(f"--out={out} is a folder; give the name of a file")


def overrides(values: flags.FlagValues) -> dict[str, object]:
    """Returns the values given as `--config.<key>=value`, by key."""
    names = [name for name in values if name.startswith("config.")]
    return {name.removeprefix("config."): values[name].value for name in names}


def default_workdir(values: flags.FlagValues) -> pathlib.Path:
    """Returns `runs/NAME` for the configuration file `NAME.py`, `runs/NAME-ARGS` with arguments after a colon."""
    path, _, arguments = config_flags.get_config_filename(values["config"]).partition(":")
    name = "-".join(filter(None, [pathlib.Path(path).stem, arguments]))
    return pathlib.Path("runs") / re.sub(r"[^\w.=]+", "-", name)
