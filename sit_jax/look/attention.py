"""Where the tokens look, and what the patches hold, drawn over photographs at a readable size."""

from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from PIL import Image

from sit_jax.common.layout import layout_of
from sit_jax.data import Records
from sit_jax.data.load import StreamedImages
from sit_jax.draw.heatmaps import SIDE, heat
from sit_jax.draw.pictures import to_uint8
from sit_jax.eval.attention_maps import attention_maps
from sit_jax.eval.restore import Restored
from sit_jax.look.collection import for_people
from sit_jax.probes.features import make_encode


class Shown(NamedTuple):
    """Pictures of one photograph, each [SIDE, SIDE, 3] uint8."""

    name: str
    photograph: np.ndarray
    rotation: np.ndarray  # the attention of the rotation token, mean over the heads
    contrastive: np.ndarray  # the attention of the contrastive token
    patches: np.ndarray  # the first three principal components of the patch features as red, green, blue


def draw_attention(restored: Restored, records: Records, names: list[str]) -> list[Shown]:
    """Draws the attention maps and the patch features of photographs.

    The components are those of all these photographs together, so equal colours mean similar patches.
    """
    config, layout = restored.config, layout_of(restored.config.data)
    rows = range(len(records))
    images = StreamedImages(records, config.model.image_size, layout=layout).gather(rows)
    large = StreamedImages(records, max(SIDE, config.model.image_size), layout=layout).gather(rows)
    photographs = [resized(photograph, Image.Resampling.BICUBIC) for photograph in for_people(large, config.data.shown)]
    maps = attention_maps(restored.params, images, config).mean(axis=2)
    patches = np.asarray(make_encode(config, restored.mesh, "patches")(restored.params, jnp.asarray(images)))
    colours = component_colours(patches)
    return [
        Shown(name, photograph, overlay(photograph, both[0]), overlay(photograph, both[1]), nearest_pixels(colour))
        for name, photograph, both, colour in zip(names, photographs, maps, colours, strict=True)
    ]


def resized(picture: np.ndarray, how: Image.Resampling) -> np.ndarray:
    """Returns a picture [h, w, 3] uint8 with SIDE pixels on each side."""
    return np.asarray(Image.fromarray(picture).resize((SIDE, SIDE), how))


def nearest_pixels(picture: np.ndarray) -> np.ndarray:
    """Returns an enlarged picture whose pixels stay visible."""
    return resized(picture, Image.Resampling.NEAREST)


def overlay(photograph: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Lays an attention map over a photograph [SIDE, SIDE, 3] uint8."""
    return to_uint8(heat(photograph / 127.5 - 1, weights))


def component_colours(patches: np.ndarray) -> np.ndarray:
    """Returns patch features [n, side, side, D] as colours, uint8 [n, side, side, 3].

    Each of the first three principal components is stretched from its 2nd to its 98th percentile.
    """
    flat = patches.reshape(-1, patches.shape[-1])
    flat = flat - flat.mean(axis=0)
    _, _, axes = np.linalg.svd(flat, full_matrices=False)
    values = flat @ axes[:3].T
    values = np.pad(values, ((0, 0), (0, 3 - values.shape[1])))
    low, high = np.percentile(values, (2, 98), axis=0)
    scaled = np.clip((values - low) / np.maximum(high - low, 1e-12), 0, 1)
    return (255 * scaled).round().astype(np.uint8).reshape(*patches.shape[:3], 3)
