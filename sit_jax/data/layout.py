"""Splits and classes that the names of images tell by their folders, as those of a folder of images."""

from collections.abc import Callable, Sequence

import numpy as np

from sit_jax.common.errors import InputError
from sit_jax.data.assemble import TEST_NAMES, TRAIN_NAMES, UNLABELLED_NAMES, Classes, Part, assemble
from sit_jax.data.folder import EXTENSIONS
from sit_jax.data.records import Records, Source


def is_image(name: str) -> bool:
    """Returns whether a file is an image by its extension, and not hidden."""
    return name.lower().endswith(EXTENSIONS) and not any(
        part.startswith(".") for part in name.split("/") if part != "."
    )


def open_names(name: str, names: Sequence[str], take: Callable[[np.ndarray], Records]) -> Source:
    """Builds the source `name` of images that are called `names`; `take(rows)` returns the records at int64 [m].

    Splits and labels follow the rules of `folder.open_folder`. Raises InputError if there is no image.
    """
    if not len(names):
        kinds = " ".join(kind[1:] for kind in EXTENSIONS)
        raise InputError(f"{name}: holds no images; the files that are read are {kinds}")
    splits = divide(names)
    parts: dict[str, Part] = {}
    for split, rows in splits.items():
        depth = 1 if len(splits) > 1 or split else 0
        classes = folder_classes([names[int(row)] for row in rows], depth)
        parts[split.lower() or "train"] = (take(rows), classes)
    train = next(parts[split][1] for split in TRAIN_NAMES if split in parts)
    if train is not None and len(train.texts) < 2:  # one folder is no class
        parts = {split: (records, None) for split, (records, _) in parts.items()}
    return assemble(name, parts)


def divide(names: Sequence[str]) -> dict[str, np.ndarray]:
    """Returns the rows of each split, int64, by its folder; {"": all rows} if the names are not divided into splits."""
    first = [name.removeprefix("./").partition("/") for name in names]
    folders = np.array([folder if rest else "" for folder, _, rest in first])
    known = {
        folder for folder in set(folders.tolist()) if folder.lower() in (*TRAIN_NAMES, *TEST_NAMES, *UNLABELLED_NAMES)
    }
    has_train = any(folder.lower() in TRAIN_NAMES for folder in known)
    has_test = any(folder.lower() in TEST_NAMES for folder in known)
    # Next to `plane` and `car`, a folder `train` is a class; next to `test`, it is a split.
    if not has_train or not (has_test or known == set(folders.tolist()) - {""}):
        return {"": np.arange(len(names))}
    return {folder: np.flatnonzero(folders == folder) for folder in sorted(known)}


def folder_classes(names: Sequence[str], depth: int = 0) -> Classes | None:
    """Returns the folder of each image below the first `depth` folders; None unless each lies in exactly one."""
    paths = [name.removeprefix("./").split("/")[depth:] for name in names]
    if any(len(parts) != 2 for parts in paths):
        return None
    return Classes.of((parts[0] for parts in paths), are_numbers=False)
