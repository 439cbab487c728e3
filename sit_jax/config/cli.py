"""What the commands share: their flags, their exit codes, where compiled programs are kept."""

import os
import pathlib
import signal
import sys
from collections.abc import Callable

import jax
import ml_collections
from absl import flags, logging
from ml_collections import config_flags

from sit_jax.common.errors import DONE, FAILED, PREEMPTED, WRONG_INPUT, InputError, NonFiniteError, SaveError
from sit_jax.common.files import user_cache
from sit_jax.config import schema


def make_flags(argv: list[str]) -> flags.FlagValues:
    """Returns the flags that every command on trained weights has, with `--config.<key>=value` as in `argv`."""
    values = flags.FlagValues()
    flags.DEFINE_boolean("help", False, "Show this help.", short_name="h", flag_values=values)
    flags.DEFINE_enum("weights", "params", ["params", "ema"], "Weights, or their average.", flag_values=values)
    description = "Changes of the configuration of the run, as --config.<key>=value."
    try:
        config_flags.DEFINE_config_dict("config", schema.defaults(), description, flag_values=values, sys_argv=argv)
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise InputError(one_line(error)) from error
    values["config"].default_as_str = "that of the run"  # for --help; all keys are in sit_jax/config.py
    return values


def add_workdir_flags(values: flags.FlagValues) -> None:
    """Adds the flags that name one checkpoint."""
    flags.DEFINE_string("workdir", None, "The work directory of a run of sit_jax.main.", flag_values=values)
    flags.DEFINE_integer("step", None, "The checkpoint to use; default: the newest.", flag_values=values)


def make_config_flags(argv: list[str]) -> flags.FlagValues:
    """Returns the flags of a command on a configuration file, with `--config.<key>=value` as in `argv`."""
    values = flags.FlagValues()
    flags.DEFINE_boolean("help", False, "Show this help.", short_name="h", flag_values=values)
    description = "A file of configs/, with arguments after a colon; --config.<key>=value changes it."
    config_flags.DEFINE_config_file("config", None, description, flag_values=values, sys_argv=argv)
    flags.DEFINE_string("out", None, "A JSON file for all figures.", flag_values=values)
    return values


def parse_config(
    values: flags.FlagValues, argv: list[str], required: tuple[str, ...], description: str
) -> ml_collections.ConfigDict:
    """Parses flags of `make_config_flags` and returns the configuration; raises InputError where they are wrong."""
    try:
        parse(values, argv, required, description)
        values.config.lock()  # a file that could not be loaded says so at the first use
    except (AttributeError, KeyError, OSError, TypeError, ValueError) as error:
        raise InputError(one_line(error)) from error
    if values.out and not pathlib.Path(values.out).resolve().parent.is_dir():
        raise InputError(f"--out={values.out}: there is no such folder")
    if values.out and pathlib.Path(values.out).is_dir():
        raise InputError(f"--out={values.out} is a folder; give the name of a file")
    return values.config


def parse(values: flags.FlagValues, argv: list[str], required: tuple[str, ...], description: str) -> None:
    """Parses the command line into `values`; raises InputError where it is wrong, SystemExit(0) after --help."""
    try:
        rest = values(argv)
    except (flags.Error, AttributeError, KeyError, TypeError, ValueError) as error:
        raise InputError(one_line(error)) from error
    if values.help:
        print(f"{description}\n{values.get_help()}")
        raise SystemExit(DONE)
    if rest[1:]:
        raise InputError(f"{rest[1]!r} is not understood; options are written --name=value")
    for name in required:
        if values[name].value in (None, "", []):
            raise InputError(f"--{name} is missing; --help lists all options")


def one_line(error: Exception) -> str:
    """Returns what an error of the command line says, on one line."""
    while error.args and isinstance(error.args[0], Exception):  # ml_collections puts one into another
        error = error.args[0]
    # A KeyError shows its message as Python would write it, with escaped quotes.
    text = f"no such key: {error.args[0]}" if isinstance(error, KeyError) and error.args else str(error)
    # A configuration file that raises comes with its traceback, whose last line says what is wrong.
    if "Traceback (most recent call last)" in text:
        last = text.strip().splitlines()[-1]
        text = last.partition("InputError: ")[2] or last
    return " ".join(text.split())


def overrides(values: flags.FlagValues) -> dict[str, object]:
    """Returns the values given as `--config.<key>=value`, by key."""
    names = [name for name in values if name.startswith("config.")]
    return {name.removeprefix("config."): values[name].value for name in names}


def enable_compilation_cache() -> None:
    """Keeps compiled programs on disk, unless JAX_COMPILATION_CACHE_DIR says where."""
    if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
        jax.config.update("jax_compilation_cache_dir", str(user_cache() / "xla"))


def run_steps_one_by_one() -> None:
    """Lets a step on one CPU device start when the last one has ended; to be called before JAX looks for devices.

    A step that starts ahead takes its memory before the last one has returned its own: twice as much would be kept.
    """
    jax.config.update("jax_cpu_enable_async_dispatch", False)


def run(command: Callable[[list[str]], bool], argv: list[str]) -> int:
    """Runs a command and returns its exit code: 0 done, 2 wrong input, 75 stopped by a signal: run it again.

    `command` gets the command line and returns whether it came to its end.
    """
    logging.set_verbosity(logging.FATAL)  # orbax warns of what is usual here, and logs the errors that it raises
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        enable_compilation_cache()
        run_steps_one_by_one()
        finished = command(argv)
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return WRONG_INPUT
    except NonFiniteError as error:
        print(f"error: {error}; the last good checkpoint is kept: lower the learning rate", file=sys.stderr)
        return FAILED
    except SaveError as error:
        print(f"error: {error}", file=sys.stderr)
        return FAILED
    except KeyboardInterrupt:
        finished = False
    if not finished:
        print("stopped by a signal; run the same command to go on", flush=True)
    return DONE if finished else PREEMPTED
