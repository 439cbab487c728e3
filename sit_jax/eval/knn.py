"""Weighted k-nearest-neighbour classification on frozen features (arXiv 1805.01978, section 3.4)."""

import functools

import jax
import jax.numpy as jnp
import numpy as np

BLOCK = 1024  # queries at a time


@functools.partial(jax.jit, static_argnames=("num_classes", "k"))
def votes(
    queries: jax.Array, features: jax.Array, labels: jax.Array, num_classes: int, k: int, temperature: float
) -> jax.Array:
    """Returns the votes [Q, num_classes] of the k nearest features for each query.

    `queries` [Q, D] and `features` [N, D] are float32 of unit length, `labels` [N] int. A neighbour votes for its
    class with weight exp(cosine similarity / temperature).
    """
    similarity = jnp.matmul(queries, features.T, precision="highest")
    nearest, index = jax.lax.top_k(similarity, k)
    # Relative to the nearest: the same order of the classes without overflow.
    weights = jnp.exp((nearest - nearest[:, :1]) / temperature)
    return jnp.einsum("qk,qkc->qc", weights, jax.nn.one_hot(labels[index], num_classes), precision="highest")


def knn_top1(
    train_features: np.ndarray,
    train_labels: np.ndarray,
    test_features: np.ndarray,
    test_labels: np.ndarray,
    k: int,
    temperature: float,
) -> float:
    """Returns the share of test features whose class wins the vote of its k nearest training features.

    Features are [N, D] float32, labels [N] int; all N training features vote if there are fewer than k.
    """
    num_classes = int(max(train_labels.max(), test_labels.max())) + 1
    train, test = normalise(train_features), normalise(test_features)
    correct = 0
    for start in range(0, len(test), BLOCK):
        block = test[start : start + BLOCK]
        padded = np.pad(block, ((0, min(BLOCK, len(test)) - len(block)), (0, 0)))
        vote = votes(padded, train, train_labels, num_classes, min(k, len(train)), temperature)
        correct += int(np.sum(np.argmax(vote, axis=1)[: len(block)] == test_labels[start : start + BLOCK]))
    return correct / len(test)


def normalise(features: np.ndarray) -> np.ndarray:
    """Scales the rows of [N, D] to unit length."""
    return features / np.maximum(np.linalg.norm(features, axis=1, keepdims=True), 1e-12)
