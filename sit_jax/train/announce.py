"""What a run says and writes about itself at its start."""

import json
import pathlib

import jax
import ml_collections
from clu import parameter_overview

from sit_jax.common.console import say
from sit_jax.common.errors import InputError
from sit_jax.common.files import write_json
from sit_jax.config.saved import to_json
from sit_jax.parallel.hosts import wait_for_all


def write_config(workdir: pathlib.Path, config: ml_collections.ConfigDict) -> None:
    """Writes the resolved configuration to `workdir/config.json`, whole or not at all; the first host does.

    Raises InputError if that cannot be written, or on another host if it is not there.
    """
    path = workdir / "config.json"
    if jax.process_index() == 0:
        try:
            write_json(path, to_json(config))
        except OSError as error:
            raise InputError(f"{path}: cannot be written ({error.strerror}); choose another --workdir") from error
    wait_for_all("the configuration is written")
    if not path.exists() or json.loads(path.read_text()) != to_json(config):
        raise InputError(f"{workdir}: is not the folder of the first host; --workdir must be on a shared file system")


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
