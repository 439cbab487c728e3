"""Learning curves of runs as values for the page: the table CHARTS."""

import math
from typing import Any, NamedTuple

from sit_jax.look.facts import Facts
from sit_jax.model.tasks import TASKS

POINTS = 400  # of a curve, at most


class Chart(NamedTuple):
    """One chart: its title, how to read it, and its metrics, each with a name and a line style of the page."""

    title: str
    reading: str
    metrics: tuple[tuple[str, str, str], ...]


STYLES = ("solid", "dashed", "dotted")
TRAIN_EVAL = ("train", "solid"), ("eval", "dashed")
CHARTS = (
    *(
        Chart(task.label, "lower is better", tuple((f"{split}/{name}", split, style) for split, style in TRAIN_EVAL))
        for name, task in TASKS.items()
    ),
    Chart(
        "rotation accuracy",
        "a constant answer scores 1 - views.turned",
        tuple((f"{split}/rotation_accuracy", split, style) for split, style in TRAIN_EVAL),
    ),
    Chart("contrastive progress", "0 is chance, 1 the floor", (("eval/contrastive_progress", "eval", "solid"),)),
    Chart(
        "accuracy of frozen features",
        "in the training, on held-out images",
        (("eval/knn_top1", "k-NN", "solid"), ("eval/linear_top1", "linear", "dashed")),
    ),
    Chart("RankMe", "effective dimensions of the features", (("eval/rank_me", "eval", "solid"),)),
    Chart("alignment", "distance of two views; lower is closer", (("eval/alignment", "eval", "solid"),)),
    Chart("uniformity", "lower is a wider spread", (("eval/uniformity", "eval", "solid"),)),
    Chart(
        "spread of the tokens",
        "0 is a collapse to one point",
        (
            ("eval/token_std_rotation", "rotation token", "solid"),
            ("eval/token_std_contrastive", "contrastive token", "dashed"),
        ),
    ),
    Chart(
        "log variances of the losses",
        "a lower value weighs the task more",
        tuple((f"train/log_var_{name}", name, STYLES[i % len(STYLES)]) for i, name in enumerate(TASKS)),
    ),
    Chart("learning rate", "of the update", (("train/learning_rate", "train", "solid"),)),
    Chart("gradient norm", "before clipping", (("train/grad_norm", "train", "solid"),)),
    Chart("speed", "images per second", (("time/images_per_second", "images/s", "solid"),)),
    Chart("waiting for images", "share of the time", (("time/data_wait_fraction", "share", "solid"),)),
)


def charts(runs: list[Facts]) -> list[dict]:
    """Returns the charts that any run has metrics for: title, reading, x (epochs) and the curves of each run.

    All curves of a chart share x; a curve has None where its run has no value. Curves of more than POINTS values are
    thinned out. Log variances that do not change are left out.
    """
    return [found for chart in CHARTS if (found := fill(chart, runs))["series"]]


def fill(chart: Chart, runs: list[Facts]) -> dict:
    """Returns a chart with the curves of the runs that have its metrics."""
    series: list[dict[str, Any]] = []
    for number, run in enumerate(runs):
        for metric, label, style in chart.metrics:
            points = thinned([(row["epoch"], row[metric]) for row in run.metrics if is_number(row.get(metric))], POINTS)
            if points and not (metric.startswith("train/log_var") and len({value for _, value in points}) == 1):
                name = label if len(runs) == 1 else f"{run.name}, {label}" if len(chart.metrics) > 1 else run.name
                series.append({"label": name, "run": number, "style": style, "points": points})
    x = sorted({epoch for one in series for epoch, _ in one["points"]})
    for one in series:
        values = dict(one.pop("points"))
        one["y"] = [values.get(epoch) for epoch in x]
    return {"title": chart.title, "reading": chart.reading, "x": x, "series": series}


def is_number(value: object) -> bool:
    """Tells whether a metric can be drawn."""
    return isinstance(value, int | float) and math.isfinite(value)


def thinned(points: list[tuple[float, float]], most: int) -> list[tuple[float, float]]:
    """Returns `most` points at most, evenly chosen, with the first and the last; values have five digits."""
    if len(points) > most:
        points = [points[round(i * (len(points) - 1) / (most - 1))] for i in range(most)]
    return [(epoch, float(f"{value:.5g}")) for epoch, value in points]
