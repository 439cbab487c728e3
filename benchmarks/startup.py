"""Times the start of a training, from the command to its first finished step, with a cold and a warm cache.

python benchmarks/startup.py [--warm=3] [any arguments of sit_jax.main; default: --config=configs/digits.py]
"""

import argparse
import os
import pathlib
import subprocess
import sys
import tempfile
import time

ROOT = pathlib.Path(__file__).resolve().parent.parent


def seconds_to_first_step(arguments: list[str], folder: str, cache: str) -> float:
    """Starts a training, stops it at its first step and returns the seconds; raises RuntimeError if it ends earlier."""
    command = [sys.executable, "-u", "-m", "sit_jax.main", *arguments, f"--workdir={folder}"]
    environment = os.environ | {"JAX_COMPILATION_CACHE_DIR": cache}
    begin = time.perf_counter()
    process = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    try:
        for line in process.stdout:
            if line.startswith("step 1/"):
                return time.perf_counter() - begin
    finally:
        process.kill()
        process.wait()
    raise RuntimeError("the training ended before its first step; its output is above")


def main() -> None:
    """Measures each start and prints a line for it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--warm", type=int, default=3)
    args, rest = parser.parse_known_args()
    with tempfile.TemporaryDirectory() as cache:
        for start in range(1 + args.warm):
            with tempfile.TemporaryDirectory() as folder:
                seconds = seconds_to_first_step(rest or ["--config=configs/digits.py"], folder, cache)
            print(f"{'warm' if start else 'cold'} {seconds:6.1f} s", flush=True)


if __name__ == "__main__":
    main()
