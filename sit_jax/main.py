"""Pre-trains: `python -m sit_jax.main --config=configs/stl10.py[:args] [--workdir=DIR] [--config.a.b=value]`."""

import os
import pathlib
import re
import sys

import jax
from absl import app, flags, logging
from ml_collections import config_flags

from sit_jax.errors import InputError
from sit_jax.train.loop import train
from sit_jax.train.metrics import NonFiniteError

DONE, FAILED, WRONG_INPUT, PREEMPTED = 0, 1, 2, 75

CONFIG = config_flags.DEFINE_config_file("config", None, "A file of configs/, with arguments after a colon.")
WORKDIR = flags.DEFINE_string("workdir", None, "Where the run lives; the same command goes on from there.")


def parse_flags(argv: list[str]) -> list[str]:
    """Parses the command line; raises InputError where it is wrong."""
    app.define_help_flags()
    try:
        rest = flags.FLAGS(argv)
        if CONFIG.value is not None:
            CONFIG.value.lock()  # a file that could not be loaded says so at the first use
    except (flags.Error, AttributeError, KeyError, TypeError, ValueError, OSError) as error:
        raise InputError(" ".join(str(error).split())) from error
    if CONFIG.value is None:
        raise InputError("--config is missing; for one: --config=configs/digits.py")
    if rest[1:]:
        raise InputError(f"{rest[1]!r} is not understood; options are written --name=value")
    return rest


def default_workdir() -> pathlib.Path:
    """Returns `runs/NAME` for the configuration file `NAME.py`, `runs/NAME-ARGS` with arguments after a colon."""
    path, _, arguments = config_flags.get_config_filename(flags.FLAGS["config"]).partition(":")
    name = "-".join(filter(None, [pathlib.Path(path).stem, arguments]))
    return pathlib.Path("runs") / re.sub(r"[^\w.=]+", "-", name)


def enable_compilation_cache() -> None:
    """Keeps compiled programs on disk, unless JAX_COMPILATION_CACHE_DIR says where."""
    if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
        cache = pathlib.Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser()
        jax.config.update("jax_compilation_cache_dir", str(cache / "sit_jax" / "xla"))


def main(argv: list[str]) -> int:
    """Runs the command and returns its exit code: 0 done, 2 wrong input, 75 stopped by a signal after saving."""
    logging.set_verbosity(logging.ERROR)  # orbax warns at every save without metrics, which is usual here
    try:
        parse_flags(argv)
        enable_compilation_cache()
        finished = train(CONFIG.value, pathlib.Path(WORKDIR.value or default_workdir()))
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return WRONG_INPUT
    except NonFiniteError as error:
        print(f"error: {error}; the last good checkpoint is kept: lower the learning rate", file=sys.stderr)
        return FAILED
    if not finished:
        print("stopped by a signal; run the same command to go on", flush=True)
    return DONE if finished else PREEMPTED


if __name__ == "__main__":
    sys.exit(main(sys.argv))
