"""The same training on many meshes: draws equal to the bit; pixels, losses and gradients equal up to rounding.

`python tests/invariance.py` runs all CASES below, each in its own processes with simulated devices, compares them with
one device and prints a table. Exit code 1 if a case differs. It takes about ten minutes on two cores.
"""

import argparse
import os
import pathlib
import socket
import subprocess
import sys
import tempfile

import numpy as np

from sit_jax.model import losses

ROOT = pathlib.Path(__file__).resolve().parents[1]
STEPS, BATCH, SIZE = 20, 64, 16
LOSSES = ("reconstruction", "rotation", "contrastive", "loss")
PIXEL_TOLERANCE = 2e-6  # absolute; values are in [-1, 1], noise slightly outside
LOSS_TOLERANCE, GRADIENT_TOLERANCE = 1e-5, 1e-4  # relative to the loss, and to the largest gradient of an array

# name: (processes, devices of each, fsdp, slices, microbatches, NT-Xent of each eighth of the batch alone)
REFERENCE = (1, 1, 1, 1, 1, False)
CASES = {
    "2 devices, data": (1, 2, 1, 1, 1, False),
    "2 devices, fsdp": (1, 2, 2, 1, 1, False),
    "4 devices, data": (1, 4, 1, 1, 1, False),
    "4 devices, fsdp": (1, 4, 4, 1, 1, False),
    "4 devices, data 2 x fsdp 2": (1, 4, 2, 1, 1, False),
    "8 devices, data": (1, 8, 1, 1, 1, False),
    "8 devices, fsdp": (1, 8, 8, 1, 1, False),
    "8 devices, data 2 x fsdp 4": (1, 8, 4, 1, 1, False),
    "8 devices, 2 slices x data 2 x fsdp 2": (1, 8, 2, 2, 1, False),
    "2 processes of 2 devices, data": (2, 2, 1, 1, 1, False),
    "2 processes of 2 devices, fsdp": (2, 2, 4, 1, 1, False),
    "2 processes of 4 devices, 2 slices x data 2 x fsdp 2": (2, 4, 2, 2, 1, False),
    "4 processes of 1 device, data": (4, 1, 1, 1, 1, False),
    "4 processes of 2 devices, data 2 x fsdp 4": (4, 2, 4, 1, 1, False),
    "1 device, 2 chunks": (1, 1, 1, 1, 2, False),
    "1 device, 8 chunks": (1, 1, 1, 1, 8, False),
    "4 devices, data 2 x fsdp 2, 2 chunks": (1, 4, 2, 1, 2, False),
}
LOCAL = (1, 8, 1, 1, 1, True)


def train(fsdp: int, slices: int, microbatches: int, local: bool) -> dict[str, np.ndarray]:
    """Trains on the available devices; returns the views, the metrics, and the gradients of the first step."""
    import jax
    from jax.experimental import multihost_utils

    from configs import digits
    from sit_jax.config.resolve import resolve
    from sit_jax.parallel.mesh import local_rows, make_mesh, put_batch, replicated
    from sit_jax.train.state import abstract_state, init_state, make_training
    from sit_jax.train.step import compile_steps
    from sit_jax.views import make_views

    config = digits.get_config("runlocal,variant=XS/4")
    config.dtype = "float32"  # also for the dense products, on any processor
    config.model.image_size, config.batch_size, config.steps, config.microbatches = SIZE, BATCH, STEPS, microbatches
    config.optim.update(base_learning_rate=1e-3, warmup_steps=4)
    config = resolve(config, 1000)
    if local:
        nt_xent = losses.nt_xent
        losses.nt_xent = lambda x, t, m: jax.vmap(lambda part: nt_xent(part, t, m))(
            x.reshape(8, -1, x.shape[-1])
        ).mean()
    mesh = make_mesh(-1, fsdp, slices=slices)
    rows, training = local_rows(mesh, BATCH), make_training(config)
    with jax.set_mesh(mesh):
        state, abstract = init_state(config, training, mesh), abstract_state(config, training, mesh)
        train_step, _ = compile_steps(training, config, abstract, mesh)
        history = []
        for step in range(STEPS):
            images = np.random.default_rng(step).integers(0, 256, (BATCH, 12, 12, 3), np.uint8)
            batch = put_batch(images[rows], rows, BATCH, mesh)
            if step == 0:
                whole = replicated(mesh)
                views = jax.jit(lambda x: make_views(jax.random.key(1), x, config))(batch)
                views = jax.device_get(jax.device_put(views, whole))
            state, metrics = train_step(state, {"image": batch})
            history.append(jax.device_get(metrics))
            if step == 0:  # after one update from zero, the first moments are a tenth of the clipped gradients
                leaves = jax.tree_util.tree_leaves_with_path(jax.device_put(state.opt_state, whole))
                named = {jax.tree_util.keystr(path): np.asarray(x) for path, x in leaves}
                gradients = {name: x for name, x in named.items() if ".mu[" in name}
    multihost_utils.sync_global_devices("done")
    results = {name: np.array([row[name] for row in history]) for name in LOSSES}
    results |= {f"draw {name}": mask for name, mask in views.masks.items()} | {"draw rotation": views.rotation}
    results |= {"pixels clean": views.clean, "pixels corrupted": views.corrupted}
    return results | {f"gradient {name}": x for name, x in gradients.items()}


