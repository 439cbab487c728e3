"""Quality of tokens and embeddings, computed in float64; only `kmeans_nmi` needs labels."""

import math

import numpy as np

from sit_jax.model.losses import nt_xent_floor
from sit_jax.probes.knn import normalise

SMALL = 1e-12
RANK_EPSILON = 1e-7
LIDAR_DELTA = 1e-4


def contrastive_progress(loss: float, rows: int, temperature: float, views: int) -> float:
    """Returns the progress of NT-Xent: 0 if all V = `rows` embeddings are equal, 1 at the floor of the loss.

    At 0 the loss is log(V - 1). At the floor, positives are equal and negatives orthogonal (losses.nt_xent_floor).
    V must exceed the number of `views` per image: at least two images.
    """
    chance = math.log(rows - 1)
    return (chance - loss) / (chance - nt_xent_floor(rows, temperature, views))


def unit(x: np.ndarray) -> np.ndarray:
    """Scales the last axis to unit length, in float64."""
    return normalise(np.asarray(x, np.float64))


def alignment(x: np.ndarray) -> float:
    """Returns the mean squared distance between views of an image, [n, views, E] at unit length (arXiv 2005.10242).

    0: equal; 2: orthogonal.
    """
    z = unit(x)
    count = z.shape[1]
    # The squared distances over all pairs of m unit vectors add up to m * m - |sum|^2.
    squared = (count**2 - np.sum(z.sum(axis=1) ** 2, axis=-1)) / (count * (count - 1) / 2)
    return float(squared.mean())


def uniformity(x: np.ndarray) -> float:
    """Returns log mean exp(-2 |a - b|^2) over pairs of different rows, [n, E] at unit length (arXiv 2005.10242).

    0: a single point; near -4: spread over the sphere.
    """
    z = unit(x)
    cosine = (z @ z.T)[np.triu_indices(len(z), 1)]
    return float(np.log(np.mean(np.exp(-4 * (1 - cosine)))))


def negative_cosine(x: np.ndarray) -> float:
    """Returns the mean cosine of views of different images, [n, views, E]: 1 a point, 0 a spread in all directions."""
    z = unit(x)
    sums = z.sum(axis=1)
    total, own = np.sum(sums.sum(axis=0) ** 2), np.sum(sums**2)
    return float((total - own) / (len(z) * (len(z) - 1) * z.shape[1] ** 2))


def token_std(x: np.ndarray) -> float:
    """Returns the standard deviation over the rows of [n, D] at unit length, averaged over D, times sqrt(D).

    1: spread in all directions; 0: collapse to a point (arXiv 2011.10566, section 4.1).
    """
    z = unit(x)
    return float(z.std(axis=0).mean() * math.sqrt(z.shape[1]))


def rank_me(x: np.ndarray) -> float:
    """Returns the effective rank of uncentred features [n, D], 1 to min(n, D) (arXiv 2210.02885, equation 1)."""
    return effective_rank(np.linalg.svd(np.asarray(x, np.float64), compute_uv=False))


def lidar(x: np.ndarray) -> float:
    """Returns the effective rank of differences between images, [n, views, D] (LiDAR, arXiv 2312.04000).

    It is 1 to min(n - 1, D). The eigenvalues come from linear discriminant analysis with the n images as classes and
    their views as samples.
    """
    x = np.asarray(x, np.float64)
    images, views, width = x.shape
    means = x.mean(axis=1)
    centred = means - means.mean(axis=0)
    between = centred.T @ centred / (images - 1)
    residuals = (x - means[:, None]).reshape(-1, width)
    within = residuals.T @ residuals / (images * (views - 1)) + LIDAR_DELTA * np.eye(width)
    values, vectors = np.linalg.eigh(within)
    whitening = vectors / np.sqrt(values) @ vectors.T
    return effective_rank(np.maximum(np.linalg.eigvalsh(whitening @ between @ whitening), 0.0))


def effective_rank(spectrum: np.ndarray) -> float:
    """Returns exp(entropy) of a non-negative spectrum [D], 1 to D (arXiv 2210.02885, equation 1)."""
    shares = spectrum / max(spectrum.sum(), SMALL) + RANK_EPSILON
    return float(np.exp(-np.sum(shares * np.log(shares))))


def shared_variance(x: np.ndarray) -> float:
    """Returns the share of the variance that the views of an image have in common, [n, views, D]: 0 to 1.

    It is the intraclass correlation of a one-way analysis of variance, summed over D (Shrout and Fleiss, 1979,
    ICC(1, 1)).
    """
    x = np.asarray(x, np.float64)
    images, views = x.shape[:2]
    means = x.mean(axis=1)
    between = views * np.sum((means - means.mean(axis=0)) ** 2) / (images - 1)
    within = np.sum((x - means[:, None]) ** 2) / (images * (views - 1))
    total = between + (views - 1) * within
    return float(max(0.0, (between - within) / total)) if total > SMALL else 1.0


def kmeans_nmi(features: np.ndarray, labels: np.ndarray) -> float:
    """Returns the normalised mutual information of labels [n] and k-means clusters of features [n, D].

    The number of clusters is the number of classes. scikit-learn clusters unit vectors from three starts with a fixed
    seed.
    """
    from sklearn.cluster import KMeans
    from sklearn.metrics import normalized_mutual_info_score

    clusters = KMeans(len(np.unique(labels)), n_init=3, random_state=0).fit_predict(unit(features))
    return float(normalized_mutual_info_score(labels, clusters))
