"""The runs of docs/results.md: `python benchmarks/study.py --only=NAME[,NAME...]`, or `--list`, or `--table`.

Needs the array files of `benchmarks/cifar10_subset.py FOLDER runs/data`. A run is pre-trained in `runs/study/NAME` and
evaluated. A finished run is not repeated; a stopped run resumes. `taskset -c 0` before the command gives it one core:
two such commands in parallel are faster than two runs in sequence on both cores. `--table` prints the finished runs.
`--publish` copies metrics, reports and commands of the runs in `--only` to docs/runs, and the last picture of all but
the short runs.
"""

import argparse
import importlib.metadata
import json
import pathlib
import platform
import shlex
import shutil
import subprocess
import sys
from typing import NamedTuple

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))

from sit_jax.eval.report import ENCODERS
from sit_jax.model.tasks import TASKS

ROOT = pathlib.Path(__file__).resolve().parent.parent
DATA, RUNS, PUBLISHED = "runs/data", "runs/study", "docs/runs"
LAPTOP = "configs/cifar10_laptop.py"
# A short run: 100,000 images, 10 passes, evaluated on 5,000 other images of the training split.
PILOT = {"steps": 782, "optim.warmup_epochs": 0.5, "eval_every": 391, "checkpoint_every": 782, "eval.num_test": 5000}
# 3,000 steps, in which the learned weights converge, on about as many images as in a pilot.
WEIGHTING = {"batch_size": 32, "steps": 3000, "optim.warmup_epochs": 0.5, "optim.base_learning_rate": 0.016}
WEIGHTING |= {"eval_every": 1500, "checkpoint_every": 3000, "eval.num_test": 5000}


class Study(NamedTuple):
    """One run: its question and its contents."""

    question: str
    config: str
    data: str | None  # array file in DATA; None: the source of the configuration
    changes: tuple[str, ...]  # changes of the configuration: "key=value"
    evaluations: tuple[str, ...]  # arguments of sit_jax.evaluate, in addition to the work directory


def weighting() -> dict[str, Study]:
    """Returns the runs that compare weightings of the three losses, with three seeds each."""
    learned = {f"loss.weights.{task}": "learned" for task in TASKS}
    ways: dict[str, tuple[str, dict]] = {
        "fixed": ("fixed weights, those of the configuration", {}),
        "one": ("fixed weights of 1", dict.fromkeys(learned, "1")),
        "published": ("learned, as published", {**learned, "loss.weighting": "gradient"}),
        "rate": (
            "learned, at ten times the learning rate",
            {**learned, "loss.weighting": "gradient", "optim.log_var_rate": 10},
        ),
        "closed": ("learned, in closed form", {**learned, "loss.weighting": "closed_form"}),
        "floor": (
            "learned, in closed form, without the floor of NT-Xent",
            {**learned, "loss.weighting": "closed_form", "loss.subtract_floor": True},
        ),
    }
    return {
        f"weighting-{name}-seed{seed}": pilot(question, WEIGHTING | changes | {"seed": seed})
        for name, (question, changes) in ways.items()
        for seed in (0, 1, 2)
    }


