"""The report of an evaluation: JSON, table on screen and pictures."""

import pathlib
import shutil

import numpy as np

from sit_jax.common import console
from sit_jax.common.console import warn
from sit_jax.common.errors import InputError
from sit_jax.draw import plots
from sit_jax.probes.confusion import Confusion, confusion_matrix, largest_confusions
from sit_jax.probes.intervals import compare, interval, line, unpack
from sit_jax.probes.labels import Amount


def copy_to(path: pathlib.Path, out: pathlib.Path) -> None:
    """Copies a report with its pictures; does nothing if `out` is the report itself."""
    if out.exists() and out.samefile(path):
        return
    shutil.copyfile(path, out)
    for picture in path.parent.glob(f"{path.stem}.*.png"):
        shutil.copyfile(picture, out.with_name(out.stem + picture.name.removeprefix(path.stem)))


Results = dict[tuple[str, Amount, int], dict]  # by (encoder, amount of labels, repeat)
ENCODERS = {"pretrained": "pre-trained", "random": "random weights", "pixels": "pixels"}
PIXELS = "pixels "  # prefix of the names of pixel encoders, such as "pixels 8 x 8"


def encoder_name(encoder: str) -> str:
    """Returns the displayed name of an encoder."""
    return ENCODERS.get(encoder, encoder)


def summarise(results: Results) -> list[dict]:
    """Returns for each amount of labels the mean and standard deviation over the repeats, by encoder.

    For each amount of labels, `pixels` is the better kind of pixels. The score on the test images chooses it, which
    favours pixels.
    """
    amounts = list(dict.fromkeys(amount for _, amount, _ in results))
    summary = []
    for amount in amounts:
        row: dict = {"labels": amount.as_json()}
        for encoder in dict.fromkeys(encoder for encoder, _, _ in results):
            runs = [run for (e, a, _), run in results.items() if (e, a) == (encoder, amount)]
            row["num_train"] = runs[0]["num_train"]
            packed = [run["hits"] for run in runs]
            row[encoder] = spread([run["top1"] for run in runs]) | {
                "interval": interval(unpack_all(packed, runs[0]["num_test"]).mean(axis=0)),
                "hits": packed,
                "top5": None if runs[0]["top5"] is None else float(np.mean([run["top5"] for run in runs])),
                "hyperparameters": [run["hyperparameters"] for run in runs],
            }
            if "by_k" in runs[0]:
                row[encoder]["by_k"] = {k: spread([run["by_k"][k] for run in runs]) for k in runs[0]["by_k"]}
        summary.append(row)
    for row in summary:
        pixels = [name for name in row if name.startswith(PIXELS)]
        if pixels:
            best = max((row[name]["top1"], name) for name in pixels)[1]
            row["pixels"] = row[best] | {"which": best.removeprefix(PIXELS)}
    return summary


def unpack_all(hits: list[str], count: int) -> np.ndarray:
    """Returns [repeats, n] bool: the test images, n = `count`, that each repeat classified correctly."""
    return np.stack([unpack(text, count) for text in hits])


def spread(values: list[float]) -> dict:
    """Returns the mean, the sample standard deviation (None for a single value) and the values."""
    std = float(np.std(values, ddof=1)) if len(values) > 1 else None
    return {"top1": float(np.mean(values)), "std": std, "runs": values}


def headline(results: Results, summary: list[dict], encoder: str) -> dict:
    """Returns the top of the JSON: results with the most labels; details come from the first repeat."""
    best, amount = summary[-1][encoder], list(results)[-1][1]
    first = results[PIXELS + best["which"] if "which" in best else encoder, amount, 0]
    which = {"which": best["which"]} if "which" in best else {}
    return which | {
        "top1": best["top1"],
        "interval": best["interval"],
        "top1_std": best["std"],
        "top5": best["top5"],
        "hyperparameters": first["hyperparameters"],
        "per_class": first["per_class"],
        "confusion": largest_confusions(first["confusion"]),
    }


def comparisons(row: dict, count: int) -> dict[str, dict]:
    """Returns the paired comparisons of the pre-trained encoder with random weights and with pixels.

    `row` is a row of `summarise`; `count` is the number of test images.
    """
    hits = {name: unpack_all(row[name]["hits"], count) for name in ENCODERS if name in row}
    return {name: compare(hits["pretrained"], other) for name, other in hits.items() if name != "pretrained"}


def measured(report: dict) -> dict:
    """Returns the values that two reports must share to be comparable."""
    runs = report["results"][-1]["pretrained"]["runs"]
    return what_is_measured(
        report["protocol"], report["settings"]["data"], report["num_test"], report["labels"], len(runs), report["seed"]
    )


def what_is_measured(protocol: str, data: str, images: int, labels: float | str, repeats: int, seed: int) -> dict:
    """Returns by name the values that determine the scored images and the labels."""
    return {
        "protocol": protocol,
        "hash of the data": data,
        "number of test images": images,
        "amount of labels": labels,
        "number of repeats": repeats,
        "seed": seed,
    }


