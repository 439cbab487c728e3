"""report.png: bars of rates, shares of the ceiling, kernels with their rooflines, and accuracies."""

import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

Bars = dict[str, list[float]]  # by legend, one value per name


def panels(results: Mapping[str, Any]) -> list[tuple[str, str, list[str], Bars]]:
    """Returns (title, axis label, names, bars) of each panel with figures."""

    def rows(table: str, *keys: str) -> list[dict]:
        return [r for r in results["rows"] if r["table"] == table and all(r.get(key) is not None for key in keys)]

    fast, peer, kernels = rows("fast", "images_per_second"), rows("peer", "ours"), rows("kernels", "milliseconds")
    causes = rows("causes", "milliseconds")
    shares, learned = rows("fast", "mfu"), [row for row in rows("learn", "value") if row.get("unit") == "top-1"]
    found = [
        ("Rate", "source images a second", names(fast), {"sit_jax": [row["images_per_second"] for row in fast]}),
        (
            "Use of the device",
            "% of the measured ceiling",
            names(shares),
            {"sit_jax": [100 * r["mfu"] for r in shares]},
        ),
        (
            "Against PyTorch",
            "source images a second",
            names(peer),
            {"sit_jax": [row["ours"] for row in peer], "PyTorch": [row["theirs"] for row in peer]},
        ),
        ("Kernels by what they are for", "ms a step", names(causes), beside_roofline(causes)),
        ("Kernels", "ms a step", names(kernels), beside_roofline(kernels)),
        ("Learned", "top-1 accuracy, %", names(learned), {"": [100 * row["value"] for row in learned]}),
    ]
    return [panel for panel in found if panel[2]]


def beside_roofline(rows: Sequence[Mapping[str, Any]]) -> Bars:
    """Returns the bars of kernels."""
    return {
        "measured": [row["milliseconds"] for row in rows],
        "roofline": [row.get("roofline_milliseconds") or 0.0 for row in rows],
    }


def names(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """Returns the names of rows, truncated to fit the axis."""
    return [row["name"] if len(row["name"]) <= 44 else row["name"][:41] + "..." for row in rows]


def draw(path: pathlib.Path, results: Mapping[str, Any]) -> None:
    """Draws the panels below each other, or a line of text if nothing has been measured yet."""
    from matplotlib.figure import Figure

    found = panels(results)
    heights = [1.3 + 0.22 * len(labels) * max(1, 0.7 * len(bars)) for _, _, labels, bars in found] or [1.0]
    figure = Figure(figsize=(10.0, sum(heights) + 0.6), layout="constrained")
    rehearsal = " (a rehearsal at tiny sizes on the CPU)" if results["dry_run"] else ""
    figure.suptitle(f"{'Measured' if found else 'Nothing measured yet'}{rehearsal}, {results['began']}")
    if found:
        axes = figure.subplots(len(found), 1, squeeze=False, gridspec_kw={"height_ratios": heights})[:, 0]
        for axis, panel in zip(axes, found, strict=True):
            draw_panel(axis, *panel)
    figure.savefig(path, dpi=110)


def draw_panel(axis: Any, title: str, label: str, labels: list[str], bars: Bars) -> None:
    """Draws horizontal bars with the first name on top and each value at the end of its bar."""
    height = 0.8 / len(bars)
    for index, (legend, values) in enumerate(bars.items()):
        positions = [row + (index + 0.5) * height - 0.4 for row in range(len(labels))]
        drawn = axis.barh(positions, values, height, label=legend or None)
        axis.bar_label(drawn, fmt="{:.4g}", padding=3, fontsize=7)
    axis.set_yticks(range(len(labels)), labels, fontsize=8)
    axis.invert_yaxis()
    axis.margins(x=0.1)
    axis.set_xlabel(label)
    axis.set_title(title, loc="left", fontsize=10)
    axis.grid(axis="x", alpha=0.3)
    if len(bars) > 1:
        axis.legend(fontsize=8)
