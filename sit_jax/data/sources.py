"""From a SOURCE string, as in `data.source` and `--data`, to the data set. A new source is one row and its function."""

from collections.abc import Callable

from sit_jax.common.errors import InputError
from sit_jax.data import arrays, folder, tfds_source, tiny_imagenet
from sit_jax.data.records import Source

# By the word before the colon: how the form is written, and what opens the text after the colon.
OPENERS: dict[str, tuple[str, Callable[[str], Source]]] = {
    "digits": ("digits", lambda rest: arrays.open_digits()),
    "folder": ("folder:PATH", folder.open_folder),
    "npz": ("npz:PATH.npz", arrays.open_npz),
    "tfds": ("tfds:NAME", tfds_source.open_tfds),
    "tiny_imagenet": ("tiny_imagenet:PATH", tiny_imagenet.open_tiny_imagenet),
}


def open_source(name: str) -> Source:
    """Opens a data set by its SOURCE string, a form of OPENERS; lists images, decodes none.

    Raises InputError if the text has another form, or if the data set is missing, empty or inconsistent.
    """
    scheme, colon, rest = name.partition(":")
    form, opener = OPENERS.get(scheme, ("", None))
    if opener is None or (":" in form) != bool(rest) or bool(colon) != bool(rest):
        forms = ", ".join(form for form, _ in OPENERS.values())
        raise InputError(f"data source {name!r} is unknown; the forms are {forms}")
    return opener(rest)
