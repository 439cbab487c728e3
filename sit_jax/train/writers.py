"""Optional writers of metrics beside `metrics.jsonl` and TensorBoard: the table WRITERS, for --log=NAME."""

import contextlib
import importlib.util
import json
import logging
import os
import pathlib
import time
import uuid
from collections.abc import Callable, Sequence
from typing import NamedTuple, Protocol

import jax
import ml_collections
import numpy as np

from sit_jax.common.console import warn
from sit_jax.common.errors import InputError
from sit_jax.common.files import write_json
from sit_jax.config.saved import flat, to_json

PROJECT = "sit_jax"  # the project or experiment of all runs
IDS = "log.json"  # in the work directory: the run of each writer, so that a resumed run continues it


class Writer(Protocol):
    """Writes the metrics of one run. Methods may raise anything: `Safe` turns it into one warning."""

    id: str  # of the run, with which a resumed run continues it

    def write(self, step: int, scalars: dict[str, float]) -> None:
        """Writes metrics by name; a resumed run may repeat steps."""

    def write_image(self, step: int, name: str, image: np.ndarray) -> None:
        """Writes a picture [H, W, 3] uint8."""

    def close(self, ended: bool) -> None:
        """Ends the session; `ended` tells whether it ended as planned, by its last step or a stop signal."""


class Wandb:
    """Weights & Biases; WANDB_MODE=offline writes into the work directory only."""

    def __init__(self, workdir: pathlib.Path, config: dict, run: str | None):
        import wandb

        self.id, self.image = run or uuid.uuid4().hex[:8], wandb.Image
        settings = wandb.Settings(console="off", silent=True)
        self.run = wandb.init(
            project=PROJECT,
            name=workdir.name,
            id=self.id,
            dir=workdir,
            config=config,
            resume="allow",
            settings=settings,
        )
        # Not its own step, which must not go back: a resumed run repeats steps.
        self.run.define_metric("*", step_metric="step")

    def write(self, step: int, scalars: dict[str, float]) -> None:
        """Writes metrics by name."""
        self.run.log({"step": step, **scalars})

    def write_image(self, step: int, name: str, image: np.ndarray) -> None:
        """Writes a picture [H, W, 3] uint8."""
        self.run.log({"step": step, name: self.image(image)})

    def close(self, ended: bool) -> None:
        """Ends the session."""
        self.run.finish(exit_code=0 if ended else 1)


class MLflow:
    """MLflow; without MLFLOW_TRACKING_URI, a database in the work directory."""

    def __init__(self, workdir: pathlib.Path, config: dict, run: str | None):
        from mlflow import MlflowClient
        from mlflow.entities import Metric, Param

        logging.getLogger("mlflow").setLevel(logging.WARNING)
        self.metric = Metric
        remote = os.environ.get("MLFLOW_TRACKING_URI")
        self.client = MlflowClient(remote or f"sqlite:///{workdir.absolute()}/mlflow.db")
        self.id = run or self._create(workdir, None if remote else (workdir.absolute() / "mlflow").as_uri())
        values = [Param(name, str(value)) for name, value in config.items()]
        if not run:
            self.client.log_batch(self.id, params=values)
        self.client.update_run(self.id, status="RUNNING")

    def _create(self, workdir: pathlib.Path, artifacts: str | None) -> str:
        found = self.client.get_experiment_by_name(PROJECT)
        experiment = found.experiment_id if found else self.client.create_experiment(PROJECT, artifacts)
        return self.client.create_run(experiment, run_name=workdir.name).info.run_id

    def write(self, step: int, scalars: dict[str, float]) -> None:
        """Writes metrics by name."""
        now = int(time.time() * 1000)
        self.client.log_batch(self.id, [self.metric(name, value, now, step) for name, value in scalars.items()])

    def write_image(self, step: int, name: str, image: np.ndarray) -> None:
        """Writes a picture [H, W, 3] uint8."""
        self.client.log_image(self.id, image, key=name, step=step)

    def close(self, ended: bool) -> None:
        """Ends the session."""
        self.client.set_terminated(self.id, status="FINISHED" if ended else "FAILED")


class Row(NamedTuple):
    """A kind of writer."""

    make: Callable[[pathlib.Path, dict, str | None], Writer]  # of the work directory, the flat configuration and a run
    package: str  # that it imports
    install: str  # what pip installs


WRITERS = {
    "wandb": Row(Wandb, "wandb", "wandb"),
    "mlflow": Row(MLflow, "mlflow", "mlflow-skinny sqlalchemy alembic"),
}


class Safe:
    """A writer that warns at its first error and then stays silent: the training continues."""

    def __init__(self, name: str, writer: Writer):
        self.name, self.writer, self.failed = name, writer, False

    def call(self, method: str, *args: object) -> None:
        """Calls a method of the writer, unless it has failed before."""
        if self.failed:
            return
        try:
            getattr(self.writer, method)(*args)
        except Exception as error:  # no network, a full disk, an old server, ...
            self.failed = True
            warn(f"--log={self.name}: cannot write ({one_line(error)}); the training continues without it")


def one_line(error: Exception) -> str:
    """Returns the message of an error on one line."""
    return " ".join(str(error).split())[:200] or type(error).__name__


def check_log(names: Sequence[str]) -> None:
    """Raises InputError for a name that is not in WRITERS, is given twice, or whose package is not installed."""
    for name in names:
        if name not in WRITERS:
            raise InputError(f"--log={name}: is unknown; known: {', '.join(WRITERS)}")
        if list(names).count(name) > 1:
            raise InputError(f"--log: {name} is given twice; keep one of them")
        if importlib.util.find_spec(WRITERS[name].package) is None:
            raise InputError(f"--log={name} needs its package; pip install {WRITERS[name].install}")


def open_writers(names: Sequence[str], workdir: pathlib.Path, config: ml_collections.ConfigDict) -> list[Safe]:
    """Opens the writers of a run, on the first host only; a writer that cannot be opened is left out with a warning."""
    found: list[Safe] = []
    runs = read_ids(workdir)
    for name in names if jax.process_index() == 0 else ():
        try:
            writer = WRITERS[name].make(workdir, flat(to_json(config)), runs.get(name))
        except Exception as error:
            warn(f"--log={name}: cannot be opened ({one_line(error)}); the training continues without it")
            continue
        runs[name] = writer.id
        found.append(Safe(name, writer))
    if found:
        with contextlib.suppress(OSError):
            write_json(workdir / IDS, runs)
    return found


def read_ids(workdir: pathlib.Path) -> dict[str, str]:
    """Returns the runs of the writers of a work directory, by name."""
    try:
        found = json.loads((workdir / IDS).read_text())
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}
