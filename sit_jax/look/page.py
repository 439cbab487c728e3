"""The page of a run: everything in one HTML file that needs no network."""

import json
import pathlib
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from sit_jax import __version__
from sit_jax.common.files import replacing
from sit_jax.common.text import shown
from sit_jax.draw.heatmaps import SIDE
from sit_jax.look import charts, facts, tables
from sit_jax.look.atlas import data_uri, webp
from sit_jax.look.attention import Shown
from sit_jax.look.facts import Facts

ASSETS = pathlib.Path(__file__).parent / "assets"
STEPS = 12  # reconstruction pictures on a page, at most, and at least two of each run
TITLED = 3  # runs, at most, that the title names
NAME = "report.html"
SECTIONS = (
    *(("compare", "comparison"), ("runs", "the run"), ("warnings", "warnings"), ("curves", "curves")),
    *(("reconstructions", "reconstructions"), ("evaluations", "evaluations"), ("neighbours", "neighbours")),
    *(("map", "map"), ("clusters", "clusters"), ("copies", "duplicates"), ("outliers", "outliers")),
    ("attention", "attention"),
)
MAPS = {
    "tsne": "t-SNE of the features: near images are similar, large distances mean little.",
    "umap": "UMAP of the features: near images are similar, large distances mean little.",
    "pca": "The first two principal components of the features.",
}


def page(
    runs: list[Facts],
    collection: dict | None = None,
    attention: Sequence[Shown] = (),
    notes: Sequence[str] = (),
    refresh: int = 0,
) -> str:
    """Returns the page of runs as HTML.

    `collection` comes from `explore`, `attention` from `draw_attention`; `notes` say what is missing and why. With
    `refresh`, the page reloads itself every `refresh` seconds.
    """
    import jinja2

    drawn, most = charts.charts(runs), max(2, STEPS // len(runs))
    values: dict[str, Any] = {
        "title": ", ".join(run.name for run in runs) if len(runs) <= TITLED else f"{len(runs)} runs",
        "subtitle": "; ".join(f"{run.name}: {run.state()}" if len(runs) > 1 else run.state() for run in runs),
        "version": __version__,
        "written": time.strftime("%Y-%m-%d %H:%M"),
        "refresh": refresh,
        "names": [run.name for run in runs],
        "runs": [
            {"name": run.name, "overview": facts.overview(run), "reconstructions": reconstructions(run, most)}
            for run in runs
        ],
        "compared": compared(runs) if len(runs) > 1 else None,
        "warnings": warning_lines(runs),
        "charts": [{**chart, "summary": summary(chart)} for chart in drawn],
        "tables": tables.tables(runs),
        "c": collection and collection | told(collection),
        "attention": [{"name": one.name, "pictures": attention_pictures(one)} for one in attention],
        "side": SIDE,
        "notes": [shown(note) for note in notes],
        "styles": (ASSETS / "uPlot.min.css").read_text() + (ASSETS / "page.css").read_text(),
        "scripts": (ASSETS / "uPlot.iife.min.js").read_text() + (ASSETS / "page.js").read_text(),
    }
    moving = {
        "charts": drawn,
        "refresh": refresh,
        "reconstructions": [run["reconstructions"] for run in values["runs"]],
    }
    if collection:
        moving |= {name: collection[name] for name in ("atlas", "names", "neighbours", "map", "counts")}
    environment = jinja2.Environment(loader=jinja2.FileSystemLoader(ASSETS), autoescape=True, trim_blocks=True)
    # `htmlsafe_json_dumps` escapes < > & and ', so no name can end the script element.
    values["data"] = jinja2.utils.htmlsafe_json_dumps(moving, dumps=to_json)
    template = environment.get_template("page.html")
    bare = template.render(**values, sections=[])
    found = [(id, name) for id, name in SECTIONS if f'<section id="{id}"' in bare]
    return template.render(**values, sections=found)


def to_json(values: dict, **_: object) -> str:
    """Returns values as compact JSON."""
    return json.dumps(values, separators=(",", ":"), allow_nan=False)


def write_page(out: pathlib.Path, html: str) -> None:
    """Writes the page; the file changes at once."""
    with replacing(out) as temporary:
        temporary.write_text(html, encoding="utf-8")


def warning_lines(runs: list[Facts]) -> list[str]:
    """Returns the warnings of runs; of several runs, each with the name of its run."""
    prefix: Callable[[Facts], str] = lambda run: f"{run.name}: " if len(runs) > 1 else ""  # noqa: E731
    return [f"{prefix(run)}{line}" for run in runs for line in facts.run_warnings(run)]


def compared(runs: list[Facts]) -> dict:
    """Returns the tables of what differs between runs and of what came out."""
    return {
        "differences": [[key, *values] for key, values in facts.differences(runs)],
        "outcomes": [[name, *values] for name, values in facts.outcomes(runs)],
    }


def reconstructions(run: Facts, most: int) -> list[dict]:
    """Returns the reconstruction pictures of a run, `most` at most, each with its step, as WebP."""
    from PIL import Image

    found = []
    paths = {int(path.stem): path for path in (run.workdir / "reconstructions").glob("*.png") if path.stem.isdigit()}
    steps = sorted(paths)
    if len(steps) > most:
        steps = [steps[round(i * (len(steps) - 1) / (most - 1))] for i in range(most)]
    for step in steps:
        try:
            picture = np.asarray(Image.open(paths[step]).convert("RGB"))
        except OSError:  # a kill cut it short
            continue
        found.append({"step": step, "src": data_uri(webp(picture), "webp")})
    return found


def attention_pictures(one: Shown) -> list[tuple[str, str]]:
    """Returns the four pictures of a photograph with their captions, as addresses that hold them."""
    pictures = {
        "photograph": one.photograph,
        "attention of the rotation token": one.rotation,
        "attention of the contrastive token": one.contrastive,
        "patch features": one.patches,
    }
    return [(label, data_uri(webp(picture), "webp")) for label, picture in pictures.items()]


def summary(chart: dict) -> str:
    """Returns a chart in words: the first and the last value of each curve."""
    parts = []
    for one in chart["series"]:
        values = [value for value in one["y"] if value is not None]
        parts.append(f"{one['label']} from {values[0]:.3g} to {values[-1]:.3g}")
    return f"{chart['title']}: {'; '.join(parts)}"


def told(collection: dict) -> dict[str, str]:
    """Returns the sentences about the images and the map."""
    return {"sample": sample_line(collection["counts"]), "map_reading": MAPS[collection["map"]["method"]]}


def sample_line(counts: dict) -> str:
    """Returns how many images are shown of how many."""
    shown_count, encoded, total = counts["shown"], counts["encoded"], counts["total"]
    line = f"{shown_count:,} of {encoded:,} images, drawn at random, can be clicked." if shown_count < encoded else ""
    if encoded < total:
        line += f" The encoder saw {encoded:,} of {total:,} images, drawn at random; `sit-jax report` takes all."
    return line.strip() or f"All {encoded:,} images are here."
