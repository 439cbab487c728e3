"""Shared by all commands: parsing options, showing help, running, and exit codes."""

import itertools
import os
import sys
import textwrap
from collections.abc import Callable
from typing import Any, NoReturn

import jax
from absl import flags

from sit_jax.common.console import table
from sit_jax.common.errors import (
    DONE,
    FAILED,
    PREEMPTED,
    WRONG_INPUT,
    InputError,
    NonFiniteError,
    SaveError,
    ShortageError,
    StoreError,
)
from sit_jax.common.files import check_local, user_cache
from sit_jax.common.memory import is_shortage
from sit_jax.common.pipes import unbroken
from sit_jax.common.quiet import quiet
from sit_jax.common.stopping import BEGINS_AGAIN, RESUMES, leave, soon_ended
from sit_jax.common.text import printable

WRITTEN = ("workdir", "workdirs", "out", "trace", "data_dir")  # options that name places to write
HELP_WIDTH = 98  # characters per line of --help


def new_flags() -> flags.FlagValues:
    """Returns flags that define only --help."""
    values = flags.FlagValues()
    flags.DEFINE_boolean("help", False, "Show this help.", short_name="h", flag_values=values)
    return values


def parse(
    values: flags.FlagValues, argv: list[str], required: tuple[str, ...], description: str, positional: str = ""
) -> list[str]:
    """Parses the command line into `values` and returns the positional arguments.

    If `positional` is set, it names the single positional argument, which is required; otherwise there is none.
    Raises InputError if the command line is wrong or a flag in `required` is missing, SystemExit(0) after --help.
    """
    try:
        rest = values(argv)[1:]
    except (flags.Error, AttributeError, KeyError, TypeError, ValueError) as error:
        raise InputError(one_line(error)) from error
    expand_home(values)
    if values.help:
        print(help_text(values, description))
        raise SystemExit(DONE)
    if positional and not rest:
        raise InputError(f"{positional} is missing; --help lists all options")
    for stray in rest[bool(positional) :]:
        raise InputError(f"{stray!r} is not understood; options are written --name=value")
    check_required(values, required)
    check_written(values)
    return rest


def check_required(values: flags.FlagValues, required: tuple[str, ...]) -> None:
    """Raises InputError for the first required flag without a value, and for a flag with an empty value."""
    for name in required:
        if values[name].value in (None, "", []):
            raise InputError(f"--{name} is missing; --help lists all options")
    for name in values:
        if "." not in name and values[name].present and "" in (values[name].value, *as_items(values[name].value)):
            raise InputError(f"--{name} has an empty value; give one, or leave the option out")


def check_written(values: flags.FlagValues) -> None:
    """Raises InputError if an option of WRITTEN is an address in a remote store."""
    for name in filter(values.__contains__, WRITTEN):
        for value in as_items(values[name].value) or [values[name].value]:
            check_local(f"--{name}", value)


def as_items(value: Any) -> list:
    """Returns the items of the value of a list flag; none of another flag."""
    return value if isinstance(value, list) else []


def expand_home(values: flags.FlagValues) -> None:
    """Replaces a leading ~ or ~USER in each text option by the home folder; the shell leaves it after `=`."""
    for name in values:
        text = values[name].value
        if isinstance(text, str) and text.startswith("~") and "." not in name:  # keys have a dot
            values[name].value = os.path.expanduser(text)
        elif isinstance(text, list):
            values[name].value = [os.path.expanduser(item) if isinstance(item, str) else item for item in text]


def help_text(values: flags.FlagValues, description: str) -> str:
    """Returns the description of a command, followed by a table of its options with their defaults."""
    rows: list[list[str]] = []
    names = sorted(name for name in values if "." not in name and len(name) > 1)  # no keys, no short names
    width = HELP_WIDTH - max(map(len, names)) - len("  --[no]  ")
    for name in names:
        flag = values[name]
        option = f"--{name}" if not flag.boolean else f"--[no]{name}" if flag.default else f"--{name}"
        text = " ".join(str(flag.help).split()) + default_text(flag)
        lines = textwrap.wrap(text, width)
        rows += [[f"  {start}", line] for start, line in itertools.zip_longest([option], lines, fillvalue="")]
    return f"{wrapped(description)}\n\noptions, each --name=value or --name:\n{table(rows)}"


