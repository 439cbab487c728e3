"""Which recipe of a configuration file fits this machine: the one for a laptop or the one for accelerators."""

import pathlib
from collections.abc import Callable

import jax
import ml_collections

from sit_jax.common.console import say
from sit_jax.common.errors import InputError
from sit_jax.config.workdir import saved_run

WHY = {"laptop": "because this machine has no accelerator", "gpu": "because this machine has an accelerator"}
OTHER = {"laptop": "gpu", "gpu": "laptop"}


def choose_machine(workdir: pathlib.Path) -> tuple[str, str]:
    """Returns (laptop or gpu, the reason): the recipe of the run in `workdir`, otherwise what the devices are for.

    Call it after `hosts.connect`, because it looks for devices.
    """
    saved = saved_run(workdir)
    if saved is not None:  # a run of a version without recipes had the one for accelerators
        return saved["machine"] or "gpu", f"with which the run in {workdir} was started"
    return this_machine()


def this_machine() -> tuple[str, str]:
    """Returns (laptop or gpu, the reason): what the devices of this machine are for."""
    machine = "laptop" if jax.default_backend() == "cpu" else "gpu"
    return machine, WHY[machine]


def settle(
    config: ml_collections.ConfigDict,
    workdir: pathlib.Path,
    parse_with: Callable[[str], ml_collections.ConfigDict],
) -> ml_collections.ConfigDict:
    """Returns `config`, or if its machine is "auto", the one that `take` gives for this machine."""
    return take(*choose_machine(workdir), parse_with) if config.machine == "auto" else config


def take(
    machine: str, reason: str, parse_with: Callable[[str], ml_collections.ConfigDict]
) -> ml_collections.ConfigDict:
    """Returns the configuration with the recipe `machine`, and says which recipe it is and why.

    `parse_with` parses the command line with one more argument after the colon of --config.
    """
    chosen = parse_with(machine)
    model = chosen.model
    say(
        f"recipe :{machine}, {reason}: {model.size}/{model.patch_size} at {model.image_size} px, batch "
        f"{chosen.batch_size}; to choose otherwise: --config=FILE:{OTHER[machine]} or :variant=S/16,res=224"
    )
    return chosen


def with_argument(argv: list[str], argument: str) -> list[str]:
    """Returns a command line with one more argument after the colon of its --config; raises InputError without it."""
    for i, word in enumerate(argv):
        name, equals, value = word.partition("=")
        if name in ("--config", "-config"):
            at, value = (i, value) if equals else (i + 1, argv[i + 1])
            joined = f"{value},{argument}" if ":" in value else f"{value}:{argument}"
            return [*argv[:at], f"{name}={joined}" if equals else joined, *argv[at + 1 :]]
    raise InputError("--config is missing; for example --config=configs/digits.py")
