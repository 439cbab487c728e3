"""Early checks: what is wrong with a configuration or a work directory is said in one line, before any compilation."""

import math
from typing import Any

import jax
import ml_collections

from sit_jax.common.errors import InputError
from sit_jax.config import computation as compute
from sit_jax.model.tasks import TASKS, tasks_on
from sit_jax.model.vit import SIZES
from sit_jax.views.corrupt import group_size

CHOICES = {
    "dtype": ("auto", "bfloat16", "float32"),
    "model.size": tuple(SIZES),
    "model.attention": ("auto", "xla", "cudnn"),
    "model.products": ("auto", "bfloat16", "float32"),
    "corrupt.drop.fill": ("noise", "zeros", "mean"),
    "model.projector_norm": ("none", "batch"),
    "model.stem": ("patches", "convolutions"),
    "loss.weighting": ("gradient", "closed_form"),
    "eval.knn": ("auto", "on", "off"),
}
# Ranges (low, high) with 0 <= low <= high <= 1, as shares of the image.
SHARES = (
    "views.area",
    *(f"corrupt.{name}.block" for name in ("grayscale", "blur", "recolour", "drop", "replace")),
    "corrupt.drop.fraction",
    "corrupt.replace.fraction",
)
RANGES = ("views.ratio", "corrupt.blur.kernel", "corrupt.blur.sigma")
POSITIVE = (
    "log_every",
    "eval_every",
    "checkpoint_every",
    "keep_latest",
    "loss.temperature",
    "model.embedding_size",
    "model.projector_layers",
    "eval.num_test",
    "eval.num_train",
    "eval.knn_k",
    "eval.knn_temperature",
    "optim.eps",
)
PROBABILITIES = (
    *("views.flip", "views.turned", "views.jitter", "views.grayscale", "views.solarize", "views.blur"),
    "corrupt.share",
    *(f"corrupt.{name}.probability" for name in ("grayscale", "blur", "recolour")),
    *("optim.b1", "optim.b2", "optim.ema", "model.drop_path"),
)
BELOW_ONE = ("optim.b1", "optim.b2", "optim.ema", "model.drop_path")
NOT_NEGATIVE = (
    "seed",
    "optim.log_var_rate",
    "corrupt.drop.noise_std",
    "keep_best",
    "optim.weight_decay",
    "optim.clip_norm",
    "optim.base_learning_rate",
)


def lookup(config: ml_collections.ConfigDict, name: str) -> Any:
    """Returns the value of a dotted key."""
    value = config
    for part in name.split("."):
        value = value[part]
    return value


def check_config(config: ml_collections.ConfigDict, num_devices: int, device: jax.Device | None = None) -> None:
    """Raises InputError for the first value that cannot work, before any data is read.

    `device` is one of the devices that the step is for; None: those of this machine.
    """
    for name, choices in CHOICES.items():
        if lookup(config, name) not in choices:
            raise InputError(f"{name}={lookup(config, name)} must be one of {', '.join(choices)}")
    for names, largest in ((SHARES, 1), (RANGES, math.inf)):
        for name in names:
            check_range(config, name, largest)
    for name in POSITIVE:
        if not lookup(config, name) > 0:
            raise InputError(f"{name}={lookup(config, name)} must be above 0")
    for name in NOT_NEGATIVE:
        if not lookup(config, name) >= 0:
            raise InputError(f"{name}={lookup(config, name)} must be 0 or more")
    for name in PROBABILITIES:
        value = lookup(config, name)
        if not 0 <= value <= 1 or (value == 1 and name in BELOW_ONE):
            raise InputError(f"{name}={value} must be from 0 to 1" + (", and not 1" if name in BELOW_ONE else ""))
    if not config.data.source:
        raise InputError("data.source is not set; give --config.data.source=folder:PATH, for one")
    for name in ("views.area", "views.ratio", "corrupt.blur.sigma"):
        if lookup(config, name)[0] <= 0:
            raise InputError(f"{name}={lookup(config, name)} must start above 0")
    check_model(config.model)
    check_stem(config.model)
    check_projector(config.model)
    compute.check(config, device or jax.devices()[0])
    if config.views.count < 2:
        raise InputError(f"views.count={config.views.count} must be at least 2: the contrastive task needs a positive")
    check_batch(config.batch_size, num_devices)
    check_microbatches(config.microbatches, config.batch_size, num_devices)
    check_weights(config.loss)
    check_weighting(config)


def check_range(config: ml_collections.ConfigDict, name: str, largest: float) -> None:
    """Raises InputError unless a value is a pair (low, high) with 0 <= low <= high <= largest."""
    value = tuple(lookup(config, name))
    if len(value) != 2 or not 0 <= value[0] <= value[1] <= largest:
        raise InputError(f"{name}={value} must be a range (low, high) within 0 and {largest}")


