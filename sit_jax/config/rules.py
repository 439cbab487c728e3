"""Valid values of a configuration: one rule per key."""

import math
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import ml_collections

from sit_jax.common.errors import InputError
from sit_jax.model.sizes import SIZES
from sit_jax.views.corrupt import OPERATIONS, Corruption


class Rule(NamedTuple):
    """A condition on a value."""

    holds: Callable[[Any], bool]
    text: str  # completes "key=value must be ..."


def one_of(*choices: str) -> Rule:
    """Returns the rule that a value is one of `choices`."""
    return Rule(lambda value: value in choices, f"one of {', '.join(choices)}")


def pair(largest: float, open_start: bool = False) -> Rule:
    """Returns the rule that a value is (low, high) with 0 <= low <= high <= largest; with `open_start`, low > 0."""

    def holds(value: Any) -> bool:
        low_high = tuple(value)
        return len(low_high) == 2 and 0 <= low_high[0] <= low_high[1] <= largest and (low_high[0] > 0 or not open_start)

    return Rule(holds, f"a range (low, high) within 0 and {largest}" + (", with low above 0" if open_start else ""))


ABOVE_0 = Rule(lambda value: value > 0, "above 0")
LARGEST_SEED = 2**32 - 1  # JAX leaves out the other bits
SEED = Rule(lambda value: 0 <= value <= LARGEST_SEED, f"0 or more, and at most {LARGEST_SEED}")
FROM_0 = Rule(lambda value: value >= 0, "0 or more")
SHARE = Rule(lambda value: 0 <= value <= 1, "from 0 to 1")
BELOW_1 = Rule(lambda value: 0 <= value < 1, "from 0 to 1, and not 1")
NUMBERS = Rule(lambda value: len(value) > 0 and min(value) > 0, "one or more numbers above 0")
ON_DISK = Rule(lambda value: value is None or "://" not in value, "a folder of this machine")
CROP = {"area": pair(1, open_start=True), "ratio": pair(math.inf, open_start=True), "flip": SHARE}

PIXELS: dict[str, Rule] = {
    "data.channels": ABOVE_0,
    "data.bits": Rule(lambda value: value in (None, 8, 16), "8 or 16"),
    "data.range": Rule(
        lambda value: value is None or (len(value) == 2 and value[0] < value[1]), "a range (low, high) with low < high"
    ),
    "data.shown": Rule(
        lambda value: value is None or (len(value) == 3 and min(value) >= 0), "three channels (red, green, blue)"
    ),
}
TRAINING: dict[str, Rule] = {
    **PIXELS,
    "dtype": one_of("auto", "bfloat16", "float32"),
    "seed": SEED,
    "log_every": ABOVE_0,
    "eval_every": ABOVE_0,
    "checkpoint_every": ABOVE_0,
    "keep_latest": ABOVE_0,
    "keep_best": FROM_0,
    "model.size": one_of(*SIZES),
    "model.attention": one_of("auto", "xla", "cudnn"),
    "model.products": one_of("auto", "bfloat16", "float32"),
    "model.stem": one_of("patches", "convolutions"),
    "model.norm_epsilon": FROM_0,
    "model.drop_path": BELOW_1,
    "model.embedding_size": ABOVE_0,
    "model.projector_layers": ABOVE_0,
    "model.projector_width": Rule(lambda value: value is None or value >= 1, "above 0"),
    "model.projector_norm": one_of("none", "batch"),
    "views.count": Rule(lambda value: value >= 2, "at least 2: the contrastive task needs a positive"),
    **{f"views.{name}": rule for name, rule in CROP.items()},
    **{f"views.{name}": SHARE for name in ("turned", "jitter", "grayscale", "solarize", "blur")},
    **{f"views.{name}": FROM_0 for name in ("brightness", "contrast", "saturation")},
    "views.hue": Rule(lambda value: 0 <= value <= 0.5, "from 0 to 0.5, half a turn"),
    "data.memory_limit": FROM_0,
    "data.cache_dir": ON_DISK,
    "data.image_size": Rule(lambda value: value is None or value >= 0, "0 or more"),
    "corrupt.share": SHARE,
    "loss.temperature": ABOVE_0,
    "loss.weighting": one_of("gradient", "closed_form"),
    "eval.knn": one_of("auto", "on", "off"),
    "eval.num_test": ABOVE_0,
    "eval.page": FROM_0,
    "eval.num_train": ABOVE_0,
    "optim.base_learning_rate": FROM_0,
    "optim.weight_decay": FROM_0,
    "optim.clip_norm": FROM_0,
    "optim.log_var_rate": FROM_0,
    "optim.b1": BELOW_1,
    "optim.b2": BELOW_1,
    "optim.ema": BELOW_1,
    "optim.eps": ABOVE_0,
}
EVALUATION: dict[str, Rule] = {
    "data.cache_dir": ON_DISK,
    "eval.knn_k": ABOVE_0,
    "eval.knn_temperature": ABOVE_0,
    "linear.batch_size": ABOVE_0,
    "linear.epochs": FROM_0,
    "linear.hidden": FROM_0,
    "linear.held_out": BELOW_1,
    "linear.l2": NUMBERS,
    "linear.learning_rates": NUMBERS,
    "finetune.batch_size": ABOVE_0,
    "finetune.epochs": ABOVE_0,
    "finetune.held_out": BELOW_1,
    "finetune.drop_path": BELOW_1,
    **{
        f"{section}.augment.{name}": rule
        for section in ("linear", "finetune")
        for name, rule in {
            **CROP,
            **dict.fromkeys(("random_erase", "label_smoothing", "randaugment.probability"), SHARE),
        }.items()
    },
}


def corruption_rules() -> dict[str, Rule]:
    """Returns the rules of all keys `corrupt.<name>.<key>`."""
    return {
        f"corrupt.{name}.{key}": rule_of(row, key, default)
        for name, row in OPERATIONS.items()
        for key, default in row.section.items()
    }


def rule_of(row: Corruption, key: str, default: Any) -> Rule:
    """Returns the rule of a key: text is in `row.choices`, a pair is a range, a number is 0 or more.

    A probability is at most 1.
    """
    if isinstance(default, str):
        return one_of(*row.choices[key])
    if isinstance(default, tuple):
        return pair(1 if key in ("block", "fraction") else math.inf, open_start=key in row.above_0)
    return SHARE if key == "probability" else FROM_0


def check_values(config: ml_collections.ConfigDict, rules: Mapping[str, Rule]) -> None:
    """Raises InputError for the first value that violates its rule."""
    for name, rule in rules.items():
        value = lookup(config, name)
        if not holds(rule, value):
            shown = tuple(value) if isinstance(value, list | tuple) else value
            raise InputError(f"{name}={shown} must be {rule.text}")


def holds(rule: Rule, value: Any) -> bool:
    """Returns whether a value satisfies its rule; a value of another type, such as text for a range, does not."""
    try:
        return rule.holds(value)
    except (TypeError, ValueError):
        return False


def check_finite(config: ml_collections.ConfigDict, prefix: str = "") -> None:
    """Raises InputError for the first number that is infinite or not a number."""
    for key, value in config.items():
        if isinstance(value, ml_collections.ConfigDict):
            check_finite(value, f"{prefix}{key}.")
            continue
        numbers = value if isinstance(value, list | tuple) else [value]
        if any(isinstance(number, float) and not math.isfinite(number) for number in numbers):
            raise InputError(f"{prefix}{key}={value} must be a finite number")


def lookup(config: ml_collections.ConfigDict, name: str) -> Any:
    """Returns the value of a dotted key."""
    value = config
    for part in name.split("."):
        value = value[part]
    return value
