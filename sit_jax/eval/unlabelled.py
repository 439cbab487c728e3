"""An evaluation without labels: the instruments measure an encoder, and the same encoder with random weights."""

import json
import pathlib
from collections.abc import Callable

import numpy as np

from sit_jax.common.console import say
from sit_jax.common.errors import InputError
from sit_jax.common.files import check_writable, write_json
from sit_jax.data import Images, image_options, load_images, open_source
from sit_jax.eval.data import image_hash, same_source, use_source
from sit_jax.eval.protocols import short_hash
from sit_jax.eval.restore import Restored, restore
from sit_jax.eval.settings import Settings
from sit_jax.model.tasks import tasks_on
from sit_jax.probes.features import extract, make_encode
from sit_jax.probes.instruments import make_measure, of_features, warnings
from sit_jax.probes.monitors import kmeans_nmi

VERSION = 2  # raise it when a figure is computed otherwise
IMAGES = 2_000  # at most, drawn by the seed
# How to read a figure; they are compared between runs of one model size on the same images.
READING = {
    "rank_me": "effective rank of the two tokens: more is better",
    "lidar": "effective rank of what tells images apart, in units of what tells views apart",
    "contrastive_progress": "of NT-Xent, from chance (0) to its floor (1)",
    "alignment": "squared distance of two views of an image: less is better",
    "uniformity": "0 is one point; -4 is spread over the sphere",
    "negative_cosine": "of different images: 1 is one point, 0 is spread",
    "token_std": "of the narrower token: 0 is a collapse, 1 a spread in all directions",
    "token_std_rotation": "of the rotation token",
    "token_std_contrastive": "of the contrastive token",
    "shared_variance": "of two views of an image, in the contrastive token: near 0, the views are too hard",
    "kmeans_nmi": "of clusters and labels, which nothing else here reads: 1 is equal",
}


def evaluate(settings: Settings) -> tuple[dict, pathlib.Path]:
    """Measures the encoder and its random weights, and returns the report with the file it is in.

    The images are of the test split of the data set, where there is one, and else those of the pre-training.
    """
    restored = restore(settings.workdir, settings.step, settings.weights, dict(settings.overrides), with_heads=True)
    config = restored.config
    name = use_source(config, settings.data, settings.overrides)
    source, options = open_source(name), image_options(config)
    records = source.test if source.test is not None else source.pretrain
    what = {
        "version": VERSION,
        "weights": restored.fingerprint(),
        "data": image_hash(records, options["image_size"]),
        "seed": settings.seed,
        "run_seed": config.seed,
        "dtype": config.dtype,
        "baseline": settings.baseline,
    }
    path = settings.workdir / "eval" / f"unlabelled-{short_hash(what)}.json"
    if path.exists():
        say(f"this evaluation is finished; its result is in {path}")
        return json.loads(path.read_text()), path
    check_writable(path, f"{path.parent}: results cannot be written there ({{}}); copy the work directory elsewhere")
    images, labels = draw(load_images(records, **options), settings.seed)
    if len(images) < 2:
        raise InputError(f"{name}: has a single image, and the instruments tell images apart; give two or more")
    say(f"{len(images)} images of {name}")
    measure = make_instruments(restored)
    report = {
        "protocol": "unlabelled",
        "data": name,
        "pretrained_on": config.data.source,
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
    """Returns at most IMAGES of the images, [n, H, W, 3] uint8, and their labels, None where there are none."""
    rows = np.sort(np.random.default_rng([seed, 4]).permutation(len(images))[:IMAGES])
    return images.gather(rows), None if images.labels is None else images.labels[rows]


def make_instruments(restored: Restored) -> Callable[[dict, np.ndarray, np.ndarray | None], dict[str, float]]:
    """Returns `measure(params, images, labels)`: all figures of READING; `labels` may be None."""
    config, mesh = restored.config, restored.mesh
    encode, of_views = make_encode(config, mesh), make_measure(config, mesh)

    def measure(params: dict, images: np.ndarray, labels: np.ndarray | None) -> dict[str, float]:
        size = config.batch_size // config.microbatches
        features = extract(encode, params, images.__getitem__, len(images), size, mesh)
        found = of_views(params, images) | of_features(features)
        found["token_std"] = min(value for name, value in found.items() if name.startswith("token_std"))
        if labels is not None:
            found["kmeans_nmi"] = kmeans_nmi(features.reshape(len(features), -1), labels)
        return found

    return measure


def table(report: dict) -> str:
    """Returns the table for the screen, with what is wrong below it."""
    baseline = report["baseline"] or {}
    rows = [("", "pre-trained", "random weights", "")]
    for name, reading in READING.items():
        if name in report:
            other = f"{baseline[name]:.4g}" if name in baseline else "-"
            rows.append((name, f"{report[name]:.4g}", other, reading))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = [f"{a.ljust(widths[0])}  {b.rjust(widths[1])}  {c.rjust(widths[2])}  {d}".rstrip() for a, b, c, d in rows]
    found = warnings(report, report["tasks"], trained=report["step"] > 0)
    return "\n".join([*lines, *(f"warning: {line}" for line in found)])


def title(report: dict) -> str:
    """Returns in two lines what was measured."""
    seen = ", transductive: the encoder was pre-trained on them" if report["transductive"] else ""
    return (
        f"unlabelled on {report['data']}, {report['num_test']} images{seen}\n"
        f"pre-trained on {report['pretrained_on']}, step {report['step']}, weights {report['weights']}"
    )
