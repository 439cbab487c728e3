"""The configuration file and the messages of a run at its start."""

import json
import pathlib

import jax
import ml_collections
from clu import parameter_overview
from jax.sharding import Mesh

from sit_jax.common.console import say
from sit_jax.common.errors import InputError
from sit_jax.common.files import write_json
from sit_jax.config.saved import to_json
from sit_jax.parallel.hosts import wait_for_all
from sit_jax.train.state import abstract_state, make_training


def write_config(workdir: pathlib.Path, config: ml_collections.ConfigDict) -> None:
    """Writes the resolved configuration atomically to `workdir/config.json`, on the first host only.

    Raises InputError if it cannot be written, or if another host does not see the same file.
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


def announce(
    config: ml_collections.ConfigDict, mesh: Mesh, workdir: pathlib.Path, hours: float | None, verbose: bool
) -> None:
    """Prints the model and the data of the run; `verbose` prints the table of parameters.

    With `hours`, the number of steps is not known yet.
    """
    length = f"{config.steps} steps" if hours is None else f"as many steps as {hours:g} hours have"
    params, model = abstract_state(config, make_training(config), mesh).params, config.model
    if verbose:
        say(parameter_overview.get_parameter_overview(params, include_stats=False))
    count = sum(leaf.size for leaf in jax.tree.leaves(params))
    device = jax.devices()[0]
    say(
        f"{config.data.num_examples} images from {config.data.source}, {length} of {config.batch_size}, "
        f"{config.dtype} on {jax.device_count()} x {device.device_kind}; work directory {workdir}"
    )
    say(f"{model.size}/{model.patch_size} at {model.image_size} px, {count:,} parameters (-v lists them)")
    if config.data.channels != 3:
        say(f"{config.data.channels} channels: colour operations act on brightness and contrast only")
