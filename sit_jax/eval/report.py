"""From the results of an evaluation to its JSON, its table on screen and its pictures."""

import pathlib

import numpy as np

from sit_jax import plots
from sit_jax.eval.labels import Amount

Results = dict[tuple[str, Amount, int], dict]  # by (encoder, amount of labels, repeat)
ENCODERS = {"pretrained": "pre-trained", "random": "random weights"}


def summarise(results: Results) -> list[dict]:
    """Returns for each amount of labels the mean and the standard deviation over the repeats, by encoder."""
    amounts = list(dict.fromkeys(amount for _, amount, _ in results))
    summary = []
    for amount in amounts:
        row: dict = {"labels": str(amount) if amount.share is None else amount.share}
        for encoder in dict.fromkeys(encoder for encoder, _, _ in results):
            runs = [run for (e, a, _), run in results.items() if (e, a) == (encoder, amount)]
            row["num_train"] = runs[0]["num_train"]
            row[encoder] = spread([run["top1"] for run in runs]) | {
                "top5": None if runs[0]["top5"] is None else float(np.mean([run["top5"] for run in runs])),
                "hyperparameters": [run["hyperparameters"] for run in runs],
            }
            if "by_k" in runs[0]:
                row[encoder]["by_k"] = {k: spread([run["by_k"][k] for run in runs]) for k in runs[0]["by_k"]}
        summary.append(row)
    return summary


def spread(values: list[float]) -> dict:
    """Returns the mean, the sample standard deviation (None of one value) and the values."""
    std = float(np.std(values, ddof=1)) if len(values) > 1 else None
    return {"top1": float(np.mean(values)), "std": std, "runs": values}


def headline(results: Results, summary: list[dict], encoder: str) -> dict:
    """Returns what stands at the top of the JSON: the results with the most labels; details are of the first repeat."""
    best, amount = summary[-1][encoder], list(results)[-1][1]
    first = results[encoder, amount, 0]
    return {
        "top1": best["top1"],
        "top1_std": best["std"],
        "top5": best["top5"],
        "hyperparameters": first["hyperparameters"],
        "per_class": first["per_class"],
        "confusion": first["confusion"],
    }


def table(report: dict) -> str:
    """Returns the table for the screen."""
    encoders = [name for name in ENCODERS if name in report["results"][0]]
    by_k = "by_k" in report["results"][0]["pretrained"]
    header = ["labels", "images", *(["k"] if by_k else [])]
    header += [
        f"{ENCODERS[name]} {metric}" for name in encoders for metric in (("top1",) if by_k else ("top1", "top5"))
    ]
    rows = [header]
    for row in report["results"]:
        start = [row["labels"] if isinstance(row["labels"], str) else f"{row['labels']:g}", str(row["num_train"])]
        if by_k:
            rows += [[*start, k, *(percent(row[e]["by_k"][k]) for e in encoders)] for k in row["pretrained"]["by_k"]]
        else:
            cells = [(percent(row[e]), percent({"top1": row[e]["top5"], "std": None})) for e in encoders]
            rows.append([*start, *(cell for pair in cells for cell in pair)])
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join("  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True)) for row in rows)


def percent(values: dict) -> str:
    """Returns a mean, with its standard deviation where there is one, for people."""
    if values["top1"] is None:
        return "-"
    return f"{values['top1']:.1%}" + (f" ± {100 * values['std']:.1f}" if values["std"] is not None else "")


def title(report: dict) -> str:
    """Returns in two lines what was measured."""
    lines = (
        f"{report['protocol']} on {report['data']}, {report['num_test']} images: {report['test_split']}\n"
        f"pre-trained on {report['pretrained_on']}, step {report['step']}, weights {report['weights']}, "
        f"features {report['features']}, seed {report['seed']}"
    )
    # With several amounts of labels there are several choices; they are in the JSON.
    return lines if len(report["results"]) > 1 else f"{lines}, {describe(report['hyperparameters'])}"


def short_name(source: str) -> str:
    """Returns a SOURCE string with the last part of its path only, for pictures."""
    scheme, colon, rest = source.partition(":")
    return f"{scheme}{colon}{pathlib.PurePath(rest).name}"


def describe(chosen: dict) -> str:
    """Returns hyper-parameters as text."""
    return ", ".join(f"{name} {value:g}" for name, value in chosen.items() if isinstance(value, int | float))


def draw(report: dict, path: pathlib.Path) -> None:
    """Draws the confusion matrix and, for several amounts of labels, the curve, in files beside `path`."""
    names = {key: short_name(report[key]) for key in ("data", "pretrained_on")}
    report = report | names
    plots.confusion(
        path.with_suffix(".confusion.png"),
        np.array(report["confusion"]),
        report["class_names"],
        f"pre-trained: {title(report)}",
    )
    if len(report["results"]) > 1:
        plots.label_curve(path.with_suffix(".labels.png"), report["results"], ENCODERS, title(report))
