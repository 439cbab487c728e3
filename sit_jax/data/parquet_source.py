"""Images in Parquet files; a row group is unpacked when one of its images is first read."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np

from sit_jax.common.console import warn
from sit_jax.common.errors import InputError
from sit_jax.data import paths, table
from sit_jax.data.assemble import Classes, Part, assemble, split_of, words_of_file
from sit_jax.data.blocks import LIMIT_NAME, Blocks
from sit_jax.data.ranges import Numbered
from sit_jax.data.records import Records, Source
from sit_jax.data.stored import Files

PLACE = 8  # bytes of a place in an unpacked row group


def open_parquet(pattern: str) -> Source:
    """Opens the images in the Parquet files of a pattern (`paths.expand`), in the order of the files and of their rows.

    The column `image` (or `img`) holds encoded images, as bytes or as a struct with `bytes`; the column `label`, if it
    is there, integers or texts. Names of a ClassLabel of the package `datasets` are kept. Files with `train` and `test`
    (or `val`, ...) in their names are splits. Unpacked row groups stay in the user's cache folder if they fit in it.
    Raises InputError if pyarrow or files are missing, or a file is damaged or has no such column.
    """
    name = f"parquet:{pattern}"
    table.pyarrow(name)
    groups = RowGroups(Files(paths.expand(pattern), keep=False))
    rows = split_of(range(len(groups.files.paths)), lambda i: words_of_file(groups.files.paths[i]))
    parts: dict[str, Part] = {}
    for split, files in rows.items():
        records = groups.records(files)
        if not len(records):
            raise InputError(f"{name}: holds no images in the files of the split {split}; correct the pattern")
        parts[split] = (records, Classes.join([groups.classes(i) for i in files]))
    return assemble(name, parts, table.class_names(groups.opened[0].schema_arrow))


class RowGroups:
    """The row groups of Parquet files, as blocks of unpacked images."""

    def __init__(self, files: Files):
        self.files = files
        self.opened = [self._open(i) for i in range(len(files.paths))]
        self.columns = [table.image_column(files.paths[i], one.schema_arrow) for i, one in enumerate(self.opened)]
        total = sum(map(_unpacked_size, self.opened, self.columns))
        self._blocks = Blocks("\n".join(["parquet 1", *files.paths, *files.versions]), total)
        if not self._blocks.on_disk:
            warn(
                f"{files.paths[0]}: {total / 1e9:.0f} GB of images do not fit in the cache ({LIMIT_NAME}, or half "
                "of the free disk): row groups are unpacked again and again; tar: reads such data much faster"
            )

    def records(self, files: Sequence[int]) -> Records:
        """Returns the records of the files numbered `files`, without labels."""
        counts = [
            (i, group, self.opened[i].metadata.row_group(group).num_rows)
            for i in files
            for group in range(self.opened[i].metadata.num_row_groups)
        ]
        ends = np.cumsum([count for _, _, count in counts], dtype=np.int64)

        def place(i: int) -> tuple[int, int, int]:
            at = int(np.searchsorted(ends, i, "right"))
            file, group, count = counts[at]
            return file, group, i - int(ends[at]) + count

        def stamp(i: int) -> str:
            file, group, row = place(i)
            return f"{self.files.paths[file]} {self.files.versions[file]} {group} {row}"

        def name(i: int) -> str:
            file, group, row = place(i)
            return f"{self.files.paths[file]}/{group}.{row}"

        return Records(Numbered(int(ends[-1]) if len(ends) else 0, name), lambda i: self.read(*place(i)), stamp)

    def read(self, file: int, group: int, row: int) -> bytes:
        """Returns the image in a row of a row group; no bytes if the row has none, which the decoder reports."""

        def unpack() -> bytes:
            return self._unpack(file, group)

        def read(start: int, size: int) -> bytes:
            return self._blocks.read(f"{file}.{group}", unpack, start, size)

        start, end = np.frombuffer(read(PLACE * row, 2 * PLACE), np.int64)
        return read(int(start), int(end - start))

    def classes(self, file: int) -> Classes:
        """Returns the classes of a file."""
        if "label" not in self.opened[file].schema_arrow.names:
            return table.no_classes(self.opened[file].metadata.num_rows)
        return table.classes(self.files.paths[file], self._read(file, None, "label"))

    def _unpack(self, file: int, group: int) -> bytes:
        """Returns places, int64 [n + 1], then the n images of a row group."""
        images = table.image_bytes(self._read(file, group, self.columns[file])).to_pylist()
        sizes = [0 if image is None else len(image) for image in images]
        places = PLACE * (len(sizes) + 1) + np.cumsum([0, *sizes], dtype=np.int64)
        return b"".join([places.tobytes(), *(image or b"" for image in images)])

    def _read(self, file: int, group: int | None, column: str) -> Any:
        """Returns a column of a row group (None: of the file). Each call opens the file, for the sake of threads."""
        arrow = table.pyarrow(self.files.paths[file])
        try:
            with self.files.open(file) as opened:
                parquet = arrow.parquet.ParquetFile(opened, metadata=self.opened[file].metadata)
                read = parquet.read(columns=[column]) if group is None else parquet.read_row_group(group, [column])
            return read.column(0).combine_chunks()
        except (arrow.ArrowException, OSError) as error:
            raise _damaged(self.files.paths[file], error) from error

    def _open(self, file: int) -> Any:
        arrow = table.pyarrow(self.files.paths[file])
        try:
            with self.files.open(file) as opened:
                found = arrow.parquet.ParquetFile(opened)
                return Footer(found.metadata, found.schema_arrow)
        except (arrow.ArrowException, OSError) as error:
            raise _damaged(self.files.paths[file], error) from error


@dataclasses.dataclass(frozen=True)
class Footer:
    """What the end of a Parquet file tells."""

    metadata: Any
    schema_arrow: Any


def _unpacked_size(footer: Footer, column: str) -> int:
    groups = map(footer.metadata.row_group, range(footer.metadata.num_row_groups))
    columns = [group.column(i) for group in groups for i in range(group.num_columns)]
    return sum(one.total_uncompressed_size for one in columns if one.path_in_schema.split(".")[0] == column)


def _damaged(path: str, error: Exception) -> InputError:
    reason = " ".join(str(error).split())[:200]
    return InputError(f"{path}: cannot be read as a Parquet file ({reason}); write or download it again")
