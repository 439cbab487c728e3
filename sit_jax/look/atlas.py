"""Small pictures of a page: one WebP file with all tiles, so that a page of thousands stays small."""

import base64
import io
import math

import numpy as np
from PIL import Image

QUALITY = 75
LARGEST = 16_383  # pixels of a side of a WebP file


def data_uri(data: bytes, kind: str) -> str:
    """Returns bytes of an image of a kind, such as "webp", as an address that holds them."""
    return f"data:image/{kind};base64,{base64.b64encode(data).decode()}"


def webp(picture: np.ndarray, quality: int = QUALITY) -> bytes:
    """Returns a picture [H, W, 3] uint8 as a WebP file."""
    file = io.BytesIO()
    Image.fromarray(picture).save(file, "WEBP", quality=quality, method=4)
    return file.getvalue()


def atlas(tiles: np.ndarray) -> dict:
    """Returns tiles [n, side, side, 3] uint8 as values for the page: `data` (base64), `columns`, `rows` and `side`.

    Tile i is in row i // columns and column i % columns.
    """
    count, side = tiles.shape[:2]
    columns = max(1, math.ceil(math.sqrt(count)))
    rows = max(1, math.ceil(count / columns))
    if max(columns, rows) * side > LARGEST:
        raise ValueError(f"{count} tiles of {side} pixels do not fit in a WebP file")
    padded = np.zeros((rows * columns, side, side, 3), np.uint8)
    padded[:count] = tiles
    picture = padded.reshape(rows, columns, side, side, 3).transpose(0, 2, 1, 3, 4).reshape(rows * side, -1, 3)
    data = base64.b64encode(webp(picture)).decode()
    return {"data": data, "columns": columns, "rows": rows, "side": side}
