"""Measures the corruptions: `python benchmarks/mask_statistics.py --config=configs/cifar10.py:paper [options]`.

`--config.data.source=folder:PATH` is a folder of photographs. Prints the table of docs/paper.md: shares of the area,
the mean absolute change in units of [0, 1], and the standard deviation of the noise over that of the clean views.
"""

import functools
import pathlib
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
from absl import flags

from sit_jax.common import commands
from sit_jax.common.errors import InputError
from sit_jax.common.files import write_json
from sit_jax.config import checks, cli, resolve
from sit_jax.data import image_options, load_images, open_source
from sit_jax.views import make_views

BATCH = 8


def statistics(key: jax.Array, images: jax.Array, config: ml_collections.ConfigDict) -> dict[str, jax.Array]:
    """Returns the statistics of the views of images [B, H, W, 3] uint8, as means over the views."""
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
    """Returns the means of the statistics over all images, with `draws` draws of each."""
    run = jax.jit(functools.partial(statistics, config=config))
    parts = [images[start : start + BATCH] for start in range(0, len(images) // BATCH * BATCH, BATCH)]
    found = [run(jax.random.key(draw * len(parts) + i), part) for draw in range(draws) for i, part in enumerate(parts)]
    return {name: float(np.mean([row[name] for row in jax.device_get(found)])) for name in found[0]}


def command(argv: list[str]) -> bool:
    """Measures the statistics and prints the table."""
    values = cli.make_config_flags(argv)
    cli.add_out_flag(values)
    flags.DEFINE_integer("images", 200, "The most photographs to measure.", BATCH, flag_values=values)
    flags.DEFINE_integer("draws", 10, "Draws of the views of each photograph.", 1, flag_values=values)
    config = cli.parse_config(values, argv, ("config",), __doc__ or "")
    checks.check_config(config, 1)
    images = load_images(open_source(config.data.source).pretrain, **image_options(resolve.resolve(config, BATCH)))
    if len(images) < BATCH:
        raise InputError(f"{config.data.source} has {len(images)} images; give {BATCH} or more")
    rows = np.linspace(0, len(images) - 1, min(values.images, len(images))).astype(int)
    found = measure(config, images.gather(rows), values.draws)
    print("\n".join(f"{name:22} {value:.3f}" for name, value in found.items()))
    if values.out:
        write_json(pathlib.Path(values.out), found)
    return True


if __name__ == "__main__":
    sys.exit(commands.run(command, sys.argv, resumes=False))
