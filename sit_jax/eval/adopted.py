"""Weights of another project as a work directory, so that every command and `sit_jax.load` can use them."""

import hashlib
import json
import pathlib

import jax
import jax.numpy as jnp
import ml_collections
import orbax.checkpoint as ocp

from sit_jax.common.console import say
from sit_jax.common.errors import InputError
from sit_jax.common.files import new_folder, user_cache, write_json
from sit_jax.common.quiet import quiet
from sit_jax.config.saved import to_json
from sit_jax.config.schema import defaults
from sit_jax.parallel.checksums import checksums
from sit_jax.weights.files import read_about, read_weights
from sit_jax.weights.foreign import Foreign, read_foreign
from sit_jax.weights.own import KEY, STEP, tree_of


def workdir_of(where: pathlib.Path) -> pathlib.Path:
    """Returns a work directory as it is, and for weights of another project the work directory that holds a copy.

    The copy is in ~/.cache/sit_jax/encoders, by the name and a hash of the weights. Raises InputError if `where`
    is neither.
    """
    if not where.exists():
        raise InputError(f"{where}: there is no such work directory, file or folder of weights")
    if (where / "checkpoints").is_dir():
        return where
    if where.is_dir() and "optim" in read_about(where):
        raise InputError(f"{where}: holds no checkpoint yet; wait until the training saves one")
    return adopt(where, encoders())


def encoders() -> pathlib.Path:
    """Returns the folder of adopted weights and of their reports."""
    return user_cache() / "encoders"


def place(workdir: str | None, encoder: str | None) -> pathlib.Path:
    """Returns the work directory that --workdir names, or one with a copy of what --encoder names (see `workdir_of`).

    Raises InputError unless exactly one of them is given.
    """
    if workdir and encoder:
        raise InputError("--workdir and --encoder exclude each other; keep one of them")
    if not workdir and not encoder:
        raise InputError("--workdir is missing (or --encoder, weights of another project); --help lists all options")
    return adopt(pathlib.Path(encoder), encoders()) if encoder else pathlib.Path(workdir or "")


def adopt(path: pathlib.Path, folder: pathlib.Path) -> pathlib.Path:
    """Copies weights of another project into a work directory in `folder`, unless it is there; returns it.

    Its name has a hash of the weights and of what the files beside them say.
    """
    if KEY in (about := read_about(path)):
        return adopt_own(path, about, folder)
    foreign = read_foreign(path)
    digest = hashlib.sha256(f"{foreign.sha256} {foreign.title()} {foreign.epsilon}".encode()).hexdigest()
    workdir = folder / f"{path.resolve().stem}-{digest[:8]}"
    if not workdir.is_dir():
        say(f"{path}: {foreign.title()}")
        save({"encoder": foreign.encoder, **foreign.heads}, to_json(config_of(foreign, path)), workdir)
    return workdir


def adopt_own(path: pathlib.Path, about: dict, folder: pathlib.Path) -> pathlib.Path:
    """Copies an export of this project (--format=safetensors) into a work directory in `folder`; returns it.

    `about` is what its config.json says. It keeps the step of the checkpoint that was exported.
    """
    config, step = about[KEY], about.get(STEP)
    step = step if isinstance(step, int) and step > 0 else 0
    read = read_weights(path)
    digest = hashlib.sha256(f"{read.hash()} {step} {json.dumps(config, sort_keys=True)}".encode()).hexdigest()
    workdir = folder / f"{path.resolve().stem}-{digest[:8]}"
    if not workdir.is_dir():
        save(tree_of(read.arrays), config, workdir, step)
    return workdir


def config_of(foreign: Foreign, path: pathlib.Path) -> ml_collections.ConfigDict:
    """Returns the configuration of adopted weights: the model, and the heads of the paper."""
    config = defaults()
    config.init, config.init_hash = str(path), foreign.sha256
    config.model.update(size=foreign.size, patch_size=foreign.patch_size, image_size=foreign.image_size)
    config.model.norm_epsilon = foreign.epsilon
    config.model.update(projector_layers=1, projector_norm="none", embedding_size=512)
    return config


def save(model: dict, config: dict, workdir: pathlib.Path, step: int = 0) -> None:
    """Writes a work directory with a checkpoint that `read_params` reads; it appears when it is complete.

    Raises InputError if it cannot be written.
    """
    tree = {"params": {"model": jax.tree.map(jnp.asarray, model)}}
    arguments = ocp.args.Composite(state=ocp.args.StandardSave(tree), checksums=ocp.args.JsonSave(checksums(tree)))
    try:
        with new_folder(workdir) as temporary, quiet():
            with ocp.Checkpointer(ocp.CompositeCheckpointHandler()) as checkpointer:
                checkpointer.save(temporary / "checkpoints" / str(step), args=arguments)
            write_json(temporary / "config.json", config)
    except OSError as error:
        if not workdir.is_dir():  # otherwise another process was first
            raise InputError(f"{workdir}: cannot be written ({error.strerror}); set XDG_CACHE_HOME=FOLDER") from error
