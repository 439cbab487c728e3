"""Encoded images in ArrayRecord files."""

from sit_jax.common.errors import InputError
from sit_jax.data import paths, remote
from sit_jax.data.assemble import assemble, split_of, words_of_file
from sit_jax.data.ranges import Numbered
from sit_jax.data.records import Records, Source
from sit_jax.data.stored import Files


def open_array_record(pattern: str) -> Source:
    """Opens the ArrayRecord files of a pattern (`paths.expand`); each record is one encoded image, without a label.

    Files with `train` and `test` (or `val`, ...) in their names are splits. Raises InputError if files are missing,
    damaged or in a remote store.
    """
    name = f"arrayrecord:{pattern}"
    if remote.is_remote(pattern):
        raise InputError(f"{name}: ArrayRecord files are read from disk only; copy them, or use tar:")
    found = split_of(paths.expand(pattern), words_of_file)
    return assemble(name, {split: (_records(name, files), None) for split, files in found.items()})


def _records(name: str, names: list[str]) -> Records:
    from array_record.python.array_record_data_source import ArrayRecordDataSource

    files = Files(names)
    try:
        source = ArrayRecordDataSource(names)
        total = len(source)
    # Its C++ errors have several types.
    except Exception as error:
        reason = " ".join(str(error).split())[:200]
        raise InputError(f"{name}: cannot be read as ArrayRecord files ({reason}); write them again") from error
    if not total:
        raise InputError(f"{name}: holds no images; write records into it")
    version = " ".join([*files.paths, *files.versions])
    return Records(Numbered(total, lambda i: f"{name}/{i}"), source.__getitem__, lambda i: f"{version} {i}")
