"""Data sets stored as arrays: the digits of scikit-learn and .npz files."""

import contextlib
import os
import zipfile
import zlib
from pathlib import Path

import numpy as np

from sit_jax.common.errors import InputError
from sit_jax.common.text import shown
from sit_jax.data.records import Records, Source

MOST_CLASSES = 10**6  # a class has a column in each table of scores
NAMED = 10  # arrays of a file in a message
TYPES = (np.uint8, np.uint16, np.float16, np.float32, np.float64)
WRITE = "write it with numpy.savez(FILE, images=array), and labels=array if there are any"
# What is no .npz file, and the message for it.
NOT_NPZ = (
    (os.path.isdir, "is a folder; give a .npz file, or folder:PATH for a folder of pictures"),
    (lambda path: not os.path.isfile(path), "there is no such file; give the path of a .npz file"),
    (lambda path: not os.path.getsize(path), f"is empty; {WRITE}"),
    (lambda path: _first_bytes(path) == b"\x93NUMPY", f"is a single array (.npy), and npz: needs names; {WRITE}"),
)


def open_digits() -> Source:
    """Opens scikit-learn's 1797 handwritten digits of 8 x 8 pixels: 1437 training and 360 test images, ten classes.

    The values 0..16 are scaled to 0..255. The split is fixed and stratified by class.
    """
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    images, labels = load_digits(return_X_y=True)
    images = np.round(images.reshape(-1, 8, 8) * (255 / 16)).astype(np.uint8)
    splits = train_test_split(images, labels, test_size=360, stratify=labels, random_state=0)
    train = _records("train", splits[0], splits[2])
    return Source("digits", train, train, _records("test", splits[1], splits[3]), tuple("0123456789"))


def open_npz(path: str) -> Source:
    """Opens a .npz file with `train_images [train_labels test_images test_labels]` or `images [labels]`.

    Images are uint8, uint16 or floats [n, H, W] or [n, H, W, channels]; floats need `data.range`, and another number of
    channels than 1, 3 or 4 needs `data.channels`. Labels are integers [n], 0 or more.
    Raises InputError if the file cannot be read, or if an array has the wrong type or shape; the message names it.
    """
    name, arrays = f"npz:{path}", _read_npz(Path(os.path.expanduser(path)))
    prefix = "train_" if "train_images" in arrays else ""
    path = shown(path)
    if f"{prefix}images" not in arrays:
        found = ", ".join(shown(name) for name in list(arrays)[:NAMED]) or "no arrays"
        raise InputError(f"{path}: holds {found}; needs train_images or images: {WRITE}")
    train = _checked_records(path, arrays, prefix, "train")
    test = _checked_records(path, arrays, "test_", "test") if "test_images" in arrays else None
    return Source(name, train, train, test)


def _read_npz(path: Path) -> dict[str, np.ndarray]:
    name = shown(str(path))
    for is_other, message in NOT_NPZ:
        if is_other(path):
            raise InputError(f"{name}: {message}")
    try:
        with np.load(path, allow_pickle=False) as file:
            # A member that is no array is given as bytes.
            arrays = {key: array for key, array in file.items() if isinstance(array, np.ndarray)}
            return {key: array.astype(array.dtype.newbyteorder("="), copy=False) for key, array in arrays.items()}
    except (OSError, ValueError, EOFError, KeyError, NotImplementedError, zlib.error, zipfile.BadZipFile) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else "damaged, or of objects"
        raise InputError(f"{name}: cannot be read as a .npz file of plain arrays ({reason}); {WRITE}") from error
    except MemoryError as error:
        raise InputError(
            f"{name}: its arrays do not fit in memory; save the images as files, for folder:PATH"
        ) from error


def _first_bytes(path: Path) -> bytes:
    with contextlib.suppress(OSError), path.open("rb") as file:
        return file.read(6)
    return b""  # the message follows when all is read


def _checked_records(path: str, arrays: dict[str, np.ndarray], prefix: str, split: str) -> Records:
    images, labels = arrays[f"{prefix}images"], arrays.get(f"{prefix}labels")
    if images.dtype not in TYPES or images.ndim not in (3, 4) or 0 in images.shape:
        found = f"{images.dtype} {list(images.shape)}"
        raise InputError(
            f"{path}: {prefix}images must be uint8, uint16 or float [n, H, W] or [n, H, W, channels], not {found}; "
            "scale the values to 0..255, move the channels to the end, and save them with numpy.uint8"
        )
    if labels is not None and not _are_classes(labels, len(images)):
        found = f"{labels.dtype} {list(labels.shape)}"
        raise InputError(
            f"{path}: {prefix}labels must be integers [{len(images)}] from 0 on, below {MOST_CLASSES}, not {found}; "
            "number the classes"
        )
    return _records(split, images, labels)


def _are_classes(labels: np.ndarray, count: int) -> bool:
    is_right = labels.shape == (count,) and labels.dtype.kind in "iu"
    return bool(is_right and labels.min() >= 0 and labels.max() < MOST_CLASSES)


def _records(split: str, images: np.ndarray, labels: np.ndarray | None) -> Records:
    names = [f"{split}/{i}" for i in range(len(images))]
    return Records(names, images.__getitem__, label=None if labels is None else labels.__getitem__)
