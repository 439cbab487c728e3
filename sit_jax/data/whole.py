"""Images that are files of their own in a remote store."""

import numpy as np

from sit_jax.data import layout, remote
from sit_jax.data.ranges import Names, Ranges
from sit_jax.data.records import Records, Source
from sit_jax.data.stored import Files


def whole_files(files: Files, names: Names) -> Records:
    """Returns the records of files that are one image each, without labels."""
    count = len(files.paths)
    sizes = np.array(files.sizes, np.int64)
    return Ranges(files, np.arange(count, dtype=np.int32), np.zeros(count, np.int64), sizes, names).records(
        prefix=False
    )


def open_remote_folder(url: str) -> Source:
    """Opens the images at any depth below an address, sorted; splits and labels as `folder.open_folder` finds them."""
    url = url.rstrip("/")
    told = {name: info for name, info in remote.list_folder(url).items() if layout.is_image(name)}
    names = list(told)
    # A store that lists links of a page knows no sizes.
    knows_sizes = all(info.get("size") is not None for info in told.values())
    files = Files([f"{url}/{name}" for name in names], told=list(told.values()) if knows_sizes else None)
    records = whole_files(files, Names.of(names)) if names else None
    return layout.open_names(f"folder:{url}", names, lambda rows: records.take(rows))  # type: ignore[union-attr]
