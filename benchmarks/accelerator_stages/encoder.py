"""Writes the encoder in bfloat16 to files of less than 16 MiB, and reads them."""

import pathlib

import jax.numpy as jnp
import numpy as np

from benchmarks.equality import flatten

PART = 15 * 2**20  # bytes of the arrays in a file; names and headers are extra
PARTS = 3


def save(params: dict, folder: pathlib.Path) -> list[str]:
    """Writes the arrays of nested dictionaries to `encoder-N.npz` and returns the names of omitted arrays.

    Each bfloat16 array is stored as uint16 of the same bits, under its path joined by "/". The largest arrays come
    first, each in the first file with enough room. Arrays that fit into none of the PARTS files are omitted.
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
    """Returns the nested dictionaries of bfloat16 arrays written by `save`."""
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
