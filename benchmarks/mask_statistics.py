"""Measures what the corruptions do: `python benchmarks/mask_statistics.py CONFIG SOURCE [--images=200] [--draws=10]`.

CONFIG is a file of configs/ with its arguments, such as configs/cifar10.py:paper, SOURCE is where photographs are, such
as folder:PATH. Prints shares of the area, the mean absolute change in units of [0, 1], and the standard deviation of
the noise over that of the clean views: the table of docs/paper.md.
"""

import argparse
import functools
import importlib.util

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np

from sit_jax import checks
from sit_jax.data import image_options, load_images, open_source
from sit_jax.views import make_views

BATCH = 8


def load_config(text: str) -> ml_collections.ConfigDict:
    """Returns the configuration of FILE:arguments."""
    path, _, arg = text.partition(":")
    spec = importlib.util.spec_from_file_location("config", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.get_config(arg or None)


def statistics(key: jax.Array, images: jax.Array, config: ml_collections.ConfigDict) -> dict[str, jax.Array]:
    """Returns the statistics of the views of images [B, H, W, 3] uint8, means over them."""
    views = make_views(key, images, config)
    masks = views.masks
    change = jnp.abs(views.corrupted - views.clean).mean(axis=-1) / 2  # [-1, 1] to [0, 1]
    dropped = masks["drop"] & ~masks["replace"]
    noise = jnp.sum(jnp.where(dropped[..., None], views.corrupted, 0.0) ** 2) / jnp.maximum(3 * dropped.sum(), 1)
    areas = {name: mask.mean() for name, mask in masks.items()}
    return areas | {
        "noise or foreign": (masks["drop"] | masks["replace"]).mean(),
        "changed": (change > 0).mean(),
        "mean absolute change": change.mean(),
        "noise over clean": jnp.sqrt(noise) / views.clean.std(),
    }


def measure(config: ml_collections.ConfigDict, images: np.ndarray, draws: int) -> dict[str, float]:
    """Returns the means of the statistics over all images, `draws` times each."""
    run = jax.jit(functools.partial(statistics, config=config))
    parts = [images[start : start + BATCH] for start in range(0, len(images) // BATCH * BATCH, BATCH)]
    found = [run(jax.random.key(draw * len(parts) + i), part) for draw in range(draws) for i, part in enumerate(parts)]
    return {name: float(np.mean([row[name] for row in jax.device_get(found)])) for name in found[0]}


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("config")
    parser.add_argument("source")
    parser.add_argument("--images", type=int, default=200)
    parser.add_argument("--draws", type=int, default=10)
    args = parser.parse_args()
    config = load_config(args.config)
    config.data.source = args.source
    images = load_images(open_source(args.source).pretrain, **image_options(checks.resolve(config, args.images)))
    rows = np.linspace(0, len(images) - 1, min(args.images, len(images))).astype(int)
    for name, value in measure(config, images.gather(rows), args.draws).items():
        print(f"{name:22} {value:.3f}")


if __name__ == "__main__":
    main()
