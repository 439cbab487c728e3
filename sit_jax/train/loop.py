"""Pre-training: from a configuration and a work directory to a finished run."""

import dataclasses
import pathlib
from typing import NamedTuple

import jax
import ml_collections

from sit_jax.common.console import say, say_all
from sit_jax.common.errors import InputError
from sit_jax.config.checks import check_config
from sit_jax.config.length import keep_length
from sit_jax.config.pixels import choose_bits
from sit_jax.config.resolve import resolve, with_steps
from sit_jax.config.workdir import check_workdir, keep_products, newest_step, saved_run
from sit_jax.data import Batches, Source, image_options, load_images, open_source
from sit_jax.data.batches import check_size
from sit_jax.data.fingerprint import fingerprint
from sit_jax.model.tasks import TASKS
from sit_jax.parallel.mesh import local_rows, make_mesh
from sit_jax.train.announce import announce, write_config
from sit_jax.train.fit import check_images, compile_fitting, compile_step, next_remedy
from sit_jax.train.hours import choose_steps, for_measuring
from sit_jax.train.lock import Lock, locked
from sit_jax.train.run import Run, Trainable
from sit_jax.train.state import TrainState, abstract_state, init_state, make_training
from sit_jax.train.step import compile_steps
from sit_jax.train.summary import summary
from sit_jax.train.validation import EvalData, Evaluation, check_labels, load_eval_data
from sit_jax.train.writers import check_log, open_writers
from sit_jax.weights.foreign import Foreign
from sit_jax.weights.start import follow, put, start


class Options(NamedTuple):
    """Options of a run that are no part of its configuration."""

    fit: bool = False  # more microbatches, or streaming, if the memory is too small
    hours: float | None = None  # sets the length, start-up included
    verbose: bool = False  # print the table of parameters
    log: tuple[str, ...] = ()  # names of WRITERS


DEFAULT = Options()


def train(config: ml_collections.ConfigDict, workdir: pathlib.Path, options: Options = DEFAULT) -> bool:
    """Trains to the end, or until a stop signal; returns whether it reached the end.

    Resumes from the newest checkpoint in `workdir`, if there is one. Raises InputError before any compilation if the
    configuration, the data or the work directory is wrong or in use, before the images are decoded if the memory is too
    small, and before the first step if an image is unreadable. Raises NonFiniteError if a loss is no longer finite; the
    last good checkpoint is kept. Raises ShortageError if memory runs out later.
    """
    check_log(options.log)
    check_config(config, jax.device_count())
    with locked(workdir) as lock:
        return _train(config, workdir, options, lock)


def _train(config: ml_collections.ConfigDict, workdir: pathlib.Path, options: Options, lock: Lock) -> bool:
    mesh = make_mesh(**config.mesh)
    config, foreign = follow(config, saved_run(workdir))
    source = open_source(config.data.source)
    say_all(source.notes)
    check_labels(source, config)
    config = choose_bits(config, source.pretrain, workdir)
    decoded = check_images([source.pretrain, *filter(None, [source.test])], config, options.fit)
    # Decoding takes longest: it comes after all checks, unless the number of images depends on it.
    images = load_images(source.pretrain, **image_options(config)) if config.data.skip_unreadable else None
    config, hours = _settle(config, workdir, source, len(source.pretrain if images is None else images), options.hours)
    with jax.set_mesh(mesh):
        announce(config, mesh, workdir, hours, options.verbose)
        compiled = None
        if newest_step(workdir) < config.steps:  # otherwise nothing is left to do, and to compile
            say("compiling the first step; this can take a minute")
            decoded = decoded if images is None else 0  # they are in memory already
            measured = config if hours is None else for_measuring(config)
            compiled = compile_fitting(measured, mesh, options.fit, decoded)
            config = with_steps(compiled.config, config.steps)
        images = load_images(source.pretrain, **image_options(config)) if images is None else images
        batches = Batches(images, config.batch_size, config.seed, local_rows(mesh, config.batch_size))
        trainable = pretraining(config, workdir, mesh, load_eval_data(source, images, config), foreign)
        if compiled is not None:
            trainable = trainable._replace(train_step=compiled.step)
            if hours is not None:
                config = with_steps(config, choose_steps(hours, config, trainable, batches, mesh, compiled.seconds))
                trainable = trainable._replace(train_step=compile_step(config, mesh).step)
        write_config(workdir, config)
        others = open_writers(options.log, workdir, config)
        run = Run(config, workdir, mesh, batches, trainable, lock, others)
        if run.start >= config.steps:
            say("this run is finished; nothing is left to do")
        elif run.start:
            say(f"resuming from the checkpoint of step {run.start}")
        finished = run.train()
    if finished and run.start < config.steps:
        say(summary(config, workdir))
    return finished


def _settle(
    config: ml_collections.ConfigDict, workdir: pathlib.Path, source: Source, count: int, hours: float | None
) -> tuple[ml_collections.ConfigDict, float | None]:
    """Returns the resolved configuration for `count` images, and `hours` unless a run fixes the length.

    Raises InputError if the images are too few, or if the work directory holds another run.
    """
    if count < 2:
        raise InputError(
            f"{config.data.source}: has a single image, and training needs views of other images; give two or more"
        )
    config = resolve(keep_products(config, workdir), count)
    config.data.fingerprint = fingerprint(source.pretrain)
    hours = None if keep_length(config, workdir, hours) else hours
    check_workdir(workdir, config)
    check_size(config.batch_size, count)
    return config, hours


def pretraining(
    config: ml_collections.ConfigDict,
    workdir: pathlib.Path,
    mesh: jax.sharding.Mesh,
    eval_data: EvalData,
    foreign: Foreign | None,
) -> Trainable:
    """Returns the trainable of the three SiT tasks; a fresh run starts from the weights `foreign`, if there are any."""
    training = make_training(config)
    abstract = abstract_state(config, training, mesh)
    train_step, eval_step = compile_steps(training, config, abstract, mesh)
    evaluation = Evaluation(eval_data, eval_step, config, mesh, workdir)

    def init() -> TrainState:
        state = init_state(config, training, mesh)
        return state if foreign is None else start_from(state, foreign, config)

    remedy = next_remedy(config, mesh.size)
    return Trainable(abstract, init, train_step, evaluation, tuple(TASKS), remedy, is_last=True)


def start_from(state: TrainState, foreign: Foreign, config: ml_collections.ConfigDict) -> TrainState:
    """Returns a state at step 0 with the weights of another project, in the parameters and in their running average."""
    found = start(foreign, config, state.params)
    say(found.lines)
    ema = None if state.ema is None else put(state.ema, found.params)
    return dataclasses.replace(state, params=put(state.params, found.params), ema=ema)
