"""Functions of collections: neighbours against brute force, planted copies, clusters, maps, outliers."""

import io
import math
import sys

import numpy as np
import pytest
from PIL import Image, ImageOps

from sit_jax.common.errors import InputError
from sit_jax.parallel.mesh import make_mesh
from sit_jax.probes import clusters, duplicates, projection
from sit_jax.probes.surroundings import NEAR, neighbours, outlier_scores


def photograph(seed, size=64):
    """A picture with large and small structures, as photographs have them."""
    rng = np.random.default_rng(seed)
    picture = np.zeros((size, size, 3))
    for side in (2, 4, 8, 16, 32):
        noise = Image.fromarray(rng.integers(0, 256, (side, side, 3), np.uint8))
        picture += np.asarray(noise.resize((size, size), Image.Resampling.BICUBIC), float)
    return Image.fromarray((picture / 5).astype(np.uint8))


def jpeg(picture, quality):
    file = io.BytesIO()
    picture.save(file, "JPEG", quality=quality)
    return Image.open(file)


CHANGES = {
    "resized": lambda picture: picture.resize((40, 40), Image.Resampling.BICUBIC),
    "recompressed": lambda picture: jpeg(picture, 25),
    "mirrored": ImageOps.mirror,
    "brighter": lambda picture: picture.point(lambda value: min(255, int(value * 1.2 + 10))),
}


def small(pictures):
    squares = [np.asarray(picture.resize((64, 64), Image.Resampling.BICUBIC)) for picture in pictures]
    return np.asarray(duplicates.shrink(np.stack(squares))).round().astype(np.uint8)


def pairs(found):
    return set(zip(found.first.tolist(), found.second.tolist(), strict=True))


def test_planted_copies_are_found_and_nothing_else():
    originals = [photograph(seed) for seed in range(80)]
    planted = [change(originals[i]) for i, change in enumerate(CHANGES.values())]
    found = duplicates.find_copies(small(originals + planted))
    assert pairs(found) == {(i, 80 + i) for i in range(4)}
    by_pair = dict(zip(pairs_in_order(found), found.mirrored, strict=True))
    assert [by_pair[i, 80 + i] for i in range(4)] == [False, False, True, False]
    assert (found.correlation >= duplicates.COPY).all() and (found.correlation <= 1).all()
    assert (np.diff(found.correlation) <= 0).all()


def pairs_in_order(found):
    return list(zip(found.first.tolist(), found.second.tolist(), strict=True))


def test_the_search_finds_what_a_comparison_of_all_pairs_finds():
    originals = [photograph(seed % 60) for seed in range(60)]
    pictures = small([*originals, *(CHANGES["recompressed"](one) for one in originals[:30])])
    vectors = duplicates.vectors(pictures).astype(np.float64)
    details = duplicates.detail_vectors(pictures).astype(np.float64)
    close = np.triu((vectors @ vectors.T >= duplicates.COPY) & (details @ details.T >= duplicates.DETAILS), 1)
    found = duplicates.find_copies(pictures)
    assert pairs(found) == set(zip(*(rows.tolist() for rows in np.nonzero(close)), strict=True))
    assert len(found.first) >= 30


def test_small_things_before_the_same_sky_are_no_copies():
    def sky(seed, row, column):
        shade = np.linspace(230, 20, 64)[:, None, None] + np.array([-40, 0, 40])
        picture = np.broadcast_to(shade, (64, 64, 3)).copy()
        picture[row : row + 6, column : column + 8] = np.random.default_rng(seed).integers(60, 180, 3)
        return Image.fromarray(picture.clip(0, 255).astype(np.uint8))

    pictures = [sky(0, 10, 10), sky(1, 40, 30), sky(2, 25, 45)]
    coarse = duplicates.vectors(small(pictures))
    assert (coarse @ coarse.T).min() > duplicates.COPY
    assert not pairs(duplicates.find_copies(small(pictures)))


def test_equal_and_plain_pictures():
    black, almost, white = (np.full((16, 16, 3), value, np.uint8) for value in (0, 2, 255))
    other = small([photograph(0)])[0]
    pictures = np.stack([black, other, white, black, almost, other, other])
    found = duplicates.find_copies(pictures)
    groups = [rows.tolist() for rows in duplicates.groups(found, len(pictures))]
    assert groups == [[0, 3, 4], [1, 5, 6]]
    many = duplicates.find_copies(np.repeat(other[None], 3000, axis=0))  # not each of 4 million pairs
    assert len(many.first) == 2999


@pytest.mark.parametrize("count", [1, 2, 3])
def test_few_pictures_have_no_copies(count):
    pictures = small([photograph(seed) for seed in range(count)])
    assert not pairs(duplicates.find_copies(pictures))
    assert duplicates.groups(duplicates.find_copies(pictures), count) == []


