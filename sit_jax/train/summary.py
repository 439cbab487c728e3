"""What a finished run says at its end: what was learned, where the pictures are, what to do next."""

import pathlib
import shlex

import ml_collections

from sit_jax.common.console import format_seconds
from sit_jax.common.text import command_name
from sit_jax.data.remote import is_remote
from sit_jax.data.sources import parse_source
from sit_jax.train.metrics import parse_line
from sit_jax.train.pace import seconds_of_process

RECONSTRUCTION, COPY = "eval/reconstruction", "eval/copy"
# Shown if the evaluations have them: the metric, its name here, and whether it is a share shown in per cent.
LEARNED = (
    (RECONSTRUCTION, "reconstruction error", False),
    ("eval/rotation_accuracy", "rotation accuracy", True),
    ("eval/contrastive_progress", "contrastive progress", True),
    ("eval/knn_top1", "k-NN", True),
    ("eval/linear_top1", "linear probe", True),
)


def summary(config: ml_collections.ConfigDict, workdir: pathlib.Path) -> str:
    """Returns the first and the last evaluation, the folder of pictures, and three commands."""
    lines = [f"finished after {format_seconds(seconds_of_process())}"]
    rows = evaluations(workdir / "metrics.jsonl")
    if len(rows) > 1:
        lines.append(f"on unseen images, step {rows[0]['step']} -> {rows[-1]['step']}: {learned(rows[0], rows[-1])}")
    lines += [f"pictures: {workdir / 'reconstructions'}", "next:"]
    return "\n".join([*lines, *(f"  {command_name(command)}" for command in next_commands(config, workdir, rows))])


def evaluations(path: pathlib.Path) -> list[dict]:
    """Returns the evaluations in a `metrics.jsonl`, in their order."""
    try:
        rows = map(parse_line, path.read_text(errors="replace").splitlines())
        return [row for row in rows if row and "eval/loss" in row]
    except OSError:
        return []


def learned(first: dict, last: dict) -> str:
    """Returns each metric of LEARNED at first and at last."""
    texts = []
    for key, name, is_share in LEARNED:
        if key in first and key in last:
            shown = [f"{row[key]:.0%}" if is_share else f"{row[key]:.3g}" for row in (first, last)]
            copied = f" (of the corrupted input: {last[COPY]:.3g})" if key == RECONSTRUCTION and COPY in last else ""
            texts.append(f"{name} {' -> '.join(shown)}{copied}")
    return ", ".join(texts)


def next_commands(config: ml_collections.ConfigDict, workdir: pathlib.Path, rows: list[dict]) -> list[str]:
    """Returns how to evaluate the run, to write features, and to draw reconstructions."""
    protocol = "knn" if rows and "eval/knn_top1" in rows[-1] else "unlabelled"
    images, out = folder_of(config.data.source), workdir / "features.npz"
    return [
        f"evaluate --workdir={quoted(workdir)} --protocol={protocol}",
        f"embed --workdir={quoted(workdir)} --images={quoted(images)} --out={quoted(out)}",
        f"reconstruct --workdir={quoted(workdir)} --train=8 --out={quoted(workdir / 'rebuilt.png')}",
    ]


def folder_of(source: str) -> str:
    """Returns the path of a source that is one folder of this machine; otherwise the word FOLDER, to be filled in."""
    scheme, _, path = parse_source(source)
    is_here = pathlib.Path(path).expanduser().is_dir() and not is_remote(path)
    return path if scheme == "folder" and is_here else "FOLDER"


def quoted(path: str | pathlib.Path) -> str:
    """Returns a path as one word of a shell."""
    return shlex.quote(str(path))
