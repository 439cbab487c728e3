"""Plots of results with matplotlib, which is imported only when a plot is drawn."""

import math
import pathlib

import numpy as np

NAMED_CLASSES = 30  # with more classes, the names would be illegible


def new_figure(width: float, height: float):
    """Returns an off-screen matplotlib figure of this size in inches, and its axes."""
    figure = empty_figure(width, height)
    return figure, figure.add_subplot()


def empty_figure(width: float, height: float):
    """Returns an off-screen matplotlib figure of this size in inches; a dollar sign in a name is shown as it is."""
    import matplotlib
    from matplotlib.figure import Figure

    matplotlib.rcParams["text.parse_math"] = False
    return Figure(figsize=(width, height), layout="constrained")


def save(figure, path: pathlib.Path) -> None:
    """Writes a figure as PNG; creates the folder."""
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=120)


def confusion(path: pathlib.Path, counts: np.ndarray, class_names: list[str], title: str) -> None:
    """Writes a plot of a confusion matrix [C, C] as PNG; rows (true classes) are scaled from counts to shares."""
    size = len(counts)
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    few = size <= NAMED_CLASSES
    side = 3.0 + 0.42 * size if few else 9.0
    figure, axes = new_figure(max(side, 7.0), max(side, 6.0))
    image = axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    figure.colorbar(image, ax=axes, shrink=0.8, label="share of the true class")
    axes.set(xlabel="predicted class", ylabel="true class")
    axes.set_title(title, fontsize=8)
    if few:
        axes.set_xticks(range(size), class_names, rotation=90)
        axes.set_yticks(range(size), class_names)
        for i, j in np.argwhere(counts):
            axes.text(
                j, i, counts[i, j], ha="center", va="center", fontsize=7, color="w" if shares[i, j] > 0.5 else "k"
            )
    save(figure, path)


def label_curve(path: pathlib.Path, results: list[dict], encoders: dict[str, str], title: str) -> None:
    """Writes a plot of top-1 accuracy against the number of labelled images as PNG, one line per encoder.

    `results` are the rows of the report, with `num_train` and, by encoder, `top1` and `std`.
    """
    figure, axes = new_figure(7.0, 4.8)
    counts = [row["num_train"] for row in results]
    for name, label in encoders.items():
        if name in results[0]:
            top1 = [100 * row[name]["top1"] for row in results]
            std = [100 * (row[name]["std"] or 0.0) for row in results]
            axes.errorbar(counts, top1, yerr=std, marker="o", capsize=3, label=label)
    axes.set_xscale("log")
    axes.set_xticks(counts, list(map(str, counts)))
    axes.minorticks_off()
    axes.set(xlabel="labelled training images", ylabel="top-1 accuracy, %")
    axes.grid(alpha=0.3)
    axes.set_title(title, fontsize=8)
    axes.legend()
    save(figure, path)


def transfer(path: pathlib.Path, top1: list[list[float]], rows: list[str], columns: list[str], title: str) -> None:
    """Writes a grid of the top-1 accuracies [rows][columns] as PNG."""
    figure, axes = new_figure(5.0 + 1.6 * len(columns), 3.0 + 0.8 * len(rows))
    image = axes.imshow(np.array(top1) * 100, cmap="Blues", vmin=0, vmax=100)
    figure.colorbar(image, ax=axes, label="top-1 accuracy, %")
    axes.set_xticks(range(len(columns)), columns, rotation=30, ha="right")
    axes.set_yticks(range(len(rows)), rows)
    axes.set(xlabel="evaluated on", ylabel="pre-trained on")
    axes.set_title(title, fontsize=8)
    for (i, j), value in np.ndenumerate(np.array(top1)):
        axes.text(j, i, f"{value:.1%}", ha="center", va="center", color="w" if value > 0.5 else "k")
    save(figure, path)


LEGEND_CHARACTERS = 210  # fit below the panels
COLUMNS = 4  # panels per row


def learning_curves(
    path: pathlib.Path,
    runs: list[list[dict]],
    labels: list[str],
    panels: dict[str, str],
    log_variances: dict[str, tuple[str, str]],
) -> None:
    """Writes a plot of the metrics of runs against epochs as PNG, one colour per run.

    `runs` are lists of lines of `metrics.jsonl`. `panels` maps metrics to titles. The last panel shows log variances:
    `log_variances` maps metrics to (label, line style). If a run did not measure a metric, it has no curve there.
    """
    rows = math.ceil((len(panels) + 1) / COLUMNS)
    figure = empty_figure(15.0, 3.25 * rows)
    axes_of = figure.subplots(rows, COLUMNS).flat
    colours = [f"C{i % 10}" for i in range(len(runs))]
    for axes, (name, title) in zip(axes_of, panels.items(), strict=False):
        for lines, label, colour in zip(runs, labels, colours, strict=True):
            axes.plot(*series(lines, name), color=colour, label=label)
        axes.set_title(title, fontsize=10)
        axes.grid(alpha=0.3)
    draw_log_variances(figure.axes[len(panels)], runs, colours, log_variances)
    for axes in figure.axes[len(panels) + 1 :]:
        axes.set_axis_off()
    for axes in figure.axes[-COLUMNS:]:
        axes.set_xlabel("epoch")
    handles, names = figure.axes[0].get_legend_handles_labels()
    columns = max(1, LEGEND_CHARACTERS // (max(map(len, names)) + 6))  # room for the line and gaps of each name
    figure.legend(handles, names, loc="outside lower center", ncols=min(len(names), columns), fontsize=8)
    save(figure, path)


def draw_log_variances(
    axes, runs: list[list[dict]], colours: list[str], log_variances: dict[str, tuple[str, str]]
) -> None:
    """Draws the log variances of the tasks that change; with fixed weights, the panel is empty."""
    for rows, colour in zip(runs, colours, strict=True):
        for metric, (_, style) in log_variances.items():
            epochs, values = series(rows, metric)
            if len(set(values)) > 1:
                axes.plot(epochs, values, style, color=colour)
    if not axes.lines:
        axes.set_axis_off()
        return
    for label, style in log_variances.values():
        axes.plot([], [], style, color="0.3", label=label)
    axes.set_title("log variances of the tasks", fontsize=10)
    axes.grid(alpha=0.3)
    axes.legend(fontsize=8)


def series(rows: list[dict], name: str) -> tuple[list[float], list[float]]:
    """Returns the epochs and values of the lines with the metric `name`."""
    points = [(row["epoch"], row[name]) for row in rows if name in row]
    return [epoch for epoch, _ in points], [value for _, value in points]
