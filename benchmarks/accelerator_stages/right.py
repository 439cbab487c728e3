"""Stage `right`: checks the device's results against the CPU's, and how the training loop uses the device."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np

from benchmarks.accelerator_stages import right_runs
from benchmarks.accelerator_stages.machine import add_machine, on_gpu
from benchmarks.accelerator_stages.stage import Skip, Stage
from sit_jax.common.keys import named_key, row_keys
from sit_jax.config import resolve
from sit_jax.config.schema import defaults
from sit_jax.model.fast.attention import attend
from sit_jax.model.tasks import TASKS
from sit_jax.parallel.mesh import make_mesh, replicated
from sit_jax.parallel.microbatches import stacked
from sit_jax.timing.images import RandomImages
from sit_jax.timing.step import Step
from sit_jax.train.state import Training, make_state, make_training
from sit_jax.train.step import combine, forward
from sit_jax.views import Views, make_views

# Bounds for float32 with full-precision products: sums in another order over some thousand elements.
VIEWS = 1e-3  # absolute, for values in [-1, 1]
LOSSES, GRADIENTS = 1e-4, 1e-3  # relative
# Bounds for bfloat16 with its 8 bits: for each loss; for the gradient, in multiples of the CPU's own rounding error.
HALF_LOSSES, HALF_GRADIENTS = 2e-2, 2.0
ATTENTION = 2e-2  # relative, bfloat16 against float32


def main(stage: Stage) -> None:
    """Runs all checks."""
    add_machine(stage)
    cpu, device = jax.devices("cpu")[0], jax.devices()[0]
    runs = right_runs.Resume(stage)
    compare = Comparison(small_config(stage.dry_run), cpu, device)
    for name, check in compare.checks().items():
        stage.check(name, check)
    for tokens in (66, 198):
        stage.check(f"cuDNN attention, {tokens} tokens, values and gradients", functools.partial(attention, tokens))
    runs.go_on()
    loop_checks(stage)
    for name, check in right_runs.evaluation_checks(cpu, device).items():
        stage.check(name, check)
    stage.check("restart with memory kept", lambda: right_runs.restart(stage), needs=5)
    for name in right_runs.RESUMED:
        stage.check(f"resume, {name} time", functools.partial(runs.compare, name))


def small_config(dry_run: bool) -> ml_collections.ConfigDict:
    """Returns a small model at 32 px in float32, with all views and corruptions, looping over its layers."""
    config = defaults()
    config.model.update(size="mu" if dry_run else "XS", patch_size=8, image_size=32)
    config.model.update(attention="xla", unroll=False, halves=False)
    config.views.update(hue=0.1, grayscale=0.2)
    config.batch_size, config.steps, config.dtype = (16 if dry_run else 64), 100, "float32"
    config.data.source = "random"
    return config


class Comparison:
    """The same step of the same model on the same images, on two devices."""

    def __init__(self, config: ml_collections.ConfigDict, cpu: jax.Device, device: jax.Device):
        self.config = resolve.resolve(config, 4 * config.batch_size)
        self.images = RandomImages(config.batch_size, config.model.image_size).array
        self.meshes = {"cpu": make_mesh(devices=[cpu]), "device": make_mesh(devices=[device])}

    def checks(self) -> dict[str, Callable[[], tuple[float, float, str]]]:
        """Returns the checks by name."""
        return {
            "draws: rotations": lambda: (self.draws(lambda views: views.rotation), 0.0, "differing of all views"),
            "draws: masks": lambda: (self.draws(lambda views: views.masks), 0.0, "differing pixels"),
            "views before corruption": lambda: (self.distance("clean"), VIEWS, "largest difference"),
            "views after corruption": lambda: (self.distance("corrupted"), VIEWS, "largest difference"),
            "losses, float32": lambda: (self.loss_error(self.exact), LOSSES, "relative"),
            "gradients, float32": lambda: (self.gradient_error(self.exact), GRADIENTS, "relative norm"),
            "losses, bfloat16": lambda: (self.loss_error(self.half), HALF_LOSSES, "relative"),
            "gradients, bfloat16": self.half_gradients,
        }

    def on(self, side: str, program: Callable, *arguments: Any) -> Any:
        """Runs a program on `side` and returns its results on the host."""
        mesh = self.meshes[side]
        with jax.set_mesh(mesh), jax.default_device(mesh.devices.flat[0]):
            result = jax.jit(program)(*jax.device_put(arguments, replicated(mesh)))
        found = {device for leaf in jax.tree.leaves(result) for device in leaf.devices()}
        if found != set(mesh.devices.flat):
            raise RuntimeError(f"the program for {mesh.devices.flat[0]} ran on {found}")
        return jax.device_get(result)

    @functools.cached_property
    def views(self) -> dict[str, Any]:
        """Returns the views on both sides."""
        with jax.default_matmul_precision("highest"):
            make = lambda images: make_views(jax.random.key(3), images, self.config)  # noqa: E731
            return {side: self.on(side, make, self.images) for side in self.meshes}

    def draws(self, choose: Callable) -> float:
        """Returns the number of differing values in the arrays that `choose` selects from the views."""
        chosen = [jax.tree.leaves(choose(views)) for views in self.views.values()]
        return float(sum(np.sum(a != b) for a, b in zip(*chosen, strict=True)))

    def distance(self, name: str) -> float:
        """Returns the largest absolute difference of the views `name`."""
        return float(np.max(np.abs(getattr(self.views["cpu"], name) - getattr(self.views["device"], name))))

    @functools.cached_property
    def params(self) -> dict:
        """Returns the parameters at step 0, computed on the CPU."""
        return self.on("cpu", lambda: make_state(self.config, make_training(self.config).optimizer).params)

    def step(self, side: str, precision: str | None = None, **changes: Any) -> tuple[dict, np.ndarray]:
        """Returns the losses and all gradients, flattened into one array, on the CPU's views."""
        config = self.config.copy_and_resolve_references()
        config.update_from_flattened_dict(changes)
        config = resolve.resolve(config, 4 * config.batch_size)
        program = loss_and_gradients(make_training(config), config)
        with jax.default_matmul_precision(precision):
            losses, grads = self.on(side, program, self.params, self.views["cpu"])
        flat = np.concatenate([np.ravel(leaf).astype(np.float64) for leaf in jax.tree.leaves(grads)])
        return {name: float(value) for name, value in losses.items()}, flat

    @functools.cached_property
    def exact(self) -> dict[str, tuple]:
        """Returns the results on both sides in float32 with full-precision products."""
        return {side: self.step(side, "highest") for side in self.meshes}

    @functools.cached_property
    def half(self) -> dict[str, tuple]:
        """Returns the results on the CPU in float32, and on the device in bfloat16 with its default settings."""
        changes = {"dtype": "bfloat16", "model.attention": "auto", "model.unroll": None, "model.halves": None}
        return {"cpu": self.exact["cpu"], "device": self.step("device", **changes)}

    def loss_error(self, sides: dict[str, tuple]) -> float:
        """Returns the largest relative difference of a loss."""
        expected, found = sides["cpu"][0], sides["device"][0]
        return max(abs(found[name] / value - 1) for name, value in expected.items())

    def gradient_error(self, sides: dict[str, tuple]) -> float:
        """Returns the norm of the difference of all gradients over the norm of the CPU's."""
        expected, found = sides["cpu"][1], sides["device"][1]
        return float(np.linalg.norm(found - expected) / np.linalg.norm(expected))

    def half_gradients(self) -> tuple[float, float, str]:
        """Returns the device's error in bfloat16 over the CPU's error in bfloat16."""
        own = self.gradient_error({"cpu": self.exact["cpu"], "device": self.step("cpu", dtype="bfloat16")})
        error = self.gradient_error(self.half)
        return error / own, HALF_GRADIENTS, f"times the CPU's own error in bfloat16, {own:.1e}; here {error:.1e}"