def recipe() -> dict[str, Study]:
    """Returns short runs that each differ from the configuration in one setting."""
    clean = {f"loss.weights.{task}": 0 for task in TASKS} | {"loss.weights.contrastive": 1}
    questions: dict[str, tuple[str, dict]] = {
        "base": ("the configuration, 782 steps", {}),
        "contrastive": (
            "the contrastive task alone, on clean, upright views",
            {**clean, "corrupt.share": 0, "views.turned": 0},
        ),
        "corrupted": ("all views corrupted", {"corrupt.share": 1.0}),
        "half": ("half of the images corrupted", {"corrupt.share": 0.5}),
        "turned": ("all four rotations alike", {"views.turned": 0.75}),
        "apart": ("each view turned by itself", {"views.share_rotation": False}),
        "noise": ("noise of half the strength", {"corrupt.drop.noise_std": 0.5}),
        "drop": (
            "half to 70 % of a corrupted image dropped, nothing replaced",
            {"corrupt.drop.fraction": "(0.5, 0.7)", "corrupt.replace.fraction": "(0.0, 0.0)"},
        ),
        "only": ("the corrupted pixels rebuilt alone", {"loss.corrupted_only": True}),
        "blur": ("half of the views blurred", {"views.blur": 0.5}),
        "hue": ("no hue, no grayscale views", {"views.hue": 0.0, "views.grayscale": 0.0}),
        "crop": ("crops of at least 8 % of the image", {"views.area": "(0.08, 1.0)"}),
        "solarize": ("a fifth of the views solarised", {"views.solarize": 0.2}),
        "temperature": ("T = 0.5", {"loss.temperature": 0.5}),
        "linear": (
            "a contrastive head of one linear layer",
            {"model.projector_layers": 1, "model.projector_norm": "none"},
        ),
        "norm": ("no batch normalisation", {"model.projector_norm": "none"}),
        "two": ("a projector of two layers", {"model.projector_layers": 2}),
        "views": (
            "four views of half as many images",
            {"views.count": 4, "batch_size": 64, "optim.base_learning_rate": 8e-3},
        ),
        "small": (
            "half the batch, twice the steps",
            {"batch_size": 64, "steps": 1564, "optim.base_learning_rate": 8e-3, "eval_every": 782},
        ),
        "rate": ("twice the learning rate", {"optim.base_learning_rate": 8e-3}),
        "stem": ("a stem of convolutions", {"model.stem": "convolutions"}),
        "patch": (
            "patches of 4 px at 24 px",
            {"model.patch_size": 4, "model.image_size": 24, "data.image_size": 32},
        ),
    }
    return {f"recipe-{name}": pilot(question, PILOT | changes) for name, (question, changes) in questions.items()}


def pilot(question: str, values: dict) -> Study:
    """Returns a short run, evaluated on held-out images of the training split to choose recipes."""
    changes = tuple(f"{key}={value}" for key, value in values.items())
    return Study(question, LAPTOP, "cifar10-search", changes, ())


def long() -> dict[str, Study]:
    """Returns the runs of full length."""
    basic = ("--protocol=knn", "--protocol=linear", "--protocol=unlabelled")
    few = "--protocol=linear --labels=0.01,0.1 --repeats=3"
    digits = (*basic, "--protocol=linear --labels_per_class=1,5,10 --repeats=3")
    whole = ("steps=11719", "optim.warmup_epochs=1.0", "eval_every=1953", "eval.num_test=10000")
    runs = {}
    for seed in (0, 1, 2):
        more = (few, "--protocol=finetune") if seed == 0 else ()
        named = (f"seed={seed}",)
        runs[f"laptop-seed{seed}"] = Study("10,000 images, one core", LAPTOP, "cifar10-10k", named, (*basic, *more))
        runs["digits" if seed == 0 else f"digits-seed{seed}"] = Study(
            "the first run of the README", "configs/digits.py", None, named, digits
        )
    runs["whole"] = Study("all 50,000 images, 30 passes", LAPTOP, "cifar10-50k", whole, (*basic, few))
    return runs


def studies() -> dict[str, Study]:
    """Returns all runs by name."""
    return weighting() | recipe() | long()


def commands(name: str, study: Study) -> list[list[str]]:
    """Returns the commands of a run, without the interpreter."""
    workdir = f"--workdir={RUNS}/{name}"
    changes = [*study.changes, *([f"data.source=npz:{DATA}/{study.data}.npz"] if study.data else [])]
    return [
        ["-m", "sit_jax.main", f"--config={study.config}", *(f"--config.{change}" for change in changes), workdir],
        *(["-m", "sit_jax.evaluate", workdir, *evaluation.split()] for evaluation in study.evaluations),
    ]


def lines(name: str, study: Study) -> list[str]:
    """Returns the commands of a run as typed in a shell."""
    return [shlex.join(["python", *command]) for command in commands(name, study)]


def run(name: str, study: Study) -> int:
    """Runs the commands of a run and records them with the commit; returns the first nonzero exit code, else 0."""
    workdir = ROOT / RUNS / name
    workdir.mkdir(parents=True, exist_ok=True)
    commit = subprocess.check_output(["git", "describe", "--always", "--dirty"], cwd=ROOT, text=True).strip()
    with (workdir / "commands.txt").open("a") as file:
        file.write("\n".join([f"# commit {commit}", f"# {machine()}", *lines(name, study)]) + "\n")
    for command in commands(name, study):
        code = subprocess.call([sys.executable, *command], cwd=ROOT)
        if code:
            return code
    return 0


