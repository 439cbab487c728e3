"""Pre-trains: `python -m sit_jax.main --config=configs/stl10.py[:args] [--workdir=DIR] [--config.a.b=value]`.

How the layers are computed follows from the device: --config.model.attention=auto is cuDNN's attention on an NVIDIA GPU
in bfloat16 where the number of tokens, 2 + patches, is even, and plain attention elsewhere. All keys are explained in
sit_jax/config.py.
"""

import pathlib
import re
import signal
import sys
import traceback

from sit_jax.common import errors
from sit_jax.config import cli

if __name__ == "__main__":
    # From before the imports, which take seconds, until the end of `hosts.connect`: a SIGTERM waits. A process that
    # ended here alone would leave the others of its run waiting for it.
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
    from sit_jax.common.allocator import restart_with_settings

    restart_with_settings()

from absl import app, flags
from ml_collections import config_flags

from sit_jax.common.errors import InputError
from sit_jax.parallel import hosts
from sit_jax.train.loop import train

CONFIG = config_flags.DEFINE_config_file("config", None, "A file of configs/, with arguments after a colon.")
WORKDIR = flags.DEFINE_string("workdir", None, "Where the run lives; the same command goes on from there.")
COORDINATOR = flags.DEFINE_string("coordinator", None, "HOST:PORT of process 0, in a run of several processes.")
NUM_PROCESSES = flags.DEFINE_integer("num_processes", None, "How many there are; Slurm, Open MPI, Cloud TPU say it.")
PROCESS_ID = flags.DEFINE_integer("process_id", None, "Which of them this one is, from 0.")


def parse_flags(argv: list[str]) -> list[str]:
    """Parses the command line; raises InputError where it is wrong."""
    app.define_help_flags()
    try:
        rest = flags.FLAGS(argv)
        if CONFIG.value is not None:
            CONFIG.value.lock()  # a file that could not be loaded says so at the first use
    except (flags.Error, AttributeError, KeyError, TypeError, ValueError, OSError) as error:
        raise InputError(cli.one_line(error)) from error
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


def pretrain(argv: list[str]) -> bool:
    """Trains as the command line says; returns whether it reached the end."""
    parse_flags(argv)
    hosts.connect(COORDINATOR.value, NUM_PROCESSES.value, PROCESS_ID.value)
    return train(CONFIG.value, pathlib.Path(WORKDIR.value or default_workdir()))


def main(argv: list[str]) -> int:
    """Runs the command and returns its exit code."""
    try:
        code = cli.run(pretrain, argv)
    except Exception:
        if not hosts.connected():
            raise
        traceback.print_exc()
        print("error: this process failed, or another one of the run, whose message says why", file=sys.stderr)
        code = errors.FAILED
    if hosts.connected() and code not in (errors.DONE, errors.PREEMPTED):
        hosts.leave(code)
    return code


if __name__ == "__main__":
    code = main(sys.argv)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # one that comes while Python ends must not change the exit code
    sys.exit(code)
