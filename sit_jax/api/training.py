"""Pre-training from Python: `sit_jax.pretrain(data, workdir)`."""

import dataclasses
import json
import os
import pathlib
from typing import Any

import ml_collections
import numpy as np

from sit_jax.api.encoder import Encoder, load
from sit_jax.common.errors import InputError
from sit_jax.common.files import replacing
from sit_jax.config import machine, named
from sit_jax.config.wrong import check_known
from sit_jax.train.hours import check_hours
from sit_jax.train.loop import Options, train

ARRAY = "images.npz"  # in the work directory: an array that was given as data


@dataclasses.dataclass(frozen=True)
class PretrainingRun:
    """A run of `pretrain`."""

    workdir: pathlib.Path

    @property
    def config(self) -> dict:
        """The resolved configuration."""
        return json.loads((self.workdir / "config.json").read_text())

    @property
    def metrics(self) -> list[dict[str, float]]:
        """The lines of `metrics.jsonl` (docs/metrics.md)."""
        return [json.loads(line) for line in (self.workdir / "metrics.jsonl").read_text().splitlines()]

    def encoder(self, **options: Any) -> Encoder:
        """Returns the trained encoder; `options` are those of `load`."""
        return load(self.workdir, **options)


def pretrain(
    data: str | os.PathLike | np.ndarray,
    workdir: str | os.PathLike,
    config: str = "folder",
    *,
    hours: float | None = None,
    fit: bool = False,
    **overrides: Any,
) -> PretrainingRun:
    """Pre-trains an encoder without labels, and returns the finished run.

    `data` is a folder, a SOURCE (docs/data.md), or an array [n, H, W] or [n, H, W, c], which is stored in the work
    directory. `config` is the name or path of a configuration, with arguments after a colon. `overrides` change its
    keys, with `__` for the dot: `optim__base_learning_rate=1e-3`. `hours` and `fit` are --hours and --fit. The same
    call resumes a run that was stopped. While it runs, an interrupt (Ctrl-C) saves a checkpoint, then raises
    KeyboardInterrupt. The process is not restarted. Raises InputError for wrong input.
    """
    workdir = pathlib.Path(workdir).expanduser()
    source = stored(data, workdir) if isinstance(data, np.ndarray) else os.fspath(data)
    keys = {name.replace("__", "."): value for name, value in overrides.items()} | {"data.source": source}
    check_hours(hours, keys)

    def make(argument: str = "") -> ml_collections.ConfigDict:
        return changed(named.load_config(config, argument), keys)

    if not train(machine.settle(make(), workdir, make), workdir, Options(fit, hours)):
        raise KeyboardInterrupt(f"stopped and saved in {workdir}; the same call resumes")
    return PretrainingRun(workdir)


def stored(images: np.ndarray, workdir: pathlib.Path) -> str:
    """Stores an array in the work directory unless it is there, and returns its SOURCE string."""
    path = workdir / ARRAY
    if path.is_file():
        with np.load(path, allow_pickle=False) as file:
            if np.array_equal(file["images"], images):
                return f"npz:{path}"
        raise InputError(f"{workdir}: holds a run with other images; choose another workdir")
    with replacing(path) as temporary, temporary.open("wb") as file:
        np.savez(file, images=images)
    return f"npz:{path}"


def changed(config: ml_collections.ConfigDict, keys: dict[str, Any]) -> ml_collections.ConfigDict:
    """Returns a configuration with other values by dotted key; raises InputError for a wrong key or type."""
    config = ml_collections.ConfigDict(config)
    check_known(config, keys)
    try:
        config.update_from_flattened_dict(keys)
    except TypeError as error:
        raise InputError(" ".join(str(error).split())) from error
    return config
