"""Early checks: wrong values are reported in one line with the remedy, before any compilation."""

import jax
import ml_collections

from sit_jax.common.errors import InputError
from sit_jax.config import computation
from sit_jax.config.presets import NO_FILE
from sit_jax.config.rules import EVALUATION, TRAINING, check_finite, check_values, corruption_rules
from sit_jax.model.tasks import TASKS, tasks_on
from sit_jax.views.corrupt import group_size


def check_config(config: ml_collections.ConfigDict, num_devices: int, device: jax.Device | None = None) -> None:
    """Raises InputError for the first invalid value; reads no data.

    `device` is a device that runs the step; None: the first device of this machine.
    """
    check_values(config, TRAINING | corruption_rules())
    check_values(config, {name: EVALUATION[name] for name in ("eval.knn_k", "eval.knn_temperature")})
    check_finite(config)
    if config.init == NO_FILE:
        raise InputError(":continue starts from public weights; add --config.init=FILE (docs/weights.md)")
    if not config.data.source:
        raise InputError("data.source is not set; set it, for example --config.data.source=folder:PATH")
    check_shown(config.data)
    check_model(config.model)
    check_stem(config.model)
    computation.check(config, device or jax.devices()[0])
    check_batch(config.batch_size, num_devices)
    check_microbatches(config.microbatches, config.batch_size, num_devices)
    check_weights(config.loss)
    check_weighting(config)


def check_model(model: ml_collections.ConfigDict) -> None:
    """Raises InputError if the image side is below 8 pixels or not divisible by the patch side."""
    size, patch = model.image_size, model.patch_size
    if patch < 1 or size < 8 or size % patch:
        raise InputError(
            f"model.image_size={size} must be at least 8 and divisible by model.patch_size={patch}; "
            f"use {max(8, round(size / max(patch, 1)) * patch)}"
        )


def check_shown(data: ml_collections.ConfigDict) -> None:
    """Raises InputError if a channel of the pictures does not exist, or if transparency has no channel of its own."""
    if data.shown is not None and max(data.shown) >= data.channels:
        raise InputError(
            f"data.shown={tuple(data.shown)} must be three channels from 0 to {data.channels - 1} (data.channels)"
        )
    if data.alpha and data.channels not in (2, 4):
        raise InputError(f"data.alpha needs data.channels=4 (2 for grey pictures), not {data.channels}")


def check_stem(model: ml_collections.ConfigDict) -> None:
    """Raises InputError if the stem is convolutions of stride 2 and the patch side is not 2, 4, 8, 16, ..."""
    if model.stem == "convolutions" and (model.patch_size < 2 or model.patch_size & (model.patch_size - 1)):
        raise InputError(
            f"model.patch_size={model.patch_size} must be a power of two for model.stem=convolutions; "
            "choose 4, 8 or 16, or model.stem=patches"
        )


def check_batch(batch_size: int, num_devices: int) -> None:
    """Raises InputError if the devices do not divide the global batch, or if it has no negatives."""
    if batch_size < 2:
        raise InputError(f"batch_size={batch_size} must be at least 2: the contrastive task needs another image")
    if batch_size % num_devices:
        below, above = batch_size // num_devices * num_devices, -(-batch_size // num_devices) * num_devices
        raise InputError(
            f"batch_size={batch_size} is not divisible by the {num_devices} devices; "
            f"use {above}" + (f" or {below}" if below else "")
        )


def check_microbatches(microbatches: int, batch_size: int, num_devices: int) -> None:
    """Raises InputError unless each device can split its rows into parts of whole donor groups; lists valid numbers."""
    rows, group, possible = *device_rows(batch_size, num_devices), possible_microbatches(batch_size, num_devices)
    if microbatches not in possible:
        raise InputError(
            f"microbatches={microbatches} does not cut the {rows} images of a device into groups of {group}; "
            f"use one of {', '.join(map(str, possible))}"
        )


def possible_microbatches(batch_size: int, num_devices: int) -> list[int]:
    """Returns the numbers of microbatches that cut the rows of a device into whole donor groups, ascending."""
    rows, group = device_rows(batch_size, num_devices)
    return [n for n in range(1, rows + 1) if n == 1 or rows % (n * group) == 0]


def device_rows(batch_size: int, num_devices: int) -> tuple[int, int]:
    """Returns (the rows of a device, the size of a donor group)."""
    return batch_size // num_devices, group_size(batch_size)


def check_weights(loss: ml_collections.ConfigDict) -> None:
    """Raises InputError unless each weight is "learned" or a number of 0 or more, and at least one task is on."""
    weights = loss.weights
    for task in TASKS:
        try:
            valid = weights[task] == "learned" or float(weights[task]) >= 0
        except ValueError:
            valid = False
        if not valid:
            raise InputError(f'loss.weights.{task}={weights[task]} must be "learned" or a number, 0 or more')
    if not tasks_on(loss):
        raise InputError("loss.weights switches all tasks off; leave one on")


def check_weighting(config: ml_collections.ConfigDict) -> None:
    """Raises InputError if an option of the learned weighting would have no effect."""
    loss, rate = config.loss, config.optim.log_var_rate
    given = [
        *([f"loss.weighting={loss.weighting}"] if loss.weighting != "gradient" else []),
        *(["loss.subtract_floor=True"] if loss.subtract_floor else []),
        *([f"optim.log_var_rate={rate}"] if rate != 1 else []),
    ]
    if given and "learned" not in loss.weights.values():
        raise InputError(f"{given[0]} is for learned weights, and all are fixed; add loss.weights.contrastive=learned")
    if loss.weighting == "closed_form" and rate != 1:
        raise InputError(f"optim.log_var_rate={rate} is for loss.weighting=gradient; leave it out")


def check_evaluation(config: ml_collections.ConfigDict) -> None:
    """Raises InputError for the first invalid value of an evaluation."""
    check_values(config, EVALUATION)
    check_finite(config)
    if config.linear.hidden and not config.linear.epochs:
        raise InputError("linear.hidden needs training: set linear.epochs above 0")
