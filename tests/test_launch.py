"""The launch scripts, with stand-ins for the programs that they start: exact commands, and reactions to exit codes."""

import contextlib
import functools
import json
import os
import pathlib
import pty
import re
import shlex
import shutil
import signal
import stat
import subprocess
import sys
import time

import pytest
from conftest import ROOT

LOCAL, SLURM, TPU = SCRIPTS = ["local.sh", "slurm.sh", "tpu_vm.sh"]
TRAINING = ["--config=configs/digits.py", "--workdir=/shared/my run", "--config.views.area=(0.4, 1)"]
BASICS = "bash cat dirname env grep hostname mkdir mv nohup rm setpriv setsid sleep tail true wc"

# A tool that records its call and gives the first answer whose words are in the call; each answer is given once.
TOOL = """#!{python} -IS
import json, os, pathlib, sys, time
stage = pathlib.Path({stage!r})
call = [os.path.basename(sys.argv[0]), *sys.argv[1:]]
with open(stage / "calls", "a") as f:
    f.write(json.dumps(call) + "\\n")
answers = json.loads((stage / "answers").read_text())
for i, (words, code, output) in enumerate(answers):
    if words in " ".join(call):
        if output == "sleep":
            time.sleep(30)
        if code is not None:
            (stage / "answers").write_text(json.dumps(answers[:i] + answers[i + 1 :]))
        print(output, file=sys.stderr if code else sys.stdout)
        sys.exit(code or 0)
"""

# A training that follows the plan of its process and start: an exit code, or "wait" for SIGTERM, "ignore" SIGTERM, or
# leave a "helper" behind.
PYTHON = """#!{python} -S
import json, os, pathlib, signal, subprocess, sys, time
if sys.argv[1] == "-c":
    exec(sys.argv[2])
    sys.exit()
stage = pathlib.Path({stage!r})
process = ([a.split("=")[1] for a in sys.argv if a.startswith("--process_id=")] or ["0"])[0]
starts = stage / ("starts-" + process)
start = len(starts.read_text()) if starts.exists() else 0
starts.write_text("x" * (start + 1))
plan = json.loads((stage / "plan").read_text()).get(process, [0])
todo = plan[min(start, len(plan) - 1)]
stopped = []
signal.signal(signal.SIGTERM, signal.SIG_IGN if todo == "ignore" else lambda *_: stopped.append(1))
names = ("JAX_PLATFORMS", "JAX_NUM_CPU_DEVICES", "CUDA_VISIBLE_DEVICES", "SLURM_NTASKS", "PYTHONUNBUFFERED")
pids = [os.getpid()]
if todo == "helper":
    pids.append(subprocess.Popen(["sleep", "60"]).pid)
print("step of", process)
print("warning of", process, file=sys.stderr)
call = [*(n + "=" + os.environ[n] for n in names if os.environ.get(n)), *sys.argv]
with open(stage / "calls", "a") as f:
    f.write(json.dumps({{"pids": pids, "call": call, "cwd": os.getcwd()}}) + "\\n")
if todo == "helper":
    sys.exit(0)
if isinstance(todo, int):
    time.sleep(0.5 if todo == 0 else 0)
    sys.stderr.write("last words of " + process)
    sys.exit(todo)
while not stopped:
    time.sleep(0.02)
print("saved", process)
sys.exit(75)
"""


class Stage:
    """A folder of stand-ins in front of the basic tools, and a log of calls."""

    def __init__(self, folder):
        self.folder, self.bin = folder, folder / "bin"
        self.bin.mkdir()
        for name in BASICS.split():
            if path := shutil.which(name):
                (self.bin / name).symlink_to(path)
        self.answer()
        self.env = {"PATH": str(self.bin), "HOME": str(folder), "POLL_SECONDS": "0"}

    def add(self, *names, template=TOOL):
        for name in names:
            path = self.bin / name
            path.write_text(template.format(python=sys.executable, stage=str(self.folder)))
            path.chmod(path.stat().st_mode | stat.S_IXUSR)
        return self

    def answer(self, *answers):
        """Each answer is (words of the call, exit code, output); with the code None, the answer is repeated."""
        (self.folder / "answers").write_text(json.dumps(answers))

    def plan(self, **processes):
        """`p0=[75, 0]`: process 0 exits with 75 at its first start, with 0 at all others."""
        (self.folder / "plan").write_text(json.dumps({name[1:]: todo for name, todo in processes.items()}))
        return self.add("python", template=PYTHON)

    def start(self, script, *args, **kwargs):
        env = self.env | kwargs.pop("env", {})
        pipes = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE} | kwargs
        return subprocess.Popen([ROOT / "launch" / script, *args], cwd=self.folder, env=env, text=True, **pipes)

    def run(self, script, *args, **kwargs):
        process = self.start(script, *args, **kwargs)
        output, errors = process.communicate(timeout=60)
        return subprocess.CompletedProcess(args, process.returncode, output, errors)

    @property
    def calls(self):
        path = self.folder / "calls"
        return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []

    def wait_for_calls(self, count):
        return wait_until(lambda: len(self.calls) >= count)

    def running(self):
        return [pid for call in self.calls for pid in call["pids"] if is_alive(pid)]


