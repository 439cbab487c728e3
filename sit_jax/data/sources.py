"""From a SOURCE string, as in `data.source` and `--data`, to the data set. A new source is one row and its function."""

from collections.abc import Callable
from pathlib import Path

from sit_jax.common.errors import InputError
from sit_jax.data import (
    array_record_source,
    arrays,
    folders,
    hf_source,
    list_source,
    parquet_source,
    paths,
    remote,
    tar_source,
    tfds_source,
    tiny_imagenet,
)
from sit_jax.data.records import Source

# By the word before the colon: how the form is written, and what opens the text after the colon.
OPENERS: dict[str, tuple[str, Callable[[str], Source]]] = {
    "arrayrecord": ("arrayrecord:PATTERN", array_record_source.open_array_record),
    "digits": ("digits", lambda rest: arrays.open_digits()),
    "folder": ("folder:PATH", folders.open_folders),
    "glob": ("glob:PATTERN", list_source.open_glob),
    "hf": ("hf:FOLDER", hf_source.open_hf),
    "list": ("list:FILE.txt", list_source.open_list),
    "npz": ("npz:PATH.npz", arrays.open_npz),
    "parquet": ("parquet:PATTERN", parquet_source.open_parquet),
    "tar": ("tar:PATTERN", tar_source.open_tar),
    "tfds": ("tfds:NAME", tfds_source.open_tfds),
    "tiny_imagenet": ("tiny_imagenet:PATH", tiny_imagenet.open_tiny_imagenet),
}
# The word of a path that stands alone, by its end.
ENDS = {".npz": "npz", ".txt": "list", ".tar": "tar", ".parquet": "parquet", ".array_record": "arrayrecord"}


def open_source(name: str) -> Source:
    """Opens a data set by its SOURCE string, a form of OPENERS; lists images, decodes none.

    A path, pattern or address alone is opened by its end, as a glob or as a folder. Raises InputError if the text has
    another form, or if the data set is missing, empty or inconsistent.
    """
    scheme, colon, rest = parse_source(name)
    form, opener = OPENERS.get(scheme, ("", None))
    if opener is None or (":" in form) != bool(rest) or bool(colon) != bool(rest):
        forms = ", ".join(form for form, _ in OPENERS.values())
        missing = "" if colon else "there is no such folder or file, and "
        raise InputError(f"data source {name!r}: {missing}it is no known form; the forms are {forms}")
    return opener(rest)


def parse_source(name: str) -> tuple[str, str, str]:
    """Splits a SOURCE string into the word before the colon, the colon if any, and the rest; checks nothing."""
    scheme, colon, rest = name.partition(":")
    if scheme not in OPENERS and (word := _word_of_path(name)):
        return word, ":", name
    return scheme, colon, rest


def _word_of_path(name: str) -> str | None:
    """Returns the word for a path, pattern or address that stands alone; None for another text."""
    if not name or not (remote.is_remote(name) or paths.is_pattern(name) or Path(name).expanduser().exists()):
        return None
    by_end = next((word for end, word in ENDS.items() if name.lower().endswith(end)), None)
    return by_end or ("glob" if paths.is_pattern(name) else "folder")
