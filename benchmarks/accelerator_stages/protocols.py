"""Stage `learn`, continued: k-NN and the linear classifier of encoders, and of raw pixels by the same protocol."""

import functools
import pathlib
from collections.abc import Callable, Mapping

import jax
import ml_collections
import numpy as np
from jax.sharding import Mesh

from benchmarks.accelerator_stages.stage import Skip, Stage
from sit_jax.eval.data import Labelled
from sit_jax.eval.knn import knn_votes
from sit_jax.eval.linear import linear_logits
from sit_jax.eval.protocols import make_unit
from sit_jax.eval.restore import Restored, init_params
from sit_jax.eval.scores import score
from sit_jax.mesh import make_mesh

Score = Callable[[], float]  # top-1 accuracy on the test images


def add_scores(stage: Stage, what: str, scores: Mapping[str, Score], note: str = "") -> None:
    """Adds the scores of features to the report."""
    for protocol, run in scores.items():
        work = functools.partial(lambda run: {"value": run(), "unit": "top-1", "note": note}, run)
        stage.attempt("learn", f"{protocol}, {what}", work, needs=2.0)


def of_encoder(restored: Restored, data: Labelled, params: dict) -> dict[str, Score]:
    """Returns the two protocols of sit_jax.evaluate on all labels; features are computed once for each."""
    rows = np.arange(len(data.train_labels))

    def top1(protocol: str) -> float:
        result = make_unit(restored, data, protocol, "tokens", params)(rows, 0, pathlib.Path())
        assert result is not None  # only trainings of classifiers are stopped by signals
        return result["top1"]

    return {"k-NN": lambda: top1("knn"), "linear": lambda: top1("linear")}


def random_weights(config: ml_collections.ConfigDict) -> Restored:
    """Returns the encoder of a resolved configuration as its training starts."""
    mesh = make_mesh(**config.mesh)
    with jax.set_mesh(mesh):
        params = jax.jit(lambda: init_params(config, with_heads=False))()
    return Restored(config, params, params, mesh, 0, "params")


def of_pixels(config: ml_collections.ConfigDict, data: Labelled, mesh: Mesh, side: int) -> dict[str, Score]:
    """Returns the two protocols on pixels from -1 to 1, laid end to end, of images of `side` pixels."""

    def features(images: np.ndarray) -> np.ndarray:
        size = images.shape[1]
        if size % side:
            raise Skip(f"images of {size} px cannot be shrunk to {side} px by means of blocks")
        block = size // side
        small = images.reshape(-1, side, block, side, block, 3).mean(axis=(2, 4), dtype=np.float32)
        return (small / 127.5 - 1).reshape(len(images), 1, -1)

    @functools.cache
    def both() -> tuple[np.ndarray, np.ndarray]:
        return features(data.train.gather(np.arange(len(data.train)))), features(
            data.test.gather(np.arange(len(data.test)))
        )

    def knn() -> float:
        train, test = both()
        k, temperature = config.eval.knn_k, config.eval.knn_temperature
        votes = knn_votes(train, data.train_labels, test, data.num_classes, (k,), temperature, mesh)[k]
        return score(votes, data.test_labels)["top1"]

    def linear() -> float:
        train, test = both()
        l2s, held_out = tuple(config.linear.l2), config.linear.held_out
        logits, _ = linear_logits(train, data.train_labels, test, data.num_classes, l2s, held_out, 0, mesh)
        return score(logits, data.test_labels)["top1"]

    return {"k-NN": knn, "linear": linear}
