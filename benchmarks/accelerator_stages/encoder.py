"""The encoder in bfloat16, in files of less than 16 MiB, and back."""

import pathlib

import jax.numpy as jnp
import numpy as np

from benchmarks.equality import flatten

PART = 15 * 2**20  # bytes of the arrays in a file; names and headers come on top
PARTS = 3


def save(params: dict, folder: pathlib.Path) -> list[str]:
    """Writes the arrays of nested dictionaries to `encoder-N.npz` and returns the names of those left out.

    bfloat16 is stored as uint16 of the same bits, under the names of the arrays joined by "/". The largest go first,
    each into the first file that has room for it; what finds none in PARTS files is left out.
    """
    arrays = {
        name: np.asarray(jnp.asarray(array, jnp.bfloat16)).view(np.uint16) for name, array in flatten(params).items()
    }
    files: list[dict[str, np.ndarray]] = [{} for _ in range(PARTS)]
    left_out = []
    for name in sorted(arrays, key=lambda name: -arrays[name].nbytes):
        room = (file for file in files if sum(a.nbytes for a in file.values()) + arrays[name].nbytes <= PART)
        file = next(room, None)
        if file is None:
            left_out.append(name)
        else:
            file[name] = arrays[name]
    for index, file in enumerate(files):
        if file:
            np.savez(folder / f"encoder-{index}.npz", **file)
    return left_out


def load(folder: pathlib.Path) -> dict:
    """Returns the nested dictionaries of bfloat16 arrays that `save` has written."""
    tree: dict = {}
    for path in sorted(folder.glob("encoder-*.npz")):
        with np.load(path) as file:
            for name, bits in file.items():
                *parents, last = name.split("/")
                node = tree
                for parent in parents:
                    node = node.setdefault(parent, {})
                node[last] = bits.view(jnp.bfloat16)
    return tree
