"""The training of stage `learn`: its configuration and its work directory."""

import pathlib
import re
from collections.abc import Mapping
from typing import Any

import ml_collections

from benchmarks.accelerator_stages import pictures
from benchmarks.accelerator_stages.stage import Stage
from sit_jax.config import cli
from sit_jax.config.presets import runlocal


def load_config(text: str) -> ml_collections.ConfigDict:
    """Returns the configuration of `CONFIG[:args]`; raises InputError if it cannot be loaded."""
    argv = ["accelerator", f"--config={text}"]
    config = cli.parse_config(cli.make_config_flags(argv), argv, ("config",), "")
    config.unlock()
    return config


def prepare(stage: Stage, changes: Mapping[str, Any]) -> ml_collections.ConfigDict:
    """Returns the configuration of a training with `changes` by dotted key; a dry run gets a tiny size.

    Raises Skip if the images are missing.
    """
    config = load_config(stage.train)
    config.data.source = pictures.cifar10(pathlib.Path(stage.data), stage.dry_run)
    config.update_from_flattened_dict(changes)
    if stage.dry_run:
        runlocal(config)
        config.data.image_size = 8
        config.linear.l2 = (1e-1, 1e-2)
    return config


def folder(work: pathlib.Path, train: str, dry_run: bool, variant: str = "") -> pathlib.Path:
    """Returns the work directory of a training; the same configuration gives the same folder, to resume from."""
    path, _, arguments = train.partition(":")
    name = "-".join(filter(None, ["dry" if dry_run else "learn", pathlib.Path(path).stem, arguments, variant]))
    return work / re.sub(r"[^\w.=]+", "-", name)
