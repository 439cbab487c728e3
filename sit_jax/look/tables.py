"""Evaluations of runs as tables for the page: each score beside random weights and pixels, with intervals."""

from sit_jax.common.text import shown
from sit_jax.eval import report as reports
from sit_jax.eval.protocols import PROTOCOLS
from sit_jax.look.facts import Facts
from sit_jax.probes.intervals import line


def tables(runs: list[Facts]) -> list[dict]:
    """Returns one table for the protocols with labels, and one for each evaluation without labels."""
    found = []
    for run in runs:
        prefix = f"{run.name}: " if len(runs) > 1 else ""
        scored = [report for report in run.evaluations if "results" in report]
        if scored:
            found.append(scores(f"{prefix}accuracy, top-1", scored))
        for report in run.evaluations:
            if report["protocol"] in PROTOCOLS and PROTOCOLS[report["protocol"]].reading:
                found.append(instruments(f"{prefix}{report['protocol']}", report))
    return found


def scores(title: str, found: list[dict]) -> dict:
    """Returns a table with a row for each evaluation and amount of labels, and the comparisons below it."""
    rows, notes = [], []
    for report in found:
        for row in report["results"]:
            labels = row["labels"] if isinstance(row["labels"], str) else f"{row['labels']:.3g}"
            labels = "all" if labels == "1" else labels
            cells = [reports.with_interval(row[name]) if name in row else "-" for name in reports.ENCODERS]
            name = f"{report['protocol']} on {shown(reports.short_name(report['data']))}"
            rows.append(
                [name, f"{report['step']:,}", labels, f"{row['num_train']:,}", f"{report['num_test']:,}", *cells]
            )
            for other, comparison in row.get("comparisons", {}).items():
                notes.append(
                    f"{name}, labels {labels}: {line(f'pre-trained - {reports.encoder_name(other)}', comparison)}"
                )
    head = ["protocol", "step", "labels", "training images", "test images", *reports.ENCODERS.values()]
    return {"title": title, "head": head, "rows": rows, "notes": notes}


def instruments(title: str, report: dict) -> dict:
    """Returns a table of the measures without labels beside random weights."""
    baseline = report.get("baseline") or {}
    rows = [
        [name, f"{report[name]:.4g}", f"{baseline[name]:.4g}" if name in baseline else "-", reading]
        for name, reading in (PROTOCOLS[report["protocol"]].reading or {}).items()
        if isinstance(report.get(name), int | float)
    ]
    notes = [f"{shown(report['data'])}, {report['num_test']} images, step {report['step']}"]
    return {
        "title": title,
        "head": ["measure", "pre-trained", "random weights", "reading"],
        "rows": rows,
        "notes": notes,
    }
