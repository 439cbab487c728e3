"""--config.init: a pre-training that starts from the weights of another project."""

from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np

from sit_jax.common.console import table
from sit_jax.common.errors import InputError
from sit_jax.config.checks import check_model
from sit_jax.model.vit import resize_position_embedding
from sit_jax.weights.foreign import Foreign
from sit_jax.weights.own import read_any

FIXED = ("size", "patch_size", "norm_epsilon")  # keys of the section `model` that weights fix
SHOWN = 4  # names of a kind in the table


class Start(NamedTuple):
    """What a training starts from."""

    params: dict  # a part of the tree of the parameters of a state
    lines: str  # the table for the user


def follow(config: ml_collections.ConfigDict, saved: dict | None) -> tuple[ml_collections.ConfigDict, Foreign | None]:
    """Returns the configuration for the weights of `config.init`, and the weights; (`config`, None) without them.

    `saved` is the configuration of the run to resume: then the file is not read again, and the weights are None. Raises
    InputError if the file cannot be used, or if the images do not fit its patches.
    """
    if not config.init:
        return config, None
    config = ml_collections.ConfigDict(config.to_dict())
    if saved is not None and saved["init"] == config.init:
        config.init_hash = saved["init_hash"]
        config.model.update({key: saved["model"][key] for key in FIXED})
        return config, None
    if config.model.channels != 3 or config.model.stem != "patches":
        raise InputError(f"--config.init={config.init}: needs data.channels=3 and model.stem=patches")
    foreign = read_any(Path(config.init).expanduser())
    config.init_hash = foreign.sha256
    config.model.update(dict(zip(FIXED, (foreign.size, foreign.patch_size, foreign.epsilon), strict=True)))
    check_model(config.model)
    return config, foreign


def start(foreign: Foreign, config: ml_collections.ConfigDict, shapes: dict) -> Start:
    """Returns the parameters to start with; `shapes` is the tree of the state's parameters, with shapes.

    Position embeddings are resized to the image side of the configuration. A head is taken if its shapes are equal.
    """
    side = config.model.image_size // config.model.patch_size
    position = np.asarray(resize_position_embedding(jnp.asarray(foreign.encoder["position_embedding"]), side))
    taken = {"encoder": foreign.encoder | {"position_embedding": position}}
    model = shapes["model"]
    taken |= {name: head for name, head in foreign.heads.items() if same_shapes(head, model[name])}
    log_var = foreign.log_var if "contrastive" in taken else {}
    new = [name for name in model if name not in taken]
    resized = f", positions resized from {foreign.image_size} to {config.model.image_size} px"
    count = sum(array.size for array in jax.tree.leaves(taken))
    rows = [
        ["taken", ", ".join(taken) + (resized if foreign.image_size != config.model.image_size else "")],
        ["made new", ", ".join(new) or "nothing"],
        ["left", few(foreign.left)],
    ]
    title = f"{config.init}: {foreign.title()}; {count:,} values"
    return Start({"model": taken, "log_var": log_var}, "\n".join([title, table(rows)]))


def same_shapes(first: dict, second: dict) -> bool:
    """Tells whether two trees have the same names and shapes."""
    shapes = [jax.tree.map(lambda leaf: tuple(leaf.shape), tree) for tree in (first, second)]
    return shapes[0] == shapes[1]


def put(params: dict, start: dict) -> dict:
    """Returns a tree of device arrays in which those of `start`, a part of the tree, replace the values."""
    if not isinstance(params, dict):
        return jax.device_put(jnp.asarray(start, params.dtype), params.sharding)
    return {name: put(leaf, start[name]) if name in start else leaf for name, leaf in params.items()}


def few(names: tuple[str, ...]) -> str:
    """Returns the first names, and the number of the others."""
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return (", ".join(names[:SHOWN]) + more) or "nothing"
