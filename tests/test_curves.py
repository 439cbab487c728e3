"""Learning curves: the plotted metrics and runs, and the error if there is nothing to plot."""

import json

import numpy as np
import pytest
from PIL import Image

from sit_jax import curves
from sit_jax.common import commands
from sit_jax.draw import plots
from sit_jax.model.tasks import TASKS


def write_run(folder, decay, knn=True):
    """A run of ten epochs: one training line per epoch, and evaluations at its start and end."""
    rows = [{"step": 0, "epoch": 0.0, "eval/rotation_accuracy": 0.25} | ({"eval/knn_top1": 0.1} if knn else {})]
    for epoch in range(1, 11):
        losses = {f"train/{task}": decay**epoch for task in TASKS}
        rows.append({"step": epoch, "epoch": float(epoch), **losses, **{f"train/log_var_{t}": 1.0 for t in TASKS}})
    rows.append({"step": 10, "epoch": 10.0, "eval/rotation_accuracy": 0.5} | ({"eval/knn_top1": 0.3} if knn else {}))
    folder.mkdir()
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return rows


def draw(*options):
    return commands.run(curves.command, ["curves", *options])


def coloured(path):
    """Pixels of the first two colours of the plot's cycle: of the first run and of the second run."""
    pixels = np.asarray(Image.open(path).convert("RGB"), int)
    return [(np.abs(pixels - colour).sum(axis=-1) < 30).sum() for colour in ([31, 119, 180], [255, 127, 14])]


def test_the_points_of_a_metric_are_the_lines_that_have_it(tmp_path):
    rows = write_run(tmp_path / "a", 0.5)
    assert plots.series(rows, "eval/knn_top1") == ([0.0, 10.0], [0.1, 0.3])
    epochs, losses = plots.series(rows, "train/rotation")
    assert epochs == [float(epoch) for epoch in range(1, 11)] and losses == [0.5**epoch for epoch in range(1, 11)]
    assert plots.series(rows, "eval/unknown") == ([], [])


def test_each_run_is_drawn_in_its_colour(tmp_path, capsys):
    write_run(tmp_path / "a", 0.5)
    write_run(tmp_path / "b", 0.9, knn=False)
    out = tmp_path / "new" / "curves.png"
    assert draw(f"--runs={tmp_path / 'a'},{tmp_path / 'b' / 'metrics.jsonl'}", f"--out={out}") == 0
    assert f"{out}: 2 runs" in capsys.readouterr().out
    first, second = coloured(out)
    assert first > 1000 and second > 1000
    assert draw(f"--runs={tmp_path / 'a'}", "--labels=only this", f"--out={out}") == 0
    first, second = coloured(out)
    assert first > 1000 and second == 0


def test_runs_are_named_by_their_folders(tmp_path):
    write_run(tmp_path / "a", 0.5)
    assert curves.default_label(tmp_path / "a") == curves.default_label(tmp_path / "a" / "metrics.jsonl") == "a"


def test_a_line_that_was_cut_off_is_left_out(tmp_path):
    rows = write_run(tmp_path / "a", 0.5)
    with (tmp_path / "a" / "metrics.jsonl").open("a") as file:
        file.write('{"step": 11, "epo')
    assert curves.read_run(tmp_path / "a") == rows


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--runs=there,nowhere"], "nowhere"),
        (["--runs=empty"], "has no line of metrics"),
        (["--runs=there", "--labels=a,b"], "--labels has 2 names for 1 runs"),
        (["--runs=there", "--out=curves.pdf"], ".png"),
        ([], "--runs is missing"),
    ],
)
def test_wrong_input_is_said_in_a_line(tmp_path, monkeypatch, capsys, options, message):
    monkeypatch.chdir(tmp_path)
    write_run(tmp_path / "there", 0.5)
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty" / "metrics.jsonl").write_text("\n")
    assert draw("--out=curves.png", *options) == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1
    assert not list(tmp_path.glob("*.p*"))