@pytest.fixture
def stage(tmp_path):
    stage = Stage(tmp_path)
    yield stage
    for call in stage.calls:
        for pid in call["pids"] if isinstance(call, dict) else []:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)


def is_alive(pid):
    try:
        return pathlib.Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except (FileNotFoundError, ProcessLookupError):
        return False


def wait_until(condition, seconds=30):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.02)


def commands(output):
    """The commands that a dry run prints, without its remarks on later commands."""
    return [shlex.split(line) for line in output.split("# after a preemption")[0].splitlines() if line[0] != "#"]


def test_shellcheck_finds_nothing():
    shellcheck = shutil.which(
        "shellcheck", path=os.pathsep.join([str(pathlib.Path(sys.executable).parent), os.defpath])
    )
    done = subprocess.run([shellcheck, *SCRIPTS], cwd=ROOT / "launch", capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout) == (0, ""), done.stdout


@pytest.mark.parametrize("script", SCRIPTS)
def test_help_needs_nothing_and_names_every_option(stage, script):
    done = stage.run(script, "--help")
    assert (done.returncode, done.stderr) == (0, "")
    source = (ROOT / "launch" / script).read_text().partition("parse() {")[2].partition("\n}\n")[0]
    options = set(re.findall(r"^ +(--[a-z-]+)", source, re.MULTILINE))
    assert len(options) >= 5
    for option in options - {"--in-job"}:
        assert option in done.stdout, option
    assert "Examples:" in done.stdout and "\nEnvironment" in done.stdout
    assert max(map(len, done.stdout.splitlines())) <= 120


UP = ["up", "my-tpu", "--zone=z", "--type=v5litepod-16"]


@pytest.mark.parametrize(
    "script,arguments,expected",
    [
        (LOCAL, [], "the number of processes is missing"),
        (LOCAL, ["2"], "the arguments of the training are missing; give them after --"),
        (LOCAL, ["two", "--", "x"], "must be a whole number from 1, not 'two'"),
        (LOCAL, ["2", "3", "--", "x"], "'3' is not understood"),
        (LOCAL, ["2", "--config=x"], "--config=x is not understood; the arguments of the training go after --"),
        (LOCAL, ["2", "--devices", "2", "--", "x"], "--devices needs a value"),
        (LOCAL, ["2", "--port=99999", "--", "x"], "--port must be a whole number from 1 to 65535, not '99999'"),
        (LOCAL, ["2", "--devices=0", "--", "x"], "--devices must be a whole number from 1"),
        (LOCAL, ["3", "--", "x"], "4 GPUs are not shared equally by 3 processes"),
        (LOCAL, ["2", "--devices=2", "--", "x"], "--devices simulates CPU devices, and there are GPUs; add --cpu"),
        (LOCAL, ["2", "--cpu", "--", "x"], "there is no 'python'; activate the environment or set PYTHON"),
        (SLURM, [], "the arguments of the training are missing"),
        (SLURM, ["--", "--workdir=/x"], "--config is missing"),
        (SLURM, ["--", "--config=x"], "--workdir is missing among the arguments of the training"),
        (SLURM, ["--nodes=many", "--", *TRAINING], "--nodes must be a whole number from 1, not 'many'"),
        (SLURM, ["--time=", "--", *TRAINING], "--time needs a value"),
        (SLURM, ["--tiem=1", "--", *TRAINING], "'--tiem=1' is not understood"),
        (SLURM, ["--", *TRAINING], "there is no sbatch here"),
        (SLURM, ["--in-job", "--", *TRAINING], "--in-job is for the job that this script submits"),
        (TPU, [], "the command is missing"),
        (TPU, ["launch", "my-tpu"], "'launch' is no command"),
        (TPU, ["create"], "the name of the TPU is missing"),
        (TPU, ["create", "My_TPU", "--zone=z"], "'My_TPU' is no name of a TPU"),
        (TPU, ["create", "my-tpu"], "--zone is missing"),
        (TPU, ["create", "my-tpu", "--zone=z"], "--type is missing"),
        (TPU, ["create", "my-tpu", "--zone=z", "--type=v9-8"], "give it with --version="),
        (TPU, ["run", "my-tpu", "--zone=z"], "--config=... is missing"),
        (TPU, [*UP, "--", "--config=x"], "--workdir=... is missing"),
        (
            TPU,
            [*UP, "--", "--config=x", "--workdir=gs://b/r"],
            "--workdir=gs://b/r is a bucket; mount it on all workers",
        ),
        (TPU, [*UP, "again", "--", *TRAINING], "'again' is not understood"),
        (TPU, [*UP, "--zone", "--", *TRAINING], "--zone needs a value"),
        (TPU, [*UP, "--", *TRAINING], "there is no gcloud here"),
    ],
)
def test_wrong_input_is_one_line_and_exit_code_2(stage, script, arguments, expected):
    stage.add("nvidia-smi").answer(("-L", 0, "\n".join(f"GPU {i}: H" for i in range(4))))
    done = stage.run(script, *arguments)
    assert done.returncode == 2
    assert done.stderr.startswith("error: ") and len(done.stderr.splitlines()) == 1
    assert expected in done.stderr
    assert done.stdout == ""


