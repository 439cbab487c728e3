import signal
import socket
import subprocess
import sys

import jax
import pytest
from conftest import ROOT

from sit_jax import main
from sit_jax.common.errors import InputError
from sit_jax.parallel import hosts
from sit_jax.parallel.hosts import find_cluster

SLURM = {"SLURM_NTASKS": "4", "SLURM_STEP_NODELIST": "node[1-2]", "SLURM_PROCID": "3", "SLURM_JOB_ID": "7"}
OPEN_MPI = {"OMPI_COMM_WORLD_SIZE": "4", "OMPI_COMM_WORLD_RANK": "2", "OMPI_COMM_WORLD_LOCAL_RANK": "1"}


def test_a_single_process_is_not_connected():
    assert find_cluster(None, None, None, {}) is None
    assert find_cluster(None, None, None, {"SLURM_NTASKS": "1", "SLURM_STEP_NODELIST": "node1"}) is None
    # A batch script sees the number of tasks, but only srun starts them.
    assert find_cluster(None, None, None, {"SLURM_NTASKS": "4", "SLURM_PROCID": "0"}) is None


def test_flags_go_before_what_is_detected():
    expected = {"coordinator_address": "host:1234", "num_processes": 2, "process_id": 1}
    expected["cluster_detection_method"] = "deactivate"
    assert find_cluster("host:1234", 2, 1, {}) == expected
    assert find_cluster("host:1234", 2, 1, SLURM) == expected


def test_slurm_and_open_mpi():
    assert find_cluster(None, None, None, SLURM) == {}  # JAX knows the rest
    assert find_cluster("host:1", None, None, SLURM) == {"coordinator_address": "host:1"}
    assert find_cluster(None, None, None, OPEN_MPI | {"OMPI_MCA_orte_hnp_uri": "1.0;tcp://10.0.0.1:3"}) == {}
    found = find_cluster("host:1", None, None, OPEN_MPI)
    assert found == {"coordinator_address": "host:1", "num_processes": 4, "process_id": 2, "local_device_ids": [1]}


@pytest.mark.parametrize(
    "arguments,env,message",
    [
        (("host:1", 2, None), {}, "go together; give all three"),
        ((None, 2, 0), {}, "go together; give all three"),
        (("host:1", 2, 2), {}, "--process_id=2 must be from 0 to 1, of 2"),
        (("host", 2, 0), {}, "--coordinator=host must be HOST:PORT"),
        (("host:99999", 2, 0), {}, "must be HOST:PORT"),
        (("host:²", 2, 0), {}, "must be HOST:PORT"),
        (("host:1", None, None), {}, "needs --num_processes=N and --process_id=I"),
        ((None, None, None), OPEN_MPI, "Open MPI 5 does not say where rank 0 is; give --coordinator=HOST:PORT"),
    ],
)
def test_what_is_missing_or_wrong_is_said(arguments, env, message):
    with pytest.raises(InputError, match=message):
        find_cluster(*arguments, env)


def test_the_command_says_it_in_a_line(run_module):
    done = run_module(main.__name__, "--config=configs/digits.py", "--num_processes=2")
    assert done.returncode == 2
    line = "error: --coordinator=HOST:PORT, --num_processes=N, --process_id=I go together; give all three\n"
    assert done.stderr == line


@pytest.fixture
def tpu(monkeypatch):
    """A machine that looks like a TPU."""
    monkeypatch.setattr("importlib.util.find_spec", lambda name: True)
    monkeypatch.setattr("glob.glob", lambda pattern: ["/dev/accel0"])
    monkeypatch.setenv("JAX_PLATFORMS", "tpu")


def test_tpu_hosts_are_asked_for_where_there_may_be_some(tpu):
    assert find_cluster(None, None, None, {}) == {}
    assert find_cluster(None, None, None, {"JAX_PLATFORMS": "cpu"}) is None
    notebook = {"TPU_SKIP_MDS_QUERY": "1"}
    assert find_cluster(None, None, None, notebook) is None
    assert find_cluster(None, None, None, notebook | {"TPU_WORKER_HOSTNAMES": "a,b"}) == {}


def test_a_tpu_without_other_hosts_is_one_process(tpu, monkeypatch):
    def finds_none(**arguments):
        raise ValueError("coordinator_address should be defined.")

    monkeypatch.setattr(jax.distributed, "initialize", finds_none)
    hosts.connect(None, None, None)
    assert not hosts.connected()
    with pytest.raises(InputError, match="could not be connected"):
        hosts.connect("host:1", 2, 0)


WAIT = """
import os, signal, sys
signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
from sit_jax.parallel import hosts
if sys.argv[2] == "stopped":
    os.kill(os.getpid(), signal.SIGTERM)
hosts.CONNECT_SECONDS = 1
hosts.connect("127.0.0.1:PORT", 2, int(sys.argv[1]))
"""


@pytest.mark.parametrize("process,when,code", [(0, "", 2), (1, "", 2), (1, "stopped", 75)])
def test_others_that_never_come_are_waited_for_in_vain(process, when, code, free_port):
    script = WAIT.replace("PORT", str(free_port()))
    command = [sys.executable, "-c", script, str(process), when]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert done.returncode == code
    first, *rest = done.stderr.splitlines()
    assert first.startswith("waiting for 2 processes at 127.0.0.1:")
    message = "error: waited 1 s for 2 processes at 127.0.0.1:"
    assert [line[: len(message)] for line in rest] == ([message] if code == 2 else [])


def test_a_port_that_is_taken_is_said():
    with socket.create_server(("", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(InputError, match=f"--coordinator=127.0.0.1:{port}: Address already in use; choose another"):
            hosts.connect(f"127.0.0.1:{port}", 2, 0)


def test_ctrl_c_asks_all_processes_and_then_interrupts(monkeypatch):
    seen = []
    handler = signal.signal(signal.SIGTERM, lambda number, frame: seen.append(number))
    hosts.stop_all(signal.SIGINT, None)
    signal.signal(signal.SIGTERM, handler)
    assert seen == [signal.SIGTERM]
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
