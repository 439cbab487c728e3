"""Pictures that occur twice: resized, compressed again, brightened or mirrored copies.

Two pictures are copies of each other if their SIDE x SIDE versions have a correlation of at least COPY, and the details
of these versions one of at least DETAILS, as they are or with one of them mirrored. Without the details, two ships at
the same horizon would be copies.
"""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from sit_jax.probes.knn import normalise

SIDE = 16  # pixels; smaller details change with the size and the compression
COPY = 0.93  # correlation; docs/look.md has measurements
DETAILS = 0.78  # correlation of what the mean of the AROUND x AROUND pixels around each pixel leaves
AROUND = 5
COMPONENTS = 12  # of the search; fewer give more candidates, and more make the trees slower
FITTED = 20_000  # pictures, at most, that determine the components
CHECKED = 100_000  # candidates at a time
Both = tuple[np.ndarray, np.ndarray]
FLAT = 1e-3  # standard deviation of values from 0 to 1, below which a picture is of one colour


class Copies(NamedTuple):
    """Pairs of pictures that show the same, the most similar first."""

    first: np.ndarray  # rows, int64 [m]; smaller than `second`
    second: np.ndarray  # rows, int64 [m]
    correlation: np.ndarray  # float32 [m], COPY to 1
    mirrored: np.ndarray  # bool [m]: whether the mirrored picture fits better


@jax.jit
def shrink(images: jax.Array) -> jax.Array:
    """Returns images [n, H, W, 3] of any type as float32 [n, SIDE, SIDE, 3] with the same values."""
    shape = (len(images), SIDE, SIDE, images.shape[-1])
    return jax.image.resize(images.astype(jnp.float32), shape, "linear", antialias=True)


def find_copies(small: np.ndarray) -> Copies:
    """Finds all pairs of copies among pictures [n, SIDE, SIDE, 3] with values from 0 to 255.

    Pictures of one colour have no details to compare: they are copies of each other if the colour is the same within
    one per cent of the range.
    """
    # Equal pictures stand for each other: among 10,000 equal ones there are 50 million pairs.
    _, kept, twins = np.unique(small.reshape(len(small), -1), axis=0, return_index=True, return_inverse=True)
    own = kept[twins.reshape(-1)]
    equal = np.flatnonzero(own != np.arange(len(small)))
    found = find_different(small[kept])
    ends = np.sort(np.stack([kept[found.first], kept[found.second]]), axis=0)
    return join([Copies(own[equal], equal, *certain(len(equal))), found._replace(first=ends[0], second=ends[1])])


