"""Pixels as features: what an encoder has to beat, at no cost."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from sit_jax.eval.features import Encode
from sit_jax.mesh import replicated
from sit_jax.views import whole_images

SHRUNK = 8  # pixels


class Pixels(NamedTuple):
    """One way to take pixels as features."""

    name: str
    side: int  # pixels to which whole images are resized


def baselines(image_size: int, largest: int) -> list[Pixels]:
    """Returns the pixels of a protocol: raw ones at the image size of the model, at most `largest`, and 8 x 8 ones."""
    raw = min(image_size, largest)
    found = [Pixels("raw" if raw == image_size else f"{raw} x {raw}", raw)]
    return found if raw <= SHRUNK else [*found, Pixels(f"{SHRUNK} x {SHRUNK}", SHRUNK)]


def make_pixels(side: int, mesh: Mesh) -> Encode:
    """Returns `encode(params, images)` from [B, H, W, 3] uint8 to pixels [B, 1, side * side * 3] in [-1, 1]."""

    def encode(params: dict, images: jax.Array) -> jax.Array:
        del params
        return jnp.reshape(whole_images(images, side), (len(images), 1, -1))

    return jax.jit(encode, out_shardings=replicated(mesh))