# --- local.sh ---


@pytest.mark.parametrize(
    "options,env,settings",
    [
        (["--cpu"], {}, [["JAX_PLATFORMS=cpu"]] * 2),
        (["--cpu", "--devices=3"], {"SLURM_NTASKS": "8"}, [["JAX_PLATFORMS=cpu", "JAX_NUM_CPU_DEVICES=3"]] * 2),
        ([], {}, [["CUDA_VISIBLE_DEVICES=0,1"], ["CUDA_VISIBLE_DEVICES=2,3"]]),
        ([], {"CUDA_VISIBLE_DEVICES": "7,5"}, [["CUDA_VISIBLE_DEVICES=7"], ["CUDA_VISIBLE_DEVICES=5"]]),
        ([], {"CUDA_VISIBLE_DEVICES": ""}, [["JAX_PLATFORMS=cpu"]] * 2),
    ],
)
def test_local_starts_every_process_with_its_share(stage, options, env, settings):
    stage.plan().add("nvidia-smi").answer(("-L", 0, "\n".join(f"GPU {i}: H" for i in range(4))))
    done = stage.run(LOCAL, "2", *options, "--port=1234", "--", *TRAINING, env=env)
    assert done.returncode == 0, done.stderr
    calls = sorted((call for call in stage.calls if isinstance(call, dict)), key=lambda call: call["call"][-1])
    assert [call["cwd"] for call in calls] == [str(ROOT)] * 2
    for i, call in enumerate(calls):
        connection = ["--coordinator=127.0.0.1:1234", "--num_processes=2", f"--process_id={i}"]
        words = [*settings[i], "PYTHONUNBUFFERED=1", str(stage.bin / "python"), "-m", "sit_jax.main"]
        assert call["call"] == [*words, *TRAINING, *connection]
    if env.get("CUDA_VISIBLE_DEVICES") or "--cpu" in options:  # a dry run does not call nvidia-smi
        dry = commands(stage.run(LOCAL, "2", *options, "--port=1234", "--dry-run", "--", *TRAINING, env=env).stdout)
        expected = [["python" if word.endswith("/python") else word for word in call["call"]] for call in calls]
        assert [sorted(command[1:]) for command in dry] == [sorted(words) for words in expected]
        assert {command[0] for command in dry} == {"env"}


def test_local_dry_run_runs_nothing(stage):
    done = stage.run(LOCAL, "2", "--cpu", "--dry-run", "--", *TRAINING)  # even without Python
    assert (done.returncode, done.stderr, stage.calls) == (0, "", [])
    assert [command[-3] for command in commands(done.stdout)] == ["--coordinator=127.0.0.1:PORT"] * 2


def test_local_one_process_needs_no_coordinator(stage):
    done = stage.plan().run(LOCAL, "1", "--cpu", "--", *TRAINING)
    assert (done.returncode, done.stdout) == (0, "step of 0\n")
    assert stage.calls[0]["call"][-len(TRAINING) :] == TRAINING


def test_local_shows_all_lines_and_whose_they_are(stage):
    done = stage.plan(p0=[0], p1=[0], p2=[7]).run(LOCAL, "3", "--cpu", "--", "x", env={"GRACE_SECONDS": "5"})
    assert done.returncode == 7
    assert done.stdout == "step of 0\n"
    lines = done.stderr.splitlines()
    assert {"warning of 0", "[1] step of 1", "[1] warning of 1", "[2] step of 2", "[2] last words of 2"} <= set(lines)
    assert "last words of 0" in done.stderr  # as it is, without the end of the line
    ports = {word for call in stage.calls for word in call["call"] if word.startswith("--coordinator")}
    assert len(ports) == 1 and 1024 < int(ports.pop().rpartition(":")[2]) < 65536


