"""The three tasks of SiT (sections 3.1 to 3.3): each row of TASKS defines one task completely.

The model, the step, the evaluation, the plots, the FLOPs of a plan, the checks and the defaults derive from the rows. A
new task needs one row with its head and its loss.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from ml_collections import ConfigDict

from sit_jax.model import losses
from sit_jax.model.heads import Projector, ReconstructionHead, Statistics, make_projector, project, projector_products
from sit_jax.model.layers import linear
from sit_jax.model.patches import unpatchify
from sit_jax.model.sizes import CONTRASTIVE, PATCHES, ROTATION, patch_count, patch_pixels
from sit_jax.parallel.microbatches import join
from sit_jax.views import Views

ROTATIONS = 4
Arrays = dict[str, jax.Array]


class Result(NamedTuple):
    """The result of a task on a whole batch."""

    loss: jax.Array  # []
    metrics: Arrays  # other scalars, by name
    statistics: dict[str, Statistics]  # of the head's batch normalisations, by layer name


def mean_of_chunks(head: nnx.Module, chunks: Arrays, config: ConfigDict) -> Result:
    """Returns the means of `loss` and of all other arrays over the chunks, for losses that are means over rows."""
    means = {name: values.mean() for name, values in chunks.items()}
    return Result(means.pop("loss"), means, {})


class Task(NamedTuple):
    """A row of TASKS: the head reads the tokens `reads`, and the model returns its result under the name `output`."""

    reads: int  # ROTATION, CONTRASTIVE or PATCHES; heads draw initial weights in this order
    output: str
    make_head: Callable[[ConfigDict, int, jnp.dtype, nnx.Rngs], nnx.Module]  # (section `model`, D, dtype, rngs) -> head
    # (output, views of a chunk, configuration) -> the chunk's contribution to the loss of the batch
    of_chunk: Callable[[jax.Array, Views, ConfigDict], Arrays]
    multiplications: Callable[[ConfigDict, int, int], int]  # (section `model`, D, V) -> forward, in head and loss
    likelihood_scale: float  # a in the likelihood exp(-a s) of the log variance s: 1 for a cross-entropy, 0.5 for L1
    weight: str  # default in `loss.weights`
    label: str  # name of the loss in plots
    line: str  # matplotlib line style of the log variance in plots
    # (head, stacked results of `of_chunk`, configuration) -> the result on the whole batch
    of_batch: Callable[[Any, Arrays, ConfigDict], Result] = mean_of_chunks
    whole_batch: bool = False  # the model returns the tokens as `output`, and `of_batch` runs the head
    metrics: tuple[str, ...] = ()  # names in `Result.metrics`
    shown: tuple[str, ...] = ()  # evaluation metrics on screen; metrics.jsonl holds all metrics
    floor: Callable[[int, float, int], float] | None = None  # (V, temperature, views) -> approximate least loss


def _of_rebuilt(patches: jax.Array, views: Views, config: ConfigDict) -> Arrays:
    mask, pixels = None, jnp.float32(1)
    if config.loss.corrupted_only:
        mask = jnp.any(jnp.stack(list(views.masks.values())), axis=0)
        pixels = jnp.maximum(mask.sum(dtype=jnp.float32), 1)
    rebuilt = unpatchify(patches, config.model.patch_size)
    return {"loss": losses.reconstruction_loss(views.clean, rebuilt, mask), "pixels": pixels}


def _reconstruction(head: nnx.Module, chunks: Arrays, config: ConfigDict) -> Result:
    return Result(jnp.sum(chunks["loss"] * (chunks["pixels"] / chunks["pixels"].sum())), {}, {})


def _of_logits(logits: jax.Array, views: Views, config: ConfigDict) -> Arrays:
    accuracy = jnp.mean(logits.argmax(axis=1) == views.rotation)
    return {"loss": losses.rotation_loss(logits, views.rotation), "rotation_accuracy": accuracy}


def _contrastive(head: nnx.Linear | Projector, chunks: Arrays, config: ConfigDict) -> Result:
    # Batch normalisation and negatives need the whole batch.
    embedding, statistics = project(head, join(chunks["token"]), training=True)
    return Result(losses.nt_xent(embedding, config.loss.temperature, config.views.count), {}, statistics)


TASKS = {
    "reconstruction": Task(
        reads=PATCHES,
        output="patches",
        make_head=lambda model, width, dtype, rngs: ReconstructionHead(
            width, model.patch_size, model.channels, dtype, rngs
        ),
        of_chunk=_of_rebuilt,
        of_batch=_reconstruction,
        multiplications=lambda model, width, views: views * patch_count(model) * width * patch_pixels(model),
        likelihood_scale=0.5,
        weight="1",
        label="reconstruction, L1",
        line="-",
        shown=("reconstruction", "copy"),
    ),
    "rotation": Task(
        reads=ROTATION,
        output="rotation",
        make_head=lambda model, width, dtype, rngs: linear(width, ROTATIONS, rngs, dtype),
        of_chunk=_of_logits,
        multiplications=lambda model, width, views: views * width * ROTATIONS,
        likelihood_scale=1.0,
        weight="0.3",
        label="rotation, cross-entropy",
        line="--",
        metrics=("rotation_accuracy",),
        shown=("rotation_accuracy",),
    ),
    "contrastive": Task(
        reads=CONTRASTIVE,
        output="token",
        make_head=make_projector,
        of_chunk=lambda token, views, config: {"token": token},
        of_batch=_contrastive,
        whole_batch=True,
        multiplications=lambda model, width, views: (
            views * projector_products(model, width) + views**2 * model.embedding_size
        ),
        likelihood_scale=1.0,
        weight="1",
        label="contrastive, NT-Xent",
        line=":",
        shown=("contrastive", "contrastive_progress"),
        floor=losses.nt_xent_floor,
    ),
}


def tasks_on(loss: ConfigDict) -> list[str]:
    """Returns the tasks whose weight in the section `loss` is "learned" or not 0."""
    return [task for task in TASKS if loss.weights[task] == "learned" or float(loss.weights[task])]
