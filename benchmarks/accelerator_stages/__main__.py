"""Runs one stage in this process, as benchmarks/accelerator.py does: `python -m benchmarks.accelerator_stages JSON`."""

import importlib
import os
import sys

from absl import logging

from benchmarks.accelerator_stages import stage

if __name__ == "__main__":
    logging.set_verbosity(logging.FATAL)
    plan = stage.load(sys.argv[1])
    importlib.import_module(plan.module).main(plan)
    sys.stdout.flush()
    os._exit(0)  # all results are on disk; does not wait for a thread that still compiles
