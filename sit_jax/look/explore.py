"""What a collection shows: neighbours, a map, clusters, copies, look-alikes, outliers, as values for the page."""

import dataclasses
from typing import NamedTuple

import numpy as np
from jax.sharding import Mesh

from sit_jax.look.atlas import atlas
from sit_jax.look.collection import TOKENS, Collection, tiles
from sit_jax.probes import clusters as kmeans
from sit_jax.probes import duplicates, projection
from sit_jax.probes.surroundings import neighbours, outlier_scores

SHOWN = 2000  # images with a thumbnail that can be clicked
NEIGHBOURS = 10
SIDE = 64  # pixels of a thumbnail, at most
GALLERY = 24  # images of a cluster
PAIRS = 60  # pairs of copies, at most; the file of `sit-jax duplicates` has all
OUTLIERS = 30
LOOK_ALIKES = 24  # pairs
EXAMPLES = 10


class Group(NamedTuple):
    """A colouring of the map: its name, and the name of the group of each picture."""

    title: str
    names: tuple[str, ...]
    of: np.ndarray  # int64 [n], -1: none


@dataclasses.dataclass
class Tiles:
    """The pictures of the page: rows of the collection, each once, in the order in which they are asked for."""

    rows: list[int]

    def __post_init__(self) -> None:
        self.index = {row: i for i, row in enumerate(self.rows)}

    def of(self, row: int) -> int:
        """Returns the number of the tile of a row of the collection."""
        if row not in self.index:
            self.index[row] = len(self.rows)
            self.rows.append(row)
        return self.index[row]


def explore(collection: Collection, mesh: Mesh, method: str, seed: int, shown: int = SHOWN) -> dict:
    """Returns the values of all panels on the collection; `method` is a name of projection.METHODS.

    If there are more than `shown` images, the map and the neighbours are of `shown` images, drawn at random by the
    seed. Copies, outliers and clusters are of all.
    """
    count = len(collection)
    rows = np.sort(np.random.default_rng([seed, 6]).permutation(count)[:shown])
    pictures = Tiles(rows.tolist())
    compressed = kmeans.compress(collection.features)
    clusters = kmeans.cluster(compressed, kmeans.default_count(count))
    method = projection.choose(method, len(rows))
    groups = groupings(collection, clusters)
    copies = duplicates.find_copies(collection.small)
    values = {
        "counts": {"shown": len(rows), "encoded": count, "total": collection.total},
        "map": map_values(projection.project(compressed[rows], method), method, groups, rows),
        "clusters": cluster_values(clusters, groups[1:], pictures),
        "copies": copy_values(copies, pictures, count),
        "look_alikes": look_alike_values(collection.features, rows, copies, pictures, mesh),
        "outliers": outlier_values(outlier_scores(collection.features, mesh), pictures),
        "examples": np.unique(np.linspace(0, len(rows) - 1, min(EXAMPLES, len(rows))).round().astype(int)).tolist(),
    }
    order = np.array(pictures.rows)
    return values | {
        "neighbours": {token: neighbour_values(collection.token(token), order, rows, mesh) for token in TOKENS},
        "atlas": atlas(tiles(collection, order, SIDE)),
        "names": [collection.name(row) for row in pictures.rows],
    }


def groupings(collection: Collection, clusters: kmeans.Clusters) -> list[Group]:
    """Returns the colourings: clusters, folders unless they are the labels, and labels."""
    found = [Group("cluster", tuple(f"cluster {i + 1}" for i in range(clusters.number)), clusters.of)]
    if collection.folder_of is not None and not folders_are_labels(collection):
        found.append(Group("folder", collection.folders, collection.folder_of))
    if collection.label_of is not None:
        found.append(Group("label", collection.classes, collection.label_of))
    return found


def folders_are_labels(collection: Collection) -> bool:
    """Tells whether all images of a folder have the same label, as in class folders."""
    if collection.folder_of is None or collection.label_of is None:
        return False
    both = np.stack([collection.folder_of, collection.label_of])
    return len(np.unique(both, axis=1).T) == len(np.unique(collection.folder_of))


