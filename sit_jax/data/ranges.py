"""Encoded images that lie at known places in a few large files."""

import dataclasses
from collections.abc import Callable, Iterable, Iterator, Sequence

import numpy as np

from sit_jax.data.records import Records
from sit_jax.data.stored import Files


class Numbered(Sequence[str]):
    """`count` names that `name` makes of their numbers."""

    def __init__(self, count: int, name: Callable[[int], str]):
        self._count, self._name = count, name

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, index):
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        return self._name(range(len(self))[index])


class Names(Numbered):
    """Names in one array of bytes: a million Python strings would take 100 MB."""

    def __init__(self, text: np.ndarray, ends: np.ndarray):
        super().__init__(len(ends), self._get)
        self.text, self.ends = text, ends  # uint8 [bytes], int64 [n]

    @classmethod
    def of(cls, names: Iterable[str]) -> "Names":
        """Packs names."""
        encoded = [name.encode(errors="surrogateescape") for name in names]
        return cls(np.frombuffer(b"".join(encoded), np.uint8), np.cumsum([len(e) for e in encoded], dtype=np.int64))

    @classmethod
    def join(cls, several: Sequence["Names"]) -> "Names":
        """Returns the names of all, one after the other."""
        starts = np.cumsum([0, *(len(names.text) for names in several)])
        ends = [names.ends + start for names, start in zip(several, starts, strict=False)]
        return cls(np.concatenate([names.text for names in several]), np.concatenate(ends))

    def __iter__(self) -> Iterator[str]:
        text, start = self.text.tobytes(), 0
        for end in self.ends.tolist():
            yield text[start:end].decode(errors="surrogateescape")
            start = end

    def _get(self, index: int) -> str:
        start = self.ends[index - 1] if index else 0
        return self.text[start : self.ends[index]].tobytes().decode(errors="surrogateescape")


@dataclasses.dataclass(frozen=True)
class Ranges:
    """n encoded images: image i is `sizes[i]` bytes of file `file[i]` from `starts[i]` on, int64 [n]."""

    files: Files
    file: np.ndarray
    starts: np.ndarray
    sizes: np.ndarray
    names: Names

    def __len__(self) -> int:
        return len(self.file)

    def take(self, rows: np.ndarray) -> "Ranges":
        """Returns the images at `rows`, int64 [m], ascending."""
        if len(rows) == len(self):
            return self
        names = Names.of(self.names[int(row)] for row in rows)
        return Ranges(self.files, self.file[rows], self.starts[rows], self.sizes[rows], names)

    def records(self, prefix: bool = True) -> Records:
        """Returns the records, without labels; with `prefix`, the path of the file comes before each name."""

        def read(i: int) -> bytes:
            return self.files.read(int(self.file[i]), int(self.starts[i]), int(self.sizes[i]))

        def stamp(i: int) -> str:
            file = self.file[i]
            return f"{self.files.paths[file]} {self.files.versions[file]} {self.starts[i]} {self.sizes[i]}"

        def name(i: int) -> str:
            return f"{self.files.paths[self.file[i]]}/{self.names[i]}"

        return Records(Numbered(len(self), name) if prefix else self.names, read, stamp)
