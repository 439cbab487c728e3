"""The state of a training: a step and plain dictionaries of arrays, without random state."""

from typing import NamedTuple

import flax
import jax
import jax.numpy as jnp
import ml_collections
import optax
from flax import nnx
from jax.sharding import Mesh

from sit_jax.common.keys import named_key
from sit_jax.model.build import make_graphdefs, make_model
from sit_jax.model.tasks import TASKS
from sit_jax.parallel.mesh import state_shardings
from sit_jax.train.optimizer import make_optimizer


@flax.struct.dataclass
class TrainState:
    """Everything that a step changes and a checkpoint holds."""

    step: jax.Array  # [] int32: updates done
    params: dict  # {"model": the encoder and the heads, "log_var": {task: []}}, float32
    opt_state: optax.OptState
    ema: dict | None  # running average of params, if config.optim.ema is set


class Training(NamedTuple):
    """The static part of a training."""

    graphdefs: dict[str, nnx.GraphDef]  # of the model and of the head of each task
    optimizer: optax.GradientTransformation


def make_training(config: ml_collections.ConfigDict) -> Training:
    """Returns the static part of a training from a resolved configuration."""
    return Training(make_graphdefs(config), make_optimizer(config))


def make_state(config: ml_collections.ConfigDict, optimizer: optax.GradientTransformation) -> TrainState:
    """Returns the state at step 0, a function of `config.seed`; call it under `jit` or `eval_shape`."""
    model = make_model(config, named_key(jax.random.key(config.seed), "init"))
    log_vars = {task: jnp.float32(config.loss.log_var_init) for task in TASKS}
    params = {"model": nnx.to_pure_dict(nnx.state(model, nnx.Param)), "log_var": log_vars}
    # A copy: the step donates the state, and one buffer cannot be donated twice.
    ema = jax.tree.map(jnp.copy, params) if config.optim.ema else None
    return TrainState(jnp.int32(0), params, optimizer.init(params), ema)


def abstract_state(config: ml_collections.ConfigDict, training: Training, mesh: Mesh) -> TrainState:
    """Returns shapes, dtypes and shardings of the state without making arrays."""
    shapes = jax.eval_shape(lambda: make_state(config, training.optimizer))
    shardings = state_shardings(shapes, mesh)
    return jax.tree.map(lambda s, sh: jax.ShapeDtypeStruct(s.shape, s.dtype, sharding=sh), shapes, shardings)


def init_state(config: ml_collections.ConfigDict, training: Training, mesh: Mesh) -> TrainState:
    """Returns the state at step 0, made on the devices directly in its shardings."""
    shardings = jax.tree.map(lambda s: s.sharding, abstract_state(config, training, mesh))
    return jax.jit(lambda: make_state(config, training.optimizer), out_shardings=shardings)()
