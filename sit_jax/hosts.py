"""Several processes as one machine: connecting them at the start, agreeing, and ending together."""

import glob
import importlib.util
import os
import sys
from collections.abc import Mapping

import jax
import numpy as np
from jax.experimental import multihost_utils

from sit_jax.errors import InputError

# A process that dies is noticed after this time at the latest, and the others end. Local ones notice at once.
HEARTBEAT_SECONDS = 60
SHUTDOWN_SECONDS = 120  # how long processes that are done wait for those that are not


def connect(coordinator: str | None, num_processes: int | None, process_id: int | None) -> None:
    """Connects this process with the others of the run, before anything else touches a device; alone, does nothing.

    The three values come from the command line; without them Slurm, Open MPI and Cloud TPU are recognised. Raises
    InputError if values are missing or wrong.
    """
    arguments = find_cluster(coordinator, num_processes, process_id, os.environ)
    if arguments is None:
        return
    try:
        jax.distributed.initialize(
            **arguments, heartbeat_timeout_seconds=HEARTBEAT_SECONDS, shutdown_timeout_seconds=SHUTDOWN_SECONDS
        )
    except (ValueError, RuntimeError) as error:
        reason = str(error).strip().split("\n")[0]
        raise InputError(
            f"the processes of the run could not be connected ({reason}); start all of them, with one --coordinator"
        ) from error


def find_cluster(
    coordinator: str | None, num_processes: int | None, process_id: int | None, env: Mapping[str, str]
) -> dict | None:
    """Returns the arguments of `jax.distributed.initialize` that JAX does not find itself; None for a single process.

    `env` are the environment variables. Raises InputError if values are missing or wrong.
    """
    if num_processes is not None or process_id is not None:
        if coordinator is None or num_processes is None or process_id is None:
            raise InputError("--coordinator=HOST:PORT, --num_processes=N, --process_id=I go together; give all three")
        if not 0 <= process_id < num_processes:
            raise InputError(f"--process_id={process_id} must be from 0 to {num_processes - 1}, of {num_processes}")
        check_address(coordinator)
        found = {"coordinator_address": coordinator, "num_processes": num_processes, "process_id": process_id}
        # Without local devices, JAX would ask Slurm for them: every process gets all that it sees.
        return found | {"cluster_detection_method": "deactivate"}
    # Within srun only: a batch script sees the number of tasks too, and is not one of them.
    if int(env.get("SLURM_NTASKS", 1)) > 1 and "SLURM_STEP_NODELIST" in env:
        return {"coordinator_address": check_address(coordinator)} if coordinator else {}
    if int(env.get("OMPI_COMM_WORLD_SIZE", 1)) > 1:
        if coordinator is None and "OMPI_MCA_orte_hnp_uri" not in env:
            raise InputError("Open MPI 5 does not say where rank 0 is; give --coordinator=HOST:PORT, with its host")
        if coordinator is None:
            return {}
        return {
            "coordinator_address": check_address(coordinator),
            "num_processes": int(env["OMPI_COMM_WORLD_SIZE"]),
            "process_id": int(env["OMPI_COMM_WORLD_RANK"]),
            "local_device_ids": [int(env["OMPI_COMM_WORLD_LOCAL_RANK"])],
        }
    if coordinator is not None:
        raise InputError("--coordinator needs --num_processes=N and --process_id=I, or a start by srun or mpirun")
    return {} if on_tpu(env) else None


def check_address(address: str) -> str:
    """Returns an address; raises InputError unless it is HOST:PORT."""
    host, _, port = address.rpartition(":")
    if not host or not port.isdigit() or not 0 < int(port) < 65536:
        raise InputError(f"--coordinator={address} must be HOST:PORT, such as 10.0.0.1:1234")
    return address


def on_tpu(env: Mapping[str, str]) -> bool:
    """Tells whether this is a Cloud TPU machine, which JAX then asks for the other hosts of the slice."""
    if env.get("JAX_PLATFORMS", "tpu").split(",")[0] != "tpu" or importlib.util.find_spec("libtpu") is None:
        return False
    return bool(glob.glob("/dev/accel[0-9]*") or glob.glob("/dev/vfio/[0-9]*"))


def connected() -> bool:
    """Tells whether this process has been connected with others."""
    return jax.distributed.is_initialized()


def leave(code: int) -> None:
    """Ends this process at once: an orderly end would wait for the others, which wait for this one."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def several() -> bool:
    """Tells whether this process is one of several."""
    return jax.process_count() > 1


def all_agree(good: bool) -> bool:
    """Tells whether `good` is true on every host; all of them must ask."""
    return good if not several() else bool(np.all(multihost_utils.process_allgather(np.array(good))))


def wait_for_all(name: str) -> None:
    """Waits until all hosts have come to the point `name`."""
    if several():
        multihost_utils.sync_global_devices(name)