def certain(count: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns the correlation and the orientation of `count` pairs of equal pictures."""
    return np.ones(count, np.float32), np.zeros(count, bool)


def find_different(small: np.ndarray) -> Copies:
    """Finds all pairs of copies among different pictures; see `find_copies`."""
    from sklearn.decomposition import PCA

    flat = small.std(axis=(1, 2)).max(axis=1) < FLAT * 255
    rows = np.flatnonzero(~flat)
    if len(rows) < 2:
        return same_colours(small, np.flatnonzero(flat))
    mirror = small[rows][:, :, ::-1]
    plain, mirrored = vectors(small[rows]), vectors(mirror)
    sample = np.random.default_rng(0).permutation(len(rows))[: FITTED // 2]
    count = min(COMPONENTS, len(sample), plain.shape[1])
    components = PCA(count, random_state=0).fit(np.concatenate([plain[sample], mirrored[sample]]))
    projected = components.transform(plain)
    parts = [
        checked(candidates(projected, projected, same=True), (plain, plain), (small[rows], small[rows])),
        checked(candidates(projected, components.transform(mirrored)), (plain, mirrored), (small[rows], mirror)),
    ]
    parts[1] = parts[1]._replace(mirrored=~parts[1].mirrored)
    found = [Copies(rows[part.first], rows[part.second], *part[2:]) for part in parts]
    return join([*found, same_colours(small, np.flatnonzero(flat))])


def vectors(small: np.ndarray) -> np.ndarray:
    """Returns pictures [n, h, w, 3] as vectors of unit length, float32 [n, F], without the mean of each channel.

    With their mean colours, all small things before a blue sky would be alike.
    """
    return as_rows(small.astype(np.float32) - small.mean(axis=(1, 2), keepdims=True, dtype=np.float32))


def detail_vectors(small: np.ndarray) -> np.ndarray:
    """Returns the details of pictures [n, h, w, 3] as vectors of unit length, float32 [n, F]; a shade has none."""
    from scipy.ndimage import uniform_filter

    pictures, edge = small.astype(np.float32), AROUND // 2
    details = pictures - uniform_filter(pictures, (0, AROUND, AROUND, 0))
    return as_rows(details[:, edge:-edge, edge:-edge])


def as_rows(pictures: np.ndarray) -> np.ndarray:
    """Returns pictures [n, h, w, 3], n 0 or more, as rows of unit length [n, F]."""
    return normalise(pictures.reshape(len(pictures), math.prod(pictures.shape[1:])))


def candidates(first: np.ndarray, second: np.ndarray, same: bool = False) -> np.ndarray:
    """Returns the pairs of rows, int64 [m, 2], whose projections are near enough for copies.

    A projection shortens distances, so no copy is missed. `same` tells that both are the same pictures.
    """
    from scipy.spatial import cKDTree

    radius = np.sqrt(2 * (1 - COPY))
    tree = cKDTree(first)
    if same:
        return tree.query_pairs(radius, output_type="ndarray").astype(np.int64)
    found = tree.sparse_distance_matrix(cKDTree(second), radius, output_type="ndarray")
    pairs = np.stack([found["i"], found["j"]], axis=1).astype(np.int64)
    return pairs[pairs[:, 0] < pairs[:, 1]]


def checked(pairs: np.ndarray, of: Both, pictures: Both) -> Copies:
    """Returns the candidates `pairs` that are copies, as not mirrored: rows of the first and of the second of `of`.

    `of` are the vectors of all `pictures`.
    """
    none = np.zeros(0, np.int64)
    found = [Copies(none, none, *certain(0))]
    for start in range(0, len(pairs), CHECKED):
        first, second = pairs[start : start + CHECKED].T
        correlation = np.einsum("nf,nf->n", of[0][first], of[1][second])
        near = correlation >= COPY
        first, second, correlation = first[near], second[near], correlation[near]
        details = (detail_vectors(picture[rows]) for picture, rows in zip(pictures, (first, second), strict=True))
        kept = np.einsum("nf,nf->n", *details) >= DETAILS
        found.append(Copies(first[kept], second[kept], np.minimum(correlation[kept], 1), np.zeros(kept.sum(), bool)))
    first, second, correlation, mirrored = (np.concatenate(values) for values in zip(*found, strict=True))
    return Copies(first, second, correlation, mirrored)


def same_colours(small: np.ndarray, rows: np.ndarray) -> Copies:
    """Returns the pairs of pictures of one colour, at `rows`, whose colours are equal within one per cent."""
    from scipy.spatial import cKDTree

    pairs = np.zeros((0, 2), np.int64)
    if len(rows) > 1:
        colours = small[rows].mean(axis=(1, 2))
        pairs = rows[cKDTree(colours).query_pairs(2.55, p=np.inf, output_type="ndarray").astype(np.int64)]
    first, second = np.sort(pairs, axis=1).T
    return Copies(first, second, *certain(len(pairs)))


def join(parts: list[Copies]) -> Copies:
    """Returns the pairs of all parts, each pair once with its larger correlation, the most similar first."""
    first, second, correlation, mirrored = (np.concatenate(values) for values in zip(*parts, strict=True))
    order = np.lexsort((second, first, -correlation))
    _, kept = np.unique(np.stack([first, second], axis=1)[order], axis=0, return_index=True)
    order = order[np.sort(kept)]
    return Copies(first[order], second[order], correlation[order], mirrored[order])


def groups(copies: Copies, count: int) -> list[np.ndarray]:
    """Returns the rows of each group of pictures that copies connect, the largest group first; `count` pictures."""
    from scipy.sparse import coo_matrix
    from scipy.sparse.csgraph import connected_components

    edges = coo_matrix((np.ones(len(copies.first), bool), (copies.first, copies.second)), (count, count))
    _, names = connected_components(edges, directed=False)
    paired = np.unique(np.concatenate([copies.first, copies.second]))
    found = [paired[names[paired] == name] for name in np.unique(names[paired])] if len(paired) else []
    return sorted(found, key=lambda rows: (-len(rows), rows[0]))
