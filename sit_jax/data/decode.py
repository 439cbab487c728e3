"""Decodes any picture to a square uint8 RGB array."""

import contextlib
import io
import warnings
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from sit_jax.common.errors import InputError
from sit_jax.data.records import Raw

# Part of the cache key of decoded images: increase it if `decode` returns other pixels.
VERSION = 1

# Pillow warns above 89 million pixels and raises above 179 million; the warning requires no action by the user.
# The filter is global because Pillow decodes in many threads, where `warnings.catch_warnings` is not safe.
warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)


def decode(raw: Raw, image_size: int, name: str) -> np.ndarray:
    """Decodes a picture: resizes the shorter side to s = `image_size` (bicubic, antialiased), then crops the centre.

    `raw` is a file that Pillow reads (path or bytes), or a uint8 array [H, W] or [H, W, 1, 3 or 4]. EXIF rotation is
    applied, transparency is composited over white, 16-bit grey is scaled to 8 bits; a picture of the right size keeps
    its pixels. Returns uint8 [s, s, 3]. Raises InputError, with `name`, if the picture is unreadable or truncated.
    """
    if isinstance(raw, np.ndarray) and raw.shape == (image_size, image_size, 3):
        return raw
    try:
        return np.asarray(_square(_open(raw, image_size), image_size))
    # For damaged files Pillow raises almost anything: OSError, SyntaxError, ValueError, struct.error, EOFError, ...
    except Exception as error:
        is_foreign = isinstance(error, UnidentifiedImageError)
        reason = "in no known format" if is_foreign else " ".join(str(error).split()) or type(error).__name__
        raise InputError(f"{name}: unreadable image ({reason}); repair it, remove it or set skip_unreadable") from error


def _square(image: Image.Image, image_size: int) -> Image.Image:
    # Resampling the central square equals resizing, then cropping.
    return ImageOps.fit(_to_rgb(image), (image_size, image_size), Image.Resampling.BICUBIC)


def _open(raw: Raw, image_size: int) -> Image.Image:
    if isinstance(raw, np.ndarray):
        return Image.fromarray(raw[..., 0] if raw.ndim == 3 and raw.shape[-1] == 1 else raw)
    # Pillow would keep the file open as long as the image exists; reading it first also saves a system call.
    image: Image.Image = Image.open(io.BytesIO(raw.read_bytes() if isinstance(raw, Path) else raw))
    # JPEG decodes much faster at 1/2, 1/4 or 1/8 of its size. Twice the requested size is enough for bicubic.
    image.draft(None, (2 * image_size, 2 * image_size))
    image.load()
    # A damaged EXIF block does not make a picture unreadable.
    with contextlib.suppress(Exception):
        ImageOps.exif_transpose(image, in_place=True)
    return image


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I"):  # I;16, I;16B, I: 16-bit grey; Pillow would clip it at 255
        grey = np.asarray(image).astype(np.float64)
        return Image.fromarray(np.clip(np.round(grey / 257), 0, 255).astype(np.uint8)).convert("RGB")
    if image.has_transparency_data:
        colour = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", image.size, "white"), colour).convert("RGB")
    return image if image.mode == "RGB" else image.convert("RGB")
