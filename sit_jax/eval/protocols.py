"""k-NN, linear and fine-tuning of one encoder with one set of labels: from weights to scores."""

import functools
import hashlib
import json
import pathlib
from collections.abc import Callable

import numpy as np

from sit_jax.common.console import say
from sit_jax.common.files import write_json
from sit_jax.config.computation import HOW
from sit_jax.config.saved import to_json
from sit_jax.eval.data import Labelled
from sit_jax.eval.report import PIXELS, encoder_name
from sit_jax.eval.restore import Restored
from sit_jax.eval.train_classifier import classifier_config, train_classifier
from sit_jax.probes.features import Encode, extract, make_encode
from sit_jax.probes.knn import knn_votes
from sit_jax.probes.labels import Amount, pick
from sit_jax.probes.linear import linear_logits
from sit_jax.probes.pixels import baselines, make_pixels
from sit_jax.probes.scores import score

VERSION = 4  # raise it when a protocol gives other numbers: stored results are then computed anew
KS = (1, 5, 20, 200)
# The largest side of raw pixels, by protocol: a linear fit has a column for each value, and eight penalties to try.
LARGEST_PIXELS = {"knn": 32, "linear": 16}

Unit = Callable[[np.ndarray, int, pathlib.Path], dict | None]  # (rows with labels, seed, folder) -> result


def relevant_settings(restored: Restored, data: Labelled, protocol: str, features: str, seed: int) -> dict:
    """Returns all that the scores of a protocol depend on, beside the amount of labels, as JSON values."""
    config = to_json(restored.config)
    own = {"knn": {key: config["eval"][key] for key in ("knn_k", "knn_temperature")}}
    own |= {name: config[name] for name in ("linear", "finetune")}
    return {
        "version": VERSION,
        "protocol": protocol,
        "features": features,
        "seed": seed,
        "run_seed": config["seed"],
        "weights": restored.fingerprint(),
        "data": data.fingerprint,
        "model": {key: value for key, value in config["model"].items() if key not in HOW},
        "dtype": config["dtype"],
        "settings": own[protocol],
    }


def short_hash(values: object) -> str:
    """Returns a hash of JSON values, for the name of a file."""
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()[:10]


def make_unit(restored: Restored, data: Labelled, protocol: str, features: str, params: dict, encode: Encode) -> Unit:
    """Returns what scores `encode`, with `params`, by some of the labels; features are computed once, when needed."""
    config, mesh = restored.config, restored.mesh

    @functools.cache
    def cached_features() -> tuple[np.ndarray, np.ndarray]:
        train, test = (
            extract(encode, params, images.gather, len(images), config.batch_size // config.microbatches, mesh)
            for images in (data.train, data.test)
        )
        return train, test

    def knn(rows: np.ndarray, seed: int, folder: pathlib.Path) -> dict:
        del seed, folder
        train, test = cached_features()
        k, temperature = config.eval.knn_k, config.eval.knn_temperature
        labels = data.train_labels[rows]
        ks = tuple(sorted({*KS, k}))
        votes = knn_votes(train[rows], labels, test, data.num_classes, ks, temperature, mesh)
        scores = {k: score(vote, data.test_labels) for k, vote in votes.items()}
        by_k = {str(k): result["top1"] for k, result in scores.items()}
        return scores[k] | {"by_k": by_k, "hyperparameters": {"k": k, "temperature": temperature}}

    def linear(rows: np.ndarray, seed: int, folder: pathlib.Path) -> dict | None:
        section = config.linear
        if section.epochs:
            return classify(rows, seed, folder)
        train, test = cached_features()
        labels, l2s = data.train_labels[rows], tuple(section.l2)
        logits, chosen = linear_logits(train[rows], labels, test, data.num_classes, l2s, section.held_out, seed, mesh)
        return score(logits, data.test_labels) | {"hyperparameters": chosen}

    def classify(rows: np.ndarray, seed: int, folder: pathlib.Path) -> dict | None:
        run_config = classifier_config(config, protocol, features, seed)
        done = train_classifier(
            run_config, data.num_classes, params["encoder"], data.train.take(rows), data.test, folder, mesh
        )
        return None if done is None else score(done[0], data.test_labels) | {"hyperparameters": done[1]}

    return {"knn": knn, "linear": linear, "finetune": classify}[protocol]


def run_units(
    restored: Restored,
    data: Labelled,
    protocol: str,
    features: str,
    seed: int,
    amounts: list[Amount],
    repeats: int,
    baseline: bool,
    folder: pathlib.Path,
) -> dict[tuple[str, Amount, int], dict] | None:
    """Returns the result of each (encoder, amount of labels, repeat); None if a signal stopped it.

    The encoders are those of `make_encoders`. Each result is stored in `folder` when it is there, and not computed
    again.
    """
    results: dict[tuple[str, Amount, int], dict] = {}
    encoders = make_encoders(restored, protocol, features, baseline)
    total = len(encoders) * len(amounts) * repeats
    for encoder, (params, encode) in encoders.items():
        unit = make_unit(restored, data, protocol, features, params, encode)
        for amount in amounts:
            for repeat in range(repeats):
                name = f"{encoder}-{amount}-{repeat}".replace(" ", "-")
                path = folder / f"{name}.json"
                if not path.exists():
                    done, what = len(results) + 1, encoder_name(encoder)
                    say(f"[{done}/{total}] {protocol}, {what}, labels {amount}, repeat {repeat}")
                    rows = pick(data.train_labels, amount, seed, repeat)
                    result = unit(rows, seed + 1000 * repeat, folder / name)
                    if result is None:
                        return None
                    write_json(path, result | {"num_train": len(rows)})
                results[encoder, amount, repeat] = json.loads(path.read_text())
    return results


def make_encoders(restored: Restored, protocol: str, features: str, baseline: bool) -> dict[str, tuple[dict, Encode]]:
    """Returns what is scored, by name, as (weights, encode): the encoder, its random weights, and pixels.

    With `baseline`, `random` is there. Pixels are where features are computed once: there is nothing to train in them.
    """
    config, mesh = restored.config, restored.mesh
    encode = make_encode(config, mesh, features)
    encoders = {"pretrained": (restored.params, encode)}
    if baseline:
        encoders["random"] = (restored.random_params, encode)
    if protocol == "knn" or (protocol == "linear" and not config.linear.epochs):
        for pixels in baselines(config.model.image_size, LARGEST_PIXELS[protocol]):
            encoders[f"{PIXELS}{pixels.name}"] = ({}, make_pixels(pixels, mesh))
    return encoders
