"""Times the training step of sit_jax against its PyTorch peers, in turns, each in its own process.

python benchmarks/compare.py --config=configs/cifar10.py[:args] [--config.a.b=value] [--peers=torch,library]
"""

import contextlib
import importlib.util
import json
import math
import os
import pathlib
import signal
import statistics
import subprocess
import sys
import tempfile

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))

from absl import flags

from benchmarks.equality import largest_difference
from sit_jax.common import allocator, errors
from sit_jax.common.errors import InputError
from sit_jax.config import cli
from sit_jax.config.checks import check_config
from sit_jax.config.rules import lookup
from sit_jax.config.saved import to_json

ROOT = pathlib.Path(__file__).resolve().parent.parent
PEERS = ("torch", "library")
# The only values that the peers support.
PEERS_HAVE = {
    "microbatches": 1,
    "views.count": 2,
    "views.jitter": 1.0,
    "views.solarize": 0.0,
    "views.blur": 0.0,
    "model.stem": "patches",
    "views.turned": 0.75,
    "views.share_rotation": False,
    "corrupt.share": 1.0,
    "model.projector_norm": "none",
    "loss.weighting": "gradient",
    "loss.subtract_floor": False,
    "optim.log_var_rate": 1.0,
}
FEEDS = {"torch": "arrays", "library": "stream"}  # the input of ours: as much work on the host as for the peer


def environment() -> dict[str, str]:
    """Returns the environment of each contender, with the same allocator settings for all."""
    # Two frameworks share one GPU, and JAX would take three quarters of its memory. If other programs use a core,
    # OpenMP threads that spin while waiting would block the other threads.
    return {"XLA_PYTHON_CLIENT_MEM_FRACTION": "0.45", "OMP_WAIT_POLICY": "passive"} | allocator.settings() | os.environ


