"""Decodes any picture to a square uint8 RGB array; `channels.py` decodes to other channels and types."""

import contextlib
import io
import warnings
from pathlib import Path

import numpy as np
from PIL import Image, ImageCms, ImageOps, UnidentifiedImageError

from sit_jax.common.errors import InputError
from sit_jax.common.text import shown
from sit_jax.data import formats
from sit_jax.data.records import Raw

# Part of the cache key of decoded images: increase it if `decode` returns other pixels.
VERSION = 2

# Pillow warns above this number of pixels and raises above twice the number: 268 million. Its own limit, 179 million,
# is below what phones photograph (200 million).
Image.MAX_IMAGE_PIXELS = 2**27
# The warning requires no action by the user. The filter is global because Pillow decodes in many threads, where
# `warnings.catch_warnings` is not safe.
warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)

# Formats of several pages or frames. The other pictures of an MPO or HEIF file are versions of the first.
WITH_PAGES = ("TIFF", "GIF", "WEBP", "PNG", "AVIF")
SKIP = "--config.data.skip_unreadable"
RANGE = '--config.data.range="(low, high)"'


class UnreadableError(InputError):
    """A picture that cannot be decoded; `reason` tells why."""

    def __init__(self, name: str, reason: str):
        super().__init__(f"{shown(name)}: unreadable image ({reason}); repair it, remove it or set {SKIP}")
        self.reason = reason


def decode(raw: Raw, image_size: int, name: str, with_pages: list[str] | None = None) -> np.ndarray:
    """Decodes a picture: resizes the shorter side to s = `image_size` (bicubic, antialiased), then crops the centre.

    `raw` is a file of `formats.FORMATS` (path or bytes), or a uint8 array [H, W] or [H, W, 1, 3 or 4]. EXIF rotation is
    applied, transparency is composited over white, 16-bit grey is scaled to 8 bits; a picture of the right size keeps
    its pixels. Of several pages or frames the first is decoded, and `name` is added to `with_pages`. Returns uint8
    [s, s, 3]. Raises UnreadableError, with `name`, if the picture is unreadable, truncated or of unknown range.
    """
    if isinstance(raw, np.ndarray) and raw.shape == (image_size, image_size, 3):
        return raw
    try:
        return np.asarray(_square(open_picture(raw, image_size, name, with_pages), image_size))
    # For damaged files Pillow raises almost anything: OSError, SyntaxError, ValueError, struct.error, EOFError, ...
    except Exception as error:
        raise UnreadableError(name, reason_of(error)) from error


def reason_of(error: Exception) -> str:
    """Returns why an image could not be decoded."""
    if isinstance(error, UnidentifiedImageError):
        return "in no known format"
    if isinstance(error, Image.DecompressionBombError):
        return f"more than the {2 * 2**27 // 10**6} million pixels that are decoded; shrink it"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return " ".join(str(error).split()) or type(error).__name__


def _square(image: Image.Image, image_size: int) -> Image.Image:
    # Resampling the central square equals resizing, then cropping.
    return ImageOps.fit(to_rgb(image), (image_size, image_size), Image.Resampling.BICUBIC)


def open_picture(raw: Raw, image_size: int, name: str, with_pages: list[str] | None = None) -> Image.Image:
    """Opens a picture in the mode of its file, upright; JPEG may come smaller, down to twice `image_size`."""
    if isinstance(raw, np.ndarray):
        return Image.fromarray(raw[..., 0] if raw.ndim == 3 and raw.shape[-1] == 1 else raw)
    # Pillow would keep the file open as long as the image exists; reading it first also saves a system call.
    image = _identify(raw.read_bytes() if isinstance(raw, Path) else raw)
    # JPEG decodes much faster at 1/2, 1/4 or 1/8 of its size. Twice the requested size is enough for bicubic.
    image.draft(None, (2 * image_size, 2 * image_size))
    image.load()
    # A damaged EXIF block does not make a picture unreadable.
    with contextlib.suppress(Exception):
        ImageOps.exif_transpose(image, in_place=True)
    if with_pages is not None and image.format in WITH_PAGES and getattr(image, "is_animated", False):
        with_pages.append(name)
    return image


def _identify(data: bytes) -> Image.Image:
    if not data:
        raise ValueError("the file is empty")
    try:
        return Image.open(io.BytesIO(data), formats=formats.pillow_names())
    except UnidentifiedImageError:
        if remedy := formats.missing_plugin(data):
            raise ValueError(f"needs a plugin: {remedy}") from None
        raise


def to_rgb(image: Image.Image) -> Image.Image:
    """Returns a picture as red, green and blue of 8 bits, with its transparency over white."""
    if image.mode.startswith("I"):  # I;16, I;16B, I
        return Image.fromarray(wide_grey(image, np.dtype(np.uint8))).convert("RGB")
    if image.mode == "F":
        raise ValueError(f"float values have no known range; convert it to 8 or 16 bits, or set {RANGE}")
    if image.mode == "LAB":  # Pillow converts it by colour profiles only
        profiles = ImageCms.createProfile("LAB"), ImageCms.createProfile("sRGB")
        converted = ImageCms.applyTransform(image, ImageCms.buildTransform(*profiles, "LAB", "RGB"))
        assert converted is not None  # it is None only in place
        return converted
    if image.has_transparency_data:
        colour = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", image.size, "white"), colour).convert("RGB")
    return image if image.mode == "RGB" else image.convert("RGB")


def wide_grey(image: Image.Image, dtype: np.dtype) -> np.ndarray:
    """Returns grey of 9 to 16 bits, scaled by its type to uint8 or uint16 (`dtype`); Pillow would clip it at 255.

    A 32-bit integer has no such value: numbers of 16 bits are scaled as such, others raise ValueError.
    """
    grey = np.asarray(image).astype(np.int64)
    if grey.min() < 0 or grey.max() > 65535:
        raise ValueError(
            f"values from {grey.min()} to {grey.max()}, beyond 16 bits; convert it to 8 or 16 bits, or set {RANGE}"
        )
    bits = getattr(image, "tag_v2", {}).get(258, (16,))[0]  # BitsPerSample of TIFF: 12 for some cameras
    largest = 2**bits - 1 if 8 < bits < 16 else 65535
    return np.round(grey * (np.iinfo(dtype).max / largest)).astype(dtype)
