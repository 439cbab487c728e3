"""Data sets stored as arrays: the digits of scikit-learn and .npz files."""

import zipfile
from pathlib import Path

import numpy as np

from sit_jax.common.errors import InputError
from sit_jax.data.records import Records, Source


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

    Images are uint8 [n, H, W] or [n, H, W, channels] with 1, 3 or 4 channels; labels are integers [n], 0 or more.
    Raises InputError if the file cannot be read, or if an array has the wrong type or shape; the message names it.
    """
    arrays = _read_npz(Path(path).expanduser())
    prefix = "train_" if "train_images" in arrays else ""
    if f"{prefix}images" not in arrays:
        raise InputError(f"{path}: holds {', '.join(arrays) or 'no arrays'}; needs train_images or images")
    train = _checked_records(path, arrays, prefix, "train")
    test = _checked_records(path, arrays, "test_", "test") if "test_images" in arrays else None
    return Source(f"npz:{path}", train, train, test)


def _read_npz(path: Path) -> dict[str, np.ndarray]:
    if not path.is_file():
        raise InputError(f"{path}: there is no such file; give the path of a .npz file")
    try:
        with np.load(path, allow_pickle=False) as file:
            return dict(file)
    except (OSError, ValueError, EOFError, AttributeError, TypeError, zipfile.BadZipFile) as error:
        raise InputError(f"{path}: cannot be read as a .npz file of plain arrays ({error}); write it again") from error


def _checked_records(path: str, arrays: dict[str, np.ndarray], prefix: str, split: str) -> Records:
    images, labels = arrays[f"{prefix}images"], arrays.get(f"{prefix}labels")
    is_image = images.ndim == 3 or (images.ndim == 4 and images.shape[-1] in (1, 3, 4))
    if images.dtype != np.uint8 or not is_image or 0 in images.shape:
        found = f"{images.dtype} {list(images.shape)}"
        raise InputError(f"{path}: {prefix}images must be uint8 [n, H, W] or [n, H, W, 1, 3 or 4], not {found}")
    if labels is not None and (labels.shape != images.shape[:1] or labels.dtype.kind not in "iu" or labels.min() < 0):
        found = f"{labels.dtype} {list(labels.shape)}"
        raise InputError(f"{path}: {prefix}labels must be integers [{len(images)}] from 0 on, not {found}")
    return _records(split, images, labels)


def _records(split: str, images: np.ndarray, labels: np.ndarray | None) -> Records:
    names = [f"{split}/{i}" for i in range(len(images))]
    return Records(names, images.__getitem__, label=None if labels is None else labels.__getitem__)