class Contender:
    """A process that waits for commands and is stopped between them."""

    def __init__(self, name: str):
        self.name = name
        command = [sys.executable, "-m", "benchmarks.worker", name]
        pipe = subprocess.PIPE
        # A separate process group, so that threads and DataLoader workers are stopped with it.
        self.process = subprocess.Popen(
            command, stdin=pipe, stdout=pipe, text=True, cwd=ROOT, env=environment(), process_group=0
        )

    def ask(self, command: str, **arguments):
        """Sends a command and returns its result; raises InputError for wrong input, RuntimeError after a crash."""
        os.killpg(self.process.pid, signal.SIGCONT)
        print(json.dumps([command, arguments]), file=self.process.stdin, flush=True)
        answer = json.loads(self.process.stdout.readline() or "{}")
        if "error" in answer:
            raise InputError(answer["error"])
        if "result" not in answer:
            raise RuntimeError(f"the process of {self.name} ended; its output is above")
        os.killpg(self.process.pid, signal.SIGSTOP)
        return answer["result"]

    def close(self) -> None:
        """Kills the process and its child processes."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()


def make_flags(argv: list[str]) -> flags.FlagValues:
    """Returns the flags of the command, including the `--config.<key>=value` flags in `argv`."""
    values = cli.make_config_flags(argv)
    cli.add_out_flag(values)
    flags.DEFINE_list("peers", ["torch"], "torch, library, or both.", flag_values=values)
    flags.DEFINE_enum(
        "data", "synthetic", ["synthetic", "source"], "Random images, or data.source.", flag_values=values
    )
    flags.DEFINE_enum("dtype", None, ["float32", "bfloat16"], "The same as --config.dtype.", flag_values=values)
    flags.DEFINE_integer("rounds", 5, "Turns of each contender.", 1, flag_values=values)
    flags.DEFINE_float("seconds", 20.0, "Length of a turn.", 0.0, flag_values=values)
    flags.DEFINE_integer("steps", None, "Steps in a turn, instead of seconds.", 1, flag_values=values)
    modes = ["default", "reduce-overhead", "max-autotune-no-cudagraphs", "none"]
    flags.DEFINE_enum("compile", "default", modes, "The mode of torch.compile; none is eager.", flag_values=values)
    flags.DEFINE_integer("workers", 2, "Processes of the DataLoader of the library peer.", 1, flag_values=values)
    return values


def parse(values: flags.FlagValues, argv: list[str]) -> dict:
    """Parses the command line into `values` and returns the configuration; raises InputError if it is wrong."""
    config = cli.parse_config(values, argv, ("config",), __doc__)
    for peer in values.peers:
        if peer not in PEERS:
            raise InputError(f"--peers={peer} is unknown; the peers are {', '.join(PEERS)}")
    if not values.peers:
        raise InputError(f"--peers is empty; the peers are {', '.join(PEERS)}")
    if values.dtype:
        config.dtype = values.dtype
    if values.data == "synthetic":
        config.data.source = "random"
    for name, value in PEERS_HAVE.items():
        if lookup(config, name) != value:
            raise InputError(
                f"{name}={lookup(config, name)}: the peers support only {value}; add --config.{name}={value}"
            )
    check_config(config, 1)
    if importlib.util.find_spec("torch") is None:
        raise InputError("PyTorch is not installed; pip install -r requirements-bench.txt")
    return to_json(config)


def compare(values: flags.FlagValues, config: dict) -> dict:
    """Runs the comparison and returns its figures."""
    with contextlib.ExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory())
        exchange = os.path.join(folder, "exchange.npz")
        names = ("ours", *values.peers)
        contenders = {name: stack.enter_context(contextlib.closing(Contender(name))) for name in names}
        setup = {"ours": contenders["ours"].ask("setup", config=config, data=values.data, exchange=exchange)}
        config = setup["ours"].pop("config")
        options = {"compile_mode": values.compile, "workers": values.workers}
        settings = {name: value for name, value in environment().items() if name in allocator.VARIABLES}
        figures = {"config": config, "load": os.getloadavg()[0], "settings": settings, "setup": setup, "peers": {}}
        for name in values.peers:
            peer = contenders[name]
            setup[name] = peer.ask("setup", config=config, data=values.data, exchange=exchange, **options)
            difference = largest_difference(setup["ours"], setup[name])
            say(f"{name}: {setup[name]['parameters']:,} parameters as ours, losses equal to {difference:.1e}")
        for name in values.peers:
            turns = alternate(contenders["ours"], contenders[name], FEEDS[name], values)
            figures["peers"][name] = summary(turns, config["batch_size"])
        return figures


def alternate(ours: Contender, peer: Contender, feed: str, values: flags.FlagValues) -> list[dict]:
    """Lets both contenders work in turns; returns steps and seconds of both for each round."""
    steps = {}
    for contender in (ours, peer):
        contender.ask("run", steps=1, feed=feed)  # warm-up
        if not values.steps:
            rate = 2 / contender.ask("run", steps=2, feed=feed)
        steps[contender] = values.steps or max(2, math.ceil(values.seconds * rate))
    rounds = []
    for _ in range(values.rounds):
        seconds = [contender.ask("run", steps=count, feed=feed) for contender, count in steps.items()]
        rounds.append({"steps": list(steps.values()), "seconds": seconds, "load": os.getloadavg()[0]})
    return rounds


def summary(rounds: list[dict], batch_size: int) -> dict:
    """Returns images/s of both and the ratio ours / theirs, as [median, lowest, highest], and the rounds."""
    speeds = [
        [steps * batch_size / seconds for steps, seconds in zip(turn["steps"], turn["seconds"], strict=True)]
        for turn in rounds
    ]

    def spread(values: list[float]) -> list[float]:
        return [statistics.median(values), min(values), max(values)]

    ours, theirs = zip(*speeds, strict=True)
    ratio = spread([mine / other for mine, other in speeds])
    return {"ours": spread(ours), "theirs": spread(theirs), "ratio": ratio, "rounds": rounds}


def say(text: str) -> None:
    """Prints a line immediately."""
    print(text, flush=True)


def report(figures: dict) -> None:
    """Prints the figures as a table."""
    config = figures["config"]
    model = config["model"]
    say(
        f"ViT-{model['size']}/{model['patch_size']}, images of {config['data']['image_size']} px -> "
        f"{model['image_size']} px, batch {config['batch_size']}, {config['dtype']}, "
        f"dense products {model['products']}; load {figures['load']:.1f}"
    )
    say(f"memory of all: {' '.join(f'{name}={value}' for name, value in figures['settings'].items()) or 'no settings'}")
    for name, setup in figures["setup"].items():
        say(f"{name}: {setup['device']}; ready after {setup['setup_seconds']:.0f} s")
    say(f"{'source images/s':<24}{'median':>10}{'lowest':>10}{'highest':>10}")
    for name, peer in figures["peers"].items():
        for label, values in ((f"ours ({FEEDS[name]})", peer["ours"]), (name, peer["theirs"])):
            say(f"{label:<24}" + "".join(f"{value:>10.4g}" for value in values))
        say(f"{f'ours / {name}':<24}" + "".join(f"{value:>10.3f}" for value in peer["ratio"]))


def main(argv: list[str]) -> int:
    """Runs the command and returns its exit code: 2 for wrong input."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        values = make_flags(argv)
        figures = compare(values, parse(values, argv))
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return errors.WRONG_INPUT
    report(figures)
    if values.out:
        pathlib.Path(values.out).write_text(json.dumps(figures, indent=1) + "\n")
    return errors.DONE


if __name__ == "__main__":
    sys.exit(main(sys.argv))
