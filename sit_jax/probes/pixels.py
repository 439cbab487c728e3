"""Pixels as features: a baseline that an encoder has to beat."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from sit_jax.parallel.mesh import replicated
from sit_jax.probes.features import Encode
from sit_jax.views import whole_images

SHRUNK = 8  # side in pixels


class Pixels(NamedTuple):
    """One kind of pixel features."""

    name: str
    side: int  # of the grid of features
    block: int  # side of the block of pixels whose mean is a feature


def baselines(image_size: int, largest: int) -> list[Pixels]:
    """Returns the pixel baselines: raw pixels at the model's image size, at most `largest`, and 8 x 8 block means."""
    raw = min(image_size, largest)
    found = [Pixels("raw" if raw == image_size else f"{raw} x {raw}", raw, 1)]
    if raw > SHRUNK:
        found.append(Pixels(f"{SHRUNK} x {SHRUNK}", SHRUNK, image_size // SHRUNK))
    return found


def make_pixels(pixels: Pixels, mesh: Mesh) -> Encode:
    """Returns `encode(params, images)`: from stored [B, H, W, c] to pixels [B, 1, side * side * c] in [-1, 1].

    Pixels are not centred: 0 is the middle of the range. k-NN compares pixels by cosine, as it compares features.
    """

    def encode(params: dict, images: jax.Array) -> jax.Array:
        del params
        whole = whole_images(images, pixels.side * pixels.block)
        shape = (len(images), pixels.side, pixels.block, pixels.side, pixels.block, whole.shape[-1])
        return jnp.reshape(whole.reshape(shape).mean(axis=(2, 4)), (len(images), 1, -1))

    return jax.jit(encode, out_shardings=replicated(mesh))
