"""Maps of features in two dimensions: the table METHODS."""

import warnings
from collections.abc import Callable

import numpy as np

from sit_jax.common.errors import InputError

FEWEST = 15  # images of a t-SNE or UMAP; fewer are all neighbours of each other
PERPLEXITY = 30  # of t-SNE: about the number of neighbours that matter


def pca(compressed: np.ndarray) -> np.ndarray:
    """Returns the first two principal components."""
    missing = max(0, 2 - compressed.shape[1])
    return np.pad(compressed[:, :2], ((0, 0), (0, missing)))


def tsne(compressed: np.ndarray) -> np.ndarray:
    """Returns a t-SNE (van der Maaten and Hinton, 2008) by scikit-learn."""
    from sklearn.manifold import TSNE
    from threadpoolctl import threadpool_limits

    perplexity = min(PERPLEXITY, (len(compressed) - 1) / 3)
    with threadpool_limits(1):  # its threads wait for each other at each of 1000 steps: on busy cores, 7 times longer
        return TSNE(perplexity=perplexity, init="pca", random_state=0).fit_transform(compressed)


def umap(compressed: np.ndarray) -> np.ndarray:
    """Returns a UMAP (arXiv 1802.03426); raises InputError without umap-learn."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of numba, and of the single thread that a seed implies
        return load_umap()(random_state=0, n_jobs=1).fit_transform(compressed)


def load_umap() -> Callable:
    """Returns the class UMAP; raises InputError without umap-learn."""
    try:
        from umap import UMAP
    except ImportError as error:
        raise InputError("--map=umap needs a package; pip install umap-learn, or use --map=tsne") from error
    return UMAP


METHODS: dict[str, Callable[[np.ndarray], np.ndarray]] = {"tsne": tsne, "umap": umap, "pca": pca}


def choose(method: str, images: int) -> str:
    """Returns the method for a number of images: `pca` for a few, because the others have nothing to arrange."""
    return method if images >= FEWEST else "pca"


def project(compressed: np.ndarray, method: str) -> np.ndarray:
    """Returns places [n, 2] from 0 to 1, both axes in the same scale, of the components of `clusters.compress`."""
    places = METHODS[method](compressed).astype(np.float64)
    low, high = places.min(axis=0), places.max(axis=0)
    return (places - (low + high) / 2) / max((high - low).max(), 1e-12) + 0.5
