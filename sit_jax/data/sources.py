"""Opens the data set of a SOURCE string, as in `data.source` and `--data`."""

from sit_jax.common.errors import InputError
from sit_jax.data import arrays, folder, tfds_source, tiny_imagenet
from sit_jax.data.records import Source

FORMS = "digits, folder:PATH, npz:PATH.npz, tfds:NAME, tiny_imagenet:PATH"


def open_source(name: str) -> Source:
    """Opens `digits`, `folder:PATH`, `npz:PATH.npz`, `tfds:NAME` or `tiny_imagenet:PATH`; lists images, decodes none.

    Raises InputError if `name` has another form, or if the data set is missing, empty or inconsistent.
    """
    scheme, _, rest = name.partition(":")
    if name == "digits":
        return arrays.open_digits()
    openers = {
        "folder": folder.open_folder,
        "npz": arrays.open_npz,
        "tfds": tfds_source.open_tfds,
        "tiny_imagenet": tiny_imagenet.open_tiny_imagenet,
    }
    if scheme not in openers or not rest:
        raise InputError(f"data source {name!r} is unknown; the forms are {FORMS}")
    return openers[scheme](rest)
