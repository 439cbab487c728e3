"""Pre-trains on images without labels; `sit-jax pretrain` is `python -m sit_jax.main`.

  sit-jax pretrain PHOTOS --workdir=runs/mine --hours=2
  sit-jax pretrain --config=stl10:paper --config.seed=1

The same command resumes a stopped run. sit_jax/config/schema.py explains all configuration keys.
"""

import pathlib
import signal
import sys
import traceback

import ml_collections
from absl import flags

from sit_jax.common import commands
from sit_jax.common.errors import DONE, FAILED, PREEMPTED
from sit_jax.config import cli, machine
from sit_jax.look.report import report_after_training
from sit_jax.parallel import hosts
from sit_jax.train.hours import check_hours
from sit_jax.train.loop import Options, train
from sit_jax.train.writers import WRITERS, check_log


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
    fit = "If the memory is too small, use more microbatches, and read the images from disk."
    hours = "Hours from the start to the end of the run; sets the number of steps."
    flags.DEFINE_boolean("fit", False, fit, flag_values=values)
    flags.DEFINE_float("hours", None, hours, flag_values=values)
    flags.DEFINE_list("log", [], f"More writers of metrics: {', '.join(WRITERS)}.", flag_values=values)
    flags.DEFINE_boolean("verbose", False, "Print the parameters.", short_name="v", flag_values=values)
    return values


def parse(argv: list[str]) -> tuple[flags.FlagValues, ml_collections.ConfigDict]:
    """Returns the parsed flags and the configuration."""
    values = define_flags(argv)
    return values, cli.parse_config(values, argv, (), __doc__ or "")


def command(argv: list[str]) -> bool:
    """Trains; returns whether the run reached its end."""
    values, config = parse(argv)
    check_hours(values.hours, cli.overrides(values))
    check_log(values.log)
    hosts.connect(values.coordinator, values.num_processes, values.process_id)
    workdir = pathlib.Path(values.workdir or cli.default_workdir(values))
    config = machine.settle(config, workdir, lambda argument: parse(machine.with_argument(argv, argument))[1])
    finished = train(config, workdir, Options(values.fit, values.hours, values.verbose, tuple(values.log)))
    if finished:
        report_after_training(workdir, config.eval.page)
    return finished


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
    if not hosts.connected():
        commands.end(code)
    sys.exit(code)