def check_same(mine: dict, other: dict) -> None:
    """Raises InputError for the first value that differs in `other`."""
    for name, value in mine.items():
        if other[name] != value:
            raise InputError(f"--against: its {name} is {other[name]}, here {value}; compare the same evaluation")


def against(report: dict, other: dict) -> dict:
    """Compares the pre-trained encoders of two reports that measured the same."""
    count = report["num_test"]
    return compare(*(unpack_all(each["results"][-1]["pretrained"]["hits"], count) for each in (report, other)))


def comparison_lines(report: dict) -> str:
    """Returns the comparisons of a report as text, a line per amount of labels and encoder."""
    lines = []
    for row in report["results"]:
        labels = f"labels {row['labels']}: " if len(report["results"]) > 1 else ""
        for name, comparison in row["comparisons"].items():
            lines.append(line(f"{labels}pre-trained - {encoder_name(name)}", comparison))
    return "\n".join(lines)


def table(report: dict) -> str:
    """Returns the table as text; for k-NN, only the k of the protocol has intervals."""
    encoders = [name for name in ENCODERS if name in report["results"][0]]
    names = names_of(report)
    by_k = "by_k" in report["results"][0]["pretrained"]
    header = ["labels", "images", *(["k"] if by_k else [])]
    header += [f"{names[name]} {metric}" for name in encoders for metric in (("top1",) if by_k else ("top1", "top5"))]
    rows = [header]
    for row in report["results"]:
        start = [row["labels"] if isinstance(row["labels"], str) else f"{row['labels']:g}", str(row["num_train"])]
        if by_k:
            own = str(row["pretrained"]["hyperparameters"][0]["k"])
            for k in row["pretrained"]["by_k"]:
                rows.append(
                    [*start, k, *(with_interval(row[e]) if k == own else percent(row[e]["by_k"][k]) for e in encoders)]
                )
        else:
            pairs = [(with_interval(row[e]), percent({"top1": row[e]["top5"], "std": None})) for e in encoders]
            rows.append([*start, *(cell for pair in pairs for cell in pair)])
    return console.table(rows, right=range(len(header)))


def percent(values: dict) -> str:
    """Returns a mean as text, with its standard deviation if there is one."""
    if values["top1"] is None:
        return "-"
    return f"{values['top1']:.1%}" + (f" ± {100 * values['std']:.1f}" if values["std"] is not None else "")


def names_of(report: dict) -> dict[str, str]:
    """Returns the displayed names of the encoders, with the kind of pixels in the report."""
    kinds = {row["pixels"]["which"] for row in report["results"] if "pixels" in row}
    if not kinds:
        return ENCODERS
    return ENCODERS | {"pixels": f"pixels, {kinds.pop() if len(kinds) == 1 else 'the better kind'}"}


def with_interval(values: dict) -> str:
    """Returns a mean with its bootstrap interval as text."""
    low, high = (100 * x for x in values["interval"])
    return f"{percent(values)} [{low:.1f}, {high:.1f}]"


def title(report: dict) -> str:
    """Returns two lines that describe the measurement."""
    seen = ", transductive: the encoder was pre-trained on them, without labels" if report["transductive"] else ""
    lines = (
        f"{report['protocol']} on {report['data']}, {report['num_test']} images: {report['test_split']}{seen}\n"
        f"pre-trained on {report['pretrained_on']}, step {report['step']}, weights {report['weights']}, "
        f"features {report['features']}, seed {report['seed']}"
    )
    # Each amount of labels has its own hyper-parameters; if there are several, only the JSON lists them.
    chosen = "" if len(report["results"]) > 1 else describe(report["hyperparameters"])
    return f"{lines}, {chosen}" if chosen else lines


def short_name(source: str) -> str:
    """Returns a SOURCE string with only the last part of its path, for pictures."""
    scheme, colon, rest = source.partition(":")
    return f"{scheme}{colon}{pathlib.PurePath(rest).name}"


def describe(chosen: dict) -> str:
    """Returns hyper-parameters as text."""
    return ", ".join(f"{name} {value:g}" for name, value in chosen.items() if isinstance(value, int | float))


def draw_or_warn(report: dict, confusion: Confusion, path: pathlib.Path) -> None:
    """Calls `draw`; if a picture cannot be drawn, prints a warning, because the report is more than its pictures."""
    try:
        draw(report, confusion, path)
    except Exception as error:  # the disk is full, the font lacks a table, ...
        warn(f"{path.stem}: its pictures cannot be drawn ({error}); the report is complete")


def draw(report: dict, confusion: Confusion, path: pathlib.Path) -> None:
    """Draws the confusion matrix and, if there are several amounts of labels, the curve, in files next to `path`.

    `confusion` leaves no entry out.
    """
    names = {key: short_name(report[key]) for key in ("data", "pretrained_on")}
    report = report | names
    plots.confusion(
        path.with_suffix(".confusion.png"),
        confusion_matrix(confusion),
        report["class_names"],
        f"pre-trained: {title(report)}",
    )
    if len(report["results"]) > 1:
        plots.label_curve(path.with_suffix(".labels.png"), report["results"], names_of(report), title(report))