def map_values(places: np.ndarray, method: str, groups: list[Group], rows: np.ndarray) -> dict:
    """Returns the places of the shown images, and the colourings."""
    return {
        "method": method,
        "places": places.round(4).tolist(),
        "groups": [{"title": group.title, "names": group.names, "of": group.of[rows].tolist()} for group in groups],
    }


def neighbour_values(features: np.ndarray, tiles: np.ndarray, rows: np.ndarray, mesh: Mesh) -> dict:
    """Returns the tiles of the nearest shown images of each tile, and their cosine similarities.

    `tiles` are the rows of all tiles; the shown images, `rows`, come first.
    """
    near, similarity = neighbours(features, tiles, rows, NEIGHBOURS, mesh)
    return {
        "tiles": np.searchsorted(rows, near).tolist(),
        "similarity": [[round(float(one), 3) for one in row] for row in similarity],
    }


def cluster_values(clusters: kmeans.Clusters, known: list[Group], pictures: Tiles) -> list[dict]:
    """Returns the clusters, the largest first: size, central images, and how pure they are in `known` groupings."""
    found = []
    for which in range(clusters.number):
        rows = kmeans.central(clusters, which, GALLERY)
        members = np.flatnonzero(clusters.of == which)
        found.append(
            {
                "name": f"cluster {which + 1}",
                "size": len(members),
                "tiles": [pictures.of(row) for row in rows.tolist()],
                "purity": [line for group in known if (line := purity_line(group, members))],
            }
        )
    return found


def purity_line(group: Group, members: np.ndarray) -> str:
    """Returns what most of the members are, with their share and that in all images; empty if none has a group."""
    of = group.of[members]
    of = of[of >= 0]
    if not len(of):
        return ""
    name, share = kmeans.purity(of)
    everywhere = (group.of == name).sum() / (group.of >= 0).sum()
    return f"{share:.0%} {group.title} {group.names[name]} ({everywhere:.0%} of all)"


def copy_values(copies: duplicates.Copies, pictures: Tiles, count: int) -> dict:
    """Returns the first groups of copies, and how many there are."""
    found = duplicates.groups(copies, count)
    ends = list(zip(copies.first.tolist(), copies.second.tolist(), strict=True))
    likeness = dict(zip(ends, copies.correlation.tolist(), strict=True))
    mirrored = {pair for pair, is_mirrored in zip(ends, copies.mirrored, strict=True) if is_mirrored}
    shown = []
    for rows in found[:PAIRS]:
        members = set(rows.tolist())
        pairs = [pair for pair in ends if members.issuperset(pair)]
        shown.append(
            {
                "tiles": [pictures.of(int(row)) for row in rows[:GALLERY]],
                "size": len(rows),
                "likeness": round(float(min(likeness[pair] for pair in pairs)), 3),
                "mirrored": any(pair in mirrored for pair in pairs),
            }
        )
    return {"groups": len(found), "images": int(sum(map(len, found))), "shown": shown}


def look_alike_values(
    features: np.ndarray, rows: np.ndarray, copies: duplicates.Copies, pictures: Tiles, mesh: Mesh
) -> list[dict]:
    """Returns the pairs of shown images with the largest cosine similarity that are no copies."""
    known = set(zip(copies.first.tolist(), copies.second.tolist(), strict=True))
    near, similarity = neighbours(features, rows, rows, NEIGHBOURS, mesh)
    pairs: dict[tuple[int, int], float] = {}
    for i, j in np.ndindex(near.shape):
        pair = (min(int(rows[i]), int(near[i, j])), max(int(rows[i]), int(near[i, j])))
        if pair not in known:
            pairs[pair] = float(similarity[i, j])
    best = sorted(pairs, key=lambda pair: (-pairs[pair], pair))[:LOOK_ALIKES]
    return [{"tiles": [pictures.of(row) for row in pair], "similarity": round(pairs[pair], 3)} for pair in best]


def outlier_values(scores: np.ndarray, pictures: Tiles) -> list[dict]:
    """Returns the images farthest from their neighbours, the farthest first."""
    best = np.argsort(-scores, kind="stable")[: OUTLIERS if len(scores) > 1 else 0].tolist()
    return [{"tile": pictures.of(row), "distance": round(float(scores[row]), 3)} for row in best]
