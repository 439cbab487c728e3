"""What a caller passes as images, as records for the decoder; nothing is guessed."""

import io
import os
import pathlib
from typing import Any

import numpy as np
from PIL import Image, ImageOps

from sit_jax.common.errors import InputError
from sit_jax.common.layout import Layout
from sit_jax.data.given import open_given
from sit_jax.data.records import Raw, Records

FORMS = "give uint8 [n, H, W, c], floats in [0, 1], a list of arrays, PIL images or paths, or the path of a folder"
MODES = ("1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "I;16", "I", "F", "LAB", "YCbCr")  # of Pillow that TIFF has
COLOURS = (1, 3, 4)  # channels of an array that an encoder of colours takes: grey, colours, colours with transparency


def as_records(images: Any, layout: Layout) -> Records:
    """Returns images as records.

    `images` is an array [n, H, W, c] or [n, H, W, 1], a list of arrays [H, W] or [H, W, c], of PIL images or of paths,
    or the path of a folder, of a picture or of a list of paths. Arrays are uint8, uint16, or floats in [0, 1]; floats
    are rounded to the values that the encoder stores. Raises InputError, with the remedy, for anything else.
    """
    if isinstance(images, str | os.PathLike):
        return open_given(os.fspath(images)).records
    if isinstance(images, Image.Image):
        images = [images]
    if not isinstance(images, list | tuple):
        images = np.asarray(images)
        if images.dtype == object or images.ndim != 4:
            hint = "; for one image, give images[None]; for n grey ones, images[..., None]" if images.ndim == 3 else ""
            raise InputError(f"an array of {images.dtype} {list(images.shape)} is not understood; {FORMS}{hint}")
    if not len(images):
        raise InputError(f"there is no image; {FORMS}")
    raws = [as_raw(image, f"image {i}", layout) for i, image in enumerate(images)]
    names = [os.fspath(raw) if isinstance(raw, os.PathLike) else f"image {i}" for i, raw in enumerate(raws)]
    return Records(names, raws.__getitem__)


def as_raw(image: Any, name: str, layout: Layout) -> Raw:
    """Returns one image in a form that the decoder reads."""
    if isinstance(image, str | os.PathLike):
        path = pathlib.Path(image).expanduser()
        if not path.is_file():
            raise InputError(f"{name}: {path} is no file; a folder or a pattern is given alone, not in a list")
        return path
    if isinstance(image, Image.Image):
        return as_bytes(image)
    return checked(np.asarray(image), name, layout)


def as_bytes(image: Image.Image) -> bytes:
    """Returns an image of Pillow as a file, lossless and upright."""
    image = ImageOps.exif_transpose(image)
    if "transparency" in image.info:  # of a colour or a palette; TIFF does not keep it
        image = image.convert("LA" if image.mode == "L" else "RGBA")
    if image.mode not in MODES:
        image = image.convert("RGBA" if image.mode in ("La", "RGBa") else "RGB")
    buffer = io.BytesIO()
    image.save(buffer, "TIFF")
    return buffer.getvalue()


def checked(array: np.ndarray, name: str, layout: Layout) -> np.ndarray:
    """Returns an array [H, W] or [H, W, c] as unsigned integers; raises InputError for what is none."""
    if array.ndim not in (2, 3) or 0 in array.shape:
        raise InputError(f"{name} has the shape {list(array.shape)}; an image is [H, W] or [H, W, c]")
    found = array.shape[2] if array.ndim == 3 else 1
    if found not in (COLOURS if layout.channels == 3 else (layout.channels,)):
        moved = "; move the channels to the last axis" if array.shape[0] in (1, 3, layout.channels) else ""
        raise InputError(f"{name} has {found} channels, and the encoder reads {layout.channels}{moved}")
    if array.dtype in (np.uint8, np.uint16) or layout.range is not None:
        return array
    if array.dtype.kind != "f":
        raise InputError(f"{name} has values of type {array.dtype}; give uint8 (0 to 255) or floats in [0, 1]")
    return quantised(array, name, layout.dtype)


def remedy(low: float, high: float) -> str:
    """Returns what makes values from `low` to `high` values in [0, 1], if that is plain to see."""
    if -1 <= low < 0 and high <= 1:
        return "if they are in [-1, 1], give (images + 1) / 2"
    if low >= 0 and high <= 255:
        return "if they are in [0, 255], give images.astype('uint8')"
    if low >= 0 and high <= 65535:
        return "if they are in [0, 65535], give images.astype('uint16')"
    return "scale them by the range that the camera or the data set has"


def quantised(array: np.ndarray, name: str, dtype: np.dtype) -> np.ndarray:
    """Returns floats in [0, 1] as unsigned integers; raises InputError for other values."""
    low, high = float(array.min()), float(array.max())
    if not np.isfinite([low, high]).all():
        raise InputError(f"{name} has values that are no numbers (NaN or infinite); floats must be in [0, 1]")
    if low < 0 or high > 1:
        raise InputError(f"{name} has values from {low:g} to {high:g}; floats must be in [0, 1]: {remedy(low, high)}")
    return np.round(array * np.iinfo(dtype).max).astype(dtype)
