"""What surrounds an image in the space of features: its neighbours, and how far away they are."""

import numpy as np
from jax.sharding import Mesh

from sit_jax.probes.knn import nearest

NEAR = 10  # neighbours that decide whether an image is an outlier
REFERENCE = 10_000  # images, at most, among which outliers look for neighbours


def neighbours(
    features: np.ndarray, rows: np.ndarray, among: np.ndarray, k: int, mesh: Mesh
) -> tuple[np.ndarray, np.ndarray]:
    """Finds the k images `among` that are nearest to each of the images `rows`, other than itself; the search is exact.

    `features` is float32 [n, F]; `rows` [m] and `among` index it. Returns (rows [m, k] int64, cosine similarities
    [m, k] float32), nearest first. If `among` has not more than k images, k is their number less one.
    """
    k = min(k, len(among) - 1)
    if k < 1:
        return np.zeros((len(rows), 0), np.int64), np.zeros((len(rows), 0), np.float32)
    similarity, index = nearest(features[rows], features[among], k + 1, mesh)
    found = np.asarray(among)[index]
    left_out = found == np.asarray(rows)[:, None]
    left_out[~left_out.any(axis=1), -1] = True  # the image is not among them, or more than k equal images precede it
    kept = (len(rows), k)
    return found[~left_out].reshape(kept).astype(np.int64), similarity[~left_out].reshape(kept)


def outlier_scores(features: np.ndarray, mesh: Mesh) -> np.ndarray:
    """Returns the mean cosine distance of each image to its NEAR neighbours, float32 [n]: 0 to 2.

    The neighbours are sought among REFERENCE images at most, drawn with a fixed seed. A single image has 0.
    """
    reference = np.sort(np.random.default_rng(0).permutation(len(features))[:REFERENCE])
    _, similarity = neighbours(features, np.arange(len(features)), reference, NEAR, mesh)
    return 1 - similarity.mean(axis=1) if similarity.size else np.zeros(len(features), np.float32)
