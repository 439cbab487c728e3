"""From the images of each split, and what is known of their classes, to a Source."""

import dataclasses
import re
from collections.abc import Callable, Iterable, Sequence
from typing import TypeVar

import numpy as np

from sit_jax.common.errors import InputError
from sit_jax.common.text import shown
from sit_jax.data.folder import SPLITS
from sit_jax.data.records import Records, Source

Item = TypeVar("Item")

# What a split is called, in the order in which one is chosen for the test; case-insensitive.
TRAIN_NAMES, TEST_NAMES, UNLABELLED_NAMES = SPLITS["train"], SPLITS["test"], SPLITS["unlabelled"]
SPLIT_NAMES = (*TRAIN_NAMES, *TEST_NAMES, *UNLABELLED_NAMES)


@dataclasses.dataclass(frozen=True)
class Classes:
    """The classes of n images: `texts[ids[i]]` is that of image i, an id of -1 is none; `ids` is int32 [n].

    `are_numbers` says that texts of digits are the numbers of the classes, not their names.
    """

    ids: np.ndarray
    texts: Sequence[str]
    are_numbers: bool = True

    @classmethod
    def of(cls, texts: Iterable[str | None], are_numbers: bool = True) -> "Classes":
        """Numbers the texts in the order in which they come."""
        index: dict[str, int] = {}
        ids = [-1 if text is None else index.setdefault(text, len(index)) for text in texts]
        return cls(np.array(ids, np.int32), list(index), are_numbers)

    @classmethod
    def join(cls, several: Sequence["Classes"]) -> "Classes":
        """Returns the classes of all images, one after the other."""
        index: dict[str, int] = {}
        ids = []
        for classes in several:
            renamed = [index.setdefault(text, len(index)) for text in classes.texts]
            ids.append(np.array([*renamed, -1], np.int32)[classes.ids])
        return cls(np.concatenate(ids), list(index), all(classes.are_numbers for classes in several))

    @property
    def usable(self) -> bool:
        """Whether most images have a class."""
        return bool(2 * (self.ids >= 0).sum() > len(self.ids))


Part = tuple[Records, Classes | None]


def assemble(name: str, parts: dict[str, Part], class_names: Sequence[str] | None = None) -> Source:
    """Builds the source `name` of its splits, by names of SPLIT_NAMES; one of them is in TRAIN_NAMES.

    Classes are numbers, or sorted texts that become `class_names`, as they are in the training split. If most images of
    a split have a class, the others are left out of it (they stay in `pretrain`); if not, the split has no labels. The
    test split is the first of TEST_NAMES that is labelled, else the first. Raises InputError if the test split has a
    class that the training split lacks, or if there are two training splits.
    """
    everything, classes = _training(name, parts)
    strays = _strays(everything, classes)
    if classes is not None and not classes.usable:
        classes = None
    number, class_names = _numbering(classes, class_names)
    train = _labelled(name, everything, classes, number)
    pretrain = train if len(train) == len(everything) else everything
    for split in UNLABELLED_NAMES:
        pretrain = pretrain + parts[split][0] if split in parts else pretrain
    tests = [parts[split] for split in TEST_NAMES if split in parts]
    labelled = [(records, found) for records, found in tests if number and found is not None and found.usable]
    test = _labelled(name, *labelled[0], number) if labelled else tests[0][0] if tests else None
    notes = (_recognised(parts, class_names, number), *strays)
    return Source(name, pretrain, train, test, tuple(map(shown, class_names)) if class_names else None, notes)


def _recognised(parts: dict[str, Part], class_names: Sequence[str] | None, number: dict[str, int] | None) -> str:
    """Returns what was found and recognised: `1,500 images; 2 splits, 10 classes (train, test)`."""
    count = len(class_names) if class_names else len(number or ())
    classes = f"{count:,} class{'es' * (count != 1)}" if count else "no classes"
    splits = f"{len(parts)} splits, {classes} ({', '.join(parts)})" if len(parts) > 1 else classes
    return f"{sum(len(records) for records, _ in parts.values()):,} images; {splits}"


def _strays(records: Records, classes: Classes | None) -> tuple[str, ...]:
    """Names the images that have no class although others have one."""
    if classes is None or not len(classes.texts) or (classes.ids >= 0).all():
        return ()
    total, missing = f"{len(records):,}", int((classes.ids < 0).sum())
    first = shown(records.names[int(np.argmin(classes.ids))])
    if classes.usable:
        return (f"{missing:,} of {total} images have no label, and only pre-training uses them: {first} is the first",)
    few = f"{len(records) - missing:,} of {total} images have a label"
    return (f"{few}, not more than half, so no label is used; {first} is the first without one",)


def _training(name: str, parts: dict[str, Part]) -> Part:
    found = [split for split in TRAIN_NAMES if split in parts]
    if len(found) > 1:
        raise InputError(f"{name}: {' and '.join(found)} are both training images; put them together or rename one")
    return parts[found[0]]


def split_of(items: Iterable[Item], words: Callable[[Item], Iterable[str]]) -> dict[str, list[Item]]:
    """Returns the items of each split; the last of the words `words(item)` that is in SPLIT_NAMES is its split.

    Items are divided only if each has a split and one is a training split; otherwise all are "train".
    """
    items = list(items)
    divided: dict[str, list[Item]] = {}
    for item in items:
        found = [word for word in words(item) if word in SPLIT_NAMES]
        divided.setdefault(found[-1] if found else "", []).append(item)
    if "" in divided or not any(split in divided for split in TRAIN_NAMES):
        return {"train": items}
    return divided


def words_of_file(path: str) -> list[str]:
    """Returns the words of a shard's folder and name, in small letters, as in data/train-00000-of-00002.parquet."""
    return re.split(r"[^a-z]+", "/".join(path.lower().split("/")[-2:]))


def _numbering(
    classes: Classes | None, class_names: Sequence[str] | None
) -> tuple[dict[str, int] | None, Sequence[str] | None]:
    """Returns the number of each class text of the training split, and the class names."""
    if classes is None:
        return None, None
    if classes.are_numbers and all(re.fullmatch(r"\d{1,6}", text) for text in classes.texts):  # longer: names
        return {text: int(text) for text in classes.texts}, class_names
    texts = sorted(classes.texts)
    return {text: i for i, text in enumerate(texts)}, texts


def _labelled(name: str, records: Records, classes: Classes | None, number: dict[str, int] | None) -> Records:
    if classes is None or number is None:
        return records
    if unknown := sorted(set(classes.texts) - set(number)):
        if not classes.are_numbers or not all(re.fullmatch(r"\d{1,6}", text) for text in [*unknown, *number]):
            raise InputError(
                f"{name}: the class {unknown[0]} of the test split is not in the training split; remove it or add it"
            )
        number = number | {text: int(text) for text in unknown}
    rows = np.flatnonzero(classes.ids >= 0)
    records = records if len(rows) == len(records) else records.take(rows)
    labels = np.array([number[text] for text in classes.texts], np.int32)[classes.ids[rows]]
    return dataclasses.replace(records, label=labels.__getitem__)