def test_local_starts_again_after_a_preemption(stage):
    done = stage.plan(p0=[75, 0], p1=[75, 0]).run(LOCAL, "2", "--cpu", "--", *TRAINING)
    assert done.returncode == 0
    assert "local.sh: preempted; starting again (1 of at most 100)" in done.stderr
    first, second = ([call["call"] for call in stage.calls[i : i + 2]] for i in (0, 2))
    strip = functools.partial(map, lambda call: [word for word in call if not word.startswith("--coordinator")])
    assert sorted(strip(first)) == sorted(strip(second))


def test_local_does_not_start_again_for_ever(stage):
    done = stage.plan(p0=[75], p1=[0]).run(LOCAL, "2", "--cpu", "--max-restarts=1", "--", "x")
    assert done.returncode == 75
    assert len(stage.calls) == 4


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_local_a_signal_lets_all_save_and_nothing_starts_again(stage, number):
    process = stage.plan(p0=["wait"], p1=["wait"]).start(LOCAL, "2", "--cpu", "--", "x")
    stage.wait_for_calls(2)
    process.send_signal(number)
    output, errors = process.communicate(timeout=30)
    assert process.returncode == 75
    assert "saved 0" in output and "[1] saved 1" in errors
    assert len(stage.calls) == 2 and not stage.running()


def test_local_the_second_ctrl_c_kills(stage):
    process = stage.plan(p0=["ignore"], p1=["ignore"]).start(LOCAL, "2", "--cpu", "--", "x")
    stage.wait_for_calls(2)
    process.send_signal(signal.SIGINT)
    time.sleep(0.5)
    assert process.poll() is None and len(stage.running()) == 2
    process.send_signal(signal.SIGTERM)  # a shutdown of the machine is not a second Ctrl-C
    time.sleep(0.3)
    assert len(stage.running()) == 2
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=30)
    assert process.returncode == 128 + signal.SIGKILL
    assert not stage.running()


@pytest.mark.parametrize("other", ["wait", "ignore"])
def test_local_when_one_fails_the_others_are_ended(stage, other):
    done = stage.plan(p0=[other], p1=[3], p2=[other]).run(LOCAL, "3", "--cpu", "--", "x", env={"GRACE_SECONDS": "1"})
    assert done.returncode == 3
    assert "process 1 failed with exit code 3" in done.stderr and "[1] last words of 1" in done.stderr
    assert ("saved 0" in done.stdout) == (other == "wait")
    assert len(stage.calls) == 3 and not stage.running()


def test_local_when_one_is_preempted_the_others_do_not_hang(stage):
    stage.plan(p0=["ignore", 0], p1=[75, 0])
    done = stage.run(LOCAL, "2", "--cpu", "--", "x", env={"GRACE_SECONDS": "1"})
    assert done.returncode == 0, done.stderr
    assert "preempted; starting again (1 of at most 100)" in done.stderr and "failed" not in done.stderr
    assert len(stage.calls) == 4 and not stage.running()


def test_local_leaves_no_helper_behind(stage):
    done = stage.plan(p0=["helper"], p1=["helper"]).run(LOCAL, "2", "--cpu", "--", "x")
    assert done.returncode == 0
    assert len([pid for call in stage.calls for pid in call["pids"]]) == 4
    wait_until(lambda: not stage.running())


@pytest.mark.skipif(not shutil.which("setpriv"), reason="needs setpriv of util-linux")
def test_local_killed_leaves_no_process_behind(stage):
    process = stage.plan(p0=["wait"], p1=["wait"]).start(LOCAL, "2", "--cpu", "--", "x")
    stage.wait_for_calls(2)
    process.kill()
    assert "saved 0" in process.communicate(timeout=30)[0]
    wait_until(lambda: not stage.running())


# --- slurm.sh ---

ASK = ["--gpus-per-node=4", "--nodes=2", "--cpus-per-task=6", "--time=1:00:00", "--partition=gpu", "--account=me"]
ASK += ["--job-name=mine"]


def job_env(stage, **values):
    """The variables that Slurm sets in a job."""
    variables = {"SLURM_JOB_ID": "123", "SLURM_GPUS_PER_NODE": "4", "SLURM_CPUS_PER_TASK": "6"} | values
    return stage.env | variables


