"""Restores weights from a work directory for evaluation, on the devices of this machine."""

import dataclasses
import hashlib
import json
import pathlib

import jax
import ml_collections
import numpy as np
import orbax.checkpoint as ocp
from flax import nnx
from jax.sharding import Mesh

from sit_jax.common.console import say
from sit_jax.common.errors import InputError
from sit_jax.common.keys import named_key
from sit_jax.common.text import shown
from sit_jax.config import checks
from sit_jax.config import computation as compute
from sit_jax.config.rules import PIXELS
from sit_jax.config.saved import read_saved
from sit_jax.config.schema import defaults
from sit_jax.config.wrong import changed
from sit_jax.model.build import make_model
from sit_jax.model.tasks import TASKS
from sit_jax.model.vit import resize_position_embedding
from sit_jax.parallel.checksums import checksums
from sit_jax.parallel.mesh import make_mesh, state_shardings
from sit_jax.train.checkpoint import check_sums, saved_checksums, short_reason
from sit_jax.train.shapes import check_shapes, saved_shapes

# Keys of a run's configuration that an evaluation may change; the weights fix all other keys.
FREE = (
    "linear.",
    "finetune.",
    "eval.",
    "data.",
    "mesh.",
    "model.image_size",
    *(f"model.{key}" for key in compute.HOW),
    "model.products",
    "dtype",
)


@dataclasses.dataclass(frozen=True)
class Restored:
    """The model of a run; `params` holds `encoder` and, if requested, the heads."""

    config: ml_collections.ConfigDict  # of the run, with the overrides of the evaluation
    params: dict
    random_params: dict  # the same arrays at step 0 of the run, as a baseline
    mesh: Mesh
    step: int
    weights: str  # "params" or "ema"

    def origin(self) -> dict[str, str]:
        """Returns for a report what the weights learned from, and the file they began with, with its SHA-256."""
        config = self.config
        began = {"init": shown(config.init), "init_sha256": config.init_hash} if config.init else {}
        return {"pretrained_on": shown(config.data.source or config.init)} | began

    def fingerprint(self) -> str:
        """Returns a hash of the weights."""
        digest = hashlib.sha256()
        for path, leaf in jax.tree_util.tree_leaves_with_path(jax.device_get(self.params)):
            digest.update(jax.tree_util.keystr(path).encode() + np.ascontiguousarray(leaf).tobytes())
        return digest.hexdigest()[:16]


def load_config(workdir: pathlib.Path, overrides: dict[str, object]) -> ml_collections.ConfigDict:
    """Returns the configuration of a run with `overrides` by dotted key, for the devices of this machine.

    Raises InputError if there is no run, if its configuration is damaged, or if the weights fix an overridden key.
    """
    path = workdir / "config.json"
    if not path.is_file():
        raise InputError(f"{workdir}: no run is there ({path.name} is missing); give the --workdir of a training")
    for key in overrides:
        if not key.startswith(FREE):
            raise InputError(f"--config.{key} is fixed by the checkpoint; these can change: {', '.join(FREE)}")
        if key == "data.channels":
            raise InputError(f"--config.{key} is fixed by the checkpoint, whose first layer reads that many channels")
    config = ml_collections.ConfigDict(merged(defaults().to_dict(), read_saved(path)))
    config.mesh.update(data=-1, fsdp=1, slices=None)
    compute.reopen(config)
    if "dtype" in overrides:  # the products follow it
        config.model.products = "auto"
    config = changed(config, overrides)
    checks.check_values(config, PIXELS)
    checks.check_shown(config.data)
    checks.check_model(config.model)
    compute.check(config, jax.devices()[0])
    compute.choose(config, jax.devices()[0])
    checks.check_evaluation(config)
    return config


def merged(base: dict, other: dict) -> dict:
    """Returns merged nested dictionaries; values of `other` replace values of `base`."""
    both = {key: merged(base[key], other[key]) for key in base.keys() & other.keys() if isinstance(base[key], dict)}
    return base | other | both


