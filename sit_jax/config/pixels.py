"""The stored form of the images of a run, where the configuration leaves it open."""

import pathlib

import ml_collections

from sit_jax.common.layout import layout_of
from sit_jax.config.workdir import saved_run
from sit_jax.data.channels import found_bits
from sit_jax.data.records import Records


def choose_bits(
    config: ml_collections.ConfigDict, records: Records, workdir: pathlib.Path | None = None
) -> ml_collections.ConfigDict:
    """Returns the configuration with `data.bits`: of the run in `workdir`, if there is one, else of the first image.

    Raises InputError if the first image does not have the channels or the type of values of the configuration.
    """
    bits = found_bits(records, layout_of(config.data))
    chosen = ml_collections.ConfigDict(config.to_dict())
    if config.data.bits is None:
        saved = saved_run(workdir) if workdir else None
        chosen.data.bits = saved["data"]["bits"] if saved else bits
    return chosen
