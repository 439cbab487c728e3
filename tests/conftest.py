"""Test set-up: four simulated devices, so that one process can compare sharded code with one device."""

import pathlib
import socket
import subprocess
import sys

import jax
import jax.numpy as jnp
import pytest
from jax._src import compiler

from sit_jax.model.fast import matrix_unit

ROOT = pathlib.Path(__file__).parent.parent
jax.config.update("jax_num_cpu_devices", 4)


@pytest.fixture(scope="session", autouse=True)
def compilation_cache(tmp_path_factory):
    """One temporary compilation cache for all tests and the commands that they run."""
    folder = str(tmp_path_factory.getbasetemp().parent / "xla-cache")
    jax.config.update("jax_compilation_cache_dir", folder)
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)  # the many small programs take as long in total
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("JAX_COMPILATION_CACHE_DIR", folder)
        patch.setenv("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="session", autouse=True)
def no_matrix_unit():
    """On any processor, results in tests differ only by the rounding of float32; commands still check the processor."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(matrix_unit, "CPUINFO", ROOT / "no processor")
        yield


# The code generator of CPUs takes most of the time: the older, quicker one for fusions, in one piece.
QUICK = {"xla_cpu_use_fusion_emitters": False, "xla_cpu_parallel_codegen_split_count": 1}
if jax.__version_info__ >= (0, 11):  # which has no such options
    QUICK = {}


@pytest.fixture(scope="module")
def quick_compilation():
    """For files dominated by compilation, here and in commands: without optimisations it takes a third of the time."""
    jnp.zeros(()).block_until_ready()  # JAX has read XLA_FLAGS now: its value below reaches commands alone

    def with_quick_options(*args, env_options_overrides=None, **kwargs):
        return get_options(*args, env_options_overrides=QUICK | (env_options_overrides or {}), **kwargs)

    get_options = getattr(compiler, "get_compile_options", None)  # private: without it, tests are only slower
    jax.config.update("jax_disable_most_optimizations", True)
    flags = " ".join(f"--{name}={str(value).lower()}" for name, value in QUICK.items())
    with pytest.MonkeyPatch.context() as patch:
        if get_options is not None:
            patch.setattr(compiler, "get_compile_options", with_quick_options)
        patch.setenv("JAX_DISABLE_MOST_OPTIMIZATIONS", "1")
        patch.setenv("XLA_FLAGS", flags, prepend=" ")
        yield
    jax.config.update("jax_disable_most_optimizations", False)


@pytest.fixture(scope="session")
def free_port():
    """Finds ports for runs of several processes."""

    def find():
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            return free.getsockname()[1]

    return find


@pytest.fixture(scope="session")
def run_module():
    """Runs `python -m MODULE args` from the root of the project and returns the finished process."""

    def run(module, *args, **kwargs):
        command = [sys.executable, "-m", module, *map(str, args)]
        return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300, **kwargs)

    return run