def restore(
    workdir: pathlib.Path,
    step: int | None,
    weights: str,
    overrides: dict[str, object],
    with_heads: bool = False,
) -> Restored:
    """Restores the encoder, or the whole model, from the checkpoint of `step`; None is the newest.

    `weights` is "params" or "ema". Each array is checked against the model of the run's configuration. If
    `model.image_size` is overridden, the position embeddings are resized and this is logged. Raises InputError if there
    is no such checkpoint, if it is damaged, or if it holds other arrays, with their names and shapes.
    """
    config = load_config(workdir, overrides)
    steps = ocp.utils.checkpoint_steps(workdir / "checkpoints") if (workdir / "checkpoints").is_dir() else []
    if not steps:
        raise InputError(f"{workdir}: holds no checkpoint yet; wait until the training saves one")
    step = max(steps) if step is None else step
    if step not in steps:
        raise InputError(
            f"--step={step}: there is no such checkpoint; {workdir} has {', '.join(map(str, sorted(steps)))}"
        )
    if with_heads and not has_heads(workdir, step, "params"):
        raise InputError(
            f"{workdir}: holds an encoder without the heads of the tasks, as weights of other projects do; "
            "this needs heads: pre-train from these weights with --config.init=FILE"
        )
    mesh = make_mesh(**config.mesh)
    saved_size = json.loads((workdir / "config.json").read_text())["model"]["image_size"]
    model_config = config.copy_and_resolve_references()
    model_config.model.image_size = saved_size
    abstract = abstract_params(model_config, mesh, with_heads)
    with jax.set_mesh(mesh):
        params = read_params(workdir, step, weights, abstract)
        random_params = jax.jit(
            lambda: init_params(model_config, with_heads), out_shardings=jax.tree.map(lambda s: s.sharding, abstract)
        )()
        if config.model.image_size != saved_size:
            say(f"position embeddings are resized from {saved_size} to {config.model.image_size} px")
            params, random_params = (resized(p, config) for p in (params, random_params))
    return Restored(config, params, random_params, mesh, step, weights)


def has_heads(workdir: pathlib.Path, step: int | None, weights: str) -> bool:
    """Tells whether a checkpoint holds the heads of all tasks; weights of other projects are encoders alone."""
    steps = ocp.utils.checkpoint_steps(workdir / "checkpoints") if (workdir / "checkpoints").is_dir() else []
    path = workdir / "checkpoints" / str(max(steps, default=0) if step is None else step) / "state"
    return path.is_dir() and set(TASKS) <= saved_shapes(path.absolute()).get(weights, {}).get("model", {}).keys()


def init_params(config: ml_collections.ConfigDict, with_heads: bool) -> dict:
    """Returns the initial weights of the run."""
    model = make_model(config, named_key(jax.random.key(config.seed), "init"))
    params = nnx.to_pure_dict(nnx.state(model, nnx.Param))
    return params if with_heads else {"encoder": params["encoder"]}


def abstract_params(config: ml_collections.ConfigDict, mesh: Mesh, with_heads: bool) -> dict:
    """Returns shapes, dtypes and shardings of the weights."""
    shapes = jax.eval_shape(lambda: init_params(config, with_heads))
    shardings = state_shardings(shapes, mesh)
    return jax.tree.map(
        lambda s, sharding: jax.ShapeDtypeStruct(s.shape, s.dtype, sharding=sharding), shapes, shardings
    )


def read_params(workdir: pathlib.Path, step: int, weights: str, abstract: dict) -> dict:
    """Reads only the arrays in `abstract`, in its shardings, and verifies their checksums."""
    path = (workdir / "checkpoints" / str(step)).absolute()
    try:
        saved = saved_shapes(path / "state")
        if weights == "ema" and "ema" not in saved:
            raise InputError(f"{workdir}: the run kept no running average (optim.ema=0); use --weights=params")
        check_shapes(path / "state", {name: saved[weights]["model"].get(name, {}) for name in abstract}, abstract)
        tree = {weights: {"model": abstract}}
        with ocp.Checkpointer(ocp.PyTreeCheckpointHandler()) as checkpointer:
            arguments = ocp.args.PyTreeRestore(
                item=tree, restore_args=ocp.checkpoint_utils.construct_restore_args(tree), partial_restore=True
            )
            restored = checkpointer.restore(path / "state", args=arguments)
        check_sums(saved_checksums(path), checksums(restored))
        return restored[weights]["model"]
    except InputError:
        raise
    except Exception as error:  # damage raises ValueError, KeyError, JSONDecodeError and bare Exception
        raise InputError(
            f"{path}: cannot be read ({short_reason(error)}); choose another checkpoint with --step"
        ) from error


def resized(params: dict, config: ml_collections.ConfigDict) -> dict:
    """Returns the weights with position embeddings resized for `model.image_size`."""
    side = config.model.image_size // config.model.patch_size
    position = resize_position_embedding(params["encoder"]["position_embedding"], side)
    return params | {"encoder": params["encoder"] | {"position_embedding": position}}
