"""Compares the names and shapes of the arrays of a checkpoint with a model."""

import pathlib

import jax
import orbax.checkpoint as ocp

from sit_jax.common.console import table
from sit_jax.common.errors import InputError
from sit_jax.train.state import TrainState


def check_fits(path: pathlib.Path, abstract: TrainState) -> None:
    """Raises InputError, with names and shapes, if the parameters at `path` differ from `abstract`."""
    check_shapes(path, saved_shapes(path)["params"], abstract.params)


def saved_shapes(path: pathlib.Path) -> dict:
    """Returns the tree of the arrays at `path`, with shapes at the leaves."""
    return ocp.StandardCheckpointer().metadata(path).item_metadata.tree


def check_shapes(path: pathlib.Path, saved: dict, wanted: dict) -> None:
    """Raises InputError, with a table of names and shapes, unless both trees of parameters hold the same arrays."""
    in_file, in_model = shapes_by_name(saved), shapes_by_name(wanted)
    differing = [name for name in sorted(in_file.keys() | in_model.keys()) if in_file.get(name) != in_model.get(name)]
    if differing:
        rows = [("array", "in the checkpoint", "in the model")]
        rows += [(name, str(in_file.get(name, "absent")), str(in_model.get(name, "absent"))) for name in differing]
        raise InputError(
            f"{path} is of another model than its configuration: {len(differing)} arrays differ; "
            f"choose another --workdir\n{table(rows)}"
        )


def shapes_by_name(tree: dict) -> dict[str, tuple[int, ...]]:
    """Returns the shapes in a nested dictionary of arrays, by joined names."""
    leaves = jax.tree_util.tree_leaves_with_path(tree, is_leaf=lambda leaf: hasattr(leaf, "shape"))
    return {"/".join(key.key for key in path): tuple(leaf.shape) for path, leaf in leaves}