def test_candidates_without_copies():
    rng = np.random.default_rng(0)
    assert not pairs(duplicates.find_copies(rng.integers(0, 256, (40, 16, 16, 3)).astype(np.uint8)))


def test_neighbours_equal_brute_force():
    rng = np.random.default_rng(0)
    features = rng.normal(size=(300, 24)).astype(np.float32)
    rows, among = np.array([0, 7, 299, 150]), np.arange(0, 300, 2)
    near, similarity = neighbours(features, rows, among, 10, make_mesh())
    unit = features / np.linalg.norm(features, axis=1, keepdims=True)
    for row, found, values in zip(rows, near, similarity, strict=True):
        others = [other for other in among if other != row]
        expected = sorted(others, key=lambda other: -(unit[row] @ unit[other]))[:10]
        assert found.tolist() == expected
        np.testing.assert_allclose(values, [unit[row] @ unit[other] for other in expected], atol=1e-5)


def test_an_image_is_not_its_own_neighbour_even_among_equal_images():
    features = np.concatenate([np.ones((30, 4)), np.eye(4)]).astype(np.float32)
    near, _ = neighbours(features, np.arange(34), np.arange(34), 5, make_mesh())
    assert near.shape == (34, 5)
    assert not (near == np.arange(34)[:, None]).any()
    alone, _ = neighbours(features[:1], np.arange(1), np.arange(1), 5, make_mesh())
    assert alone.shape == (1, 0)


def test_outliers_are_the_mean_distance_to_the_neighbours():
    rng = np.random.default_rng(0)
    features = rng.normal(size=(60, 8)).astype(np.float32) * 0.1 + 1
    features[17] = -1
    scores = outlier_scores(features, make_mesh())
    unit = features / np.linalg.norm(features, axis=1, keepdims=True)
    distance = 1 - unit @ unit.T
    np.fill_diagonal(distance, math.inf)
    np.testing.assert_allclose(scores, np.sort(distance, axis=1)[:, :NEAR].mean(axis=1), atol=1e-5)
    assert scores.argmax() == 17
    assert outlier_scores(features[:1], make_mesh()).tolist() == [0.0]


def test_clusters_find_separate_groups_the_largest_first():
    rng = np.random.default_rng(0)
    of = np.repeat([0, 1, 2], [40, 90, 60])
    features = np.eye(8)[of] + rng.normal(size=(190, 8)) * 0.02
    found = clusters.cluster(clusters.compress(features), 3)
    assert found.number == 3
    assert [len(set(found.of[of == group].tolist())) for group in range(3)] == [1, 1, 1]
    assert np.bincount(found.of).tolist() == [90, 60, 40]
    central = clusters.central(found, 0, 5)
    assert set(of[central]) == {1} and (np.diff(found.distance[central]) >= 0).all()
    assert clusters.purity(of[found.of == 1]) == (2, 1.0)
    assert clusters.purity(np.array([1, 1, 1, 4])) == (1, 0.75)


def test_clusters_of_equal_or_few_images():
    assert clusters.cluster(clusters.compress(np.ones((20, 8))), 5).number == 1
    assert clusters.cluster(clusters.compress(np.eye(4)[:1]), 1).number == 1
    assert [clusters.default_count(count) for count in (1, 2, 10, 100, 10**6)] == [1, 1, 2, 7, clusters.MOST]


@pytest.mark.parametrize("method", ["tsne", "pca", pytest.param("umap", marks=pytest.mark.slow)])
def test_a_map_keeps_groups_together(method):
    if method == "umap":
        pytest.importorskip("umap")
    rng = np.random.default_rng(0)
    of = np.repeat([0, 1, 2], 30)
    places = projection.project((np.eye(3)[of] * 5 + rng.normal(size=(90, 3)) * 0.1).astype(np.float32), method)
    assert places.shape == (90, 2) and places.min() >= 0 and places.max() <= 1
    centres = np.stack([places[of == group].mean(axis=0) for group in range(3)])
    assert (np.linalg.norm(places[:, None] - centres, axis=2).argmin(axis=1) == of).all()


def test_few_images_have_a_map():
    assert projection.choose("tsne", 14) == "pca" and projection.choose("tsne", 15) == "tsne"
    for count in (1, 2, 3):
        places = projection.project(clusters.compress(np.eye(5)[:count]), "pca")
        assert places.shape == (count, 2) and np.isfinite(places).all()


def test_without_umap_the_package_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "umap", None)
    with pytest.raises(InputError, match="pip install umap-learn"):
        projection.load_umap()