def run_case(case: tuple, folder: pathlib.Path) -> dict[str, np.ndarray]:
    """Runs a case in its own processes and returns the results of the first process."""
    processes, devices, *rest = case
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    environment = os.environ | {"JAX_PLATFORMS": "cpu", "JAX_NUM_CPU_DEVICES": str(devices), "PYTHONPATH": str(ROOT)}
    environment.setdefault("JAX_COMPILATION_CACHE_DIR", str(folder / "xla"))
    environment.pop("XLA_FLAGS", None)
    command = [sys.executable, __file__, f"--case={','.join(str(int(x)) for x in (processes, devices, *rest))}"]
    command += [f"--port={port}", f"--out={folder / 'result.npz'}"]
    workers = [subprocess.Popen([*command, f"--process={i}"], env=environment) for i in range(processes)]
    try:
        codes = [worker.wait(timeout=600) for worker in workers]
    finally:
        for worker in workers:
            worker.kill()
    if any(codes):
        raise RuntimeError(f"case {case}: the processes ended with {codes}")
    with np.load(folder / "result.npz") as file:
        return dict(file)


def differences(found: dict[str, np.ndarray], expected: dict[str, np.ndarray]) -> dict[str, float]:
    """Returns the number of differing draws (masks, rotations), and the largest differences of all other values."""

    def absolute(name: str) -> float:
        return float(np.max(np.abs(found[name] - expected[name])))

    draws, pixels = ([name for name in expected if name.startswith(kind)] for kind in ("draw", "pixels"))
    gradients = [name for name in expected if name.startswith("gradient")]
    scales = {name: np.abs(expected[name]).max() + 1e-12 for name in gradients}
    return {
        "draws": sum(int(np.sum(found[name] != expected[name])) for name in draws),
        "pixels": max(map(absolute, pixels)),
        "losses": max(float(np.max(np.abs(found[name] / expected[name] - 1))) for name in LOSSES),
        "gradients": max(absolute(name) / scales[name] for name in gradients),
    }


def equal(difference: dict[str, float]) -> bool:
    """Returns whether the differences are within the tolerances; draws must be equal."""
    largest = {"draws": 0, "pixels": PIXEL_TOLERANCE, "losses": LOSS_TOLERANCE, "gradients": GRADIENT_TOLERANCE}
    return all(difference[name] <= largest[name] for name in largest)


def main() -> int:
    """Runs all cases, or one process of a case."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("case", "port", "process", "out"):
        parser.add_argument(f"--{name}", help="for the processes that this script starts")
    arguments = parser.parse_args()
    if arguments.case:
        import jax

        processes, _, *rest = map(int, arguments.case.split(","))
        if processes > 1:
            jax.distributed.initialize(f"127.0.0.1:{arguments.port}", processes, int(arguments.process))
        results = train(*rest)
        if arguments.process == "0":
            np.savez(arguments.out, **results)
        return 0
    failed = 0
    with tempfile.TemporaryDirectory() as folder:
        expected = run_case(REFERENCE, pathlib.Path(folder))
        print(f"largest differences from one device, {STEPS} steps of {BATCH} images\n", flush=True)
        print(
            "| mesh | masks, rotations | pixels | losses | gradients of the first step | |\n|---|---|---|---|---|---|"
        )
        for name, case in {**CASES, "8 devices, NT-Xent of each shard alone": LOCAL}.items():
            found = differences(run_case(case, pathlib.Path(folder)), expected)
            good = equal(found) != case[-1]  # a local NT-Xent must not pass
            failed += not good
            draws = "differ" if found["draws"] else "equal"
            numbers = " | ".join(f"{found[kind]:.1e}" for kind in ("pixels", "losses", "gradients"))
            verdict = ("differs, as it must" if case[-1] else "equal") if good else "WRONG"
            print(f"| {name} | {draws} | {numbers} | {verdict} |", flush=True)
    return int(failed > 0)


if __name__ == "__main__":
    sys.exit(main())
