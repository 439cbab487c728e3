"""The runs of docs/results.md: `python benchmarks/study.py --only=NAME[,NAME...]`, or `--list`, or `--table`.

Needs the array files of `benchmarks/cifar10_subset.py FOLDER runs/data`. A run is pre-trained in `runs/study/NAME` and
evaluated; one that is finished is not repeated, one that was stopped goes on. `taskset -c 0` before the command gives
it one core: two such commands beside each other get more done than two runs one after the other on both cores.
`--table` prints what is finished; `--publish` copies the metrics, reports and commands of the runs of `--only` to
docs/runs, with the last picture of all but the short ones.
"""

import argparse
import json
import pathlib
import shlex
import shutil
import subprocess
import sys
from typing import NamedTuple

ROOT = pathlib.Path(__file__).resolve().parent.parent
DATA, RUNS, PUBLISHED = "runs/data", "runs/study", "docs/runs"
TASKS = ("reconstruction", "rotation", "contrastive")
LAPTOP = "configs/cifar10_laptop.py"
SHORT = ("steps=640", "optim.warmup_epochs=1.0", "eval_every=320", "log_every=40")  # 4.1 epochs
# The views and corruptions of the paper, where the configuration has others.
PAPER = (
    *("views.area=(0.08,1.0)", "views.hue=0.0", "views.grayscale=0.0"),
    *("corrupt.grayscale.probability=1.0", "corrupt.blur.probability=1.0", "corrupt.recolour.probability=0.5"),
    *("corrupt.drop.fraction=(0.0,0.3)", "corrupt.replace.fraction=(0.0,0.3)"),
)


class Study(NamedTuple):
    """One run: what it is asked, and what it consists of."""

    question: str
    config: str
    data: str | None  # an array file of DATA; None: the source of the configuration
    changes: tuple[str, ...]  # of the configuration: "key=value"
    evaluations: tuple[str, ...]  # arguments of sit_jax.evaluate beside --workdir


def search() -> dict[str, Study]:
    """Returns short runs that differ in one thing each, measured on held-out training images: recipes are chosen so."""
    base = {"batch_size": 128, "steps": 500, "optim.warmup_epochs": 0.64, "optim.base_learning_rate": 4e-3}
    weak = {f"corrupt.{name}.probability": 0.3 for name in ("grayscale", "blur", "recolour")}
    weak |= {f"corrupt.{name}.fraction": "(0.0,0.1)" for name in ("drop", "replace")}
    questions: dict[str, tuple[str, dict]] = {
        "paper": ("views, corruptions and losses of the paper", {}),
        "lr2": ("half the learning rate", {"optim.base_learning_rate": 2e-3}),
        "lr8": ("twice the learning rate", {"optim.base_learning_rate": 8e-3}),
        "lr16": ("four times the learning rate", {"optim.base_learning_rate": 16e-3}),
        "projector2": ("a projector of two layers", {"model.projector_layers": 2}),
        "weak": ("weaker corruption", weak),
        "fixed": ("fixed weights of 1", {f"loss.weights.{task}": 1 for task in TASKS}),
        "batch64": (
            "half the batch, twice the steps",
            {"batch_size": 64, "steps": 1000, "optim.base_learning_rate": 8e-3},
        ),
    }
    runs = {}
    for name, (question, changes) in questions.items():
        values = base | changes
        values |= dict.fromkeys(("eval_every", "checkpoint_every"), values["steps"])
        values |= {"log_every": 25, "eval.num_test": 5000}
        listed = tuple(f"{key}={value}" for key, value in values.items())
        evaluation = "--protocol=linear" + ("" if name == "paper" else " --nobaseline")
        runs[f"search-{name}"] = Study(
            question, "configs/cifar10.py:variant=XS/8", "cifar10-search", listed, (evaluation,)
        )
    return runs


def ablation() -> dict[str, Study]:
    """Returns the runs with one, two and three of the tasks, two seeds each."""
    runs = {}
    for seed in (0, 1):
        for subset in range(1, 8):
            on = [task for i, task in enumerate(TASKS) if subset >> i & 1]
            off = tuple(f"loss.weights.{task}=0" for task in TASKS if task not in on)
            # The random weights of a seed are the same, whatever the tasks.
            baseline = "" if len(on) == 3 else " --nobaseline"
            evaluations = tuple(f"--protocol={protocol}{baseline}" for protocol in ("knn", "linear"))
            name = f"ablation-{'-'.join(on)}-seed{seed}"
            runs[name] = Study(" + ".join(on), LAPTOP, "cifar10-10k", (*SHORT, f"seed={seed}", *off), evaluations)
    return runs


def long() -> dict[str, Study]:
    """Returns the runs of full length."""
    basic = ("--protocol=knn", "--protocol=linear")
    full = (*basic, "--protocol=linear --weights=ema", "--protocol=linear --labels=0.01,0.1 --repeats=3")
    full += ("--protocol=finetune",)
    digits = (*basic, "--protocol=linear --labels=0.01,0.1,0.25,0.5,1 --repeats=3", "--protocol=finetune")
    return {
        "long-seed0": Study("the configuration as it is", LAPTOP, "cifar10-10k", (), full),
        "long-paper-seed0": Study("views and corruptions of the paper", LAPTOP, "cifar10-10k", PAPER, basic),
        "digits": Study("the first run of the README", "configs/digits.py", None, (), digits),
    }


