"""The runs of docs/results.md: `python benchmarks/study.py --only=NAME[,NAME...]`, or `--list`, or `--table`.

Needs the array files of `benchmarks/cifar10_subset.py FOLDER runs/data`. A run is pre-trained in `runs/study/NAME`,
then evaluated by k-NN and a linear classifier; one that is finished is not repeated, one that was stopped goes on.
`taskset -c 0` before the command gives it one core, so that two of them fill two: that makes a third more images a
second than one run on both cores, one after the other. `--table` prints what is finished.
"""

import argparse
import json
import pathlib
import subprocess
import sys
from typing import NamedTuple

ROOT = pathlib.Path(__file__).resolve().parent.parent
DATA, RUNS = "runs/data", "runs/study"
CONFIG = "--config=configs/cifar10_laptop.py"
SHORT = ("steps=1000", "optim.warmup_epochs=1.0", "eval_every=500", "log_every=50")  # 6.4 epochs
TASKS = ("reconstruction", "rotation", "contrastive")
# The views and corruptions of the paper, where the configuration has others.
PAPER = (
    *("views.area=(0.08,1.0)", "views.hue=0.0", "views.grayscale=0.0"),
    *("corrupt.grayscale.probability=1.0", "corrupt.blur.probability=1.0", "corrupt.recolour.probability=0.5"),
    *("corrupt.drop.fraction=(0.0,0.3)", "corrupt.replace.fraction=(0.0,0.3)"),
)


class Study(NamedTuple):
    """One run: what it is asked, and how it differs from the configuration."""

    question: str
    data: str  # an array file of DATA
    changes: tuple[str, ...]  # "key=value"
    baseline: bool  # evaluate random weights too: those of a seed are the same whatever the recipe


def search(question: str, *changes: str, baseline: bool = False) -> Study:
    """Returns a short run whose accuracy is measured on held-out training images: recipes are chosen by it."""
    return Study(question, "cifar10-search", SHORT + changes, baseline)


def ablation() -> dict[str, Study]:
    """Returns the runs with one, two and three of the tasks, two seeds each."""
    runs = {}
    for seed in (0, 1):
        for subset in range(1, 8):
            on = [task for i, task in enumerate(TASKS) if subset >> i & 1]
            off = tuple(f"loss.weights.{task}=0" for task in TASKS if task not in on)
            name = f"ablation-{'-'.join(on)}-seed{seed}"
            runs[name] = Study(" + ".join(on), "cifar10-10k", (*SHORT, f"seed={seed}", *off), len(on) == 3)
    return runs


def studies() -> dict[str, Study]:
    """Returns all runs by name."""
    return SEARCH | ablation() | LONG


SEARCH: dict[str, Study] = {}
LONG = {
    "long-seed0": Study("the configuration as it is", "cifar10-10k", (), True),
    "long-paper-seed0": Study("views and corruptions of the paper", "cifar10-10k", PAPER, False),
    "long-seed1": Study("the configuration as it is, another seed", "cifar10-10k", ("seed=1",), True),
}


def commands(name: str, study: Study) -> list[list[str]]:
    """Returns the commands of a run, without the interpreter."""
    workdir = f"--workdir={RUNS}/{name}"
    changes = [f"--config.{change}" for change in (*study.changes, f"data.source=npz:{DATA}/{study.data}.npz")]
    baseline = [] if study.baseline else ["--nobaseline"]
    return [
        ["-m", "sit_jax.main", CONFIG, *changes, workdir],
        *(["-m", "sit_jax.evaluate", workdir, f"--protocol={protocol}", *baseline] for protocol in ("knn", "linear")),
    ]


def results(workdir: pathlib.Path, protocol: str) -> dict | None:
    """Returns the newest report of an evaluation, None where there is none."""
    files = sorted((workdir / "eval").glob(f"{protocol}-*.json"), key=lambda path: path.stat().st_mtime)
    return json.loads(files[-1].read_text()) if files else None


def row(name: str, study: Study) -> str | None:
    """Returns the line of a run in the table; None where it is not finished."""
    workdir = ROOT / RUNS / name
    reports = [results(workdir, protocol) for protocol in ("knn", "linear")]
    if None in reports:
        return None
    lines = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    last = [row for row in lines if "eval/loss" in row][-1]
    cells = [study.question, f"{last['eval/rotation_accuracy']:.1%}"]
    for report in reports:
        best = report["results"][-1]
        random = f" ({best['random']['top1']:.1%})" if "random" in best else ""
        cells.append(f"{best['pretrained']['top1']:.1%}{random}")
    return f"| {name} | " + " | ".join(cells) + " |"


def main() -> int:
    """Runs what the command line names."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="", help="names of runs, with commas")
    parser.add_argument("--list", action="store_true", help="print the commands of all runs")
    parser.add_argument("--table", action="store_true", help="print the results that are there")
    args = parser.parse_args()
    runs = studies()
    unknown = [name for name in args.only.split(",") if name and name not in runs]
    if unknown:
        parser.error(f"{unknown[0]} is no run; --list shows them")
    if args.list:
        for name, study in runs.items():
            print(f"# {name}: {study.question}", *("python " + " ".join(c) for c in commands(name, study)), sep="\n")
    for name in filter(None, args.only.split(",")):
        for command in commands(name, runs[name]):
            code = subprocess.call([sys.executable, *command], cwd=ROOT)
            if code:
                return code
    if args.table:
        print("| run | question | rotation | k-NN (random) | linear (random) |\n|---|---|---|---|---|")
        print("\n".join(filter(None, (row(name, study) for name, study in runs.items()))))
    return 0


if __name__ == "__main__":
    sys.exit(main())
