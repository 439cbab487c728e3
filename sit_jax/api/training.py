"""Pre-training from Python: `sit_jax.pretrain(data, workdir)`."""

import dataclasses
import json
import os
import pathlib
from collections.abc import Sequence
from typing import Any

import ml_collections
import numpy as np

from sit_jax.api.encoder import Encoder, load
from sit_jax.api.images import quantised
from sit_jax.common.errors import InputError
from sit_jax.common.files import check_local, replacing
from sit_jax.common.quiet import quiet
from sit_jax.config import machine, named
from sit_jax.config.wrong import changed
from sit_jax.look.report import report_after_training
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
    config: str | os.PathLike = "folder",
    *,
    hours: float | None = None,
    fit: bool = False,
    log: Sequence[str] = (),
    **overrides: Any,
) -> PretrainingRun:
    """Pre-trains an encoder without labels, and returns the finished run.

    `data` is a folder, a SOURCE (docs/data.md), or an array [n, H, W] or [n, H, W, c] of unsigned integers or of floats
    in [0, 1], which is stored in the work directory. `config` is the name or path of a configuration, with arguments
    after a colon. `overrides` change its keys, with `__` for the dot: `optim__base_learning_rate=1e-3`. `hours`, `fit`
    and `log`, a list of names, are --hours, --fit and --log. The same call resumes a run that was stopped. From
    the first step on, an interrupt (Ctrl-C) saves a checkpoint, then raises KeyboardInterrupt. The process is not
    restarted. Raises InputError for wrong input.
    """
    check_local("workdir", workdir)
    workdir = pathlib.Path(workdir).expanduser()
    array = None if isinstance(data, str | os.PathLike) else as_images(data)
    source = f"npz:{workdir / ARRAY}" if array is not None else os.fspath(data)  # type: ignore[arg-type]
    keys = {name.replace("__", "."): value for name, value in overrides.items()} | {"data.source": source}
    check_hours(as_hours(hours), keys)

    def make(argument: str = "") -> ml_collections.ConfigDict:
        return changed(named.load_config(os.fspath(config), argument), keys)

    make()  # raises before anything is written
    if array is not None:
        store(array, workdir)
    settled = machine.settle(make(), workdir, make)
    with quiet():
        if not train(settled, workdir, Options(fit, hours, log=tuple(log))):
            raise KeyboardInterrupt(f"stopped and saved in {workdir}; the same call resumes")
        report_after_training(workdir, settled.eval.page)
    return PretrainingRun(workdir)


def as_hours(hours: object) -> float | None:
    """Returns `hours` as a number; raises InputError if it is none."""
    if hours is None or isinstance(hours, int | float):
        return hours
    raise InputError(f"hours={hours!r} must be a number above 0, such as hours=2")


def as_images(data: object) -> np.ndarray:
    """Returns data as an array of unsigned integers; raises InputError for what is no array of images."""
    images = np.asarray(data) if hasattr(data, "__array__") else np.empty(0, object)
    if images.dtype == object or images.ndim not in (3, 4):
        raise InputError(
            f"data of type {type(data).__name__} is no data set; give a folder, a SOURCE, or an array [n, H, W, c]"
        )
    return quantised(images, "data", np.dtype(np.uint8)) if images.dtype.kind == "f" else images


def store(images: np.ndarray, workdir: pathlib.Path) -> None:
    """Stores an array in the work directory unless it is there; raises InputError if another is there."""
    path = workdir / ARRAY
    if path.is_file():
        with np.load(path, allow_pickle=False) as file:
            if np.array_equal(file["images"], images):
                return
        raise InputError(f"{workdir}: holds a run with other images; choose another workdir")
    with replacing(path) as temporary, temporary.open("wb") as file:
        np.savez(file, images=images)
