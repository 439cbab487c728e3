"""What the files of a work directory tell of a run: its configuration, sessions, metrics and evaluations."""

import dataclasses
import json
import pathlib
import time

from sit_jax.common.console import format_seconds
from sit_jax.common.errors import InputError
from sit_jax.common.text import shown
from sit_jax.config.saved import flat, read_saved
from sit_jax.train.metrics import parse_line
from sit_jax.train.sessions import read_sessions

RUNNING = 600  # seconds since a sign of life, after which a run without an end counts as stopped


@dataclasses.dataclass(frozen=True)
class Facts:
    """The files of a run, read once."""

    workdir: pathlib.Path
    name: str
    config: dict
    sessions: list[dict]
    metrics: list[dict]  # lines of `metrics.jsonl`
    evaluations: list[dict]  # reports in `eval/`

    @property
    def step(self) -> int:
        """The last step that the metrics know."""
        return max((row["step"] for row in self.metrics), default=0)

    def state(self) -> str:
        """Returns "finished", "running", "stopped", or "not started"."""
        if not self.metrics:
            return "not started"
        if self.step >= (self.config.get("steps") or 0) > 0:
            return "finished"
        seen = max((row["seen"] for row in self.sessions), default=0)
        return "running" if time.time() - seen < RUNNING else "stopped"


def read_facts(workdir: pathlib.Path) -> Facts:
    """Reads the files of a run; raises InputError if the folder holds no run."""
    path = workdir / "config.json"
    if not path.is_file():
        raise InputError(f"{workdir}: no run is there ({path.name} is missing); give the --workdir of a training")
    metrics = workdir / "metrics.jsonl"
    lines = metrics.read_text(errors="replace").splitlines() if metrics.is_file() else []
    rows = [row for row in map(parse_line, lines) if row and "epoch" in row]
    return Facts(
        workdir, shown(workdir.resolve().name), read_saved(path), read_sessions(workdir), rows, read_reports(workdir)
    )


def read_all(workdirs: list[pathlib.Path]) -> list[Facts]:
    """Reads several runs; those of the same name get names with their folders."""
    runs = [read_facts(workdir) for workdir in workdirs]
    names = [run.name for run in runs]
    return [
        dataclasses.replace(run, name=shown("/".join(run.workdir.resolve().parts[-2:])))
        if names.count(run.name) > 1
        else run
        for run in runs
    ]


def read_reports(workdir: pathlib.Path) -> list[dict]:
    """Returns the reports of evaluations, by file name; damaged files are left out."""
    found = []
    for path in sorted((workdir / "eval").glob("*.json")):
        try:
            report = json.loads(path.read_text())
        except (OSError, ValueError):
            continue
        if isinstance(report, dict) and {"protocol", "data", "num_test"} <= report.keys():
            found.append(report)
    return found


def device_seconds(facts: Facts) -> float:
    """Returns the time of all sessions times their devices, in seconds."""
    return sum((row["seen"] - row["started"]) * row["devices"] for row in facts.sessions)


def overview(facts: Facts) -> list[tuple[str, str]]:
    """Returns what the run is, as names and texts."""
    config, last = facts.config, facts.sessions[-1] if facts.sessions else {}
    data, model, optim = config["data"], config["model"], config["optim"]
    steps, rows = config.get("steps"), []
    count = data.get("num_examples")
    source = shown(str(data["source"] or config.get("init") or ""))
    rows.append(("Data", f"{source}: {count:,} images" if count else source))
    rows.append(("Model", f"ViT {model['size']}/{model['patch_size']} at {model['image_size']} px"))
    state = facts.state()
    progress = f"{state}, step {facts.step:,} of {steps:,} ({facts.step / steps:.0%})" if steps else state
    rows.append(("State", progress))
    rate = optim.get("base_learning_rate")
    rows.append(
        ("Recipe", f"batch {config['batch_size']}, learning rate {rate:g} for 512 images, seed {config['seed']}")
    )
    weights = ", ".join(f"{task} {weight}" for task, weight in config["loss"]["weights"].items())
    rows.append(("Weights of the losses", weights))
    if config.get("init"):
        rows.append(("Started from", shown(str(config["init"]))))
    rows += session_rows(facts, last)
    return rows


def session_rows(facts: Facts, last: dict) -> list[tuple[str, str]]:
    """Returns the machine, time and cost of the sessions; nothing for runs of former versions."""
    if not facts.sessions:
        return [("Machine and time", "not recorded by this run")]
    cores = "core" if last["cores"] == 1 else "cores"
    kind = last["processor"] if last["platform"] == "cpu" else last["device"]
    versions = ", ".join(f"{name} {version}" for name, version in last["versions"].items())
    started = time.strftime("%Y-%m-%d %H:%M", time.localtime(facts.sessions[0]["started"]))
    wall = sum(row["seen"] - row["started"] for row in facts.sessions)
    resumed = [row["from_step"] for row in facts.sessions[1:]]
    rows = [
        (
            "Machine",
            f"{last['devices']} x {last['platform']} ({kind}, {last['cores']} {cores})",
        ),
        ("Versions", f"Python {last['python']}, {versions}"),
        ("Started", f"{started}, trained for {format_seconds(wall)}"),
        ("Cost", f"{device_seconds(facts) / 3600:.2f} device hours"),
    ]
    if resumed:
        rows.append(("Resumed", f"at step {', '.join(f'{step:,}' for step in resumed)}"))
    return rows


def run_warnings(facts: Facts) -> list[str]:
    """Returns the warnings of all sessions, each once."""
    found = [line for row in facts.sessions for line in row.get("warnings", [])]
    return [shown(line) for line in dict.fromkeys(found)]


def differences(runs: list[Facts]) -> list[tuple[str, list[str]]]:
    """Returns the configuration keys that differ between runs, each with the value of each run as text."""
    configs = [flat(run.config) for run in runs]
    keys = list(dict.fromkeys(key for config in configs for key in config))
    rows = [(key, [shown(str(config.get(key, "-"))) for config in configs]) for key in keys]
    return [(key, values) for key, values in rows if len(set(values)) > 1]


# What came out of a run: the metric of its last evaluation, its name, and whether it is a share.
OUTCOMES = (
    ("eval/reconstruction", "reconstruction error", False),
    ("eval/copy", "error of the corrupted input", False),
    ("eval/rotation_accuracy", "rotation accuracy", True),
    ("eval/contrastive_progress", "contrastive progress", True),
    ("eval/rank_me", "RankMe", False),
    ("eval/knn_top1", "k-NN top-1", True),
    ("eval/linear_top1", "linear top-1", True),
)


def outcomes(runs: list[Facts]) -> list[tuple[str, list[str]]]:
    """Returns the last evaluation of each run in its training, by metric, and the cost."""
    last: list[dict] = [next((row for row in reversed(run.metrics) if "eval/loss" in row), {}) for run in runs]
    rows = [("step", [f"{row['step']:,}" if row else "-" for row in last])]
    for key, name, is_share in OUTCOMES:
        if any(key in row for row in last):
            form = "{:.1%}" if is_share else "{:.4g}"
            rows.append((name, [form.format(row[key]) if key in row else "-" for row in last]))
    hours = [f"{device_seconds(run) / 3600:.2f}" if run.sessions else "-" for run in runs]
    return [*rows, ("device hours", hours)]
