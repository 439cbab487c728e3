"""Compares the run in a work directory with a configuration."""

import pathlib

import ml_collections

from sit_jax.common.errors import InputError
from sit_jax.config.saved import differing_keys, read_saved, to_json


def keep_products(config: ml_collections.ConfigDict, workdir: pathlib.Path) -> ml_collections.ConfigDict:
    """Returns the configuration with `model.products` of the run in `workdir`, if there is a run and the key is open.

    So a run resumes with the same numbers on another processor, where "auto" may select another type.
    """
    saved = saved_run(workdir)
    if saved is None or config.model.products != "auto" or config.dtype != "auto":  # an explicit dtype sets products
        return config
    kept = ml_collections.ConfigDict(config.to_dict())
    kept.model.products = saved["model"]["products"]
    return kept


def saved_run(workdir: pathlib.Path) -> dict | None:
    """Returns the configuration of the run in `workdir` as JSON values; None if there is no checkpoint."""
    path = workdir / "config.json"
    if not path.exists() or not any((workdir / "checkpoints").glob("[0-9]*")):
        return None
    return read_saved(path)


def newest_step(workdir: pathlib.Path) -> int:
    """Returns the newest saved step of a work directory; -1 without any."""
    names = [path.name for path in (workdir / "checkpoints").glob("[0-9]*")]
    return max((int(name) for name in names if name.isdecimal()), default=-1)


def check_workdir(workdir: pathlib.Path, config: ml_collections.ConfigDict) -> None:
    """Raises InputError, with the differing keys, if the work directory holds a run with another configuration."""
    saved = saved_run(workdir)
    differing = differing_keys(saved, to_json(config)) if saved else []
    if differing:
        raise InputError(
            f"{workdir} holds a run with another configuration ({'; '.join(differing)}); "
            "repeat its configuration to resume, or choose another --workdir"
        )
