"""Our own names in a file: a tree of arrays, flat, with the configuration beside it. Nothing is lost."""

from pathlib import Path

import numpy as np

from sit_jax.common.errors import InputError
from sit_jax.weights.files import read_about, read_weights
from sit_jax.weights.foreign import Foreign, read_foreign
from sit_jax.weights.layouts import HALF
from sit_jax.weights.names import Arrays

# Keys of config.json: the configuration of the run, and the step of its checkpoint.
KEY, STEP = "sit_jax", "sit_jax_step"
SLASH = "/"


def read_any(path: Path) -> Foreign:
    """Reads weights of another project, or an export of this one; raises InputError if it is neither."""
    if (path / "checkpoints").is_dir():
        raise InputError(f"{path}: is a run; export it with --format=safetensors, and give that folder")
    about = read_about(path) if path.exists() else {}
    if KEY not in about:
        return read_foreign(path)
    read, model = read_weights(path), about[KEY]["model"]
    tree = tree_of(read.arrays)
    heads = {name: head for name, head in tree.items() if name != "encoder"}
    sizes = (model["size"], model["patch_size"], model["image_size"], model["norm_epsilon"])
    return Foreign("export of sit_jax", tree["encoder"], heads, {}, *sizes, HALF, (), read.hash())


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
