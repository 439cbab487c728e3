"""Splits and classes that the names of images tell by their folders, as those of a folder of images."""

import sys
from collections.abc import Callable, Sequence

import numpy as np

from sit_jax.common.errors import InputError
from sit_jax.data import formats
from sit_jax.data.assemble import SPLIT_NAMES, TEST_NAMES, TRAIN_NAMES, Classes, Part, assemble
from sit_jax.data.listing import SYSTEM_FOLDERS
from sit_jax.data.records import Records, Source


def is_image(name: str) -> bool:
    """Returns whether a file is an image by its extension, and neither hidden nor in a folder of a system."""
    return name.lower().endswith(formats.extensions()) and not any(
        part.startswith(".") or part in SYSTEM_FOLDERS for part in name.split("/") if part != "."
    )


def open_names(name: str, names: Sequence[str], take: Callable[[np.ndarray], Records]) -> Source:
    """Builds the source `name` of images that are called `names`; `take(rows)` returns the records at int64 [m].

    Splits and labels follow the rules of `folder.open_folder`. Raises InputError if there is no image.
    """
    if not len(names):
        kinds = " ".join(kind[1:] for kind in formats.extensions())
        raise InputError(f"{name}: holds no images; the files that are read are {kinds}")
    names = unwrapped(names)
    splits = divide(names)
    parts: dict[str, Part] = {}
    for split, rows in splits.items():
        depth = 1 if split else 0
        # A split of all rows keeps the order, so a million names are not copied.
        classes = folder_classes(names if len(rows) == len(names) else [names[int(row)] for row in rows], depth)
        parts[split or "train"] = (take(rows), classes)
    train = next(parts[split][1] for split in TRAIN_NAMES if split in parts)
    if train is not None and len(train.texts) < 2:  # one folder is no class
        parts = {split: (records, None) for split, (records, _) in parts.items()}
    return assemble(name, parts)


def unwrapped(names: Sequence[str]) -> Sequence[str]:
    """Returns names without the folders that hold all of them, as archives often have; split folders stay."""
    depth = 0
    while True:
        found = {name.removeprefix("./").split("/", depth + 1)[depth] if "/" in name else "" for name in names}
        (only,) = found if len(found) == 1 else ("",)
        deeper = only and all(name.removeprefix("./").count("/") > depth for name in names)
        if not deeper or only.lower() in SPLIT_NAMES:
            return [name.removeprefix("./").split("/", depth)[depth] for name in names] if depth else names
        depth += 1


def divide(names: Sequence[str]) -> dict[str, np.ndarray]:
    """Returns the rows of each split, int64, by its folder; {"": all rows} if the names are not divided into splits."""
    index: dict[str, int] = {}
    numbers = (index.setdefault(_split_folder(name), len(index)) for name in names)
    folder_of = np.fromiter(numbers, np.int32, len(names))
    known = {folder for folder in index if folder in SPLIT_NAMES}
    has_train = any(folder in TRAIN_NAMES for folder in known)
    has_test = any(folder in TEST_NAMES for folder in known)
    # Next to `plane` and `car`, a folder `train` is a class; next to `test`, it is a split.
    if not has_train or not (has_test or known == set(index) - {""}):
        return {"": np.arange(len(names))}
    return {folder: np.flatnonzero(folder_of == index[folder]) for folder in sorted(known)}


def folder_classes(names: Sequence[str], depth: int = 0) -> Classes | None:
    """Returns the folder of each image below the first `depth` folders; None unless most lie in exactly one."""
    paths = (name.removeprefix("./").split("/")[depth:] for name in names)
    found = [sys.intern(parts[0]) if len(parts) == 2 else None for parts in paths]
    if 2 * sum(folder is not None for folder in found) <= len(found):
        return None
    return Classes.of(found, are_numbers=False)


def _split_folder(name: str) -> str:
    """Returns the first folder of a name, in small letters if it is a split; "" if the image lies in none."""
    folder, slash, _ = name.removeprefix("./").partition("/")
    return "" if not slash else folder.lower() if folder.lower() in SPLIT_NAMES else folder
