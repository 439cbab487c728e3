"""Tiny-ImageNet in the folder layout of its original archive."""

import os
from pathlib import Path

import numpy as np

from sit_jax.common.errors import InputError
from sit_jax.data.listing import file_records, list_images
from sit_jax.data.records import Records, Source


def open_tiny_imagenet(path: str) -> Source:
    """Opens a folder with `wnids.txt`, `words.txt`, `train/<wnid>/images`, `val/images`, `val/val_annotations.txt`.

    Labels follow the order of `wnids.txt`; class names come from `words.txt`. The test split is `val`, because the
    archive's `test` has no labels. Raises InputError that names the missing piece if the folder is incomplete.
    """
    root = Path(os.path.expanduser(path))
    wnids = [line.strip() for line in _read_lines(root / "wnids.txt")]
    words = dict(line.split("\t", 1) for line in _read_lines(root / "words.txt") if "\t" in line)
    index = {wnid: label for label, wnid in enumerate(wnids)}
    names, labels = [], []
    for wnid in wnids:
        _check_folder(root / "train" / wnid / "images")
        found = list_images(root, f"train/{wnid}/images")
        names += found
        labels += [index[wnid]] * len(found)
    train = file_records(root, names, np.array(labels, np.int32))
    class_names = tuple(words.get(wnid, wnid) for wnid in wnids)
    return Source(f"tiny_imagenet:{path}", train, train, _open_val(root, index), class_names)


def _open_val(root: Path, index: dict[str, int]) -> Records:
    annotations = root / "val" / "val_annotations.txt"
    wnids = dict(line.split("\t")[:2] for line in _read_lines(annotations) if "\t" in line)
    _check_folder(root / "val" / "images")
    names = list_images(root, "val/images")
    labels = []
    for name in names:
        file = name.rpartition("/")[2]
        if wnids.get(file) not in index:
            raise InputError(f"{annotations}: {file} has no class of wnids.txt there; take the file from the archive")
        labels.append(index[wnids[file]])
    return file_records(root, names, np.array(labels, np.int32))


def _read_lines(path: Path) -> list[str]:
    if not path.is_file():
        raise InputError(f"{path}: missing; give the unpacked folder of the original archive tiny-imagenet-200.zip")
    return [line for line in path.read_text(encoding="utf-8", errors="surrogateescape").splitlines() if line.strip()]


def _check_folder(path: Path) -> None:
    if not path.is_dir():
        raise InputError(f"{path}: missing; give the unpacked folder of the original archive tiny-imagenet-200.zip")
