"""Several processes as one run: connecting at the start, agreeing, and ending together."""

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

from sit_jax.common import stopping
from sit_jax.common.errors import PREEMPTED, WRONG_INPUT, InputError

CONNECT_SECONDS = 300  # how long processes wait for each other at the start
# If a process dies, the other processes notice within this time and end; processes on its machine notice at once.
HEARTBEAT_SECONDS = 60
SHUTDOWN_SECONDS = 120  # how long finished processes wait for unfinished processes


def connect(coordinator: str | None, num_processes: int | None, process_id: int | None) -> None:
    """Connects this process with the other processes of the run, if any; call it before anything touches a device.

    The three values come from the command line; without them, Slurm, Open MPI and Cloud TPU are detected. Raises
    InputError if values are missing or wrong. A SIGTERM that was blocked until here is delivered at the end: it
    interrupts a single process; connected processes all stop at the same step, by JAX's preemption service.
    """
    arguments = find_cluster(coordinator, num_processes, process_id, os.environ)
    try:
        if arguments is not None:
            join(arguments)
    finally:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM})


def join(arguments: dict) -> None:
    """Connects with the other processes; ends this process after CONNECT_SECONDS without them, or at Ctrl-C."""
    what = "the other processes of the run"
    if "num_processes" in arguments:
        what = f"{arguments['num_processes']} processes at {arguments['coordinator_address']}"
        if arguments["process_id"] == 0:
            check_port(arguments["coordinator_address"])
    print(f"waiting for {what}", file=sys.stderr, flush=True)
    limit = threading.Timer(CONNECT_SECONDS, give_up, [what])
    limit.daemon = True
    limit.start()
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # Python's handler would not run while JAX waits
    try:
        jax.distributed.initialize(
            **arguments,
            initialization_timeout=2 * CONNECT_SECONDS,  # then JAX aborts with a stack trace; `limit` acts earlier
            heartbeat_timeout_seconds=HEARTBEAT_SECONDS,
            shutdown_timeout_seconds=SHUTDOWN_SECONDS,
        )
    except (ValueError, RuntimeError) as error:
        if isinstance(error, ValueError) and not arguments and on_tpu(os.environ):
            return  # JAX found no other host of this TPU
        reason = str(error).strip().split("\n")[0]
        raise InputError(
            f"the processes of the run could not be connected ({reason}); start all of them with the same --coordinator"
        ) from error
    finally:
        limit.cancel()
        signal.signal(signal.SIGINT, stop_all if connected() else signal.default_int_handler)


def give_up(what: str) -> None:
    """Ends this process after a timeout: with code 75 if it was asked to stop meanwhile, else 2."""
    if signal.SIGTERM in signal.sigpending():
        leave(PREEMPTED)
    print(f"error: waited {CONNECT_SECONDS} s for {what}; start all with the same --coordinator", file=sys.stderr)
    leave(WRONG_INPUT)


def stop_all(number: int, frame: FrameType | None) -> None:
    """Asks all processes to stop, as SIGTERM to one process does; a second Ctrl-C interrupts this process at once."""
    del number, frame
    signal.signal(signal.SIGINT, signal.default_int_handler)
    os.kill(os.getpid(), signal.SIGTERM)


def find_cluster(
    coordinator: str | None, num_processes: int | None, process_id: int | None, env: Mapping[str, str]
) -> dict | None:
    """Returns the arguments of `jax.distributed.initialize` that JAX does not detect; None for a single process.

    `env` holds the environment variables. Raises InputError if values are missing or wrong.
    """
    if num_processes is not None or process_id is not None:
        if coordinator is None or num_processes is None or process_id is None:
            raise InputError("--coordinator=HOST:PORT, --num_processes=N, --process_id=I go together; give all three")
        if not 0 <= process_id < num_processes:
            raise InputError(f"--process_id={process_id} must be from 0 to {num_processes - 1}, of {num_processes}")
        check_address(coordinator)
        found = {"coordinator_address": coordinator, "num_processes": num_processes, "process_id": process_id}
        # JAX would ask Slurm for the local devices; without detection, each process uses all devices that it sees.
        return found | {"cluster_detection_method": "deactivate"}
    # Only within srun: a batch script also sees the number of tasks, but is not a task.
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
    """Returns `address`; raises InputError unless it is HOST:PORT."""
    host, _, port = address.rpartition(":")
    if not host or not port.isdecimal() or not 0 < int(port) < 65536:
        raise InputError(f"--coordinator={address} must be HOST:PORT, such as 10.0.0.1:1234")
    return address


def check_port(address: str) -> None:
    """Raises InputError if another program uses the port, because JAX would crash."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # ignore sockets of an ended run
        try:
            probe.bind(("", int(address.rpartition(":")[2])))
        except OSError as error:
            raise InputError(f"--coordinator={address}: {error.strerror}; choose another port") from error


def on_tpu(env: Mapping[str, str]) -> bool:
    """Returns whether this is a Cloud TPU machine; JAX then asks for the other hosts of the slice."""
    if env.get("JAX_PLATFORMS", "tpu").split(",")[0] != "tpu" or importlib.util.find_spec("libtpu") is None:
        return False
    # Colab and Kaggle set this variable and have no other host. GKE sets it too, but also names the hosts.
    if "TPU_SKIP_MDS_QUERY" in env and not env.keys() & {"TPU_PROCESS_ADDRESSES", "TPU_WORKER_HOSTNAMES"}:
        return False
    return bool(glob.glob("/dev/accel[0-9]*") or glob.glob("/dev/vfio/[0-9]*"))


def connected() -> bool:
    """Returns whether this process is connected with other processes."""
    return jax.distributed.is_initialized()


def leave(code: int) -> None:
    """Ends this process at once: an orderly exit would deadlock, because the processes wait for each other."""
    stopping.leave(code)


def several() -> bool:
    """Returns whether the run has several processes."""
    return jax.process_count() > 1


def all_agree(good: bool) -> bool:
    """Returns whether `good` is true on every host; all hosts must call this."""
    return good if not several() else bool(np.all(multihost_utils.process_allgather(np.array(good))))


def least(value: float) -> float:
    """Returns the least value over all hosts, rounded like float32; all hosts must call this."""
    return value if not several() else float(np.min(multihost_utils.process_allgather(np.float32(value))))


def from_first(value: int) -> int:
    """Returns the value of the first host; all hosts must call this."""
    return value if not several() else int(multihost_utils.broadcast_one_to_all(np.int32(value)))


def wait_for_all(name: str) -> None:
    """Waits until all hosts have reached the point `name`."""
    if several():
        multihost_utils.sync_global_devices(name)
