"""Weighted k-nearest-neighbour classification on frozen features (arXiv 1805.01978, section 3.4)."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from sit_jax.parallel.mesh import replicated
from sit_jax.probes.features import put_rows
from sit_jax.probes.scores import NO_SCORE

QUERIES = 2048  # queries at a time, over all devices
KEYS = 16_384  # training features at a time, on each device


@functools.partial(jax.jit, static_argnames="k")
def nearest_of_block(queries: jax.Array, block: jax.Array, start: jax.Array, count: jax.Array, k: int) -> tuple:
    """Returns the cosine similarities [n, k] and rows [n, k] of the nearest features of one block, nearest first.

    `queries` [n, F] and `block` [m, F] are float32 of unit length. The block starts at row `start` of `count` features.
    Rows from `count` on are padding; they come last, with similarity -inf. If k > m, m replaces k.
    """
    similarity = jnp.matmul(queries, block.T, precision="highest")
    rows = start + jnp.arange(len(block))
    similarity, index = jax.lax.top_k(jnp.where(rows < count, similarity, -jnp.inf), min(k, len(block)))
    return similarity, rows[index]


@functools.partial(jax.jit, static_argnames="k")
def merge(first: tuple, second: tuple, k: int) -> tuple:
    """Merges two results of `nearest_of_block`; among equal similarities, `first` comes first."""
    similarity, rows = (jnp.concatenate(pair, axis=1) for pair in zip(first, second, strict=True))
    similarity, index = jax.lax.top_k(similarity, min(k, similarity.shape[1]))
    return similarity, jnp.take_along_axis(rows, index, axis=1)


def nearest(queries: np.ndarray, features: np.ndarray, k: int, mesh: Mesh) -> tuple[np.ndarray, np.ndarray]:
    """Returns the cosine similarities [n, k] float32 and the rows [n, k] of the k nearest features, nearest first.

    `queries` [n, F] and `features` [m, F] are float32, k <= m. Queries are sharded over the devices batch by batch, and
    features come in blocks, so the device memory does not grow with the data.
    """
    queries, features = normalise(queries), normalise(features)
    size = -(-min(QUERIES, len(queries)) // mesh.size) * mesh.size
    keys = min(KEYS, len(features))
    results = []
    for start in range(0, len(queries), size):
        rows = np.minimum(np.arange(start, start + size), len(queries) - 1)
        batch, best = put_rows(queries[rows], mesh), None
        for first in range(0, len(features), keys):
            block = np.pad(features[first : first + keys], ((0, max(0, first + keys - len(features))), (0, 0)))
            found = nearest_of_block(batch, block, np.int32(first), np.int32(len(features)), k)
            best = found if best is None else merge(best, found, k)
        results.append(jax.device_get(jax.device_put(best, replicated(mesh))))  # complete on every host
    similarity, index = (np.concatenate(parts)[: len(queries)] for parts in zip(*results, strict=True))
    return similarity, index


def vote(similarity: np.ndarray, labels: np.ndarray, num_classes: int, temperature: float) -> np.ndarray:
    """Returns the votes [n, C] of neighbours with `similarity` [n, k], nearest first, and `labels` [n, k].

    A neighbour votes for its class with weight exp(similarity / temperature). A class without a neighbour has NO_SCORE.
    """
    # Relative to the nearest neighbour: the same order of the classes, without overflow.
    weights = np.exp((similarity - similarity[:, :1]).astype(np.float64) / temperature)
    votes, rows = np.full((len(labels), num_classes), NO_SCORE), np.arange(len(labels))[:, None]
    votes[rows, labels] = 0
    np.add.at(votes, (rows, labels), weights)
    return votes


def knn_votes(
    train_features: np.ndarray,
    train_labels: np.ndarray,
    test_features: np.ndarray,
    num_classes: int,
    ks: tuple[int, ...],
    temperature: float,
    mesh: Mesh,
) -> dict[int, np.ndarray]:
    """Returns for each k the votes [n, C] for the test features; if k exceeds the training features, all of them vote.

    Features are float32, [m, K, F] for training and [n, K, F] for test; the K vectors are concatenated. Training labels
    are [m] int.
    """
    train, test = train_features.reshape(len(train_features), -1), test_features.reshape(len(test_features), -1)
    similarity, index = nearest(test, train, min(max(ks), len(train)), mesh)
    neighbours = train_labels[index]
    return {k: vote(similarity[:, :k], neighbours[:, :k], num_classes, temperature) for k in ks}


def normalise(features: np.ndarray) -> np.ndarray:
    """Scales the last axis of [..., F] to unit length."""
    return features / np.maximum(np.linalg.norm(features, axis=-1, keepdims=True), 1e-12)
