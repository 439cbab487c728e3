"""The picture formats that are read: one table for the listing of folders, the decoder and the messages."""

import contextlib
import functools
import importlib
from typing import NamedTuple

from PIL import features

PILLOW = "pip install --upgrade pillow"
HEIF = "pip install pillow-heif"
TIFF = "pip install tifffile"


class Format(NamedTuple):
    """A picture format."""

    name: str  # Pillow's name; empty if Pillow does not read it
    extensions: tuple[str, ...]  # lower case
    plugin: str  # the module that reads it
    feature: str | None  # the part of Pillow that some builds lack
    remedy: str  # what to do if it cannot be read here


# TIFF of several bands, or of colours of 16 bits; `rasters.is_picture` tells it from a picture, not its name.
BANDS = Format("", (), "tifffile", None, TIFF)  # imported when it is needed: that takes a while
FORMATS = (
    Format("PNG", (".png", ".apng"), "PIL.PngImagePlugin", "zlib", PILLOW),
    Format("JPEG", (".jpg", ".jpeg", ".jpe", ".jfif", ".mpo"), "PIL.JpegImagePlugin", "jpg", PILLOW),
    Format("WEBP", (".webp",), "PIL.WebPImagePlugin", "webp", PILLOW),
    Format("BMP", (".bmp",), "PIL.BmpImagePlugin", None, PILLOW),
    Format("TIFF", (".tif", ".tiff"), "PIL.TiffImagePlugin", None, PILLOW),
    Format("GIF", (".gif",), "PIL.GifImagePlugin", None, PILLOW),
    Format("PPM", (".ppm", ".pgm", ".pbm", ".pnm"), "PIL.PpmImagePlugin", None, PILLOW),
    Format("JPEG2000", (".jp2", ".j2k", ".j2c", ".jpx"), "PIL.Jpeg2KImagePlugin", "jpg_2000", PILLOW),
    Format("AVIF", (".avif",), "PIL.AvifImagePlugin", "avif", PILLOW),
    Format("HEIF", (".heic", ".heif", ".hif"), "pillow_heif", None, HEIF),
    Format("", (".npy",), "numpy", None, "pip install numpy"),
    BANDS,
)
# A raw file is not a picture yet: its colours depend on the program that develops it.
RAW = (".arw", ".cr2", ".cr3", ".dng", ".nef", ".orf", ".raf", ".rw2")
REMEDIES = {extension: row.remedy for row in FORMATS for extension in row.extensions} | dict.fromkeys(
    RAW, "convert it to JPEG or TIFF"
)
# The first bytes of a file that may lack its plugin: phones and chats rename such files to .jpg.
BRANDS = {b"ftyphei": HEIF, b"ftyphev": HEIF, b"ftypmif1": HEIF, b"ftypavi": PILLOW}


@functools.cache
def readable() -> tuple[Format, ...]:
    """Returns the formats with extensions that this installation reads; loads their plugins."""
    return tuple(row for row in FORMATS if row.extensions and _load(row))


@functools.cache
def extensions() -> tuple[str, ...]:
    """Returns the extensions of the readable formats, in lower case with their dot."""
    return tuple(extension for row in readable() for extension in row.extensions)


@functools.cache
def pillow_names() -> tuple[str, ...]:
    """Returns Pillow's names of the readable formats.

    Pillow knows other formats, some of which start programs (EPS) or hold no photographs.
    """
    return tuple(row.name for row in readable() if row.name)


def missing_plugin(data: bytes) -> str | None:
    """Returns the remedy for a file whose first bytes tell a format that is not readable here, else None."""
    return next((remedy for brand, remedy in BRANDS.items() if data[4 : 4 + len(brand)] == brand), None)


def _load(row: Format) -> bool:
    with contextlib.suppress(ImportError):
        plugin = importlib.import_module(row.plugin)
        if row.plugin == "pillow_heif":
            plugin.register_heif_opener()
        return row.feature is None or bool(features.check(row.feature))
    return False
