"""Makes all measurements that need an accelerator, in a few minutes: `--minutes=M --out=DIR`.

python benchmarks/accelerator.py --minutes=M --out=DIR [--stages=right,fast,why,learn] [--train=CONFIG[:args]]
    [--data=FILE.npz] [--dry-run]

  right  step against the CPU, attention, resume, k-NN and linear, donation, transfers
  fast   ceilings of the device; images/s of four models and their variants, of PyTorch, and with reading
  why    trace of three steps: the slowest kernels, each with its roofline
  learn  a training as long as the time allows; k-NN and linear of it, of random weights and of raw pixels

Each stage is a process with its own time limit. DIR gets results.json, report.md, report.png, and from `learn`
metrics.jsonl, reconstructions.png and encoder-N.npz: at most 8 files of less than 16 MiB each. All other files are in
runs/accelerator. If a call did not finish its training, the next call resumes it from there. `--dry-run` runs
everything at tiny sizes on the CPU. Exit code: 0; 1 if a stage raised or reached its limit, a row failed, or nothing
was measured; 2 for wrong input.
"""

import argparse
import json
import math
import os
import pathlib
import shlex
import shutil
import signal
import sys
import time
from typing import Any, NamedTuple, NoReturn

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))

from benchmarks.accelerator_stages import process, report, stage, training
from sit_jax.common import errors
from sit_jax.common.errors import InputError
from sit_jax.common.files import write_json

ROOT = pathlib.Path(__file__).resolve().parent.parent
WORK = ROOT / "runs" / "accelerator"
DATA = WORK / "cifar10.npz"
TRAIN = str(ROOT / "configs" / "cifar10_accelerator.py")
STAGES = ("right", "fast", "why", "learn")
RESERVE = 10.0  # seconds reserved for the last report
GRACE = 5.0  # seconds between the end announced to a stage and its limit
LINE = 200  # the most characters shown of a log line
QUIET = 30.0  # seconds without a result until a line reports that the stage still runs
REHEARSAL = {"JAX_DISABLE_MOST_OPTIMIZATIONS": "1"}  # halves the compile time
ALONE = {"XLA_PYTHON_CLIENT_MEM_FRACTION": "0.9"}


class Part(NamedTuple):
    """One process of a stage."""

    stage: str
    module: str
    share: float  # of the remaining time, relative to the shares of the remaining parts
    rehearsal: float  # share in a dry run
    environment: dict[str, str]


PARTS = (
    # `right` starts trainings in parallel, so no process may preallocate most of the memory.
    Part("right", "benchmarks.accelerator_stages.right", 1.8, 3.5, {"XLA_PYTHON_CLIENT_PREALLOCATE": "false"}),
    Part("fast", "benchmarks.accelerator_stages.fast", 3.6, 2.2, ALONE),
    Part("fast", "benchmarks.accelerator_stages.peer", 2.6, 1.0, {}),  # two frameworks share the memory; see compare.py
    Part("why", "benchmarks.accelerator_stages.why", 1.2, 0.8, ALONE),
    Part("learn", "benchmarks.accelerator_stages.learn", 9.0, 3.5, ALONE),
)


class Parser(argparse.ArgumentParser):
    """Raises InputError where argparse would end the program."""

    def error(self, message: str) -> NoReturn:
        """Raises InputError."""
        raise InputError(f"{message}; --help lists all options")


def parse(argv: list[str]) -> argparse.Namespace:
    """Parses the command line; raises InputError if it is wrong."""
    parser = Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, required=True, help="time for all stages")
    parser.add_argument("--out", type=pathlib.Path, required=True, help="folder for the results")
    parser.add_argument("--stages", default=",".join(STAGES), help="default: all of them")
    parser.add_argument("--train", default=TRAIN, help=f"configuration of the training; default: {TRAIN}")
    parser.add_argument("--data", type=pathlib.Path, help=f"array file of CIFAR-10; default: {DATA}")
    parser.add_argument("--dry-run", action="store_true", help="all stages at tiny sizes on the CPU")
    values = parser.parse_args(argv[1:])
    values.stages = [name for name in values.stages.split(",") if name]
    for name in values.stages:
        if name not in STAGES:
            raise InputError(f"--stages={name} is unknown; the stages are {', '.join(STAGES)}")
    if not values.stages:
        raise InputError(f"--stages is empty; the stages are {', '.join(STAGES)}")
    if not (math.isfinite(values.minutes) and values.minutes > 0):
        raise InputError(f"--minutes={values.minutes:g} must be above 0")
    training.load_config(values.train)
    if values.data is not None and not values.data.is_file():
        raise InputError(f"--data={values.data} does not exist; give an array file of CIFAR-10")
    values.data = values.data or DATA
    try:
        values.out.mkdir(parents=True, exist_ok=True)
        (values.out / "results.json").write_text("{}\n")
        WORK.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"--out={values.out}: cannot be written ({error.strerror}); choose another folder") from error
    return values


