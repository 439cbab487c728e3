"""Data sets that Hugging Face's `datasets` saved to disk, read without that package."""

import functools
import json
from pathlib import Path
from typing import Any

import numpy as np

from sit_jax.common.errors import InputError
from sit_jax.data import index, table
from sit_jax.data.assemble import SPLIT_NAMES, TRAIN_NAMES, Classes, assemble
from sit_jax.data.index import Index
from sit_jax.data.ranges import Names, Ranges
from sit_jax.data.records import Source
from sit_jax.data.stored import Files


def open_hf(path: str) -> Source:
    """Opens a folder that `save_to_disk` wrote: one split, or a folder for each split beside `dataset_dict.json`.

    The column `image` (or `img`) holds encoded images, the column `label`, if it is there, integers or texts; names of
    a ClassLabel are kept. The splits are `train`, `test` or `validation`, and `unlabelled`. Images are read from their
    places in the Arrow files. Raises InputError if the folder is of another kind, incomplete or damaged.
    """
    name, root = f"hf:{path}", Path(path).expanduser()
    table.pyarrow(name)
    splits = _splits(name, root)
    schemas: list[Any] = []
    parts = {split: _open_split(folder, schemas) for split, folder in splits.items()}
    return assemble(name, parts, table.class_names(schemas[0]))


def _splits(name: str, root: Path) -> dict[str, Path]:
    if (root / "state.json").is_file():
        return {"train": root}
    if not (root / "dataset_dict.json").is_file():
        files = "parquet:FOLDER/**/*.parquet" if any(root.rglob("*.parquet")) else "parquet: or folder:"
        raise InputError(f"{name}: no save_to_disk of `datasets` wrote such a folder; for other files use {files}")
    found = _read_json(root / "dataset_dict.json").get("splits", [])
    if not isinstance(found, list) or not all(isinstance(split, str) for split in found):
        raise InputError(f"{root / 'dataset_dict.json'}: names no splits; save the data set again")
    splits = {split.lower(): root / split for split in found if split.lower() in SPLIT_NAMES}
    if not any(split in splits for split in TRAIN_NAMES):
        raise InputError(f"{name}: has no split train, only {', '.join(found)}; give the folder of one split")
    return splits


def _open_split(folder: Path, schemas: list[Any]) -> tuple:
    state = _read_json(folder / "state.json")
    if state.get("_indices_files"):
        raise InputError(
            f"{folder}: its rows are reordered by an indices file; call .flatten_indices() and save it again"
        )
    try:
        files = Files([str(folder / one["filename"]) for one in state.get("_data_files", [])])
    except (TypeError, KeyError) as error:
        raise InputError(f"{folder / 'state.json'}: names no files; save the data set again") from error
    indices = []
    for i in range(len(files.paths)):
        schemas.append(_open_arrow(files.paths[i])[1].schema)
        indices.append(index.kept("hf 1", files, i, functools.partial(_index, files.paths[i])))
    counts = [len(one) for one in indices]
    if not sum(counts):
        raise InputError(f"{folder}: holds no images; save a data set with images")
    ranges = Ranges(
        files,
        np.repeat(np.arange(len(counts), dtype=np.int32), counts),
        np.concatenate([one.starts for one in indices]),
        np.concatenate([one.sizes for one in indices]),
        Names.join([one.names for one in indices]),
    )
    return ranges.records(), Classes.join([one.classes for one in indices])


def _index(path: str) -> Index:
    """Finds the images of an Arrow file: their bytes lie in it as they are, so that addresses tell their places."""
    arrow = table.pyarrow(path)
    whole, reader = _open_arrow(path)
    starts, sizes, classes = [], [], []
    column = table.image_column(path, reader.schema)
    try:
        for batch in reader:
            images = table.image_bytes(batch.column(column))
            starts_of, sizes_of = _places(path, whole, images)
            starts.append(starts_of)
            sizes.append(sizes_of)
            has_label = "label" in batch.schema.names
            classes.append(table.classes(path, batch.column("label")) if has_label else table.no_classes(len(batch)))
    except (arrow.ArrowException, OSError) as error:
        raise _damaged(path, error) from error
    total = sum(map(len, starts))
    none = np.empty(0, np.int64)
    names = Names.of(map(str, range(total)))
    joined = Classes.join(classes) if classes else table.no_classes(0)
    return Index(np.concatenate([none, *starts]), np.concatenate([none, *sizes]), names, joined)


def _places(path: str, whole: Any, images: Any) -> tuple[np.ndarray, np.ndarray]:
    if images.null_count:
        raise InputError(f"{path}: holds paths of images, not the images; save it again with the images embedded")
    width = np.int64 if str(images.type) == "large_binary" else np.int32
    _, places, data = images.buffers()
    ends = np.frombuffer(places, width)[images.offset : images.offset + len(images) + 1].astype(np.int64)
    base = data.address - whole.address if data is not None else 0
    if not 0 <= base <= whole.size:
        raise InputError(f"{path}: is a packed Arrow file; save it again with save_to_disk, or use parquet:")
    return base + ends[:-1], np.diff(ends)


def _open_arrow(path: str) -> tuple[Any, Any]:
    """Returns the mapped bytes of an Arrow file, and the reader of its batches."""
    arrow = table.pyarrow(path)
    try:
        whole = arrow.memory_map(path).read_buffer()
        return whole, arrow.ipc.open_stream(whole)
    except (arrow.ArrowException, OSError) as error:
        raise _damaged(path, error) from error


def _read_json(path: Path) -> dict:
    try:
        return dict(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError) as error:
        raise InputError(f"{path}: cannot be read; save the data set again") from error


def _damaged(path: str, error: Exception) -> InputError:
    reason = " ".join(str(error).split())[:200]
    return InputError(f"{path}: cannot be read as an Arrow file ({reason}); save the data set again")
