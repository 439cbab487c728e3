"""One pre-training step: views, losses, gradients, update; a pure function of (state, batch)."""

import dataclasses
import functools
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import ml_collections
import optax
from flax import nnx
from jax.sharding import Mesh

from sit_jax.common.keys import named_key, row_keys, view_rows
from sit_jax.common.layout import layout_of
from sit_jax.model import losses, weighting
from sit_jax.model.patches import unpatchify
from sit_jax.model.tasks import TASKS
from sit_jax.parallel.mesh import batch_sharding, replicated
from sit_jax.parallel.microbatches import split, stacked, value_and_grad
from sit_jax.train.optimizer import make_schedule
from sit_jax.train.state import Training, TrainState
from sit_jax.views import Views, make_test_views, make_views

Metrics = dict[str, jax.Array]
STATISTICS_RATE = 0.1  # update rate of the running averages of batch normalisations, as in PyTorch


class Chunk(NamedTuple):
    """A part of a batch that all devices compute together; without gradient accumulation, the whole batch."""

    images: jax.Array  # [b, H, W, c] as stored, b = B / microbatches
    rows: jax.Array  # [b] int32: indices in the batch


Outputs = dict[str, Metrics]  # by task: the inputs of its loss from a chunk; stacked arrays have one more axis


def forward(
    params: dict, training: Training, views: Views, keys: jax.Array | None, config: ml_collections.ConfigDict
) -> tuple[Outputs, Metrics]:
    """Runs the network on views; returns (inputs of the losses, outputs of the model).

    `keys` [V] turn on stochastic depth; None is evaluation.
    """
    out = nnx.merge(training.graphdefs["model"], params["model"])(views.corrupted, keys)
    return {name: task.of_chunk(out[task.output], views, config) for name, task in TASKS.items()}, out


def combine(
    outputs: Outputs, params: dict, training: Training, config: ml_collections.ConfigDict
) -> tuple[jax.Array, tuple[Metrics, dict]]:
    """Returns (weighted sum of the losses of the whole batch, (all metrics, statistics of batch normalisations)).

    `outputs` are stacked over the chunks. Statistics are by task and by name of the normalisation.
    """
    found = {}
    for name, task in TASKS.items():
        head = nnx.merge(training.graphdefs[name], params["model"][name])
        found[name] = task.of_batch(head, outputs[name], config)
    parts = {name: result.loss for name, result in found.items()}
    floors = weighting.floors(config.loss, config.views.count * config.batch_size, config.views.count)
    total = weighting.total_loss(parts, params["log_var"], config.loss, floors)
    metrics = {"loss": total, **parts}
    for result in found.values():
        metrics |= result.metrics
    return total, (metrics, {name: result.statistics for name, result in found.items()})


def stack_chunks(images: jax.Array, config: ml_collections.ConfigDict) -> Chunk:
    """Cuts a batch into `config.microbatches` stacked chunks."""
    rows = jnp.arange(len(images))
    return Chunk(*(split(x, config.microbatches) for x in (images, rows)))


def make_train_step(
    training: Training, config: ml_collections.ConfigDict
) -> Callable[[TrainState, dict], tuple[TrainState, Metrics]]:
    """Returns `train_step(state, batch) -> (state, metrics)`; `batch["image"]` is [B, H, W, c].

    Random numbers depend on (config.seed, state.step, global row) only. The metrics are float32 scalars.
    """
    schedule = make_schedule(config)

    def train_step(state: TrainState, batch: dict) -> tuple[TrainState, Metrics]:
        key = jax.random.fold_in(jax.random.key(config.seed), state.step)

        def run(params: dict, chunk: Chunk) -> Outputs:
            views = make_views(key, chunk.images, config, chunk.rows)
            keys = row_keys(named_key(key, "model"), view_rows(chunk.rows, config.views.count))
            return forward(params, training, views, keys, config)[0]

        chunks = stack_chunks(batch["image"], config)
        whole = functools.partial(combine, training=training, config=config)
        (_, (metrics, statistics)), grads = value_and_grad(run, whole, state.params, chunks)
        followed = follow(state, metrics, statistics, config)
        new_state = update(dataclasses.replace(state, params=followed), grads, training, config)
        metrics |= {f"log_var_{task}": value for task, value in new_state.params["log_var"].items()}
        metrics |= {"learning_rate": schedule(state.step), "grad_norm": optax.global_norm(grads)}
        return new_state, metrics

    return train_step


