"""The units of an evaluation: a protocol scores each encoder with each amount of labels in each repeat."""

import json
import pathlib

from sit_jax.common.console import say
from sit_jax.common.files import write_json
from sit_jax.config.computation import HOW
from sit_jax.config.saved import to_json
from sit_jax.eval.data import Labelled
from sit_jax.eval.protocols import PROTOCOLS
from sit_jax.eval.protocols.protocol import Subject, Unit
from sit_jax.eval.report import PIXELS, encoder_name
from sit_jax.eval.restore import Restored
from sit_jax.eval.settings import Settings
from sit_jax.probes.features import Encode, make_encode
from sit_jax.probes.labels import Amount, pick
from sit_jax.probes.pixels import baselines, make_pixels

VERSION = 5  # raise it when a protocol gives other numbers: stored results are then recomputed


def relevant_settings(restored: Restored, data: Labelled, settings: Settings) -> dict:
    """Returns all settings that determine the scores, except the amount of labels, as JSON values."""
    config = to_json(restored.config)
    return {
        "version": VERSION,
        "protocol": settings.protocol,
        "features": settings.features,
        "seed": settings.seed,
        "run_seed": config["seed"],
        "weights": restored.fingerprint(),
        "data": data.fingerprint,
        "model": {key: value for key, value in config["model"].items() if key not in (*HOW, "channels")},
        "dtype": config["dtype"],
        "settings": PROTOCOLS[settings.protocol].settings(config),
    }


def run_units(
    restored: Restored, data: Labelled, settings: Settings, folder: pathlib.Path
) -> dict[tuple[str, Amount, int], dict] | None:
    """Returns the result of each (encoder, amount of labels, repeat); None if a signal stopped it.

    `make_encoders` names the encoders. `folder` stores each finished result, which is not computed again.
    """
    results: dict[tuple[str, Amount, int], dict] = {}
    encoders = make_encoders(restored, settings)
    total = len(encoders) * len(settings.amounts) * settings.repeats
    for encoder, (params, encode) in encoders.items():
        subject = Subject(restored, data, params, encode, settings.features)
        for amount in settings.amounts:
            for repeat in range(settings.repeats):
                name = unit_name(encoder, str(amount), repeat)
                path = folder / f"{name}.json"
                if not path.exists():
                    done, what = len(results) + 1, encoder_name(encoder)
                    say(f"[{done}/{total}] {settings.protocol}, {what}, labels {amount}, repeat {repeat}")
                    rows = pick(data.train_labels, amount, settings.seed, repeat)
                    unit = Unit(rows, settings.seed + 1000 * repeat, folder / name)
                    result = PROTOCOLS[settings.protocol].score(subject, unit)
                    if result is None:
                        return None
                    write_json(path, result | {"num_train": len(rows)})
                results[encoder, amount, repeat] = json.loads(path.read_text())
    return results


def unit_name(encoder: str, amount: str, repeat: int) -> str:
    """Returns the name of the files of a unit; `amount` is an Amount as text."""
    return f"{encoder}-{amount}-{repeat}".replace(" ", "-")


def make_encoders(restored: Restored, settings: Settings) -> dict[str, tuple[dict, Encode]]:
    """Returns the subjects of an evaluation by name, as (weights, encode): the encoder and its baselines.

    `random` has the weights of step 0, unless the settings leave it out. The protocol decides on pixels.
    """
    config, mesh = restored.config, restored.mesh
    encode = make_encode(config, mesh, settings.features)
    encoders = {"pretrained": (restored.params, encode)}
    if settings.baseline:
        encoders["random"] = (restored.random_params, encode)
    largest = PROTOCOLS[settings.protocol].pixels(config)
    if largest:
        for pixels in baselines(config.model.image_size, largest):
            encoders[f"{PIXELS}{pixels.name}"] = ({}, make_pixels(pixels, mesh))
    return encoders
