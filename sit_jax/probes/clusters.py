"""Groups of similar pictures, by k-means of their features."""

from typing import NamedTuple

import numpy as np

from sit_jax.probes.knn import normalise

COMPONENTS = 50  # principal components that k-means and the map read
FITTED = 20_000  # images, at most, that determine the components
MOST = 12  # clusters, unless their number is given


class Clusters(NamedTuple):
    """The clusters of n images."""

    of: np.ndarray  # the cluster of each image, int64 [n]; the largest is 0
    distance: np.ndarray  # to the centre of the cluster, float32 [n]
    number: int  # of clusters


def compress(features: np.ndarray) -> np.ndarray:
    """Returns the principal components of features [n, F] at unit length, float32 [n, at most COMPONENTS]."""
    from sklearn.decomposition import PCA

    unit = normalise(np.asarray(features, np.float32))
    sample = unit[np.random.default_rng(0).permutation(len(unit))[:FITTED]]
    count = min(COMPONENTS, *sample.shape)
    return PCA(count, random_state=0).fit(sample).transform(unit).astype(np.float32)


def default_count(images: int) -> int:
    """Returns the number of clusters of a number of images: about sqrt(images / 2), MOST at most."""
    return max(1, min(MOST, round((images / 2) ** 0.5)))


def cluster(compressed: np.ndarray, count: int) -> Clusters:
    """Clusters `compressed` features [n, F] by k-means into `count` clusters at most; equal images give fewer."""
    from sklearn.cluster import MiniBatchKMeans

    count = min(count, len(np.unique(compressed.round(5), axis=0)))  # equal images differ by rounding
    model = MiniBatchKMeans(count, n_init=5, batch_size=2048, random_state=0).fit(compressed)
    labels = model.labels_.astype(np.int64)
    sizes = np.bincount(labels, minlength=count)
    ranks = np.argsort(np.argsort(-sizes, kind="stable"), kind="stable")
    distance = np.linalg.norm(compressed - model.cluster_centers_[labels], axis=1)
    return Clusters(ranks[labels], distance.astype(np.float32), int((sizes > 0).sum()))


def central(clusters: Clusters, which: int, count: int) -> np.ndarray:
    """Returns the rows of the `count` images of cluster `which` nearest to its centre, nearest first."""
    rows = np.flatnonzero(clusters.of == which)
    return rows[np.argsort(clusters.distance[rows], kind="stable")[:count]]


def purity(groups: np.ndarray) -> tuple[int, float]:
    """Returns the most frequent of `groups` (int [n], all 0 or more), and its share."""
    counts = np.bincount(groups)
    return int(counts.argmax()), float(counts.max() / len(groups))
