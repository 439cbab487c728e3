"""Compares the run in a work directory with a configuration."""

import pathlib

import ml_collections

from sit_jax.common.errors import InputError
from sit_jax.config.saved import differing_keys, read_saved, to_json

LENGTH = {"steps", "epochs", "examples", "extensions"}
COUNTED = {"data.num_examples", "steps", "optim.warmup_steps"}  # what another number of images changes


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
    """Raises InputError, with the differing keys, if the work directory holds a run with another configuration.

    A finished run may be extended (see `config.length`). The source may be another place with the same images. Raises
    InputError as well if the source is the same and its images have changed.
    """
    saved = saved_run(workdir)
    if saved is None:
        return
    new = to_json(config)
    free = {"data.fingerprint"}
    if new["extensions"] == [*saved["extensions"], saved["steps"]]:
        free |= LENGTH
    fingerprints = saved["data"]["fingerprint"], new["data"]["fingerprint"]
    if None not in fingerprints and fingerprints[0] == fingerprints[1]:
        free |= {"data.source"}
    differing = [line for line in differing_keys(saved, new) if line.partition(":")[0] not in free]
    names = {line.partition(":")[0] for line in differing}
    # The number of images sets lengths that are given in epochs.
    if None not in fingerprints and fingerprints[0] != fingerprints[1] and names <= COUNTED:
        raise InputError(
            f"{config.data.source}: its images are no longer those that the run in {workdir} started with (names, "
            "sizes or content differ); restore them to resume, or choose another --workdir"
        )
    if differing:
        longer = "; a run can be made longer once it is finished" if names <= LENGTH else ""
        raise InputError(
            f"{workdir} holds a run with another configuration ({'; '.join(differing)}); "
            f"repeat its configuration to resume, or choose another --workdir{longer}"
        )
