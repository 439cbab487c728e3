"""Uncertainty of an accuracy: bootstrap intervals, and paired tests of two classifiers on the same images."""

import numpy as np

RESAMPLES = 2000
LEVEL = 0.95


def pack(hits: np.ndarray) -> str:
    """Packs hits [n] bool, True for a correctly classified test image, as hexadecimal text."""
    return np.packbits(hits).tobytes().hex()


def unpack(text: str, count: int) -> np.ndarray:
    """Returns the hits [count] bool from the text of `pack`."""
    return np.unpackbits(np.frombuffer(bytes.fromhex(text), np.uint8), count=count).astype(bool)


def interval(values: np.ndarray) -> list[float]:
    """Returns the 95 % bootstrap interval [low, high] of the mean of values [n], one per test image (Efron, 1979).

    There are few distinct values, such as 0 and 1, or means of a few repeats. Their counts in a resample are
    multinomial, so no images need to be drawn. The seed is fixed.
    """
    distinct, counts = np.unique(values, return_counts=True)
    drawn = np.random.default_rng(0).multinomial(len(values), counts / len(values), RESAMPLES)
    tail = (1 - LEVEL) / 2
    return [float(x) for x in np.quantile(drawn @ distinct / len(values), [tail, 1 - tail])]


def compare(first: np.ndarray, second: np.ndarray) -> dict:
    """Compares two classifiers on the same images; `first` and `second` are hits [repeats, n] bool.

    Returns the `difference` of their accuracies, its paired bootstrap `interval`, and the `p_value` of McNemar's exact
    test. If there are several repeats, `p_value` is None.
    """
    import scipy.stats  # here, because training does not need it

    difference = first.mean(axis=0) - second.mean(axis=0)
    p_value = None
    if len(first) == 1:
        wins, losses = int(np.sum(first & ~second)), int(np.sum(second & ~first))
        p_value = float(scipy.stats.binomtest(wins, wins + losses).pvalue) if wins + losses else 1.0
    return {"difference": float(difference.mean()), "interval": interval(difference), "p_value": p_value}


def line(name: str, comparison: dict) -> str:
    """Returns a comparison as text: `name: +6.1 points [5.0, 7.2], p < 0.001`."""
    low, high = (100 * x for x in comparison["interval"])
    text = f"{name}: {100 * comparison['difference']:+.1f} points [{low:.1f}, {high:.1f}]"
    p = comparison["p_value"]
    return text if p is None else f"{text}, p < 0.001" if p < 0.001 else f"{text}, p = {p:.3f}"