def studies() -> dict[str, Study]:
    """Returns all runs by name."""
    return search() | ablation() | long()


def commands(name: str, study: Study) -> list[list[str]]:
    """Returns the commands of a run, without the interpreter."""
    workdir = f"--workdir={RUNS}/{name}"
    changes = [*study.changes, *([f"data.source=npz:{DATA}/{study.data}.npz"] if study.data else [])]
    return [
        ["-m", "sit_jax.main", f"--config={study.config}", *(f"--config.{change}" for change in changes), workdir],
        *(["-m", "sit_jax.evaluate", workdir, *evaluation.split()] for evaluation in study.evaluations),
    ]


def lines(name: str, study: Study) -> list[str]:
    """Returns the commands of a run as they are typed."""
    return [shlex.join(["python", *command]) for command in commands(name, study)]


def run(name: str, study: Study) -> int:
    """Executes the commands of a run, and notes them with the commit; returns the first exit code that is not 0."""
    workdir = ROOT / RUNS / name
    workdir.mkdir(parents=True, exist_ok=True)
    commit = subprocess.check_output(["git", "describe", "--always", "--dirty"], cwd=ROOT, text=True).strip()
    with (workdir / "commands.txt").open("a") as file:
        file.write("\n".join([f"# commit {commit}", *lines(name, study)]) + "\n")
    for command in commands(name, study):
        code = subprocess.call([sys.executable, *command], cwd=ROOT)
        if code:
            return code
    return 0


def report(workdir: pathlib.Path, protocol: str) -> dict | None:
    """Returns the results of a protocol with all labels and the plain weights, None where there are none."""
    found = [json.loads(path.read_text()) for path in (workdir / "eval").glob(f"{protocol}-*.json")]
    found = [report for report in found if report["weights"] == "params" and len(report["results"]) == 1]
    return max(found, key=lambda report: report["step"])["results"][0] if found else None


def last_knn(workdir: pathlib.Path) -> dict:
    """Returns the k-NN accuracy of the last evaluation along the way, in the form of `report`."""
    rows = map(json.loads, (workdir / "metrics.jsonl").read_text().splitlines())
    return {"pretrained": {"top1": [row["eval/knn_top1"] for row in rows if "eval/knn_top1" in row][-1]}}


def row(name: str, study: Study) -> str | None:
    """Returns the line of a run in the table; None where it is not finished.

    In the search, k-NN is that along the way, which sees all of its held-out images.
    """
    workdir = ROOT / RUNS / name
    linear = report(workdir, "linear")
    if linear is None:
        return None
    knn = last_knn(workdir) if name in search() else report(workdir, "knn")
    cells = [study.question]
    for result in (knn, linear):
        random = f" ({result['random']['top1']:.1%})" if result and "random" in result else ""
        cells.append(f"{result['pretrained']['top1']:.1%}{random}" if result else "")
    return f"| {name} | " + " | ".join(cells) + " |"


def publish(name: str, study: Study) -> None:
    """Copies what others can compare with to docs/runs/NAME; raises ValueError if an evaluation is missing."""
    workdir, folder = ROOT / RUNS / name, ROOT / PUBLISHED / name
    reports = list((workdir / "eval").glob("*.json"))
    if len(reports) < len(study.evaluations):
        raise ValueError(f"{name} has {len(reports)} of {len(study.evaluations)} evaluations; run it to its end")
    folder.mkdir(parents=True, exist_ok=True)
    for path in (workdir / "metrics.jsonl", workdir / "commands.txt", *reports):
        shutil.copy(path, folder)
    if name in long():
        last = max((workdir / "reconstructions").glob("*.png"), key=lambda path: int(path.stem))
        shutil.copy(last, folder / "reconstructions.png")


def main() -> int:
    """Does what the command line says."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="", help="names of runs, with commas")
    parser.add_argument("--list", action="store_true", help="print the commands of all runs")
    parser.add_argument("--table", action="store_true", help="print the results that are there")
    parser.add_argument("--publish", action="store_true", help="copy what the runs of --only left to docs/runs")
    args = parser.parse_args()
    runs = studies()
    names = [name for name in args.only.split(",") if name]
    unknown = [name for name in names if name not in runs]
    if unknown:
        parser.error(f"{unknown[0]} is no run; --list shows them")
    if not (names or args.list or args.table):
        parser.error("--only says which runs; --list shows them")
    if args.list:
        for name, study in runs.items():
            print(f"# {name}: {study.question}", *lines(name, study), sep="\n")
    for name in names:
        code = publish(name, runs[name]) if args.publish else run(name, runs[name])
        if code:
            return code
    if args.table:
        print("| run | what | k-NN (random) | linear (random) |\n|---|---|---|---|")
        print("\n".join(filter(None, (row(name, study) for name, study in runs.items()))))
    return 0


if __name__ == "__main__":
    sys.exit(main())
