"""Folders of image files, with or without labels."""

import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from sit_jax.common.errors import InputError
from sit_jax.data.records import Records, Source

EXTENSIONS = (".png", ".jpg", ".jpeg", ".webp", ".bmp")  # case-insensitive
TEST_NAMES = ("test", "val", "valid", "validation")
UNLABELLED_NAMES = ("unlabelled", "unlabeled")


def open_folder(path: str) -> Source:
    """Opens the png, jpg, jpeg, webp and bmp files at any depth below `path`, sorted by path.

    Splits: `path` is divided into splits if it has a sub-folder `train` and either a sub-folder `test`, `val`, `valid`
    or `validation` with images, or no sub-folder with images except splits. Then `train` is the training split, and the
    first of these four is the test split (if `train` is labelled: the first labelled one). `unlabelled` or `unlabeled`
    adds images for pre-training. Other sub-folders are ignored. If `path` is not divided, all of it is the training
    split, and there is no test split.

    Labels: `train` is labelled if each image lies exactly one folder below it, in at least two folders; the sorted
    folders are the classes. The test split is labelled if `train` is and each image lies exactly one folder below the
    split. In other layouts (flat, deep, mixed) images have no labels.

    Hidden files and folders are ignored; links are followed. Raises InputError if the folder is missing or has no
    images, or if the test split has a class that the training split lacks.
    """
    root = Path(path).expanduser()
    if not root.is_dir():
        raise InputError(f"{path}: there is no such folder; give a folder of images")
    splits = _split_names(root)
    if splits is None:
        names = list_images(root, "")
        class_names = _class_names(names, "")
        train = file_records(root, names, _labels(names, "", class_names))
        return Source(f"folder:{path}", train, train, None, class_names)

    names = list_images(root, "train")
    class_names = _class_names(names, "train")
    train = file_records(root, names, _labels(names, "train", class_names))
    pretrain = train
    for split in [split for split in splits if split in UNLABELLED_NAMES]:
        pretrain += file_records(root, list_images(root, split))
    return Source(f"folder:{path}", pretrain, train, _open_test(root, splits, class_names), class_names)


def list_images(root: Path, folder: str) -> list[str]:
    """Lists the images at any depth below `root/folder`, as sorted paths relative to `root`.

    Raises InputError if there are none.
    """
    names = list(_walk(root, folder, frozenset()))
    if not names:
        kinds = " ".join(kind[1:] for kind in EXTENSIONS)
        raise InputError(f"{root / folder}: holds no images; the files that are read are {kinds}")
    return names


def file_records(root: Path, names: list[str], labels: np.ndarray | None = None) -> Records:
    """Returns records of the files `root/name`; the stamp is their size and modification time."""

    def stamp(i: int) -> str:
        try:
            status = os.stat(root / names[i])
        except OSError:  # decoding will report it as unreadable
            return f"{names[i]} missing"
        return f"{names[i]} {status.st_size} {status.st_mtime_ns}"

    return Records(names, lambda i: root / names[i], stamp, None if labels is None else labels.__getitem__)


def _walk(root: Path, folder: str, parents: frozenset) -> Iterator[str]:
    """Yields the relative paths of images; `parents`, the folders above, end cycles of links."""
    try:
        status = os.stat(root / folder)
        with os.scandir(root / folder) as found:
            entries = sorted((entry for entry in found if not entry.name.startswith(".")), key=lambda entry: entry.name)
    except OSError as error:
        raise InputError(f"{root / folder}: cannot be listed ({error.strerror}); check its permissions") from error
    identity = (status.st_dev, status.st_ino)
    if identity in parents:
        return
    for entry in entries:
        name = f"{folder}/{entry.name}" if folder else entry.name
        if entry.is_dir():
            yield from _walk(root, name, parents | {identity})
        elif entry.name.lower().endswith(EXTENSIONS):
            yield name


def _split_names(root: Path) -> list[str] | None:
    """Returns the sub-folders that are splits and hold images, or None if `root` is not divided into splits."""
    folders = sorted(entry.name for entry in os.scandir(root) if entry.is_dir() and not entry.name.startswith("."))
    if "train" not in folders:
        return None
    with_images = [name for name in folders if any(_walk(root, name, frozenset()))]
    splits = [name for name in with_images if name in ("train", *TEST_NAMES, *UNLABELLED_NAMES)]
    # Next to `plane` and `car`, a folder `train` is a class; next to `test`, it is a split.
    is_divided = any(name in TEST_NAMES for name in splits) or splits == with_images
    return splits if is_divided else None


def _open_test(root: Path, splits: list[str], class_names: tuple[str, ...] | None) -> Records | None:
    found = [(name, list_images(root, name)) for name in TEST_NAMES if name in splits]
    if not found:
        return None
    labelled = [(split, names) for split, names in found if class_names and _is_labelled(names, split)]
    split, names = (labelled or found)[0]
    return file_records(root, names, _labels(names, split, class_names if labelled else None))


def _folders_below(name: str, split: str) -> list[str]:
    return name[len(split) + 1 if split else 0 :].split("/")[:-1]


def _is_labelled(names: list[str], split: str) -> bool:
    return all(len(_folders_below(name, split)) == 1 for name in names)


def _class_names(names: list[str], split: str) -> tuple[str, ...] | None:
    if not _is_labelled(names, split):
        return None
    folders = sorted({_folders_below(name, split)[0] for name in names})
    return tuple(folders) if len(folders) > 1 else None


def _labels(names: list[str], split: str, class_names: tuple[str, ...] | None) -> np.ndarray | None:
    if class_names is None:
        return None
    index = {name: i for i, name in enumerate(class_names)}
    folders = [_folders_below(name, split)[0] for name in names]
    if unknown := sorted(set(folders) - set(index)):
        raise InputError(
            f"{split}/{unknown[0]}: a class that train has no folder for; remove it or add train/{unknown[0]}"
        )
    return np.array([index[folder] for folder in folders], np.int32)
