"""The report of the measurements: lines for the screen, and tables in Markdown."""

import pathlib
from collections.abc import Mapping
from typing import Any

from benchmarks.accelerator_stages import drawing

WIDTH = 220  # the most characters of a line on the screen
# For each table: heading, and columns (key of a row, heading, format).
NAME, STATUS, NOTE = ("name", "what", "{}"), ("status", "", "{}"), ("note", "note", "{}")
TABLES: dict[str, tuple[str, tuple[tuple[str, str, str], ...]]] = {
    "right": (
        "Is it right? The device against the CPU",
        (NAME, STATUS, ("figure", "figure", "{:.3g}"), ("bound", "bound", "{:.3g}"), ("unit", "of what", "{}"), NOTE),
    ),
    "ceilings": (
        "What the device can do",
        (NAME, STATUS, ("value", "measured", "{:.4g}"), ("unit", "unit", "{}"), NOTE),
    ),
    "fast": (
        "How fast? Source images per second, two views each",
        (
            *(NAME, STATUS, ("images_per_second", "images/s", "{:.0f}"), ("milliseconds", "step, ms", "{:.2f}")),
            *(("mfu", "share of the measured ceiling", "{:.1%}"), ("program_gib", "program, GiB", "{:.2f}")),
            *(("peak_gib", "peak so far, GiB", "{:.2f}"), ("compile_seconds", "trace and compile, s", "{:.1f}"), NOTE),
        ),
    ),
    "reading": (
        "With reading",
        (
            *(NAME, STATUS, ("images_per_second", "images/s", "{:.0f}")),
            *(("data_wait_fraction", "waiting for data", "{:.2%}"), NOTE),
        ),
    ),
    "peer": (
        "Against PyTorch, in turns on the same device",
        (
            *(NAME, STATUS, ("ours", "sit_jax, images/s", "{:.0f}"), ("theirs", "PyTorch, images/s", "{:.0f}")),
            *(("ratio", "ratio", "{:.2f}"), ("least", "lowest", "{:.2f}"), ("most", "highest", "{:.2f}"), NOTE),
        ),
    ),
    "trace": ("Where does the time go?", (NAME, STATUS, ("value", "measured", "{:.4g}"), ("unit", "unit", "{}"), NOTE)),
    "causes": (
        "What takes the time? All kernels of a step",
        (
            *(NAME, ("milliseconds", "ms", "{:.3f}"), ("share", "share of all kernels", "{:.1%}")),
            ("roofline_milliseconds", "roofline, ms", "{:.3f}"),
        ),
    ),
    "kernels": (
        "The slowest kernels, per step",
        (
            *(NAME, ("milliseconds", "ms", "{:.3f}"), ("share", "share of all kernels", "{:.1%}")),
            *(("calls", "calls", "{:.0f}"), ("gflop", "GFLOP", "{:.2f}"), ("megabytes", "MB", "{:.2f}")),
            *(("roofline_milliseconds", "roofline, ms", "{:.3f}"), ("times", "times the roofline", "{:.1f}")),
            *(("where", "from", "{}"), ("kernel", "kernel", "{:.60}")),
        ),
    ),
    "learn": ("What does it learn?", (NAME, STATUS, ("value", "value", "{:.4g}"), ("unit", "unit", "{}"), NOTE)),
    "machine": ("The machine", (NAME, ("value", "description", "{}"), NOTE)),
}


def cells(row: Mapping[str, Any], table: str) -> list[str]:
    """Returns the texts of a row of a table; empty for a missing figure."""
    found = ((row.get(key), form) for key, _, form in TABLES[table][1])
    return ["" if value is None else form.format(value).replace("|", "/") for value, form in found]


def line(row: Mapping[str, Any]) -> str:
    """Returns a row for the screen: the first column alone, the other columns with their headings."""
    headings = [heading for _, heading, _ in TABLES[row["table"]][1]]
    named = zip(headings, cells(row, row["table"]), strict=True)
    texts = [f"{heading}: {text}" if heading and index else text for index, (heading, text) in enumerate(named) if text]
    return f"{row['stage']}: {', '.join(texts)}"[:WIDTH]


def markdown(results: Mapping[str, Any]) -> str:
    """Returns the report in Markdown."""
    lines = ["# Measured on an accelerator", "", f"`{results['command']}`, begun {results['began']}", ""]
    if results["dry_run"]:
        lines += ["**A rehearsal at tiny sizes on the CPU: no figure here applies to an accelerator.**", ""]
    lines += ["| stage | end | seconds | limit, s | note |", "|---|---|---|---|---|"]
    for ended in results["stages"]:
        name = f"{ended['stage']} ({ended['module'].rpartition('.')[2]})"
        texts = [name, ended["end"], str(ended.get("seconds", "")), str(ended["limit_seconds"]), ended.get("note", "")]
        lines.append("| " + " | ".join(text.replace("|", "/") for text in texts) + " |")
    for table, (heading, columns) in TABLES.items():
        rows = [row for row in results["rows"] if row["table"] == table]
        if rows:
            lines += ["", f"## {heading}", "", "| " + " | ".join(column[1] for column in columns) + " |"]
            lines += ["|" + "---|" * len(columns), *("| " + " | ".join(cells(row, table)) + " |" for row in rows)]
    return "\n".join(lines) + "\n"


def write(out: pathlib.Path, results: Mapping[str, Any]) -> None:
    """Writes report.md and report.png."""
    (out / "report.md").write_text(markdown(results))
    drawing.draw(out / "report.png", results)
