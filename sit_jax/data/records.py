"""What every source of images gives: records that are listed but not yet decoded."""

import dataclasses
import functools
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

Raw = bytes | Path | np.ndarray


@dataclasses.dataclass(frozen=True)
class Records:
    """A list of undecoded images.

    `names[i]` is what messages call record i. `read(i)` returns it undecoded: an encoded file (its bytes or path), or a
    uint8 array [H,W] or [H,W,C]. `stamp(i)` is a text that changes when the encoded bytes do, the key to the cache of
    decoded images; None where there is nothing to decode. `label(i)` is its class; None for images without labels.
    """

    names: Sequence[str]
    read: Callable[[int], Raw]
    stamp: Callable[[int], str] | None = None
    label: Callable[[int], int] | None = None

    def __len__(self) -> int:
        return len(self.names)

    @functools.cached_property
    def labels(self) -> np.ndarray | None:
        """The classes, int32 [N], or None; read when first asked for, as that can mean a pass over the files."""
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
        """Builds records out of (records, row) pairs; a property that one of them lacks, the result lacks."""

        def by_index(field: str) -> Callable | None:
            if any(getattr(records, field) is None for records, _ in picked):
                return None
            return lambda i: getattr(picked[i][0], field)(picked[i][1])

        return Records(names, lambda i: picked[i][0].read(picked[i][1]), by_index("stamp"), by_index("label"))


@dataclasses.dataclass(frozen=True)
class Source:
    """A data set: `name` is its SOURCE string, the other fields are its splits.

    `pretrain` is everything to pre-train on: the training images, and unlabelled ones where there is such a split.
    `train` is the training images, with labels if there are any; `test` is None where there is no test split.
    """

    name: str
    pretrain: Records
    train: Records
    test: Records | None = None
    class_names: tuple[str, ...] | None = None
