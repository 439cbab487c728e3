"""The training step of sit_jax, compiled and fed as in the training loop, for timing."""

import time
from collections.abc import Iterator

import jax
import ml_collections
import numpy as np

from benchmarks.equality import write_exchange
from benchmarks.images import endless, load_images
from sit_jax.common import commands
from sit_jax.common.errors import InputError
from sit_jax.config import checks, resolve
from sit_jax.config.saved import to_json
from sit_jax.parallel.mesh import local_rows, make_mesh, put_batch
from sit_jax.train.state import abstract_state, init_state, make_training
from sit_jax.train.step import compile_steps

IN_FLIGHT = 2  # as in the training loop


class Ours:
    """sit_jax on all devices of this machine."""

    def setup(self, config: dict, data: str, exchange: str) -> dict:
        """Compiles and makes a first step; if `exchange` is a path, writes the reference data for the peers there.

        Returns the resolved configuration, the number of parameters, the losses on the written views, the device and
        the seconds to the end of the first step. Raises InputError if there are several GPUs.
        """
        commands.run_steps_one_by_one()
        if jax.default_backend() == "gpu" and jax.device_count() > 1:
            raise InputError(f"the peers use one of the {jax.device_count()} GPUs; set CUDA_VISIBLE_DEVICES=0")
        begin = time.perf_counter()
        self.images = load_images(config, data)
        self.config = resolve.resolve(ml_collections.ConfigDict(config), len(self.images))
        checks.check_batch(self.config.batch_size, jax.device_count())
        self.mesh = make_mesh(**config["mesh"])
        self.rows = local_rows(self.mesh, self.config.batch_size)
        self.pending: list[dict] = []
        with jax.set_mesh(self.mesh):
            training = make_training(self.config)
            self.state = init_state(self.config, training, self.mesh)
            losses = write_exchange(exchange, self.config, self.state.params, self.images) if exchange else {}
            abstract = abstract_state(self.config, training, self.mesh)
            self.train_step, _ = compile_steps(training, self.config, abstract, self.mesh)
        self.feeds: dict[str, Iterator[np.ndarray]] = {"arrays": endless(self.images, self.config.batch_size)}
        parameters = sum(leaf.size for leaf in jax.tree.leaves(self.state.params))
        self.run(1, "arrays")
        return {
            "config": to_json(self.config),
            "parameters": parameters,
            "losses": losses,
            "device": f"{jax.devices()[0].device_kind} x {jax.device_count()}, jax {jax.__version__}",
            "setup_seconds": time.perf_counter() - begin,
        }

    def run(self, steps: int, feed: str) -> float:
        """Makes `steps` steps on arrays in memory or on the `stream` of a training; returns their seconds."""
        if feed not in self.feeds:
            self.feeds[feed] = self.stream()
        begin = time.perf_counter()
        with jax.set_mesh(self.mesh):
            for _ in range(steps):
                batch = next(self.feeds[feed])[self.rows]
                image = put_batch(batch, self.rows, self.config.batch_size, self.mesh)
                self.state, metrics = self.train_step(self.state, {"image": image})
                self.pending.append(metrics)
                if len(self.pending) > IN_FLIGHT:
                    jax.block_until_ready(self.pending.pop(0))
            jax.block_until_ready(self.pending)
        self.pending.clear()
        return time.perf_counter() - begin

    def stream(self) -> Iterator[np.ndarray]:
        """Yields batches in the order of a training, read ahead in the background."""
        from sit_jax.data import Batches
        from sit_jax.data.load import MemoryImages
        from sit_jax.data.records import Records

        records = Records([str(i) for i in range(len(self.images))], self.images.__getitem__)
        batches = Batches(MemoryImages(self.images, records), self.config.batch_size, self.config.seed)
        return (batch["image"] for batch in batches.iterate())