def check_model(model: ml_collections.ConfigDict) -> None:
    """Raises InputError if the patch does not divide the image."""
    size, patch = model.image_size, model.patch_size
    if patch < 1 or size < 8 or size % patch:
        raise InputError(
            f"model.image_size={size} must be at least 8 and divisible by model.patch_size={patch}; "
            f"{max(8, round(size / max(patch, 1)) * patch)} would do"
        )


def check_stem(model: ml_collections.ConfigDict) -> None:
    """Raises InputError if convolutions of stride 2 do not make a patch."""
    if model.stem == "convolutions" and (model.patch_size < 2 or model.patch_size & (model.patch_size - 1)):
        raise InputError(
            f"model.patch_size={model.patch_size} must be a power of two for model.stem=convolutions; "
            "choose 4, 8 or 16, or model.stem=patches"
        )


def check_projector(model: ml_collections.ConfigDict) -> None:
    """Raises InputError if the hidden layers of the contrastive head have no width."""
    if model.projector_width is not None and model.projector_width < 1:
        raise InputError(f"model.projector_width={model.projector_width} must be above 0")


def check_batch(batch_size: int, num_devices: int) -> None:
    """Raises InputError if the global batch cannot be shared out evenly, or holds no negatives."""
    if batch_size < 2:
        raise InputError(f"batch_size={batch_size} must be at least 2: the contrastive task needs another image")
    if batch_size % num_devices:
        below, above = batch_size // num_devices * num_devices, -(-batch_size // num_devices) * num_devices
        raise InputError(
            f"batch_size={batch_size} is not divisible by the {num_devices} devices; "
            f"use {above}" + (f" or {below}" if below else "")
        )


def check_microbatches(microbatches: int, batch_size: int, num_devices: int) -> None:
    """Raises InputError, with what is possible, unless each device cuts its rows into whole groups of donors."""
    rows, group = batch_size // num_devices, group_size(batch_size)
    possible = [n for n in range(1, rows + 1) if n == 1 or rows % (n * group) == 0]
    if microbatches not in possible:
        raise InputError(
            f"microbatches={microbatches} does not cut the {rows} images of a device into groups of {group}; "
            f"use one of {', '.join(map(str, possible))}"
        )


def check_weights(loss: ml_collections.ConfigDict) -> None:
    """Raises InputError unless each weight is "learned" or a number, and one task is on."""
    weights = loss.weights
    for task in TASKS:
        try:
            valid = weights[task] == "learned" or float(weights[task]) >= 0
        except ValueError:
            valid = False
        if not valid:
            raise InputError(f'loss.weights.{task}={weights[task]} must be "learned" or a number from 0')
    if not tasks_on(loss):
        raise InputError("loss.weights switches all three tasks off; leave one on")


def check_weighting(config: ml_collections.ConfigDict) -> None:
    """Raises InputError for an option of learned weights that would do nothing."""
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
    """Raises InputError for the first value of the sections `linear` and `finetune` that cannot work."""
    for name in ("linear.batch_size", "finetune.batch_size", "finetune.epochs", "eval.knn_k", "eval.knn_temperature"):
        if not lookup(config, name) > 0:
            raise InputError(f"{name}={lookup(config, name)} must be above 0")
    for name in ("linear.epochs", "linear.hidden"):
        if not lookup(config, name) >= 0:
            raise InputError(f"{name}={lookup(config, name)} must be 0 or more")
    for name in ("linear.held_out", "finetune.held_out", "finetune.drop_path"):
        if not 0 <= lookup(config, name) < 1:
            raise InputError(f"{name}={lookup(config, name)} must be from 0 to below 1")
    for name in ("linear.l2", "linear.learning_rates"):
        values = lookup(config, name)
        if not values or min(values) <= 0:
            raise InputError(f"{name}={tuple(values)} must be one number above 0 or more")
    for section in ("linear.augment", "finetune.augment"):
        for name in ("flip", "random_erase", "label_smoothing", "randaugment.probability"):
            if not 0 <= lookup(config, f"{section}.{name}") <= 1:
                raise InputError(f"{section}.{name}={lookup(config, f'{section}.{name}')} must be from 0 to 1")
        for name, largest in (("area", 1), ("ratio", math.inf)):
            check_range(config, f"{section}.{name}", largest)
            if lookup(config, f"{section}.{name}")[0] <= 0:
                raise InputError(f"{section}.{name}={lookup(config, f'{section}.{name}')} must start above 0")
    if config.linear.hidden and not config.linear.epochs:
        raise InputError("linear.hidden needs training: set linear.epochs above 0")
