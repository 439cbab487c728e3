"""Several processes as one machine: connecting them at the start, agreeing, and ending together."""

import glob
import importlib.util
import os
import signal
import socket
import sys
import threading
from collections.abc import Mapping
from types import FrameType

import jax
import numpy as np
from jax.experimental import multihost_utils

from sit_jax.common.errors import PREEMPTED, WRONG_INPUT, InputError

CONNECT_SECONDS = 300  # how long the processes wait for each other at the start
# A process that dies is noticed after this time at the latest, and the others end. Local ones notice at once.
HEARTBEAT_SECONDS = 60
SHUTDOWN_SECONDS = 120  # how long processes that are done wait for those that are not


def connect(coordinator: str | None, num_processes: int | None, process_id: int | None) -> None:
    """Connects this process with the others of the run, before anything else touches a device; alone, does nothing.

    The three values come from the command line; without them Slurm, Open MPI and Cloud TPU are recognised. Raises
    InputError if values are missing or wrong. A SIGTERM that was blocked until here arrives at the end: alone, it
    interrupts; with others, JAX's preemption service has come to listen, and all of them stop at the same step.
    """
    arguments = find_cluster(coordinator, num_processes, process_id, os.environ)
    try:
        if arguments is not None:
            join(arguments)
    finally:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM})


def join(arguments: dict) -> None:
    """Connects with the others; ends this process if they do not come within CONNECT_SECONDS, or by Ctrl-C."""
    what = "the other processes of the run"
    if "num_processes" in arguments:
        what = f"{arguments['num_processes']} processes at {arguments['coordinator_address']}"
        if arguments["process_id"] == 0:
            check_port(arguments["coordinator_address"])
    print(f"waiting for {what}", file=sys.stderr, flush=True)
    limit = threading.Timer(CONNECT_SECONDS, give_up, [what])
    limit.daemon = True
    limit.start()
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # Python's own handler would not run before JAX is done with waiting
    try:
        jax.distributed.initialize(
            **arguments,
            initialization_timeout=2 * CONNECT_SECONDS,  # at which JAX aborts, with a stack trace: `limit` is before
            heartbeat_timeout_seconds=HEARTBEAT_SECONDS,
            shutdown_timeout_seconds=SHUTDOWN_SECONDS,
        )
    except (ValueError, RuntimeError) as error:
        if isinstance(error, ValueError) and not arguments and on_tpu(os.environ):
            return  # JAX has found no other host of this TPU
        reason = str(error).strip().split("\n")[0]
        raise InputError(
            f"the processes of the run could not be connected ({reason}); start all of them, with one --coordinator"
        ) from error
    finally:
        limit.cancel()
        signal.signal(signal.SIGINT, stop_all if connected() else signal.default_int_handler)


def give_up(what: str) -> None:
    """Ends this process, which has waited in vain: with 75 if it was asked to stop meanwhile."""
    if signal.SIGTERM in signal.sigpending():
        leave(PREEMPTED)
    print(f"error: waited {CONNECT_SECONDS} s for {what}; start all of them, with one --coordinator", file=sys.stderr)
    leave(WRONG_INPUT)


def stop_all(number: int, frame: FrameType | None) -> None:
    """Asks all processes to stop, as a SIGTERM to one of them does; a second Ctrl-C interrupts this one at once."""
    del number, frame
    signal.signal(signal.SIGINT, signal.default_int_handler)
    os.kill(os.getpid(), signal.SIGTERM)


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
    if not host or not port.isdecimal() or not 0 < int(port) < 65536:
        raise InputError(f"--coordinator={address} must be HOST:PORT, such as 10.0.0.1:1234")
    return address


def check_port(address: str) -> None:
    """Raises InputError if another program listens at the port, of which JAX would crash."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # what a run that has ended leaves is no obstacle
        try:
            probe.bind(("", int(address.rpartition(":")[2])))
        except OSError as error:
            raise InputError(f"--coordinator={address}: {error.strerror}; choose another port") from error


def on_tpu(env: Mapping[str, str]) -> bool:
    """Tells whether this is a Cloud TPU machine, which JAX then asks for the other hosts of the slice."""
    if env.get("JAX_PLATFORMS", "tpu").split(",")[0] != "tpu" or importlib.util.find_spec("libtpu") is None:
        return False
    # Colab and Kaggle set it, where no other host is to be asked for; GKE does too, and names the hosts.
    if "TPU_SKIP_MDS_QUERY" in env and not env.keys() & {"TPU_PROCESS_ADDRESSES", "TPU_WORKER_HOSTNAMES"}:
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