def run_job(stage, submission, **values):
    """Plays Slurm: runs a copy of the submitted script in the folder of --chdir."""
    script = submission.index("launch/slurm.sh")
    shutil.copy(ROOT / "launch" / "slurm.sh", stage.folder / "slurm_script")
    folder = next(word.partition("=")[2] for word in submission if word.startswith("--chdir="))
    command = [stage.folder / "slurm_script", *submission[script + 1 :]]
    env = job_env(stage, **values)
    return subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True, timeout=60)


SRUN = ["srun", "--kill-on-bad-exit=0", "--wait=300", "--cpus-per-task=6", "--gpu-bind=none", "python", "-m"]
SRUN += ["sit_jax.main", *TRAINING]


def test_slurm_submits_one_process_for_each_gpu(stage):
    done = stage.add("sbatch").run(SLURM, *ASK, "--", *TRAINING)
    assert done.returncode == 0, done.stderr
    options = "--job-name=mine --nodes=2 --ntasks-per-node=4 --gpus-per-node=4 --cpus-per-task=6 --requeue"
    options += f" --open-mode=append --signal=TERM@120 --chdir={ROOT} --output={stage.folder}/slurm-%j.out"
    options += " --time=1:00:00 --partition=gpu --account=me launch/slurm.sh --in-job --"
    assert stage.calls == [["sbatch", *options.split(), *TRAINING]]


def test_slurm_without_gpus_runs_one_process_a_node(stage):
    done = stage.run(SLURM, "--nodes=3", "--gpus-per-node=0", "--dry-run", "--", *TRAINING, env={"SAVE_SECONDS": "60"})
    submission, step, _ = commands(done.stdout)
    assert submission[:4] == ["sbatch", "--job-name=sit_jax", "--nodes=3", "--ntasks-per-node=1"]
    assert "--signal=TERM@60" in submission
    assert not [word for word in submission + step if word.startswith("--gpu")]


def test_slurm_goes_on_after_a_preemption(stage):
    stage.add("sbatch", "srun", "scontrol").answer(("srun", 75, ""), ("srun", 0, ""))
    dry = stage.run(SLURM, *ASK, "--dry-run", "--", *TRAINING)
    assert (dry.returncode, dry.stderr, stage.calls) == (0, "", [])
    stage.run(SLURM, *ASK, "--", *TRAINING)
    (submission,) = stage.calls
    done = run_job(stage, submission)
    assert done.returncode == 0
    assert "preempted; requeueing the job (1 of at most 100)" in done.stderr
    assert stage.calls[1:] == [SRUN, ["scontrol", "requeue", "123"]]
    printed = [[word.replace("$SLURM_JOB_ID", "123") for word in command] for command in commands(dry.stdout)]
    assert printed == stage.calls
    assert run_job(stage, submission, SLURM_RESTART_COUNT="1").returncode == 0
    assert stage.calls[3:] == [SRUN]


@pytest.mark.parametrize("code,restarts", [(3, "0"), (2, "0"), (75, "7")])
def test_slurm_other_exit_codes_are_those_of_the_job(stage, code, restarts):
    stage.add("srun", "scontrol").answer(("srun", code, ""))
    submission = [f"--chdir={ROOT}", "launch/slurm.sh", "--in-job", "--", *TRAINING]
    assert run_job(stage, submission, SLURM_RESTART_COUNT=restarts, MAX_REQUEUES="7").returncode == code
    assert stage.calls == [SRUN]


def test_slurm_a_cancelled_job_is_not_requeued(stage):
    stage.add("srun", "scontrol").answer(("srun", 75, "sleep"))
    env = job_env(stage)
    process = stage.start(SLURM, "--in-job", "--", *TRAINING, env=env, start_new_session=True)
    stage.wait_for_calls(1)
    os.killpg(process.pid, signal.SIGTERM)  # scancel signals the processes and the script
    process.communicate(timeout=30)
    assert process.returncode == -signal.SIGTERM
    assert [call[0] for call in stage.calls] == ["srun"]


# --- tpu_vm.sh ---

STATE = "value(state.state)"
OPTIONS = ["--zone=us-west4-a", "--project=mine"]


def gcloud(*words):
    return ["gcloud", "compute", "tpus", *words, *OPTIONS]


def ssh(worker, command):
    flags = [f"--worker={worker}", "--ssh-flag=-oServerAliveInterval=30", f"--command={command}"]
    return gcloud("tpu-vm", "ssh", "my-tpu", *flags)


def on_worker(worker, command):
    return ssh(worker, f"bash sit_jax/launch/tpu_vm.sh on-worker {command}")


