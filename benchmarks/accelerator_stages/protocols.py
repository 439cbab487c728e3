"""Stage `learn`: k-NN and linear classifier of encoders, and of raw pixels by the same protocol."""

import functools
import pathlib
from collections.abc import Callable, Mapping

import jax
import ml_collections
import numpy as np
from jax.sharding import Mesh

from benchmarks.accelerator_stages.stage import Skip, Stage
from sit_jax.eval.data import Labelled
from sit_jax.eval.protocols import PROTOCOLS
from sit_jax.eval.protocols.protocol import Subject, Unit
from sit_jax.eval.restore import Restored, init_params
from sit_jax.parallel.mesh import make_mesh
from sit_jax.probes.features import Encode, make_encode
from sit_jax.probes.pixels import Pixels, make_pixels

Score = Callable[[], float]  # top-1 accuracy on the test images


def add_scores(stage: Stage, what: str, scores: Mapping[str, Score], note: str = "") -> None:
    """Adds the scores of features to the report."""
    for protocol, run in scores.items():
        work = functools.partial(lambda run: {"value": run(), "unit": "top-1", "note": note}, run)
        stage.attempt("learn", f"{protocol}, {what}", work, needs=2.0)


def of_encoder(restored: Restored, data: Labelled, params: dict) -> dict[str, Score]:
    """Returns the two protocols of sit_jax.evaluate with all labels; each computes the features once."""
    return scores_of(restored, data, params, make_encode(restored.config, restored.mesh))


def scores_of(restored: Restored, data: Labelled, params: dict, encode: Encode) -> dict[str, Score]:
    """Returns the two protocols on the features that `encode` computes with `params`."""
    unit = Unit(np.arange(len(data.train_labels)), 0, pathlib.Path())
    subject = Subject(restored, data, params, encode, "tokens")

    def top1(protocol: str) -> float:
        result = PROTOCOLS[protocol].score(subject, unit)
        assert result is not None  # score returns None only if a signal stops the training of a classifier
        return result["top1"]

    return {"k-NN": lambda: top1("knn"), "linear": lambda: top1("linear")}


def random_weights(config: ml_collections.ConfigDict) -> Restored:
    """Returns the encoder of a resolved configuration with its initial weights."""
    mesh = make_mesh(**config.mesh)
    with jax.set_mesh(mesh):
        params = jax.jit(lambda: init_params(config, with_heads=False))()
    return Restored(config, params, params, mesh, 0, "params")


def of_pixels(config: ml_collections.ConfigDict, data: Labelled, mesh: Mesh, side: int) -> dict[str, Score]:
    """Returns the two protocols on flattened pixels in [-1, 1] of images of `side` pixels."""
    size = config.data.image_size or config.model.image_size

    def checked(score: Score) -> Score:
        def run() -> float:
            if size % side:
                raise Skip(f"images of {size} px cannot be shrunk to {side} px by means of blocks")
            return score()

        return run

    encode = make_pixels(Pixels(f"{side} px", side, size // side), mesh)
    scores = scores_of(Restored(config, {}, {}, mesh, 0, "params"), data, {}, encode)
    return {protocol: checked(score) for protocol, score in scores.items()}
