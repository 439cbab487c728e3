"""Our own names in a file: a tree of arrays, flat, with the configuration beside it. Nothing is lost."""

import numpy as np

from sit_jax.weights.names import Arrays

KEY = "sit_jax"  # of config.json: the configuration of the run
SLASH = "/"


def flat(tree: dict, prefix: str = "") -> Arrays:
    """Returns the arrays of a tree by path, such as `encoder/blocks/norm1/scale`."""
    found: Arrays = {}
    for name, item in tree.items():
        found |= (
            flat(item, f"{prefix}{name}{SLASH}") if isinstance(item, dict) else {f"{prefix}{name}": np.asarray(item)}
        )
    return found


def tree_of(arrays: Arrays) -> dict:
    """Returns the tree of flat arrays; the inverse of `flat`."""
    tree: dict = {}
    for path, array in arrays.items():
        *rooms, name = path.split(SLASH)
        inner = tree
        for room in rooms:
            inner = inner.setdefault(room, {})
        inner[name] = array
    return tree
