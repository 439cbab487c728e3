"""Evaluates a run without labels: measures its encoder, and the same encoder with random weights."""

import pathlib

import numpy as np

from sit_jax.common import console
from sit_jax.common.console import say
from sit_jax.common.errors import InputError
from sit_jax.common.files import check_writable, write_json
from sit_jax.common.text import shown
from sit_jax.config.saved import to_json
from sit_jax.data import Images, image_options, load_images, open_source
from sit_jax.eval.data import image_hash, same_source, use_source
from sit_jax.eval.protocols import PROTOCOLS
from sit_jax.eval.restore import restore
from sit_jax.eval.settings import Settings
from sit_jax.eval.stored import read_report, report_path, short_hash
from sit_jax.model.tasks import tasks_on
from sit_jax.probes.instruments import warnings

VERSION = 2  # raise it when the computation of a figure changes
IMAGES = 2_000  # maximum; the seed draws them


def evaluate(settings: Settings) -> tuple[dict, pathlib.Path]:
    """Measures the encoder and its random weights; returns (report, path).

    The images come from the test split, or from the pre-training images if there is no test split. Raises InputError
    for wrong input.
    """
    restored = restore(settings.workdir, settings.step, settings.weights, dict(settings.overrides), with_heads=True)
    config = restored.config
    name = use_source(config, settings.data, settings.overrides)
    source, options = open_source(name), image_options(config)
    records = source.test if source.test is not None else source.pretrain
    what = {
        "version": VERSION,
        "weights": restored.fingerprint(),
        "data": image_hash(records, options["image_size"], options["cache_dir"], options["layout"]),
        "seed": settings.seed,
        "run_seed": config.seed,
        "dtype": config.dtype,
        "baseline": settings.baseline,
    }
    own = PROTOCOLS[settings.protocol].settings(to_json(config))
    what |= {"settings": own} if own else {}
    path = report_path(settings.workdir, settings.protocol, name, what)
    former = path.with_name(f"{settings.protocol}-{short_hash(what)}.json")  # as former versions named it
    for stored in (path, former):
        finished = read_report(stored)
        if finished is not None and (stored == path or same_source(finished.get("data", ""), name)):
            say(f"this evaluation is finished; its result is in {stored}")
            return finished, stored
    check_writable(path, f"{path.parent}: results cannot be written there ({{}}); copy the work directory elsewhere")
    images, labels = draw(load_images(records, **options), settings.seed)
    if len(images) < 2:
        raise InputError(f"{name}: has a single image, and the instruments compare images; give two or more")
    console.say_all(source.notes)
    say(f"{len(images)} images of {name}")
    measure = PROTOCOLS[settings.protocol].score(restored)
    report = {
        "protocol": settings.protocol,
        "data": shown(name),
        **restored.origin(),
        "step": restored.step,
        "weights": restored.weights,
        "num_test": len(images),
        "seed": settings.seed,
        "transductive": source.test is None and same_source(name, config.data.source),
        **measure(restored.params, images, labels),
        "baseline": measure(restored.random_params, images, labels) if settings.baseline else None,
        "tasks": tasks_on(config.loss),
        "settings": what,
    }
    write_json(path, report)
    return report, path


def draw(images: Images, seed: int) -> tuple[np.ndarray, np.ndarray | None]:
    """Returns at most IMAGES images [n, H, W, c], and their labels [n] or None."""
    rows = np.sort(np.random.default_rng([seed, 4]).permutation(len(images))[:IMAGES])
    return images.gather(rows), None if images.labels is None else images.labels[rows]


def table(report: dict) -> str:
    """Returns the table as text, with warnings below it."""
    baseline = report["baseline"] or {}
    rows = [("", "pre-trained", "random weights", "how to read it")]
    for name, reading in (PROTOCOLS[report["protocol"]].reading or {}).items():
        if name in report:
            other = f"{baseline[name]:.4g}" if name in baseline else "-"
            rows.append((name, f"{report[name]:.4g}", other, reading))
    found = warnings(report, report["tasks"], trained=report["step"] > 0)
    return "\n".join([console.table(rows, right=(1, 2)), *(f"warning: {line}" for line in found)])


def title(report: dict) -> str:
    """Returns two lines that describe the measurement."""
    seen = ", transductive: the encoder was pre-trained on them" if report["transductive"] else ""
    return (
        f"{report['protocol']} on {report['data']}, {report['num_test']} images{seen}\n"
        f"pre-trained on {report['pretrained_on']}, step {report['step']}, weights {report['weights']}"
    )