def machine() -> str:
    """Returns the processor and the package versions; a run is reproducible only on the same ones."""
    cpuinfo = pathlib.Path("/proc/cpuinfo")
    info = cpuinfo.read_text() if cpuinfo.exists() else ""
    found = [line.partition(":")[2].strip() for line in info.splitlines() if line.startswith("model name")]
    name = (found[0] if found else platform.processor()) + (" with AMX" if "amx_tile" in info else "")
    versions = ", ".join(f"{package} {importlib.metadata.version(package)}" for package in ("jax", "flax", "optax"))
    return f"{name}; Python {platform.python_version()}, {versions}"


def report(workdir: pathlib.Path, protocol: str) -> dict | None:
    """Returns the results of a protocol with all labels and the plain weights, None without any."""
    found = [json.loads(path.read_text()) for path in (workdir / "eval").glob(f"{protocol}-*.json")]
    found = [report for report in found if report["weights"] == "params" and len(report["results"]) == 1]
    return max(found, key=lambda report: report["step"])["results"][0] if found else None


def final_metrics(workdir: pathlib.Path) -> dict[str, float]:
    """Returns the metrics of the evaluation at the last step; empty if the run is not finished."""
    if not (workdir / "metrics.jsonl").exists():
        return {}
    steps = json.loads((workdir / "config.json").read_text())["steps"]
    rows = map(json.loads, (workdir / "metrics.jsonl").read_text().splitlines())
    return next((row for row in rows if row["step"] == steps and "eval/loss" in row), {})


def row(name: str, study: Study) -> str | None:
    """Returns the table row of a run; None if it is not finished.

    Short runs show the accuracies from training, which use all held-out images.
    """
    workdir = ROOT / RUNS / name
    cells = [study.question]
    for protocol in ("knn", "linear"):
        if study.evaluations:
            result = report(workdir, protocol) or {}
            top1 = {encoder: f"{result[encoder]['top1']:.1%}" for encoder in ENCODERS if encoder in result}
            beside = ", ".join(value for encoder, value in top1.items() if encoder != "pretrained")
            cells.append(top1.get("pretrained", "") + (f" ({beside})" if beside else ""))
        else:
            value = final_metrics(workdir).get(f"eval/{protocol}_top1")
            cells.append("" if value is None else f"{value:.1%}")
    return f"| {name} | " + " | ".join(cells) + " |" if any(cells[1:]) else None


def publish(name: str, study: Study) -> None:
    """Copies the published files of a run to docs/runs/NAME; raises ValueError if the run is not finished."""
    workdir, folder = ROOT / RUNS / name, ROOT / PUBLISHED / name
    reports = list((workdir / "eval").glob("*.json"))
    if not final_metrics(workdir):
        raise ValueError(f"{name} has not come to its last step; run it to its end")
    if len(reports) < len(study.evaluations):
        raise ValueError(f"{name} has {len(reports)} of {len(study.evaluations)} evaluations; run it to its end")
    folder.mkdir(parents=True, exist_ok=True)
    for path in (workdir / "metrics.jsonl", workdir / "commands.txt", *reports):
        shutil.copy(path, folder)
    if study.evaluations:
        last = max((workdir / "reconstructions").glob("*.png"), key=lambda path: int(path.stem))
        shutil.copy(last, folder / "reconstructions.png")


def main() -> int:
    """Runs the command line and returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="", help="names of runs, separated by commas")
    parser.add_argument("--list", action="store_true", help="print the commands of all runs")
    parser.add_argument("--table", action="store_true", help="print the results of finished runs")
    parser.add_argument("--publish", action="store_true", help="copy the results of the runs in --only to docs/runs")
    args = parser.parse_args()
    runs = studies()
    names = [name for name in args.only.split(",") if name]
    unknown = [name for name in names if name not in runs]
    if unknown:
        parser.error(f"{unknown[0]} is not a run; --list shows all runs")
    if not (names or args.list or args.table):
        parser.error("--only is missing; give names of runs, which --list shows")
    if args.list:
        for name, study in runs.items():
            print(f"# {name}: {study.question}", *lines(name, study), sep="\n")
    for name in names:
        code = publish(name, runs[name]) if args.publish else run(name, runs[name])
        if code:
            return code
    if args.table:
        print("| run | what | k-NN (random, pixels) | linear (random, pixels) |\n|---|---|---|---|")
        print("\n".join(filter(None, (row(name, study) for name, study in runs.items()))))
    return 0


if __name__ == "__main__":
    sys.exit(main())