REQUIREMENTS = sorted(path.name for path in ROOT.glob("requirements*.txt"))
ARCHIVE = "build/sit_jax-my-tpu.tar.gz"
UNPACK = "mkdir -p sit_jax && tar -xzf sit_jax.tar.gz -C sit_jax && bash sit_jax/launch/tpu_vm.sh on-worker setup"
REQUEST = ["--node-id=my-tpu", "--accelerator-type=v5litepod-16", "--runtime-version=v2-alpha-tpuv5-lite", "--spot"]
CREATE = gcloud("queued-resources", "create", "my-tpu", *REQUEST)
DESCRIBE = gcloud("queued-resources", "describe", "my-tpu", f"--format={STATE}")
DELETE = gcloud("queued-resources", "delete", "my-tpu", "--force", "--quiet")
NODE = gcloud("tpu-vm", "describe", "my-tpu", "--format=value(state)")
SETUP = [
    ["mkdir", "-p", "build"],
    ["tar", "-czf", ARCHIVE, "--exclude=__pycache__", "sit_jax", "configs", "launch", *REQUIREMENTS],
    gcloud("tpu-vm", "scp", ARCHIVE, "my-tpu:sit_jax.tar.gz", "--worker=all"),
    ssh("all", UNPACK),
]
QUOTED = r"--config=configs/digits.py --workdir=/shared/my\ run --config.views.area=\(0.4\,\ 1\)"
START = on_worker("all", f"start -- {QUOTED}")
LOGS, CODE, END = on_worker("0", "logs"), on_worker("0", "code"), on_worker("all", "end 300")
ACTIVE, MISSING = (STATE, 0, "ACTIVE"), (STATE, 1, "ERROR: (gcloud) NOT_FOUND: Resource was not found")


@pytest.fixture
def cloud(stage):
    """A stage with gcloud and with the tools that pack the project."""
    (stage.bin / "mkdir").unlink()
    return stage.add("gcloud", "tar", "mkdir")


def tpu(stage, action, *args, **kwargs):
    return stage.run(TPU, action, "my-tpu", *OPTIONS, *args, **kwargs)


def up(stage, *args, **kwargs):
    return tpu(stage, "up", "--type=v5litepod-16", "--spot", *args, "--", *TRAINING, **kwargs)


def test_tpu_create_waits_until_active(cloud):
    notice = "WARNING: a newer gcloud\nWAITING_FOR_RESOURCES\nTo update:\n $ gcloud components update"
    cloud.answer((STATE, 0, notice), (STATE, 1, "ERROR: no network"), (STATE, 0, "PROVISIONING"), ACTIVE)
    done = tpu(cloud, "create", "--type=v5litepod-16", "--spot")
    assert done.returncode == 0, done.stderr
    assert cloud.calls == [CREATE, *[DESCRIBE] * 4]
    for state in ("WAITING_FOR_RESOURCES", "PROVISIONING", "ACTIVE"):
        assert f"tpu_vm.sh: my-tpu: {state} (after 0 min)" in done.stderr


def test_tpu_create_says_when_it_failed(cloud):
    cloud.answer((STATE, 0, "ACCEPTED"), (STATE, 0, "FAILED"))
    done = tpu(cloud, "create", "--type=v5litepod-16")
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].startswith("error: my-tpu could not be created; see: launch/tpu_vm.sh status")
    assert CREATE[:-3] + OPTIONS == cloud.calls[0]  # on demand: without --spot


@pytest.mark.parametrize("accelerator,version", [("v6e-8", "v2-alpha-tpuv6e"), ("v4-8", "tpu-ubuntu2204-base")])
def test_tpu_the_runtime_version_follows_the_type(stage, accelerator, version):
    done = tpu(stage, "create", f"--type={accelerator}", "--dry-run")
    assert f"--runtime-version={version}" in commands(done.stdout)[0]


def test_tpu_setup_status_stop_are_these_commands(cloud):
    assert tpu(cloud, "setup").returncode == 0
    assert cloud.calls == SETUP
    assert tpu(cloud, "status").returncode == 0
    assert tpu(cloud, "stop").returncode == 0
    describe = gcloud("queued-resources", "describe", "my-tpu", "--format=yaml(state)")
    assert cloud.calls[len(SETUP) :] == [describe, on_worker("all", "state"), on_worker("all", "stop")]


def test_tpu_setup_also_mounts(cloud):
    mount = "mountpoint -q /mnt || sudo mount 10.0.0.2:/share /mnt"
    assert tpu(cloud, "setup", f"--mount={mount}").returncode == 0
    assert cloud.calls == [*SETUP[:-1], ssh("all", f"{UNPACK} && {{ {mount}\n}}")]


