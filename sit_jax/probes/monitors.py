"""How good features are, without labels: instruments that read tokens or embeddings alone, in float64."""

import math

import numpy as np

from sit_jax.model.losses import nt_xent_floor
from sit_jax.probes.knn import normalise

SMALL = 1e-12
RANK_EPSILON = 1e-7
LIDAR_DELTA = 1e-4


def contrastive_progress(loss: float, rows: int, temperature: float, views: int) -> float:
    """Returns how far NT-Xent has come, from 0 where all V = `rows` embeddings are equal to 1 at its floor.

    At 0 the loss is log(V - 1); the floor is that of equal positives and orthogonal negatives (losses.nt_xent_floor).
    V is above the number of `views`: two images at least.
    """
    chance = math.log(rows - 1)
    return (chance - loss) / (chance - nt_xent_floor(rows, temperature, views))


def unit(x: np.ndarray) -> np.ndarray:
    """Scales the last axis to unit length, float64."""
    return normalise(np.asarray(x, np.float64))


def alignment(x: np.ndarray) -> float:
    """Returns the mean squared distance of the views of an image, of unit vectors [n, m, E] (arXiv 2005.10242).

    0 is equal, 2 is orthogonal.
    """
    z = unit(x)
    count = z.shape[1]
    # Over the pairs of m unit vectors: the squared distances add up to m * m - |sum|^2.
    squared = (count**2 - np.sum(z.sum(axis=1) ** 2, axis=-1)) / (count * (count - 1) / 2)
    return float(squared.mean())


def uniformity(x: np.ndarray) -> float:
    """Returns log E exp(-2 |a - b|^2) over pairs of different rows, of unit vectors [N, E] (arXiv 2005.10242).

    0 is a single point; vectors spread over the sphere come near -4.
    """
    z = unit(x)
    cosine = (z @ z.T)[np.triu_indices(len(z), 1)]
    return float(np.log(np.mean(np.exp(-4 * (1 - cosine)))))


def negative_cosine(x: np.ndarray) -> float:
    """Returns the mean cosine of views of different images, [n, m, E]: 1 is a point, 0 a spread in all directions."""
    z = unit(x)
    sums = z.sum(axis=1)
    total, own = np.sum(sums.sum(axis=0) ** 2), np.sum(sums**2)
    return float((total - own) / (len(z) * (len(z) - 1) * z.shape[1] ** 2))


def token_std(x: np.ndarray) -> float:
    """Returns the standard deviation of unit vectors [N, D] over the rows, mean over D, times sqrt(D).

    1 is a spread in all directions, 0 a collapse to a point (arXiv 2011.10566, section 4.1).
    """
    z = unit(x)
    return float(z.std(axis=0).mean() * math.sqrt(z.shape[1]))


def rank_me(x: np.ndarray) -> float:
    """Returns the effective rank of features [N, D], not centred: 1 to min(N, D) (arXiv 2210.02885, equation 1)."""
    return effective_rank(np.linalg.svd(np.asarray(x, np.float64), compute_uv=False))


def lidar(x: np.ndarray) -> float:
    """Returns the effective rank of what tells images apart, [n, q, D]: 1 to min(n - 1, D) (LiDAR, arXiv 2312.04000).

    The eigenvalues are those of linear discriminant analysis with n images as classes and q views each.
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
    """Returns exp of the entropy of a spectrum [D] of numbers from 0: 1 to D (arXiv 2210.02885, equation 1)."""
    shares = spectrum / max(spectrum.sum(), SMALL) + RANK_EPSILON
    return float(np.exp(-np.sum(shares * np.log(shares))))


def shared_variance(x: np.ndarray) -> float:
    """Returns the share of the variance that the views of an image have in common, [n, m, D]: 0 to 1.

    The intraclass correlation of a one-way analysis of variance, summed over D (Shrout and Fleiss, 1979, ICC(1, 1)).
    """
    x = np.asarray(x, np.float64)
    images, views = x.shape[:2]
    means = x.mean(axis=1)
    between = views * np.sum((means - means.mean(axis=0)) ** 2) / (images - 1)
    within = np.sum((x - means[:, None]) ** 2) / (images * (views - 1))
    total = between + (views - 1) * within
    return float(max(0.0, (between - within) / total)) if total > SMALL else 1.0


def kmeans_nmi(features: np.ndarray, labels: np.ndarray) -> float:
    """Returns the normalised mutual information of labels [N] and as many clusters of features [N, D] as classes.

    k-means of scikit-learn on unit vectors, of three starts with a fixed seed.
    """
    from sklearn.cluster import KMeans
    from sklearn.metrics import normalized_mutual_info_score

    clusters = KMeans(len(np.unique(labels)), n_init=3, random_state=0).fit_predict(unit(features))
    return float(normalized_mutual_info_score(labels, clusters))
