"""Draws learning curves; `sit-jax curves` is `python -m sit_jax.curves`.

  sit-jax curves --runs=runs/mine,runs/other --out=curves.png

--runs takes work directories or `metrics.jsonl` files, also of unfinished runs. The curves show the three losses, the
learned log-variances, contrastive progress, and the accuracies of rotation, k-NN and the linear probe against epochs.
"""

import pathlib
import sys

from absl import flags

from sit_jax.common import commands
from sit_jax.common.errors import InputError
from sit_jax.common.files import check_out
from sit_jax.draw import plots
from sit_jax.model.tasks import TASKS
from sit_jax.train.metrics import parse_line


def define_flags() -> flags.FlagValues:
    """Returns the flags of the command."""
    values = commands.new_flags()
    flags.DEFINE_list("runs", [], "Work directories or metrics.jsonl files.", flag_values=values)
    flags.DEFINE_list("labels", [], "A name for each run. Default: the name of its folder.", flag_values=values)
    flags.DEFINE_string("out", None, "The .png file to write.", flag_values=values)
    return values


def read_run(path: pathlib.Path) -> list[dict]:
    """Returns the metrics lines of a run; raises InputError if there are none."""
    file = path / "metrics.jsonl" if path.is_dir() else path
    if not file.is_file():
        raise InputError(f"--runs: there is no {file}; give the work directory of a run")
    rows = [row for row in map(parse_line, file.read_text(errors="replace").splitlines()) if row and "epoch" in row]
    if not rows:
        raise InputError(f"--runs: {file} has no line of metrics")
    return rows


def default_label(path: pathlib.Path) -> str:
    """Returns the folder name of a run."""
    path = path.resolve()
    return path.parent.name if path.is_file() else path.name


def panels() -> dict[str, str]:
    """Returns the titles of the panels by metric."""
    return {f"train/{name}": task.label for name, task in TASKS.items()} | {
        "eval/contrastive_progress": "contrastive progress, 0 at chance",
        "eval/rotation_accuracy": "rotation accuracy",
        "eval/knn_top1": "k-NN top-1 accuracy",
        "eval/linear_top1": "linear top-1 accuracy",
    }


def command(argv: list[str]) -> bool:
    """Draws the curves and prints the name of the file."""
    values = define_flags()
    commands.parse(values, argv, ("runs", "out"), __doc__ or "")
    paths, out = [pathlib.Path(run).expanduser() for run in values.runs], pathlib.Path(values.out)
    labels = values.labels or [default_label(path) for path in paths]
    if len(labels) != len(paths):
        raise InputError(f"--labels has {len(labels)} names for {len(paths)} runs; give one for each")
    check_out(out, ".png")
    lines = {f"train/log_var_{name}": (name, task.line) for name, task in TASKS.items()}
    plots.learning_curves(out, [read_run(path) for path in paths], labels, panels(), lines)
    print(f"{out}: {len(paths)} runs")
    return True


def main(argv: list[str]) -> int:
    """Runs the command and returns its exit code."""
    return commands.run(command, argv, resumes=False)


if __name__ == "__main__":
    sys.exit(main(sys.argv))
