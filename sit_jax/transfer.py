"""Scores encoders on the data of each other; `sit-jax transfer` is `python -m sit_jax.transfer`.

  sit-jax transfer --workdirs=runs/cifar10,runs/cifar100 --protocol=linear

Evaluates each run on the data set of every run. In the grid, a row is a pre-training data set and a column is an
evaluation data set. Further rows are random weights (in the model of the first run) and pixels. Stored evaluations are
reused.
"""

import pathlib
import sys

from absl import flags

from sit_jax.common import commands, console
from sit_jax.common.console import say, warn
from sit_jax.common.errors import InputError
from sit_jax.common.files import check_out, write_json
from sit_jax.common.text import shown
from sit_jax.config import cli
from sit_jax.draw import plots
from sit_jax.eval.evaluation import evaluate
from sit_jax.eval.protocols import PROTOCOLS
from sit_jax.eval.report import short_name, with_interval
from sit_jax.eval.restore import load_config
from sit_jax.eval.settings import Settings

NOTHING, PIXELS = "nothing (random weights)", "nothing (pixels)"


def define_flags(argv: list[str]) -> flags.FlagValues:
    """Returns the flags of the command."""
    values = cli.make_flags(argv)
    flags.DEFINE_list("workdirs", [], "Work directories of at least two runs.", flag_values=values)
    protocols = [name for name, protocol in PROTOCOLS.items() if protocol.labels]
    flags.DEFINE_enum("protocol", None, protocols, "The evaluation protocol.", flag_values=values)
    flags.DEFINE_list("data", [], "SOURCEs to evaluate on. Default: the data sets of the runs.", flag_values=values)
    cli.add_seed_flag(values, "Seed of the splits and classifiers.")
    flags.DEFINE_string("out", None, "The .json file to write.", flag_values=values)
    return values


def command(argv: list[str]) -> bool:
    """Fills, prints and draws the grid; returns False if a signal stopped it."""
    values = define_flags(argv)
    commands.parse(values, argv, ("workdirs", "protocol", "out"), __doc__ or "")
    workdirs, overrides = [pathlib.Path(text) for text in values.workdirs], cli.overrides(values)
    out = pathlib.Path(values.out)
    check_out(out, ".json")
    if len(set(workdirs)) < 2:
        raise InputError(f"--workdirs={','.join(values.workdirs)}: give at least two runs")
    sources = [load_config(workdir, overrides).data.source for workdir in workdirs]
    columns = values.data or list(dict.fromkeys(sources))
    names = [f"{source} ({workdir.name})" for workdir, source in zip(workdirs, sources, strict=True)]
    grid: dict[str, dict[str, dict]] = {name: {} for name in (NOTHING, PIXELS, *names)}
    for data in columns:
        for name, workdir in zip(names, workdirs, strict=True):
            say(f"{name}, evaluated on {data}")
            settings = Settings(
                workdir,
                values.protocol,
                data,
                weights=values.weights,
                seed=values.seed,
                baseline=name == names[0],
                overrides=overrides,
            )
            done = evaluate(settings)
            if done is None:
                return False
            report, path = done
            grid[name][data] = cell(report, path)
            if report["baseline"]:
                grid[NOTHING][data] = cell(report["baseline"], path)
                if report["pixels"]:
                    grid[PIXELS][data] = cell(report["pixels"], path)
    grid = {name: row for name, row in grid.items() if row}  # not every protocol has a pixel baseline
    nothing = [name for name in grid if name not in names]
    write_json(out, {"protocol": values.protocol, "seed": values.seed, "grid": grid})
    top1 = [[grid[row][column]["top1"] for column in columns] for row in grid]
    own = [f"{short_name(source)} ({workdir.name})" for source, workdir in zip(sources, workdirs, strict=True)]
    labels = [*nothing, *map(shown, own)]
    title = f"{values.protocol}, seed {values.seed}"
    say(f"\n{table(grid, columns)}\n\n{out}")
    try:
        plots.transfer(out.with_suffix(".png"), top1, labels, [shown(short_name(column)) for column in columns], title)
    except Exception as error:  # the table is more than its picture
        warn(f"{out}: its picture cannot be drawn ({error}); the table is complete")
    return True


def cell(report: dict, path: pathlib.Path) -> dict:
    """Returns the grid cell of a report."""
    return {**{key: report[key] for key in ("top1", "interval", "top5")}, "report": str(path)}


def table(grid: dict[str, dict[str, dict]], columns: list[str]) -> str:
    """Returns the grid as text."""
    rows = [["pre-trained on", *(f"on {column}" for column in columns)]]
    rows += [[name, *(with_interval({**row[column], "std": None}) for column in columns)] for name, row in grid.items()]
    return console.table(rows)


def main(argv: list[str]) -> int:
    """Runs the command and returns its exit code."""
    return commands.run(command, argv)


if __name__ == "__main__":
    commands.end(main(sys.argv))
