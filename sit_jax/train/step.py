"""One step of pre-training: views, losses, gradients, update; a pure function of (state, batch)."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import ml_collections
import optax
from flax import nnx
from jax.sharding import Mesh

from sit_jax import losses
from sit_jax.keys import named_key, row_keys
from sit_jax.mesh import batch_sharding, replicated
from sit_jax.model import unpatchify
from sit_jax.train.optimizer import make_schedule
from sit_jax.train.state import Training, TrainState
from sit_jax.views import Views, make_test_views, make_views

Metrics = dict[str, jax.Array]


def pretrain_loss(
    params: dict, training: Training, views: Views, key: jax.Array | None, config: ml_collections.ConfigDict
) -> tuple[jax.Array, tuple[Metrics, jax.Array]]:
    """Returns the weighted sum of the three losses, and (its parts with the rotation accuracy, the rebuilt views).

    `key` turns stochastic depth on; None is evaluation.
    """
    model = nnx.merge(training.graphdef, params["model"])
    out = model(views.corrupted, None if key is None else row_keys(key, len(views.corrupted)))
    rebuilt = unpatchify(out["patches"], config.model.patch_size)
    mask = None
    if config.loss.corrupted_only:
        mask = jnp.any(jnp.stack(list(views.masks.values())), axis=0)
    parts = {
        "reconstruction": losses.reconstruction_loss(views.clean, rebuilt, mask),
        "rotation": losses.rotation_loss(out["rotation"], views.rotation),
        "contrastive": losses.nt_xent(out["embedding"], config.loss.temperature),
    }
    total = losses.total_loss(parts, params["log_var"], config.loss.weights)
    accuracy = jnp.mean(out["rotation"].argmax(axis=1) == views.rotation)
    return total, ({"loss": total, **parts, "rotation_accuracy": accuracy}, rebuilt)


def make_train_step(
    training: Training, config: ml_collections.ConfigDict
) -> Callable[[TrainState, dict], tuple[TrainState, Metrics]]:
    """Returns `train_step(state, batch) -> (state, metrics)`; `batch["image"]` is [B, H, W, 3] uint8.

    All that is random in it follows from (config.seed, state.step, global row). The metrics are float32 scalars.
    """
    schedule = make_schedule(config)

    def train_step(state: TrainState, batch: dict) -> tuple[TrainState, Metrics]:
        key = jax.random.fold_in(jax.random.key(config.seed), state.step)
        views = make_views(key, batch["image"], config)
        grad = jax.value_and_grad(pretrain_loss, has_aux=True)
        (_, (metrics, _)), grads = grad(state.params, training, views, named_key(key, "model"), config)
        updates, opt_state = training.optimizer.update(grads, state.opt_state, state.params)
        params = optax.apply_updates(state.params, updates)
        ema = state.ema
        if ema is not None:
            ema = optax.incremental_update(params, ema, 1 - config.optim.ema)
        metrics |= {f"log_var_{task}": value for task, value in params["log_var"].items()}
        metrics |= {"learning_rate": schedule(state.step), "grad_norm": optax.global_norm(grads)}
        return TrainState(state.step + 1, params, opt_state, ema), metrics

    return train_step


def make_eval_step(
    training: Training, config: ml_collections.ConfigDict
) -> Callable[[dict, jax.Array, jax.Array], tuple[Metrics, Views, jax.Array]]:
    """Returns `eval_step(params, images, index) -> (metrics, views, rebuilt)` on whole images [B, H, W, 3] uint8.

    Rotations and corruptions follow from (config.seed, index) alone: every evaluation asks the same questions.
    """

    def eval_step(params: dict, images: jax.Array, index: jax.Array) -> tuple[Metrics, Views, jax.Array]:
        key = jax.random.fold_in(named_key(jax.random.key(config.seed), "eval"), index)
        views = make_test_views(key, images, config)
        _, (metrics, rebuilt) = pretrain_loss(params, training, views, None, config)
        return metrics, views, rebuilt

    return eval_step


def compile_steps(
    training: Training, config: ml_collections.ConfigDict, abstract: TrainState, mesh: Mesh
) -> tuple[Callable, Callable]:
    """Returns both steps under `jit`, sharded as the `abstract` state is; the train step donates the state."""
    shardings = jax.tree.map(lambda s: s.sharding, abstract)
    batch, whole = batch_sharding(mesh), replicated(mesh)
    train_step = jax.jit(
        make_train_step(training, config),
        in_shardings=(shardings, {"image": batch}),
        out_shardings=(shardings, whole),
        donate_argnums=0,
    )
    eval_step = jax.jit(
        make_eval_step(training, config),
        in_shardings=(shardings.params, batch, whole),
        out_shardings=(whole, batch, batch),
    )
    return train_step, eval_step
