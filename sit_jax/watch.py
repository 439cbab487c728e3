"""Keeps a page of running trainings up to date; `sit-jax watch` is `python -m sit_jax.watch`.

  sit-jax watch runs
  sit-jax watch runs/mine --every=10

Writes watch.html into the folder, with all runs at any depth below it: their state, curves laid over each other,
reconstructions, what differs and what came out. Open it in a browser: it reloads by itself. --every=30 sets the seconds
between two looks. Ctrl-C ends it; --once writes the page once.
"""

import os
import pathlib
import sys
import time

from absl import flags

from sit_jax.common import commands
from sit_jax.common.console import say
from sit_jax.common.errors import InputError
from sit_jax.common.files import check_writable
from sit_jax.look.facts import read_all
from sit_jax.look.page import page, write_page

NAME = "watch.html"
FOLDER = "the folder of runs"


def define_flags() -> flags.FlagValues:
    """Returns the flags of the command."""
    values = commands.new_flags()
    flags.DEFINE_integer("every", 30, "Seconds between two looks.", lower_bound=1, flag_values=values)
    flags.DEFINE_boolean("once", False, "Write the page once.", flag_values=values)
    return values


def find_runs(folder: pathlib.Path) -> list[pathlib.Path]:
    """Returns the work directories at any depth below a folder, or the folder itself, in the order of their names.

    What lies in a work directory is left out: checkpoints are many files, and evaluations hold trainings of their own.
    """
    found = []
    for path, folders, files in os.walk(folder):
        if "config.json" in files:
            folders.clear()
            found += [pathlib.Path(path)] if "metrics.jsonl" in files else []
    return sorted(found)


def changes(runs: list[pathlib.Path]) -> list[tuple[str, int]]:
    """Returns what tells whether a page must be written again: the files of metrics, and their times."""
    return [(str(run), (run / "metrics.jsonl").stat().st_mtime_ns) for run in runs]


def command(argv: list[str]) -> bool:
    """Writes the page whenever a run has new metrics."""
    values = define_flags()
    (text,) = commands.parse(values, argv, (), __doc__ or "", positional=FOLDER)
    folder = pathlib.Path(text).expanduser()
    if not folder.is_dir():
        raise InputError(f"{folder}: there is no such folder; give a work directory, or a folder of them")
    out, seen = folder / NAME, None
    check_writable(out, f"{out}: cannot be written ({{}}); copy the runs elsewhere")
    while True:
        runs = find_runs(folder)
        if not runs:
            raise InputError(f"{folder}: holds no run yet; start one with --workdir={folder / 'NAME'}")
        if (now := changes(runs)) != seen:
            write_page(out, page(read_all(runs), refresh=0 if values.once else values.every))
            say(f"{out}: {len(runs)} {'run' if len(runs) == 1 else 'runs'}")
            seen = now
        if values.once:
            return True
        time.sleep(values.every)


def main(argv: list[str]) -> int:
    """Runs the command and returns its exit code."""
    return commands.run(command, argv, resumes=False)


if __name__ == "__main__":
    sys.exit(main(sys.argv))
