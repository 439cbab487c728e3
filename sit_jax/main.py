"""Pre-trains: `python -m sit_jax.main --config=configs/stl10.py[:args] [--workdir=DIR] [--config.a.b=value]`.

The same command resumes a stopped run. sit_jax/config/schema.py explains all configuration keys.
"""

import pathlib
import signal
import sys
import traceback

from absl import flags

from sit_jax.common import commands
from sit_jax.common.errors import DONE, FAILED, PREEMPTED
from sit_jax.config import cli
from sit_jax.parallel import hosts
from sit_jax.train.loop import train


def define_flags(argv: list[str]) -> flags.FlagValues:
    """Returns the flags of the command."""
    values = cli.make_config_flags(argv)
    flags.DEFINE_string("workdir", None, "The folder of the run. Default: runs/NAME.", flag_values=values)
    flags.DEFINE_string(
        "coordinator", None, "HOST:PORT of process 0, for a run of several processes.", flag_values=values
    )
    flags.DEFINE_integer(
        "num_processes", None, "Number of processes. Default: from Slurm, Open MPI or Cloud TPU.", flag_values=values
    )
    flags.DEFINE_integer("process_id", None, "The index of this process, from 0.", flag_values=values)
    return values


def command(argv: list[str]) -> bool:
    """Trains; returns whether the run reached its end."""
    values = define_flags(argv)
    config = cli.parse_config(values, argv, (), __doc__ or "")
    hosts.connect(values.coordinator, values.num_processes, values.process_id)
    return train(config, pathlib.Path(values.workdir or cli.default_workdir(values)))


def main(argv: list[str]) -> int:
    """Runs the command and returns its exit code."""
    try:
        code = commands.run(command, argv)
    except Exception:
        if not hosts.connected():
            raise
        traceback.print_exc()
        print("error: this process or another process of the run failed; its message says why", file=sys.stderr)
        code = FAILED
    if hosts.connected() and code not in (DONE, PREEMPTED):
        hosts.leave(code)
    return code


if __name__ == "__main__":
    code = main(sys.argv)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # while Python ends, SIGTERM must not change the exit code
    sys.exit(code)
