"""What a run says and writes about itself at its start."""

import json
import os
import pathlib

import jax
import ml_collections
from clu import parameter_overview

from sit_jax.config import to_json
from sit_jax.train.metrics import say


def write_config(workdir: pathlib.Path, config: ml_collections.ConfigDict) -> None:
    """Writes the resolved configuration to `workdir/config.json`, whole or not at all; on the first host only."""
    if jax.process_index():
        return
    workdir.mkdir(parents=True, exist_ok=True)
    temporary = workdir / "config.json.tmp"
    temporary.write_text(json.dumps(to_json(config), indent=2) + "\n")
    os.replace(temporary, workdir / "config.json")


def announce(config: ml_collections.ConfigDict, params: dict, start: int, workdir: pathlib.Path) -> None:
    """Prints the parameters and what is about to happen."""
    say(parameter_overview.get_parameter_overview(params, include_stats=False))
    device = jax.devices()[0]
    say(
        f"{config.data.num_examples} images from {config.data.source}, {config.steps} steps of {config.batch_size}, "
        f"{config.dtype} on {jax.device_count()} x {device.device_kind}; work directory {workdir}"
    )
    if start >= config.steps:
        say("this run is finished; nothing is left to do")
    elif start:
        say(f"going on from the checkpoint of step {start}")
    else:
        say("compiling the first step; this can take a minute")