@pytest.mark.parametrize("end", ["", ";", " # here"])
def test_tpu_a_mount_may_end_in_anything(cloud, end):
    assert tpu(cloud, "setup", f"--mount=echo mounted{end}").returncode == 0
    command = cloud.calls[-1][-3].removeprefix(f"--command={UNPACK} && ")
    assert subprocess.run(["bash", "-c", command], capture_output=True, text=True).stdout == "mounted\n"


@pytest.mark.parametrize("code", [0, 1, 2, 75])
def test_tpu_run_ends_with_the_code_of_the_training(cloud, code):
    cloud.answer(("on-worker code", 0, str(code)))
    done = tpu(cloud, "run", "--", *TRAINING)
    assert done.returncode == code
    assert cloud.calls == [START, LOGS, CODE, END]
    assert f"the training ended with exit code {code}; my-tpu still costs money" in done.stderr


def test_tpu_a_lost_connection_is_taken_up_again(cloud):
    lost = [("on-worker logs", 255, ""), ("on-worker code", 255, "")]
    cloud.answer(
        *lost, ACTIVE, ("value(state)", 0, "READY"), ("on-worker code", 0, "running"), ("on-worker code", 0, "0")
    )
    done = tpu(cloud, "logs")
    assert done.returncode == 0
    assert cloud.calls == [LOGS, CODE, DESCRIBE, NODE, LOGS, CODE, LOGS, CODE, END]
    assert done.stderr.count("the connection was lost") == 2


def test_tpu_up_outlives_a_network_that_is_away(cloud):
    outage = [("on-worker code", 255, ""), *[(STATE, 1, "ERROR: no network")] * 5, ACTIVE, ("value(state)", 0, "READY")]
    cloud.answer(ACTIVE, ("on-worker code", 0, "running"), *outage * 4, ("on-worker code", 0, "0"))
    done = up(cloud, "--yes")
    assert done.returncode == 0, done.stderr
    assert cloud.calls == [DESCRIBE, CODE, START, *[LOGS, CODE, *[DESCRIBE] * 6, NODE] * 4, LOGS, CODE, END]
    assert "tpu_vm.sh: ERROR: no network (try 5 of 120)" in done.stderr


def test_tpu_a_mistake_ends_up_soon(cloud):
    cloud.answer(*[(STATE, 1, "ERROR: PERMISSION_DENIED")] * 3)
    done = up(cloud, "--yes")
    assert (done.returncode, cloud.calls) == (1, [DESCRIBE] * 3)
    assert done.stderr.splitlines()[-1].startswith("error: the state of my-tpu cannot be queried")


def test_tpu_a_training_that_was_killed_is_not_waited_for(cloud):
    cloud.answer(("on-worker code", 0, "none"), ACTIVE, ("value(state)", 0, "READY"))
    done = tpu(cloud, "run", "--", *TRAINING)
    assert (done.returncode, cloud.calls) == (1, [START, LOGS, CODE, DESCRIBE, NODE])
    assert "worker 0 of my-tpu does not report the state of the training" in done.stderr


@pytest.mark.parametrize("action", ["delete", "up"])
def test_tpu_deletes_nothing_unasked(cloud, action):
    arguments = [action, "my-tpu", *OPTIONS, "--type=v5litepod-16", "--", *TRAINING]
    done = cloud.run(TPU, *arguments)
    assert (done.returncode, cloud.calls) == (2, [])
    assert "There is no terminal to ask on; add --yes to agree" in done.stderr
    terminal, ours = pty.openpty()
    os.write(terminal, b"n\n")
    done = cloud.run(TPU, *arguments, stdin=ours)
    assert (done.returncode, cloud.calls) == (2, [])
    assert "error: nothing was done" in done.stderr
    if action == "delete":
        os.write(terminal, b"y\n")
        assert cloud.run(TPU, *arguments, stdin=ours).returncode == 0
        assert cloud.calls == [DELETE]
        assert cloud.run(TPU, *arguments[:-4], "--yes").returncode == 0
        assert cloud.calls == [DELETE] * 2
    for end in (terminal, ours):
        os.close(end)


def test_tpu_up_does_all_and_a_dry_run_prints_it(cloud):
    dry = up(cloud, "--dry-run")
    assert (dry.returncode, dry.stderr, cloud.calls) == (0, "", [])
    cloud.answer(MISSING, ACTIVE, ("on-worker code", 255, ""), ("on-worker code", 0, "0"))
    done = up(cloud, "--yes")
    assert done.returncode == 0, done.stderr
    assert cloud.calls == [DESCRIBE, CREATE, DESCRIBE, CODE, *SETUP, START, LOGS, CODE, END]
    assert commands(dry.stdout) == cloud.calls[:3] + cloud.calls[4:]  # a dry run finds no running training
    assert shlex.join(DELETE).replace("'", "") in dry.stdout