def loss_and_gradients(training: Training, config: ml_collections.ConfigDict) -> Callable:
    """Returns a function (parameters, views) -> (the three losses and their sum, the gradients)."""

    def run(params: dict, views: Views) -> tuple[dict, dict]:
        keys = row_keys(named_key(jax.random.key(config.seed), "model"), len(views.clean))

        def loss(params: dict) -> tuple[jax.Array, tuple[dict, dict]]:
            outputs = forward(params, training, views, keys, config)[0]
            return combine(stacked(outputs), params, training, config)

        (_, (metrics, _)), grads = jax.value_and_grad(loss, has_aux=True)(params)
        return {name: metrics[name] for name in ("loss", *TASKS)}, grads

    return run


def attention(tokens: int) -> tuple[float, float, str]:
    """Returns the largest relative error of cuDNN's attention in bfloat16, including its gradients."""
    if not on_gpu():
        raise Skip("needs an NVIDIA GPU")
    q, k, v, gradient = jax.random.normal(jax.random.key(0), (4, 64, tokens, 6, 64), jnp.bfloat16)

    def run(function: Callable, dtype: Any) -> list[jax.Array]:
        def both(q: jax.Array, k: jax.Array, v: jax.Array, gradient: jax.Array) -> tuple:
            value, back = jax.vjp(function, *(x.astype(dtype) for x in (q, k, v)))
            return value, *back(gradient.astype(dtype))

        return [x.astype(jnp.float32) for x in jax.jit(both)(q, k, v, gradient)]

    def plain(q: jax.Array, k: jax.Array, v: jax.Array) -> jax.Array:
        return attend(*(x.swapaxes(1, 2) for x in (q, k, v))).swapaxes(1, 2)

    with jax.default_matmul_precision("highest"):
        exact = run(plain, jnp.float32)
    fused = run(functools.partial(jax.nn.dot_product_attention, implementation="cudnn"), jnp.bfloat16)

    def error(found: list[jax.Array]) -> float:
        pairs = zip(found, exact, strict=True)
        return max(float(jnp.linalg.norm(a - b) / jnp.linalg.norm(b)) for a, b in pairs)

    return (
        error(fused),
        ATTENTION,
        f"relative norm; plain attention in bfloat16 has {error(run(plain, jnp.bfloat16)):.1e}",
    )


