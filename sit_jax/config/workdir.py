"""What a work directory holds, compared with a configuration."""

import pathlib

import ml_collections

from sit_jax.common.errors import InputError
from sit_jax.config.saved import differing_keys, read_saved, to_json


def keep_products(config: ml_collections.ConfigDict, workdir: pathlib.Path) -> ml_collections.ConfigDict:
    """Returns the configuration with the products of the run in `workdir`, where there is one and they are left open.

    So a run continues with the same numbers on another processor, which would choose others.
    """
    saved = saved_run(workdir)
    if saved is None or config.model.products != "auto" or config.dtype != "auto":  # which products follow
        return config
    kept = ml_collections.ConfigDict(config.to_dict())
    kept.model.products = saved["model"]["products"]
    return kept


def saved_run(workdir: pathlib.Path) -> dict | None:
    """Returns the configuration of the run in `workdir` as JSON values, None where there is no checkpoint."""
    path = workdir / "config.json"
    if not path.exists() or not any((workdir / "checkpoints").glob("[0-9]*")):
        return None
    return read_saved(path)


def check_workdir(workdir: pathlib.Path, config: ml_collections.ConfigDict) -> None:
    """Raises InputError if the work directory holds a checkpoint of another configuration, with the differing keys."""
    saved = saved_run(workdir)
    differing = differing_keys(saved, to_json(config)) if saved else []
    if differing:
        raise InputError(
            f"{workdir} holds a run with another configuration ({'; '.join(differing)}); "
            "repeat its configuration to go on, or choose another --workdir"
        )
