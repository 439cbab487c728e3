"""Folders of image files, with or without labels."""

import os
from pathlib import Path
from typing import NamedTuple

import numpy as np

from sit_jax.common.errors import InputError
from sit_jax.common.text import shown
from sit_jax.data.listing import file_records, find, folders_in, list_images, no_images, summary
from sit_jax.data.records import Records, Source

# The names of split folders, in any case; the first names are preferred.
SPLITS = {
    "train": ("train", "training"),
    "test": ("test", "testing", "val", "valid", "validation", "dev"),
    "unlabelled": ("unlabelled", "unlabeled"),
}
ROLES = {name: role for role, names in SPLITS.items() for name in names}

__all__ = ["file_records", "list_images", "open_folder"]


class Split(NamedTuple):
    """The images below a folder of the data set: `names` relative to the data set, and the class folder of each."""

    folder: str  # "" for all images
    names: list[str]
    classes: list[str | None]  # None: the image does not lie exactly one folder below

    @property
    def class_names(self) -> list[str]:
        """The class folders, sorted: none unless most images lie in class folders, and in two or more of them."""
        found = sorted(set(self.classes) - {None})  # type: ignore[type-var]
        return found if len(found) > 1 and self.in_classes else []  # type: ignore[return-value]

    @property
    def in_classes(self) -> bool:
        """Tells whether most images lie in class folders."""
        return 2 * sum(name is not None for name in self.classes) > len(self.names)


def open_folder(path: str) -> Source:
    """Opens the pictures of `formats.FORMATS` at any depth below `path`.

    Splits (SPLITS, in any case): `path` is divided into splits if it has a folder `train` or `training` and either a
    folder of test images, or no folder with images except splits. The first test folder is the test split (if the
    training images are labelled: the first labelled one). `unlabelled` adds images for pre-training. Other folders are
    not used. If `path` is not divided, all of it is the training split, and there is no test split. A folder that holds
    nothing but one folder is opened as that folder.

    Labels: a split is labelled if most images lie exactly one folder below it, in at least two folders; the sorted
    folders are the classes. The other images of the split have no label: they are in `pretrain` only. The test split is
    labelled if the training split is and most images lie exactly one folder below it.

    `notes` tells what was found, ignored, recognised and left out. Raises InputError if the folder is missing or has no
    images, if two folders are the training split, or if the test split has a class that the training split lacks.
    """
    root = Path(os.path.expanduser(path))
    if not os.path.isdir(root):
        if os.path.isfile(root):
            raise InputError(
                f"{shown(path)}: is a file; give a folder, list:FILE.txt, or a pattern such as glob:'*.jpg'"
            )
        raise InputError(f"{shown(path)}: there is no such folder; give a folder of images")
    found = find(root)
    if not found.names:
        raise no_images(root, found)
    base, groups = _groups(root, found.names)
    roles = _roles(root / base, groups)
    notes = [summary(found)]
    if roles is None:
        everything = _split(base, found.names)
        notes += [_recognised([], everything), *_strays(everything)]
        return _source(path, root, everything, everything.names, None, notes)

    train = _split(_join(base, roles["train"][0]), groups[roles["train"][0]])
    more = [name for folder in roles["unlabelled"] for name in groups[folder]]
    test = _choose_test([_split(_join(base, name), groups[name]) for name in roles["test"]], train)
    used = [*roles["train"], *roles["unlabelled"], *([os.path.basename(test.folder)] if test else [])]
    notes += [_recognised(used, train), *_strays(train), *(_strays(test) if test and train.class_names else [])]
    notes += _unused(groups, used, roles["test"])
    return _source(path, root, train, train.names + more, test, notes)


def _source(path: str, root: Path, train: Split, pretrain: list[str], test: Split | None, notes: list[str]) -> Source:
    train_records = _records(root, train, train)
    is_same = len(train_records) == len(pretrain)
    return Source(
        f"folder:{path}",
        train_records if is_same else file_records(root, pretrain),
        train_records,
        _records(root, test, train) if test else None,
        tuple(map(shown, train.class_names)) or None,
        tuple(notes),
    )


def _records(root: Path, split: Split, train: Split) -> Records:
    """Returns the labelled images of a split; all of its images if it has no labels."""
    if not train.class_names or not split.in_classes:
        return file_records(root, split.names)
    index = {name: label for label, name in enumerate(train.class_names)}
    labelled = [(name, folder) for name, folder in zip(split.names, split.classes, strict=True) if folder is not None]
    if unknown := sorted({folder for _, folder in labelled} - set(index)):
        name = shown(unknown[0])
        raise InputError(
            f"{shown(split.folder)}/{name}: a class that {shown(train.folder)} has no folder for; "
            f"remove it or add {shown(train.folder)}/{name}"
        )
    return file_records(root, [name for name, _ in labelled], np.array([index[c] for _, c in labelled], np.int32))


