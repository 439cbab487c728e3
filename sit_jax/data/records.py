"""Records: the listed but not yet decoded images of a data source."""

import dataclasses
import functools
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

Raw = bytes | Path | np.ndarray


@dataclasses.dataclass(frozen=True)
class Records:
    """A list of undecoded images.

    `names[i]` is the name of record i in messages. `read(i)` returns its undecoded image: an encoded file (bytes or
    path), or an array [H, W] or [H, W, channels]. `stamp(i)` is a text that changes with the encoded bytes, for
    the cache key of decoded images; None if nothing needs decoding. `label(i)` is its class; None without labels.
    """

    names: Sequence[str]
    read: Callable[[int], Raw]
    stamp: Callable[[int], str] | None = None
    label: Callable[[int], int] | None = None

    def __len__(self) -> int:
        return len(self.names)

    @functools.cached_property
    def labels(self) -> np.ndarray | None:
        """The classes, int32 [n], or None; read at the first access, which can be a pass over the files."""
        if self.label is None:
            return None
        return np.fromiter(map(self.label, range(len(self))), np.int32, len(self))

    def take(self, rows: Sequence[int] | np.ndarray) -> "Records":
        """Returns the records at the indices `rows`, in that order."""
        rows = [int(row) for row in rows]
        return self._pick([self.names[row] for row in rows], [(self, row) for row in rows])

    def __add__(self, other: "Records") -> "Records":
        both = [(records, row) for records in (self, other) for row in range(len(records))]
        return self._pick([*self.names, *other.names], both)

    @staticmethod
    def _pick(names: list[str], picked: "list[tuple[Records, int]]") -> "Records":
        """Builds records from (records, row) pairs; `stamp` or `label` is None if any of the records lacks it."""

        def by_index(field: str) -> Callable | None:
            if any(getattr(records, field) is None for records, _ in picked):
                return None
            return lambda i: getattr(picked[i][0], field)(picked[i][1])

        return Records(names, lambda i: picked[i][0].read(picked[i][1]), by_index("stamp"), by_index("label"))


@dataclasses.dataclass(frozen=True)
class Source:
    """A data set: its SOURCE string `name`, its splits, and its class names if known.

    `pretrain` holds all images for pre-training: the training images, and the unlabelled split if there is one. `train`
    holds the training images, with labels if there are any. `test` is None if there is no test split. `notes` are lines
    for the user: what was found, what was ignored.
    """

    name: str
    pretrain: Records
    train: Records
    test: Records | None = None
    class_names: tuple[str, ...] | None = None
    notes: tuple[str, ...] = ()
