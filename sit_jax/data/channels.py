"""Decodes pictures and arrays to squares of any number of channels, uint8 or uint16."""

import numpy as np
from PIL import Image, ImageOps

from sit_jax.common.errors import InputError
from sit_jax.common.layout import RGB, Layout
from sit_jax.common.text import shown
from sit_jax.data import decode as pictures
from sit_jax.data import rasters
from sit_jax.data.decode import RANGE, UnreadableError
from sit_jax.data.records import Raw, Records

FIRST = 20  # images that are tried before the bits are a guess
LUMA = np.array((0.299, 0.587, 0.114))  # ITU-R 601, as in Pillow and in views/color.py


class LayoutError(UnreadableError):
    """An image that was read, and that does not fit the layout of the data set."""

    def __init__(self, name: str, reason: str):
        InputError.__init__(self, f"{shown(name)}: {reason}")
        self.reason = reason


def decode(
    raw: Raw, image_size: int, name: str, layout: Layout = RGB, with_pages: list[str] | None = None
) -> np.ndarray:
    """Decodes an image of any kind to [s, s, c], s = `image_size`, in the number of channels and type of `layout`.

    `raw` is a picture that Pillow reads, a .npy file of [H, W] or [H, W, c], a TIFF of any bands, or such an array. The
    shorter side is resized to s, then the centre is cropped. Pictures of 3 x 8 bits are decoded by `decode.decode`.

    Channels: grey becomes three equal channels, and colours become their luma, if the layout has 3 or 1 channels. uint8
    arrays of four channels are then colours with transparency, over white. Any other number of channels must be that of
    the layout. Values: uint8 and uint16 are scaled by their type. With `layout.range`, its ends become 0 and the
    largest stored value, and NaN becomes 0. Of several pages or frames the first is decoded, and `name` is added to
    `with_pages`. Raises LayoutError for another number of channels and for types that need a range, UnreadableError for
    an unreadable image.
    """
    try:
        if layout == RGB and _is_plain(raw):
            return pictures.decode(raw, image_size, name, with_pages)
        array = read(raw, image_size, name, layout, with_pages)
        return _square(scaled(with_channels(array, name, layout), name, layout), image_size)
    except InputError:
        raise
    except Exception as error:  # damaged files raise almost anything
        raise UnreadableError(name, pictures.reason_of(error)) from error


def _is_plain(raw: Raw) -> bool:
    """Tells whether the decoder of pictures keeps all that an image holds."""
    if isinstance(raw, np.ndarray):
        return raw.dtype == np.uint8 and (raw.ndim == 2 or raw.shape[-1] in (1, 3, 4))
    return not rasters.is_npy(raw) and (not rasters.is_tiff(raw) or rasters.is_picture(raw, RGB))


def read(raw: Raw, image_size: int, name: str, layout: Layout, with_pages: list[str] | None = None) -> np.ndarray:
    """Reads an image as an array [H, W] or [H, W, c] of its own type; JPEG may come smaller, down to 2 s."""
    if isinstance(raw, np.ndarray):
        return raw
    if rasters.is_npy(raw):
        array = rasters.read_npy(raw)
        return array.astype(array.dtype.newbyteorder("="), copy=False)
    if rasters.is_tiff(raw) and not rasters.is_picture(raw, layout):
        return rasters.read_tiff(raw, name, with_pages)
    image = pictures.open_picture(raw, image_size, name, with_pages)
    if image.mode == "F":
        return np.asarray(image)
    if image.mode.startswith("I"):  # 16-bit grey; Pillow reads it as 32 bits from some files
        return np.asarray(image) if layout.range else pictures.wide_grey(image, layout.dtype)
    if layout.alpha:
        return np.asarray(image.convert("LA" if layout.channels == 2 else "RGBA"))
    is_grey = image.mode in ("1", "L", "LA", "La")
    flat = pictures.to_rgb(image)
    if not is_grey and image.has_transparency_data and layout.channels == 4:
        reason = "image has 3 channels and transparency, data.channels is 4; set --config.data.channels=3, or add"
        raise LayoutError(name, f"{reason} --config.data.alpha to keep the transparency")
    return np.asarray(flat.convert("L") if is_grey or layout.channels == 1 else flat)


