"""The parts of a training step as separate programs, and the step without each part."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import ml_collections

from sit_jax.common.keys import named_key, row_keys, view_rows
from sit_jax.parallel.microbatches import stacked
from sit_jax.train.state import Training, TrainState
from sit_jax.train.step import combine, follow, forward, update
from sit_jax.views import Views, augment, corrupt, make_views, random_rotation, rotate_and_corrupt

PARTS = ("augmentation", "corruption", "forward", "backward", "optimizer")
Program = Callable[[TrainState, jax.Array, Views], Any]


def programs(training: Training, config: ml_collections.ConfigDict) -> dict[str, Program]:
    """Returns functions of (state, images [B, H, W, c], views of them) by name, ready to be compiled.

    `whole` is the step. Each of PARTS is one part alone, with its inputs given. In `without X`, part X does nothing.
    `backward` alone is missing here; `split_backward` returns it.
    """
    size = config.model.image_size

    def key(state: TrainState) -> jax.Array:
        return jax.random.fold_in(jax.random.key(config.seed), state.step)

    def loss(params: dict, state: TrainState, views: Views) -> tuple[jax.Array, Any]:
        keys = row_keys(named_key(key(state), "model"), len(views.clean))
        outputs = forward(params, training, views, keys, config)[0]
        return combine(stacked(outputs), params, training, config)

    def gradients(state: TrainState, views: Views) -> Any:
        return jax.value_and_grad(loss, has_aux=True)(state.params, state, views)

    def finish(state: TrainState, value_and_grads: Any) -> Any:
        (total, (metrics, statistics)), grads = value_and_grads
        followed = follow(state, metrics, statistics, config)
        return total, update(dataclasses.replace(state, params=followed), grads, training, config)

    def views_of(state: TrainState, images: jax.Array) -> Views:
        return make_views(key(state), images, config)

    def clean(state: TrainState, images: jax.Array) -> Views:
        rows = view_rows(len(images), config.views.count)
        views = augment(named_key(key(state), "augment"), images, size, config.views, rows)
        turned, rotation = random_rotation(named_key(key(state), "rotate"), views, rows, config.views.turned)
        return Views(turned, turned, rotation, {"all": jnp.ones(turned.shape[:3], bool)})

    def recorrupted(state: TrainState, views: Views) -> Views:
        rows = view_rows(config.batch_size, config.views.count)
        return rotate_and_corrupt(key(state), views.clean, config, rows)

    return {
        "whole": lambda s, i, v: finish(s, gradients(s, views_of(s, i))),
        "without augmentation": lambda s, i, v: finish(s, gradients(s, recorrupted(s, v))),
        "without corruption": lambda s, i, v: finish(s, gradients(s, clean(s, i))),
        # The parameters replace the gradients, which have the same shapes.
        "without forward": lambda s, i, v: (views_of(s, i), update(s, s.params, training, config)),
        "without backward": lambda s, i, v: finish(s, (loss(s.params, s, views_of(s, i)), s.params)),
        "without optimizer": lambda s, i, v: gradients(s, views_of(s, i)),
        "augmentation": lambda s, i, v: clean(s, i)[1:3],
        "corruption": lambda s, i, v: corrupt(
            named_key(key(s), "corrupt"), v.clean, config.corrupt, views=config.views.count
        ),
        "forward": lambda s, i, v: loss(s.params, s, v)[0],
        "forward and backward": lambda s, i, v: gradients(s, v),
        "optimizer": lambda s, i, v: update(s, s.params, training, config),
    }


def split_backward(forward: Program) -> tuple[Program, Callable[[Any], Any]]:
    """Returns (the forward pass that returns what the backward pass needs, the backward pass alone on this result)."""

    def keep(state: TrainState, images: jax.Array, views: Views) -> Any:
        return jax.vjp(lambda params: forward(dataclasses.replace(state, params=params), images, views), state.params)[
            1
        ]

    return keep, lambda backward: backward(1.0)
