"""The training of the stage `learn`: its configuration, and the folder in which it lives."""

import pathlib
import re

import ml_collections

from sit_jax import cli


def load_config(text: str) -> ml_collections.ConfigDict:
    """Returns the configuration of `CONFIG[:args]`; raises InputError where it cannot be loaded."""
    argv = ["accelerator", f"--config={text}"]
    config = cli.parse_config(cli.make_config_flags(argv), argv, ("config",), "")
    config.unlock()
    return config


def folder(work: pathlib.Path, train: str, dry_run: bool, variant: str = "") -> pathlib.Path:
    """Returns the work directory of a training: the same for the same configuration, so that a call goes on from it."""
    path, _, arguments = train.partition(":")
    name = "-".join(filter(None, ["dry" if dry_run else "learn", pathlib.Path(path).stem, arguments, variant]))
    return work / re.sub(r"[^\w.=]+", "-", name)