def with_channels(array: np.ndarray, name: str, layout: Layout) -> np.ndarray:
    """Returns an image [H, W] or [H, W, k] with the channels of the layout, [H, W, c]; else raises LayoutError."""
    array = array[..., None] if array.ndim == 2 else array
    if array.shape[-1] == 4 and layout.channels in (1, 3) and array.dtype == np.uint8:
        array = np.asarray(pictures.to_rgb(Image.fromarray(array)))
    found, wanted = array.shape[-1], layout.channels
    if found == wanted:
        return array
    if (found, wanted) == (1, 3):
        return array.repeat(3, axis=-1)
    if (found, wanted) == (3, 1):
        if array.dtype == np.uint8:
            return np.asarray(Image.fromarray(array).convert("L"))[..., None]
        return (array @ LUMA)[..., None].astype(array.dtype)
    remedy = f"set --config.data.channels={found}"
    if array.shape[0] == wanted:  # [c, H, W], the order of PyTorch
        remedy = f"move the channels of {list(array.shape)} to the last axis"
    plural = "channel" if found == 1 else "channels"
    raise LayoutError(name, f"image has {found} {plural}, data.channels is {wanted}; {remedy}")


def found_bits(records: Records, layout: Layout) -> int:
    """Returns the bits that keep the values of the first readable image: 8 for uint8, else 16.

    Raises LayoutError if that image does not fit the layout, so that a whole data set is not decoded in vain. An
    unreadable image is passed over; after the first FIRST, the answer is 8.
    """
    layout = layout._replace(bits=16)  # so that nothing is scaled to 8 bits before it is looked at
    for i in range(min(FIRST, len(records))):
        name = records.names[i]
        try:
            array = read(records.read(i), 1, name, layout)
        except LayoutError:
            raise
        except Exception:  # reported when all images are decoded
            continue
        scaled(with_channels(array, name, layout), name, layout)
        return 8 if array.dtype == np.uint8 else 16
    return 8


def scaled(array: np.ndarray, name: str, layout: Layout) -> np.ndarray:
    """Scales values to the type of the layout; raises LayoutError if the type of the values has no natural range."""
    if layout.range is None:
        if array.dtype == layout.dtype:
            return array
        if array.dtype not in (np.uint8, np.uint16):
            raise LayoutError(name, f"values of type {array.dtype} need the range from black to white; set {RANGE}")
    low, high = layout.range or (0.0, float(np.iinfo(array.dtype).max))
    unit = np.clip((array.astype(np.float64) - low) / (high - low), 0.0, 1.0)
    return np.round(np.nan_to_num(unit, nan=0.0) * np.iinfo(layout.dtype).max).astype(layout.dtype)


def _square(array: np.ndarray, image_size: int) -> np.ndarray:
    """Resizes and crops [H, W, c] channel by channel, bicubic and antialiased, uint8 exactly as Pillow does colours."""
    if array.shape[:2] == (image_size, image_size):
        return np.ascontiguousarray(array)
    size, limit = (image_size, image_size), np.iinfo(array.dtype).max
    planes = []
    for plane in np.moveaxis(array, -1, 0):
        # Pillow resizes 8 bits and floats; floats hold 16 bits exactly.
        image = Image.fromarray(np.ascontiguousarray(plane if array.dtype == np.uint8 else plane.astype(np.float32)))
        planes.append(np.asarray(ImageOps.fit(image, size, Image.Resampling.BICUBIC)))
    return np.clip(np.round(np.stack(planes, axis=-1)), 0, limit).astype(array.dtype)
