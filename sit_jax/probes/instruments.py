"""Applies `monitors` to the tokens and embeddings of a model, on views drawn as in training."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
from flax import nnx
from jax.sharding import Mesh

from sit_jax.common.keys import named_key
from sit_jax.model import losses, tasks
from sit_jax.model.build import make_graphdefs
from sit_jax.model.heads import project
from sit_jax.model.sizes import TOKEN_NAMES
from sit_jax.parallel.mesh import batch_sharding, replicated
from sit_jax.probes import monitors
from sit_jax.probes.features import put_rows
from sit_jax.views import make_views

IMAGES = 256  # maximum number of images that views are drawn from
VIEWS = 10  # minimum number of views per image: LiDAR needs more than two
COLLAPSED = 0.005  # a smaller token_std is a collapse; random weights have a few hundredths
FEW_SHARED = 0.1  # with a smaller shared variance, two views have hardly anything in common
Measure = Callable[[dict, np.ndarray], dict[str, float]]


def make_measure(config: ml_collections.ConfigDict, mesh: Mesh) -> Measure:
    """Returns `measure(params, images)`: from model weights and images [n, H, W, c] to figures by name.

    Views are cropped, jittered, rotated and corrupted as in training: at least VIEWS views of each of at most IMAGES
    images. They depend on the seed only, so every call sees the same views. If `views.share_rotation` is set, all views
    of an image have the same rotation. `contrastive_progress`, `alignment`, `uniformity` and `negative_cosine` measure
    the embedding; `lidar` and `shared_variance` measure the contrastive token. Without the contrastive task,
    `contrastive_progress` is missing.
    """
    graphdefs = make_graphdefs(config)
    batch, whole = batch_sharding(mesh), replicated(mesh)
    seed_key = named_key(jax.random.key(config.seed), "instruments")
    views, temperature = config.views.count, config.loss.temperature

    def encode(params: dict, images: jax.Array, rows: jax.Array, draw: np.integer) -> jax.Array:
        key = jax.random.fold_in(seed_key, draw)
        drawn = make_views(key, images, config, rows, seed_key if config.views.share_rotation else key)
        return nnx.merge(graphdefs["encoder"], params)(drawn.corrupted)[:, 1].astype(jnp.float32)

    def embed(params: dict, token: np.ndarray) -> tuple[jax.Array, jax.Array]:
        embedding = project(nnx.merge(graphdefs["contrastive"], params), jnp.asarray(token), training=True)[0]
        return embedding, losses.nt_xent(embedding, temperature, views)

    encode = jax.jit(encode, in_shardings=(None, batch, batch, None), out_shardings=whole)
    embed = jax.jit(embed, out_shardings=whole)

    def measure(params: dict, images: np.ndarray) -> dict[str, float]:
        rows = monitored_rows(len(images), config, mesh)
        draws = []
        for draw in range(-(-VIEWS // views)):
            batches = [(put_rows(images[part % len(images)], mesh), put_rows(part, mesh)) for part in rows]
            parts = [encode(params["encoder"], *batch, np.int32(draw)) for batch in batches]
            draws.append(np.concatenate([np.asarray(part) for part in parts]))
        embedded = [jax.device_get(embed(params["contrastive"], token)) for token in draws]
        first = embedded[0][0].reshape(-1, views, embedded[0][0].shape[-1])
        token = np.concatenate([token.reshape(-1, views, token.shape[-1]) for token in draws], axis=1)
        loss = float(np.mean([loss for _, loss in embedded]))
        found = {
            "alignment": monitors.alignment(first),
            "uniformity": monitors.uniformity(first[:, 0]),
            "negative_cosine": monitors.negative_cosine(first),
            "lidar": monitors.lidar(token),
            "shared_variance": monitors.shared_variance(token),
        }
        if "contrastive" in tasks.tasks_on(config.loss):
            found["contrastive_progress"] = monitors.contrastive_progress(loss, len(draws[0]), temperature, views)
        return found

    return measure


def monitored_rows(count: int, config: ml_collections.ConfigDict, mesh: Mesh) -> np.ndarray:
    """Returns the rows of the images to draw views from, int32 [parts, rows]: one part per batch on the devices."""
    part = max(1, min(count, IMAGES, config.batch_size // config.microbatches) // mesh.size) * mesh.size
    parts = max(1, min(count, IMAGES) // part)
    return np.arange(parts * part, dtype=np.int32).reshape(parts, part)


def of_features(features: np.ndarray) -> dict[str, float]:
    """Returns the effective rank of the concatenated tokens [n, 2, D] of whole images, and the spread of each token."""
    spread = {f"token_std_{name}": monitors.token_std(features[:, k]) for k, name in enumerate(TOKEN_NAMES)}
    return {"rank_me": monitors.rank_me(features.reshape(len(features), -1)), **spread}


def warnings(metrics: dict[str, float], tasks: list[str], trained: bool) -> list[str]:
    """Returns a line for each collapsed token of the `tasks`, and a line if the views share too little variance.

    At step 0, `trained` is False: the spread of untrained tokens has no meaning.
    """
    lines = []
    for name in TOKEN_NAMES:
        spread = metrics[f"token_std_{name}"]
        if trained and name in tasks and spread < COLLAPSED:
            lines.append(
                f"the {name} token has collapsed: its spread over images is {spread:.2g} of 1 (token_std_{name}); "
                "lower optim.base_learning_rate, or raise optim.warmup_epochs"
            )
    shared = metrics["shared_variance"]
    if "contrastive" in tasks and shared < FEW_SHARED:
        lines.append(
            f"two views of an image share {shared:.0%} of the variance of the contrastive token: make them easier, "
            "with a higher views.area or less corruption"
        )
    return lines