def loop_checks(stage: Stage) -> None:
    """Checks the compiled step as in the training loop: donation, memory growth, transfers."""
    config = small_config(stage.dry_run)
    config.update(dtype="auto")
    config.model.update(attention="auto", unroll=None, halves=None)
    config = resolve.resolve(config, 4 * config.batch_size)
    made: list[Step] = []

    def donated() -> tuple[float, float, str]:
        step = Step(config, RandomImages(config.batch_size, config.model.image_size))
        with jax.set_mesh(step.mesh):
            step.compile()
            before = jax.tree.leaves(step.state)
            jax.block_until_ready(step.train())
        made.append(step)
        return (
            float(sum(not leaf.is_deleted() for leaf in before)),
            0.0,
            f"of {len(before)} arrays of the state not donated",
        )

    def growth() -> tuple[float, float, str]:
        memory = []
        with jax.set_mesh(made[0].mesh):
            for count in (3, 10):
                jax.block_until_ready([made[0].train() for _ in range(count)])
                memory.append(bytes_in_use())
        return float(memory[1] - memory[0]), 0.0, "bytes more after 10 steps"

    def transfers() -> tuple[float, float, str]:
        with jax.set_mesh(made[0].mesh), jax.transfer_guard("disallow"):
            losses = [made[0].train() for _ in range(3)]
        jax.block_until_ready(losses)
        return 0.0, 0.0, "transfers in 3 steps; one would have raised"

    if stage.check("state is donated", donated):
        stage.check("memory does not grow", growth)
        stage.check("no transfer in the loop", transfers)


def bytes_in_use() -> int:
    """Returns the memory in use on the device; if the device does not report it, the size of all arrays."""
    stats = jax.devices()[0].memory_stats() or {}
    return stats.get("bytes_in_use", sum(array.nbytes for array in jax.live_arrays()))