class Measurement:
    """One call: its results so far and its remaining time."""

    def __init__(self, values: argparse.Namespace, argv: list[str]):
        self.values, self.out = values, values.out
        self.ends = time.time() + 60 * values.minutes
        self.results: dict[str, Any] = {
            "command": shlex.join(["python", "benchmarks/accelerator.py", *argv[1:]]),
            "began": time.strftime("%Y-%m-%d %H:%M:%S"),
            "minutes": values.minutes,
            "dry_run": values.dry_run,
            "stages": [],
            "rows": [],
        }

    def left(self) -> float:
        """Returns the seconds until the deadline of the call."""
        return self.ends - time.time()

    def run(self) -> int:
        """Runs all parts and returns the exit code; writes the report after each part, however the part ended."""
        parts = [part for part in PARTS if part.stage in self.values.stages]
        for index, part in enumerate(parts):
            shares = [p.rehearsal if self.values.dry_run else p.share for p in parts[index:]]
            limit = share_of(self.left() - RESERVE, shares)
            ended: dict[str, Any] = {"stage": part.stage, "module": part.module, "limit_seconds": round(limit, 1)}
            self.results["stages"].append(ended)
            try:
                ended["end"] = "stopped by a signal"
                ended |= self.run_part(part, limit)
            finally:
                self.bring_home()
            say(f"{part.stage}: {ended['end']} after {ended['seconds']:.0f} s, {self.left():.0f} s left in all")
        ended = all(ended["end"] == "ended" for ended in self.results["stages"])
        statuses = {row["status"] for row in self.results["rows"] if row["table"] != "machine"}
        return (
            errors.DONE if ended and statuses & {"measured", "passed"} and "failed" not in statuses else errors.FAILED
        )

    def run_part(self, part: Part, limit: float) -> dict[str, Any]:
        """Runs a part in a process, collects its rows as they arrive, and returns how it ended."""
        name, values, begin = part.module.rpartition(".")[2], self.values, time.time()
        lines, log = WORK / f"{name}.jsonl", WORK / f"{name}.log"
        lines.write_text("")
        plan = stage.Stage(
            name=part.stage,
            module=part.module,
            ends=begin + limit - GRACE,
            dry_run=values.dry_run,
            lines=str(lines),
            work=str(WORK),
            out=str(self.out.resolve()),
            train=values.train,
            data=str(values.data.resolve()),
        )
        say(f"{part.stage}: {name} has {limit:.0f} s; its log is {log}")
        told = begin

        def look() -> None:
            nonlocal told
            if self.read_rows(lines):
                told = time.time()
            elif time.time() - told > QUIET:
                told = time.time()
                seconds = begin + limit - told
                say(f"[{self.left():4.0f} s left] {name} runs, {seconds:.0f} s to its limit: {last_lines(log, 1)}")

        code = process.run(plan, environment(part, values.dry_run), log, begin + limit, look)
        look()
        ended = {"seconds": round(time.time() - begin, 1)}
        if code is None:
            note = f"stopped after {ended['seconds']:.0f} s by its limit; its results so far are kept"
            return ended | {"end": "stopped by its limit", "note": note}
        if code:
            return ended | {
                "end": "raised",
                "note": last_lines(log, 1) or f"exit code {code}",
                "log": last_lines(log, 12),
            }
        return ended | {"end": "ended"}

    def read_rows(self, lines: pathlib.Path) -> bool:
        """Adds the new rows of a file to the results and prints them; returns whether there were any."""
        text = lines.read_text()
        rows = [json.loads(line) for line in text[: text.rfind("\n") + 1].splitlines()]
        known = sum(row["file"] == lines.name for row in self.results["rows"])
        for row in rows[known:]:
            self.results["rows"].append(row | {"file": lines.name})
            say(f"[{self.left():4.0f} s left] {report.line(row)}")
        if rows[known:]:
            write_json(self.out / "results.json", self.results)
        return bool(rows[known:])

    def bring_home(self) -> None:
        """Writes the report and copies the metrics and the last pictures of the training."""
        write_json(self.out / "results.json", self.results)
        report.write(self.out, self.results)
        if "learn" in {ended["stage"] for ended in self.results["stages"]}:
            run = training.folder(WORK, self.values.train, self.values.dry_run)
            pictures = sorted((run / "reconstructions").glob("*.png"), key=lambda path: int(path.stem))
            for path in [*run.glob("metrics.jsonl"), *pictures[-1:]]:
                name = path.name if path.suffix == ".jsonl" else "reconstructions.png"
                shutil.copyfile(path, self.out / name)


def share_of(seconds: float, shares: list[float]) -> float:
    """Returns the seconds of the first of several parts that share `seconds`; later parts share its unused time."""
    return max(0.0, seconds) * shares[0] / sum(shares)


def environment(part: Part, dry_run: bool) -> dict[str, str]:
    """Returns the environment of a part: one device, and a compilation cache shared by stages and calls."""
    platforms = os.environ.get("JAX_PLATFORMS", "")
    if platforms and "cpu" not in platforms:  # `right` compares with the CPU
        platforms += ",cpu"
    return (
        os.environ
        | part.environment
        | {
            "PYTHONPATH": os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH")))),
            "CUDA_VISIBLE_DEVICES": os.environ.get("CUDA_VISIBLE_DEVICES", "0"),
            "JAX_COMPILATION_CACHE_DIR": str(WORK / "xla"),
            "JAX_PLATFORMS": "cpu" if dry_run else platforms,
        }
        | (REHEARSAL if dry_run else {})
    )


def last_lines(log: pathlib.Path, count: int) -> str:
    """Returns the last non-empty lines of a log."""
    lines = [line[:LINE] for line in log.read_text(errors="replace").splitlines() if line.strip()]
    return "\n".join(lines[-count:])


def say(text: str) -> None:
    """Prints a line immediately."""
    print(text, flush=True)


def main(argv: list[str]) -> int:
    """Runs the command and returns its exit code."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        values = parse(argv)
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return errors.WRONG_INPUT
    try:
        return Measurement(values, argv).run()
    except KeyboardInterrupt:
        say(f"stopped by a signal; the results so far are in {values.out}")
        return errors.FAILED


if __name__ == "__main__":
    sys.exit(main(sys.argv))
