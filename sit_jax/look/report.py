"""Writes the page of a run: reads its files, encodes its images, and renders."""

import pathlib

from sit_jax.common.console import say, warn
from sit_jax.common.errors import InputError
from sit_jax.eval.restore import Restored, restore
from sit_jax.look.attention import draw_attention
from sit_jax.look.collection import Collection, encode_collection, open_records
from sit_jax.look.explore import explore
from sit_jax.look.facts import read_all, read_facts
from sit_jax.look.page import NAME, page, write_page
from sit_jax.parallel.hosts import several

PHOTOGRAPHS = 6  # with attention maps


def write_report(
    workdir: pathlib.Path,
    out: pathlib.Path,
    images: str | None = None,
    step: int | None = None,
    most: int | None = None,
    method: str = "tsne",
    seed: int = 0,
) -> None:
    """Writes the page of one run to `out`, with its images, or with `images` (a folder, pattern or list).

    `most` is the largest number of images to encode. If nothing can be encoded, because there is no checkpoint yet or
    the images have moved, the page says so and has the other panels; with `images`, this raises InputError.
    """
    facts = read_facts(workdir)
    try:
        restored = restore(workdir, step, "params", {})
        collection = encode_collection(*open_records(images, restored), restored, most, seed)
    except InputError as error:
        if images or step is not None:
            raise
        write_page(out, page([facts], notes=[f"The panels of images are missing. {error}"]))
        return
    say(f"comparing {len(collection):,} images: neighbours, copies, a map")
    values = explore(collection, restored.mesh, method, seed)
    write_page(out, page([facts], values, attention_of(restored, collection)))


def attention_of(restored: Restored, collection: Collection) -> list:
    """Draws the attention maps of a few images, evenly chosen."""
    count = min(PHOTOGRAPHS, len(collection))
    rows = [i * len(collection) // count for i in range(count)]
    return draw_attention(restored, collection.records.take(rows), [collection.name(row) for row in rows])


def report_after_training(workdir: pathlib.Path, images: int) -> None:
    """Writes the page at the end of a run, with `images` images at most; 0 writes none.

    Nothing happens if the page is newer than the metrics, or if the run has several processes. If the page cannot be
    written, this warns, because the run is more than its page.
    """
    out, metrics = workdir / NAME, workdir / "metrics.jsonl"
    if not images or several() or (out.is_file() and out.stat().st_mtime >= metrics.stat().st_mtime):
        return
    try:
        say("writing the page of the run; --config.eval.page=0 leaves it out")
        write_report(workdir, out, most=images)
        say(f"page: {out}")
    except Exception as error:  # memory runs out, the disk is full, ...
        warn(f"{out}: cannot be written ({error}); the run is complete; try sit-jax report --workdir={workdir}")


def write_comparison(workdirs: list[pathlib.Path], out: pathlib.Path) -> None:
    """Writes one page for several runs: their curves, what differs, what came out."""
    note = "The panels of images are on the page of each run alone."
    write_page(out, page(read_all(workdirs), notes=[note]))
