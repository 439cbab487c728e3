"""One training step on this machine: compiled, run as in training, and timed part by part."""

import functools
import time
from typing import Any

import jax
import ml_collections
import numpy as np

from sit_jax.compiled import costs, hlo, kernels
from sit_jax.parallel.mesh import local_rows, make_mesh, put_batch
from sit_jax.timing import parts
from sit_jax.timing.clock import Time, measure
from sit_jax.train.state import abstract_state, init_state, make_training
from sit_jax.train.step import compile_steps
from sit_jax.views import make_views

FILLING = 4  # steps until the queues of batches and of the device are full


class Step:
    """The step of a resolved configuration on the local devices; use it under `jax.set_mesh(step.mesh)`.

    `images` come from `sit_jax.timing.images`.
    """

    def __init__(self, config: ml_collections.ConfigDict, images: Any):
        self.config, self.mesh = config, make_mesh(**config.mesh)
        self.source, self.rows = images, local_rows(self.mesh, config.batch_size)
        self.training = make_training(config)
        self.abstract = abstract_state(config, self.training, self.mesh)
        self.state = init_state(config, self.training, self.mesh)
        self.images = self.put(images.gather(self.rows))

    def put(self, rows: np.ndarray) -> jax.Array:
        """Puts this process's rows on its devices."""
        return put_batch(rows, self.rows, self.config.batch_size, self.mesh)

    def compile(self) -> dict[str, Any]:
        """Compiles the step and returns its compile time, its FLOPs and its memory."""
        step: Any = compile_steps(self.training, self.config, self.abstract, self.mesh)[0]
        begin = time.perf_counter()
        lowered = step.lower(self.abstract, {"image": self.images})
        traced = time.perf_counter()
        self.step = lowered.compile()
        compiled = time.perf_counter()
        memory = self.step.memory_analysis()
        return {
            "trace_seconds": traced - begin,
            "compile_seconds": compiled - traced,
            "model_flops": costs.model_flops(self.config),
            **self.count(),
            "program_bytes": memory.argument_size_in_bytes + memory.temp_size_in_bytes,
        }

    def count(self) -> dict[str, int]:
        """Returns the FLOPs and the memory traffic of the compiled step, over all devices."""
        found, devices = kernels.find_kernels(hlo.parse(self.step.as_text())), self.mesh.size
        return {
            "compiled_flops": kernels.compiled_flops(found) * devices,
            "memory_traffic_bytes": kernels.memory_traffic(found) * devices,
        }

    def train(self) -> jax.Array:
        """Runs one training step on the same batch as always and returns its loss."""
        self.state, metrics = self.step(self.state, {"image": self.images})
        return metrics["loss"]

    def time_parts(self, repeats: int) -> dict[str, Time]:
        """Times each part of the step alone, and the step without each part."""
        functions = parts.programs(self.training, self.config)
        key = jax.random.key(self.config.seed)
        views = jax.jit(functools.partial(make_views, config=self.config))(key, self.images)
        arguments = (self.state, self.images, views)
        keep, go_back = parts.split_backward(functions["forward"])
        kept, backward = jax.jit(keep)(*arguments), jax.jit(go_back)
        timed = {name: functools.partial(jax.jit(function), *arguments) for name, function in functions.items()}
        return measure(timed | {"backward": lambda: backward(kept)}, repeats)

    def time_reading(self, steps: int) -> dict[str, float]:
        """Trains on batches read as in training; returns images/s and the share of the time spent waiting for data.

        Times at least 5 * FILLING steps, because the queue fills and drains over several steps.
        """
        from sit_jax.data import Batches

        stream = Batches(self.source, self.config.batch_size, self.config.seed, self.rows).iterate()
        steps = max(steps, 5 * FILLING)
        losses: list[jax.Array] = []
        start = waited = 0.0
        for index in range(FILLING + steps):
            # The clock starts with steps in flight and without waiting for them; a wait would let the queue fill up. As
            # many steps are in flight at the end.
            if index == FILLING:
                start, waited = time.perf_counter(), 0.0
            begin = time.perf_counter()
            batch = {name: self.put(rows) for name, rows in next(stream).items()}
            waited += time.perf_counter() - begin
            self.state, metrics = self.step(self.state, batch)
            losses.append(metrics["loss"])
            if len(losses) > 2:
                jax.block_until_ready(losses[-2])
        seconds = time.perf_counter() - start
        jax.block_until_ready(losses)
        stream.close()
        return {
            "images_per_second": steps * self.config.batch_size / seconds,
            "data_wait_fraction": waited / seconds,
        }
