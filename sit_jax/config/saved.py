"""The configuration of a run as JSON: reading, writing, comparing."""

import functools
import json
import pathlib

import ml_collections

from sit_jax.common.errors import InputError
from sit_jax.views.corrupt import OPERATIONS

# Keys that may change when a run resumes: they change the result at most by rounding.
RESUMABLE = (
    *(
        "log_every",
        "eval_every",
        "checkpoint_every",
        "keep_latest",
        "keep_best",
        "mesh.",
        "microbatches",
        "model.attention",
        "model.remat",
        "model.unroll",
        "model.halves",
        "eval.",
        "linear.",
        "finetune.",
    ),
    *("machine", "data.memory_limit", "data.cache_dir", "data.skip_unreadable", "data.shown"),
)


# Behaviour of runs that were saved before these keys existed.
FORMER: dict[str, object] = {
    "machine": "",
    "init": "",
    "init_hash": "",
    "extensions": [],
    "data.fingerprint": None,
    "data.channels": 3,
    "data.bits": 8,
    "data.range": None,
    "data.alpha": False,
    "data.shown": None,
    "views.count": 2,
    "views.jitter": 1.0,
    "views.blur": 0.0,
    "views.turned": 0.75,
    "views.share_rotation": False,
    "corrupt.share": 1.0,
    "corrupt.drop.noise_std": 1.0,
    "model.channels": 3,
    "model.norm_epsilon": 1e-6,
    "model.stem": "patches",
    "model.projector_width": None,
    "model.projector_norm": "none",
    "loss.weighting": "gradient",
    "loss.subtract_floor": False,
    "optim.log_var_rate": 1.0,
}


def read_saved(path: pathlib.Path) -> dict:
    """Returns the configuration of a run from its `config.json`; missing keys get the values in FORMER.

    Raises InputError if the file is damaged or holds something else.
    """
    try:
        saved = json.loads(path.read_text())
        for name, value in FORMER.items():
            *sections, key = name.split(".")
            functools.reduce(dict.__getitem__, sections, saved).setdefault(key, value)
        saved["model"].setdefault("products", saved["dtype"])
        for name, row in OPERATIONS.items():  # a corruption that the run did not have
            saved["corrupt"].setdefault(name, json.loads(json.dumps(row.section | row.off())))
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        reason = "it is no configuration" if isinstance(error, TypeError | AttributeError | KeyError) else error
        raise InputError(f"{path}: is damaged ({reason}); restore it from a copy") from error
    return saved


def to_json(config: ml_collections.ConfigDict) -> dict:
    """Returns a configuration as JSON values; tuples become lists."""
    return json.loads(config.to_json_best_effort())


def flat(config: dict, prefix: str = "") -> dict[str, object]:
    """Returns a nested configuration with dotted keys."""
    found: dict[str, object] = {}
    for key, value in config.items():
        found |= flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}": value}
    return found


def differing_keys(old: dict, new: dict, prefix: str = "") -> list[str]:
    """Lists `key: old -> new` for each differing key of two JSON configurations, except the RESUMABLE keys."""
    lines = []
    for key in sorted(old.keys() | new.keys()):
        name, a, b = f"{prefix}{key}", old.get(key), new.get(key)
        if isinstance(a, dict) and isinstance(b, dict):
            lines += differing_keys(a, b, f"{name}.")
        elif a != b and not name.startswith(RESUMABLE):
            lines.append(f"{name}: {a} -> {b}")
    return lines