def follow(state: TrainState, metrics: Metrics, statistics: dict, config: ml_collections.ConfigDict) -> dict:
    """Returns the parameters after the updates without gradients: running averages, and log-variances in closed form.

    `statistics` of batch normalisations are by task and by name of the normalisation.
    """
    model, log_vars = dict(state.params["model"]), state.params["log_var"]
    for task, of_head in statistics.items():
        for name, values in of_head.items():
            layer = model[task][name]
            averages = optax.incremental_update(values, {key: layer[key] for key in values}, STATISTICS_RATE)
            model[task] = model[task] | {name: layer | averages}
    if config.loss.weighting == "closed_form":
        floors = weighting.floors(config.loss, config.views.count * config.batch_size, config.views.count)
        log_vars = weighting.closed_form(log_vars, metrics, floors, state.step)
    return {"model": model, "log_var": log_vars}


def update(state: TrainState, grads: dict, training: Training, config: ml_collections.ConfigDict) -> TrainState:
    """Returns the state after one gradient update."""
    updates, opt_state = training.optimizer.update(grads, state.opt_state, state.params)
    params = optax.apply_updates(state.params, updates)
    ema = None if state.ema is None else optax.incremental_update(params, state.ema, 1 - config.optim.ema)
    return TrainState(state.step + 1, params, opt_state, ema)


def make_eval_step(
    training: Training, config: ml_collections.ConfigDict
) -> Callable[[dict, jax.Array, jax.Array], tuple[Metrics, Views, jax.Array, jax.Array]]:
    """Returns `eval_step(params, images, index)` on whole images [B, H, W, c].

    It returns (metrics, views, rebuilt views, predicted rotations int32 [V]).

    `metrics["distances"]` come from `losses.distances`. Rotations and corruptions depend on (config.seed, index) only,
    so every evaluation measures the same. With gradient accumulation, only the first chunk gives views.
    """

    def eval_step(params: dict, images: jax.Array, index: jax.Array) -> tuple[Metrics, Views, jax.Array, jax.Array]:
        key = jax.random.fold_in(named_key(jax.random.key(config.seed), "eval"), index)

        def run(chunk: Chunk) -> tuple[tuple[Outputs, dict], tuple[Views, jax.Array, jax.Array]]:
            views = make_test_views(key, chunk.images, config, chunk.rows)
            outputs, out = forward(params, training, views, None, config)
            rebuilt = unpatchify(out["patches"], config.model.patch_size)
            distances = losses.distances(views.clean, views.corrupted, rebuilt, views.masks, config.loss.corrupted_only)
            return (outputs, distances), (views, rebuilt, out["rotation"].argmax(axis=1))

        chunks = stack_chunks(images, config)
        first, shown = run(jax.tree.map(lambda x: x[0], chunks))
        outputs, distances = stacked(first)
        if config.microbatches > 1:
            rest = jax.lax.map(lambda chunk: run(chunk)[0], jax.tree.map(lambda x: x[1:], chunks))
            outputs, distances = jax.tree.map(lambda *x: jnp.concatenate(x), (outputs, distances), rest)
        metrics = combine(outputs, params, training, config)[1][0]
        return metrics | {"distances": jax.tree.map(lambda x: x.sum(axis=0), distances)}, *shown

    return eval_step


def abstract_batch(config: ml_collections.ConfigDict, mesh: Mesh) -> dict[str, jax.ShapeDtypeStruct]:
    """Returns shape and sharding of one batch of a resolved configuration."""
    layout = layout_of(config.data)
    shape = (config.batch_size, *layout.shape(config.data.image_size))
    return {"image": jax.ShapeDtypeStruct(shape, layout.dtype, sharding=batch_sharding(mesh))}


def compile_steps(
    training: Training, config: ml_collections.ConfigDict, abstract: TrainState, mesh: Mesh
) -> tuple[Callable, Callable]:
    """Returns both steps under `jit`, with the shardings of `abstract`; the train step donates the state."""
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
        out_shardings=(whole, batch, batch, batch),
    )
    return train_step, eval_step
