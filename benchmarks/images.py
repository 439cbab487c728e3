"""The training images of all contenders."""

from collections.abc import Iterator

import numpy as np

from sit_jax.common.errors import InputError

BATCHES = 8  # number of different synthetic batches


def load_images(config: dict, data: str) -> np.ndarray:
    """Returns images [n, s, s, 3] uint8: random images, or the images of `data.source` if `data` is "source".

    Raises InputError if the source exceeds `data.memory_limit`.
    """
    section = config["data"]
    size = section["image_size"] or config["model"]["image_size"]
    if data == "synthetic":
        return np.random.default_rng(0).integers(0, 256, (BATCHES * config["batch_size"], size, size, 3), np.uint8)
    from sit_jax.data import load_images, open_source

    records = open_source(section["source"]).pretrain
    images = load_images(records, size, section["memory_limit"], section["cache_dir"], section["skip_unreadable"])
    if not images.in_memory:
        raise InputError(f"{section['source']} takes more than data.memory_limit={section['memory_limit']}; raise it")
    return images.array


def endless(images: np.ndarray, batch_size: int) -> Iterator[np.ndarray]:
    """Yields batches of consecutive images forever."""
    while True:
        for start in range(0, len(images) - batch_size + 1, batch_size):
            yield images[start : start + batch_size]
