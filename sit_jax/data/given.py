"""The pictures of --images: a folder, a pattern of files, one picture, or a text file of paths."""

import glob
import os
from pathlib import Path
from typing import NamedTuple

import numpy as np

from sit_jax.common.errors import InputError
from sit_jax.data import layout
from sit_jax.data.folder import open_folder
from sit_jax.data.listing import file_records, list_images
from sit_jax.data.records import Records

START = 4096  # bytes that tell a text file from a picture, which has zeros there


class Given(NamedTuple):
    """Pictures with their labels."""

    records: Records  # `labels` are int32 [n], -1 without a label
    class_names: tuple[str, ...]
    notes: tuple[str, ...] = ()  # what a folder holds, for the user


def open_given(images: str) -> Given:
    """Opens the pictures that the option --images names.

    A folder: all pictures at any depth, sorted, with paths relative to the folder; labels and classes are as in a
    training on the folder, and images outside of its labelled splits have the label -1. A text file: the paths of its
    lines, in their order, relative to the file; a tab and what follows it are left out. Anything else is a pattern
    (`**`: any depth), sorted. Raises InputError if there is no picture.
    """
    path = Path(os.path.expanduser(images))
    if path.is_dir():
        return from_folder(path)
    if path.is_file() and not layout.is_image(path.name) and is_text(path):
        return from_list(path)
    found = [str(path)] if path.is_file() else sorted(filter(os.path.isfile, glob.glob(str(path), recursive=True)))
    if not found:
        raise InputError(
            f"--images={images}: there is no such folder or file, and as a pattern it matches none; "
            "give a folder, a pattern in quotes such as 'FOLDER/**/*.jpg', or a text file of paths"
        )
    return without_labels(Path(), found)


def from_folder(root: Path) -> Given:
    """Opens all pictures at any depth below a folder."""
    source = open_folder(str(root))
    names = sorted(list_images(root, ""))
    known: dict[str, int] = {}
    for split in (source.train, source.test):
        if split is not None and split.labels is not None:
            known.update(zip(split.names, split.labels, strict=True))
    labels = np.array([known.get(name, -1) for name in names], np.int32)
    return Given(file_records(root, names, labels), source.class_names or (), source.notes)


def from_list(path: Path) -> Given:
    """Opens the pictures that a text file lists."""
    text = path.read_bytes().decode("utf-8-sig", errors="surrogateescape")
    lines = [line.partition("\t")[0].strip() for line in text.splitlines()]
    names = [os.path.expanduser(line) for line in lines if line]
    if not names:
        raise InputError(f"--images={path}: lists no picture; write one path a line")
    missing = [name for name in names if not (path.parent / name).is_file()]
    if missing:
        raise InputError(
            f"--images={path}: {len(missing)} of its {len(names)} files are missing, the first: {missing[0]}; "
            "paths are relative to the list"
        )
    return without_labels(path.parent, names)


def without_labels(root: Path, names: list[str]) -> Given:
    """Returns the pictures `root/name` with the label -1."""
    return Given(file_records(root, names, np.full(len(names), -1, np.int32)), ())


def is_text(path: Path) -> bool:
    """Tells whether a file is text."""
    try:
        with path.open("rb") as file:
            return b"\0" not in file.read(START)
    except OSError as error:
        raise InputError(f"--images={path}: cannot be read ({error.strerror}); check its permissions") from error
