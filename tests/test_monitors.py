"""Instruments without labels, against closed forms and explicit versions."""

import itertools

import numpy as np
import pytest

from sit_jax.model import losses
from sit_jax.probes import monitors


def rows(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape)


def test_contrastive_progress_is_0_at_chance_and_1_at_the_floor():
    chance, floor = np.log(127), losses.nt_xent_floor(128, 0.5)
    assert monitors.contrastive_progress(chance, 128, 0.5, 2) == 0
    assert monitors.contrastive_progress(floor, 128, 0.5, 2) == 1
    assert monitors.contrastive_progress((chance + floor) / 2, 128, 0.5, 2) == pytest.approx(0.5)
    # Equal embeddings are at chance and orthogonal ones at the floor, for any number of views.
    for views in (2, 4):
        equal, apart = np.ones((8 * views, 8)), np.eye(8).repeat(views, axis=0)
        for embedding, progress in ((equal, 0), (apart, 1)):
            loss = float(losses.nt_xent(np.float32(embedding), 0.3, views))
            assert monitors.contrastive_progress(loss, 8 * views, 0.3, views) == pytest.approx(progress, abs=1e-5)


def test_alignment_is_the_mean_over_pairs_of_views():
    x = rows(7, 3, 5)
    z = x / np.linalg.norm(x, axis=-1, keepdims=True)
    pairs = [np.sum((z[:, a] - z[:, b]) ** 2, axis=-1) for a, b in itertools.combinations(range(3), 2)]
    assert monitors.alignment(x) == pytest.approx(np.mean(pairs), rel=1e-9)
    assert monitors.alignment(np.ones((4, 2, 3))) == pytest.approx(0, abs=1e-12)
    assert monitors.alignment(np.eye(2)[None]) == pytest.approx(2)


def test_uniformity_by_hand():
    assert monitors.uniformity(np.ones((5, 3))) == pytest.approx(0, abs=1e-9)
    assert monitors.uniformity(np.eye(4)) == pytest.approx(-4)  # all squared distances are 2
    assert monitors.uniformity(np.array([[1.0, 0], [-3, 0]])) == pytest.approx(-8)


def test_negative_cosine_leaves_the_views_of_an_image_out():
    x = rows(6, 2, 4)
    z = x / np.linalg.norm(x, axis=-1, keepdims=True)
    pairs = [z[i, a] @ z[j, b] for i, j in itertools.permutations(range(6), 2) for a in range(2) for b in range(2)]
    assert monitors.negative_cosine(x) == pytest.approx(np.mean(pairs), rel=1e-9)
    assert monitors.negative_cosine(np.eye(3).repeat(2, axis=0).reshape(3, 2, 3)) == pytest.approx(0, abs=1e-12)


def test_token_std_is_1_for_directions_at_random_and_0_for_a_point():
    assert monitors.token_std(rows(20_000, 16)) == pytest.approx(1, abs=0.01)
    assert monitors.token_std(np.ones((10, 4)) * np.arange(1, 11)[:, None]) == pytest.approx(0, abs=1e-9)


def test_rank_me_of_known_spectra():
    assert monitors.rank_me(np.eye(8)) == pytest.approx(8, rel=1e-4)
    assert monitors.rank_me(np.ones((9, 4))) == pytest.approx(1, rel=1e-4)
    shares = np.array([0.5, 0.25, 0.25])
    expected = np.exp(-np.sum(shares * np.log(shares)))
    orthogonal = np.linalg.qr(rows(3, 3))[0]
    assert monitors.rank_me(4 * np.diag(shares) @ orthogonal) == pytest.approx(expected, rel=1e-4)


def test_lidar_counts_the_directions_that_tell_images_apart():
    """Images differ equally in three of ten directions, views differ slightly in all: the rank is three."""
    corners = np.array(list(itertools.product((-1.0, 1.0), repeat=3)))
    means = np.concatenate([corners, np.zeros((8, 7))], axis=1)
    noise = rows(8, 4000, 10) * 0.01
    x = means[:, None] + noise - noise.mean(axis=1, keepdims=True)
    assert monitors.lidar(x) == pytest.approx(3, rel=0.01)
    # Scaling a direction changes nothing, because the views are scaled too. RankMe would fall.
    x[..., 0] *= 20
    assert monitors.lidar(x) == pytest.approx(3, rel=0.1)


def test_shared_variance_is_the_share_that_was_put_in():
    """A common part of variance 1 and a separate part of variance 3: a quarter is shared."""
    common, own = rows(20_000, 1, 2), rows(20_000, 2, 2, seed=1)
    assert monitors.shared_variance(common + np.sqrt(3) * own) == pytest.approx(0.25, abs=0.02)
    assert monitors.shared_variance(rows(5, 1, 3).repeat(2, axis=1)) == pytest.approx(1)
    assert monitors.shared_variance(rows(20_000, 2, 2)) == pytest.approx(0, abs=0.02)


def test_kmeans_finds_clusters_that_are_there():
    labels = np.arange(60) % 3
    features = 10 * np.eye(3)[labels] + rows(60, 3)
    assert monitors.kmeans_nmi(features, labels) == pytest.approx(1)
    assert monitors.kmeans_nmi(rows(600, 3), np.arange(600) % 3) < 0.05
    # k-means looks only for the classes that the eight images have, not for all twenty.
    assert 0 <= monitors.kmeans_nmi(rows(8, 3), np.array([0, 0, 3, 3, 19, 19, 19, 7])) <= 1
