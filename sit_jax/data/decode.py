"""From any undecoded picture to a square uint8 RGB array."""

import contextlib
import io
import warnings
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from sit_jax.common.errors import InputError
from sit_jax.data.records import Raw

# Part of the key to the cache of decoded images: raise it when `decode` gives other pixels.
VERSION = 1

# Pillow warns above 89 million pixels and refuses above 179 million; there is nothing that a user should do in between.
# The filter is global because Pillow decodes in many threads, where `warnings.catch_warnings` is not safe.
warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)


def decode(raw: Raw, image_size: int, name: str) -> np.ndarray:
    """Decodes a picture: shorter side resized to `image_size` pixels (bicubic, antialiased), then centre-cropped.

    `raw` is a file (path or bytes) that Pillow reads, or a uint8 array [H,W], [H,W,1], [H,W,3] or [H,W,4]. Rotation by
    EXIF is applied, transparency is laid over white, 16-bit grey is scaled to 8 bits, an image of the right size is
    left as it is. Returns uint8 [S,S,3]. Raises InputError that gives `name` if the file is unreadable or truncated.
    """
    if isinstance(raw, np.ndarray) and raw.shape == (image_size, image_size, 3):
        return raw
    try:
        return np.asarray(_square(_open(raw, image_size), image_size))
    # Damaged files make Pillow raise nearly anything: OSError, SyntaxError, ValueError, struct.error, EOFError, ...
    except Exception as error:
        is_foreign = isinstance(error, UnidentifiedImageError)
        reason = "in no known format" if is_foreign else " ".join(str(error).split()) or type(error).__name__
        raise InputError(f"{name}: unreadable image ({reason}); repair it, remove it or set skip_unreadable") from error


def _square(image: Image.Image, image_size: int) -> Image.Image:
    # One resampling of the central square is the same as resizing, then cropping.
    return ImageOps.fit(_to_rgb(image), (image_size, image_size), Image.Resampling.BICUBIC)


def _open(raw: Raw, image_size: int) -> Image.Image:
    if isinstance(raw, np.ndarray):
        return Image.fromarray(raw[..., 0] if raw.ndim == 3 and raw.shape[-1] == 1 else raw)
    # Pillow would keep the file open for as long as the image; reading it first also costs one system call less.
    image: Image.Image = Image.open(io.BytesIO(raw.read_bytes() if isinstance(raw, Path) else raw))
    # JPEG decodes much faster at 1/2, 1/4 or 1/8 of the size. Twice the size asked for leaves bicubic enough to see.
    image.draft(None, (2 * image_size, 2 * image_size))
    image.load()
    # A picture whose EXIF block is damaged is still a picture.
    with contextlib.suppress(Exception):
        ImageOps.exif_transpose(image, in_place=True)
    return image


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I"):  # I;16, I;16B, I: 16-bit grey, which Pillow would clip at 255
        grey = np.asarray(image).astype(np.float64)
        return Image.fromarray(np.clip(np.round(grey / 257), 0, 255).astype(np.uint8)).convert("RGB")
    if image.has_transparency_data:
        colour = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", image.size, "white"), colour).convert("RGB")
    return image if image.mode == "RGB" else image.convert("RGB")