def test_tpu_up_goes_on_after_preemptions(cloud):
    none, at_end, lost = (
        ("on-worker code", 255, "no training"),
        ("on-worker code", 0, "75"),
        ("on-worker code", 255, ""),
    )
    restart = [ACTIVE, none, at_end]  # stopped by a signal, with the machine still there
    taken = [ACTIVE, none, lost, (STATE, 0, "SUSPENDING"), (STATE, 0, "SUSPENDING"), (STATE, 0, "SUSPENDED"), ACTIVE]
    unaware = [none, lost, ACTIVE, ("value(state)", 0, "PREEMPTED"), ACTIVE, ACTIVE]
    cloud.answer(*restart, *taken, *unaware, none, ("on-worker code", 0, "0"))
    done = up(cloud, "--yes")
    assert done.returncode == 0, done.stderr
    begin, again = [CODE, *SETUP, START, LOGS, CODE], [DELETE, CREATE, DESCRIBE]
    expected = [DESCRIBE, *begin, END]
    expected += [DESCRIBE, *begin, DESCRIBE]  # the state after the connection was lost
    expected += [DESCRIBE, DESCRIBE, *again, *begin, DESCRIBE, NODE]
    expected += [DESCRIBE, *again, *begin, END]
    assert cloud.calls == expected
    assert "starting again (3 of at most 100)" in done.stderr


def test_tpu_up_follows_a_training_that_runs(cloud):
    cloud.answer(ACTIVE, ("on-worker code", 0, "running"), ("on-worker code", 0, "0"))
    assert up(cloud, "--yes").returncode == 0
    assert cloud.calls == [DESCRIBE, CODE, START, LOGS, CODE, END]


def test_tpu_up_gives_up(cloud):
    cloud.answer((STATE, None, "ACTIVE"), ("on-worker code", None, "75"))
    done = up(cloud, "--yes", env={"MAX_RESTARTS": "1"})
    assert done.returncode == 75
    assert cloud.calls.count(START) == 2
    cloud.answer((STATE, None, "ACTIVE"), *[("scp", 1, "ERROR: no key")] * 3)
    done = up(cloud, "--yes")
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1] == "error: the training could not be started on my-tpu; the reason is above"
    assert cloud.calls.count(START) == 2


@pytest.fixture
def worker(stage):
    """A command on a worker, where the project is in ~/sit_jax."""
    (stage.folder / "sit_jax" / "launch").mkdir(parents=True)
    shutil.copy(ROOT / "launch" / TPU, stage.folder / "sit_jax" / "launch")
    stage.env["PYTHON"] = str(stage.bin / "python")

    def run(*words):
        command = ["bash", "sit_jax/launch/tpu_vm.sh", "on-worker", *words]
        pipes = {"stdin": subprocess.DEVNULL, "capture_output": True}
        return subprocess.run(command, cwd=stage.folder, env=stage.env, text=True, timeout=60, **pipes)

    return run


def test_tpu_worker_runs_the_training_detached(stage, worker):
    stage.plan(p0=["wait", 3])
    assert worker("code").stdout == "none\n"
    assert worker("state").stdout.endswith(": no training, or it was killed\n")
    assert worker("start", "--", *TRAINING).returncode == 0
    stage.wait_for_calls(1)
    assert worker("start", "--", *TRAINING).returncode == 0  # repeated by gcloud: nothing more
    other = worker("start", "--", "--config=other")
    assert other.returncode == 1 and "another training runs" in other.stderr
    assert worker("code").stdout == "running\n"
    assert worker("stop").returncode == 0
    assert worker("code").stdout == "75\n"
    assert worker("logs").stdout == "step of 0\nwarning of 0\nsaved 0\n"
    assert worker("start", "--", *TRAINING).returncode == 0
    assert worker("logs").stdout.endswith("last words of 0")  # follows until the end
    assert worker("end", "300").returncode == 0
    assert worker("code").stdout == "3\n"
    assert worker("state").stdout.endswith(": 3\n")
    assert [call["call"][-len(TRAINING) :] for call in stage.calls] == [TRAINING] * 2
    assert not stage.running()


def test_tpu_worker_setup_installs_with_a_python_of_its_own(stage, worker):
    assert stage.add("python3").answer() is None
    assert worker("setup").returncode == 0
    install = "pip install --quiet --python .venv/bin/python -r requirements.txt -r requirements-tpu.txt"
    commands = [
        "pip install --quiet --user uv",
        "uv venv --quiet --allow-existing --python 3.12 .venv",
        f"uv {install} -r requirements-remote.txt",
    ]
    assert stage.calls == [["python3", "-m", *command.split()] for command in commands]