def wrapped(description: str) -> str:
    """Returns a description as lines of HELP_WIDTH; a paragraph with indented lines, such as examples, stays."""
    paragraphs = description.strip("\n").rstrip().split("\n\n")
    return "\n\n".join(one if "  " in one else textwrap.fill(one, HELP_WIDTH) for one in paragraphs)


def default_text(flag: Any) -> str:
    """Returns the default of a flag as help text; empty for booleans and for flags without a default."""
    known = isinstance(flag.default, str | int | float) and not isinstance(flag.default, bool) and flag.default != ""
    return f" Default: {flag.default}." if known else ""


def one_line(error: Exception) -> str:
    """Returns the message of a command-line error on one line."""
    while error.args and isinstance(error.args[0], Exception):  # ml_collections nests exceptions
        error = error.args[0]
    # str() of a KeyError escapes the quotes in its message.
    text = f"no such key: {error.args[0]}" if isinstance(error, KeyError) and error.args else str(error)
    # If a configuration file raises, the message is a traceback; its last line names the error.
    if "Traceback (most recent call last)" in text:
        last = text.strip().splitlines()[-1]
        text = last.partition("InputError: ")[2] or last
    return " ".join(text.split())


def enable_compilation_cache() -> None:
    """Keeps compiled programs in the user's cache folder, unless JAX_COMPILATION_CACHE_DIR is set."""
    if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
        jax.config.update("jax_compilation_cache_dir", str(user_cache() / "xla"))


def run_steps_one_by_one() -> None:
    """Makes a step on one CPU device wait for the end of the previous step; call it before JAX looks for devices.

    A step that starts early allocates before the previous step has freed its memory, which doubles the memory.
    """
    jax.config.update("jax_cpu_enable_async_dispatch", False)


def end(code: int) -> NoReturn:
    """Ends the process with an exit code; after a stop signal at once, without waiting for threads that still read."""
    if code == PREEMPTED:
        leave(code)
    sys.exit(code)


def shortage_line(error: BaseException) -> str:
    """Returns what to say on an error that says that memory ran out."""
    if isinstance(error, ShortageError):
        return str(error)
    text = " ".join(str(error).split())[:200]
    return f"memory ran out ({text or 'Python found none'}); close other programs, or use smaller batches or images"


def run(command: Callable[[list[str]], bool], argv: list[str], resumes: bool = True) -> int:
    """Runs a command and returns its exit code: 0 done, 1 failed, 2 wrong input, 75 stopped by a signal (run it again).

    `command` takes the command line and returns whether it finished. `resumes` tells whether the same command continues
    stopped work; otherwise, it begins again.
    """
    ending = f"stopped by a signal; {RESUMES if resumes else BEGINS_AGAIN}"
    with quiet(), unbroken(), soon_ended(ending):
        return _run(command, argv, ending)


def _run(command: Callable[[list[str]], bool], argv: list[str], ending: str) -> int:
    try:
        enable_compilation_cache()
        run_steps_one_by_one()
        finished = command(argv)
    except InputError as error:
        print(printable(f"error: {error}", sys.stderr), file=sys.stderr)
        return WRONG_INPUT
    except NonFiniteError as error:
        print(f"error: {error}; the last good checkpoint is kept: lower the learning rate", file=sys.stderr)
        return FAILED
    except (SaveError, StoreError) as error:
        print(f"error: {error}", file=sys.stderr)
        return FAILED
    except (MemoryError, RuntimeError) as error:
        if not is_shortage(error):
            raise
        print(f"error: {shortage_line(error)}", file=sys.stderr)
        return FAILED
    except KeyboardInterrupt:
        finished = False
    if not finished:
        print(ending, flush=True)
    return DONE if finished else PREEMPTED