def _join(*parts: str) -> str:
    return "/".join(filter(None, parts))


def _split(folder: str, names: list[str]) -> Split:
    depth = len(folder.split("/")) if folder else 0
    parts = [name.split("/")[depth:-1] for name in names]
    return Split(folder, names, [below[0] if len(below) == 1 else None for below in parts])


def _groups(root: Path, names: list[str]) -> tuple[str, dict[str, list[str]]]:
    """Returns the folder of the data set below `root`, and the images by the folder directly below it ("": none).

    Archives often hold one folder, which holds all.
    """
    base: list[str] = []
    while True:
        groups: dict[str, list[str]] = {}
        for name in names:
            folder, slash, _ = name.split("/", len(base))[-1].partition("/")
            groups.setdefault(folder if slash else "", []).append(name)
        (only,) = groups if len(groups) == 1 else ("",)
        if not only or only.casefold() in ROLES or len(folders_in(os.path.join(root, *base))) > 1:
            return "/".join(base), groups
        base.append(only)


def _roles(base: Path, groups: dict[str, list[str]]) -> dict[str, list[str]] | None:
    """Returns the folders of each role of SPLITS, or None if the folder is not divided into splits."""
    with_images = [name for name in groups if name]
    roles: dict[str, list[str]] = {role: [] for role in SPLITS}
    for name in sorted(with_images, key=lambda name: _preference(name)):
        if name.casefold() in ROLES:
            roles[ROLES[name.casefold()]].append(name)
    trains = roles["train"] or [name for name in folders_in(str(base)) if ROLES.get(name.casefold()) == "train"]
    # Next to `plane` and `car`, a folder `train` is a class; next to `test`, it is a split.
    if not trains or not (roles["test"] or sum(map(len, roles.values())) == len(with_images)):
        return None
    if not roles["train"]:
        raise no_images(base / trains[0], find(base, trains[0]))
    if len(trains) > 1:
        names = " and ".join(map(shown, trains[:2]))
        raise InputError(f"{shown(str(base))}: {names} are both training images; merge them or rename one")
    return roles


def _preference(name: str) -> tuple[int, str]:
    """Returns the order of a split folder among the folders of its role."""
    role = ROLES.get(name.casefold())
    return (SPLITS[role].index(name.casefold()) if role else 0, name)


def _choose_test(found: list[Split], train: Split) -> Split | None:
    labelled = [split for split in found if train.class_names and split.in_classes]
    return next(iter(labelled or found), None)


def _recognised(folders: list[str], train: Split) -> str:
    """Returns what was recognised: `2 splits, 10 classes (Train, Test)`."""
    classes = len(train.class_names)
    parts = [f"{len(folders)} split{'s' * (len(folders) != 1)}"] if folders else []
    parts += [f"{classes:,} classes" if classes else f"no classes{_why_none(train)}"]
    return ", ".join(parts) + (f" ({', '.join(map(shown, folders))})" if folders else "")


def _why_none(train: Split) -> str:
    """Returns why there are no classes, if each folder holds its images in one more folder of the same name."""
    depth = train.folder.count("/") + 1 if train.folder else 0
    below = {tuple(name.split("/")[depth:-1]) for name in train.names}
    inner = {folders[1:] for folders in below}
    if len(below) < 2 or len(inner) > 1 or inner == {()}:
        return ""
    return f", because the images lie in PATH/class/{shown('/'.join(inner.pop()))}; move them to PATH/class"


def _strays(split: Split) -> list[str]:
    """Returns a message that names the images outside the class folders."""
    strays = [name for name, folder in zip(split.names, split.classes, strict=True) if folder is None]
    if not strays or len(strays) == len(split.names):
        return []
    total, first = f"{len(split.names):,}", shown(strays[0])
    if split.in_classes:
        return [
            f"{len(strays):,} of {total} images without a label, because not in a class folder: {first} is the first; "
            "move it into a class folder to label it"
        ]
    few = f"{len(split.names) - len(strays):,}"
    return [
        f"no image has a label, because only {few} of {total} lie in class folders; {first} is the first that does not"
    ]


def _unused(groups: dict[str, list[str]], used: list[str], tests: list[str]) -> list[str]:
    """Names the images outside of the splits, and the test folders that were not chosen."""
    notes = [
        f"{shown(name)} is not used, because {shown(used[-1])} is the test split" for name in tests if name not in used
    ]
    names = [name for folder, group in groups.items() if folder not in (*used, *tests) for name in group]
    if names:
        notes.append(
            f"{len(names):,} images outside of the splits are not used: {shown(names[0])} is the first; move them into "
            f"{shown(used[0])} to train on them"
        )
    return notes
