"""Columns of an Arrow schema that hold images and labels."""

import json
from collections.abc import Sequence
from typing import Any

import numpy as np

from sit_jax.common.errors import InputError
from sit_jax.data.assemble import Classes

IMAGE_COLUMNS = ("image", "img")  # the first that is there


def pyarrow(name: str) -> Any:
    """Returns the package pyarrow; raises InputError with the command that installs it."""
    try:
        import pyarrow.ipc
        import pyarrow.parquet
    except ImportError as error:
        raise InputError(f"{name}: reading it needs pyarrow; run `pip install pyarrow`") from error
    return pyarrow


def image_column(path: str, schema: Any) -> str:
    """Returns the name of the column of encoded images: of bytes, or of structs with the bytes in `bytes`."""
    for column in IMAGE_COLUMNS:
        if column in schema.names and _is_binary(_bytes_type(schema.field(column).type)):
            return column
    raise InputError(
        f"{path}: has no column image of encoded images (bytes, or a struct with bytes), only "
        f"{', '.join(f'{field.name} ({field.type})' for field in schema)[:300]}; write it with such a column"
    )


def image_bytes(column: Any) -> Any:
    """Returns the encoded images of a column as a binary array."""
    return column.field("bytes") if str(column.type).startswith("struct") else column


def class_names(schema: Any) -> Sequence[str] | None:
    """Returns the names of the ClassLabel `label` that the package `datasets` writes into a schema; None without."""
    try:
        features = json.loads((schema.metadata or {})[b"huggingface"])["info"]["features"]
        names = features["label"]["names"]
    except (KeyError, TypeError, ValueError):
        return None
    return [str(name) for name in names] if isinstance(names, list) else None


def classes(path: str, column: Any) -> Classes:
    """Returns the classes of a column of integers or texts; null and negative numbers are no class."""
    kind = str(column.type)
    if not any(word in kind for word in ("int", "string")) or "list" in kind or "struct" in kind:
        raise InputError(f"{path}: the column label is {kind}; write integers from 0 on, or texts")
    return Classes.of(
        None if value is None or (isinstance(value, int) and value < 0) else str(value) for value in column.to_pylist()
    )


def no_classes(count: int) -> Classes:
    """Returns the classes of images that have none."""
    return Classes(np.full(count, -1, np.int32), [])


def _bytes_type(kind: Any) -> Any:
    is_struct = str(kind).startswith("struct") and kind.get_field_index("bytes") >= 0
    return kind.field("bytes").type if is_struct else kind


def _is_binary(kind: Any) -> bool:
    return str(kind) in ("binary", "large_binary")
