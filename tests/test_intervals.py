"""Bootstrap intervals and paired tests, against closed forms."""

import numpy as np
import pytest
import scipy.stats

from sit_jax.probes import intervals


def test_hits_survive_packing():
    hits = np.random.default_rng(0).random(1003) < 0.4
    np.testing.assert_array_equal(intervals.unpack(intervals.pack(hits), 1003), hits)


@pytest.mark.parametrize("share,count", [(0.4, 10_000), (0.97, 360)])
def test_interval_of_an_accuracy_is_that_of_the_binomial_distribution(share, count):
    """The quantiles agree to a twentieth of the width with 2,000 resamples."""
    hits = np.arange(count) < round(share * count)
    expected = scipy.stats.binom(count, hits.mean()).ppf([0.025, 0.975]) / count
    low, high = intervals.interval(hits)
    np.testing.assert_allclose([low, high], expected, atol=0.05 * (expected[1] - expected[0]))


def test_interval_of_values_that_do_not_vary_is_a_point():
    assert intervals.interval(np.full(20, 0.5)) == [0.5, 0.5]


def test_repeats_narrow_the_interval_by_what_they_average_out():
    """Compared with drawing images one by one, in 4,000 resamples."""
    rng = np.random.default_rng(0)
    values = (rng.random((3, 400)) < rng.random(400)).mean(axis=0)
    drawn = values[rng.integers(0, 400, (4000, 400))].mean(axis=1)
    np.testing.assert_allclose(intervals.interval(values), np.quantile(drawn, [0.025, 0.975]), atol=0.005)


def test_paired_test_counts_the_images_that_one_alone_tells_right():
    """By hand: 12 wins and 3 losses of 100 images; McNemar's exact p-value is 2 P(X <= 3), X ~ B(15, 1/2)."""
    first, second = np.zeros((1, 100), bool), np.zeros((1, 100), bool)
    first[0, :50] = second[0, :50] = True
    first[0, 50:62], second[0, 62:65] = True, True
    found = intervals.compare(first, second)
    assert found["difference"] == pytest.approx(0.09)
    assert found["p_value"] == pytest.approx(2 * scipy.stats.binom(15, 0.5).cdf(3))
    half = 1.96 * np.sqrt((0.15 - 0.09**2) / 100)
    np.testing.assert_allclose(found["interval"], [0.09 - half, 0.09 + half], atol=0.012)
    assert intervals.compare(first, first)["p_value"] == 1


def test_pairing_is_narrower_than_two_intervals():
    rng = np.random.default_rng(0)
    hits = rng.random((1, 5000)) < 0.4
    other = hits ^ (rng.random((1, 5000)) < 0.02)
    low, high = intervals.compare(hits, other)["interval"]
    alone = intervals.interval(hits[0])
    assert high - low < 0.5 * (alone[1] - alone[0])


def test_comparison_of_several_draws_of_labels_has_no_p_value():
    hits = np.random.default_rng(0).random((3, 50)) < 0.4
    found = intervals.compare(hits, ~hits)
    assert found["p_value"] is None
    assert intervals.line("a - b", found | {"interval": [-0.1, 0.25], "difference": 0.08}) == (
        "a - b: +8.0 points [-10.0, 25.0]"
    )
