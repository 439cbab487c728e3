"""Trains classifiers on labelled images, with the training loop of pre-training."""

import math
import pathlib

import jax
import ml_collections
import numpy as np
from jax.sharding import Mesh

from sit_jax.common.console import say
from sit_jax.config import resolve as durations
from sit_jax.data import Batches, Images, Subset
from sit_jax.data.split import hold_out
from sit_jax.eval.classifier import Classifier
from sit_jax.parallel.mesh import batch_sharding, local_rows, replicated, state_shardings
from sit_jax.probes.features import Encode, extract, make_encode
from sit_jax.probes.linear import Standardiser, cross_entropy
from sit_jax.train.announce import write_config
from sit_jax.train.lock import locked
from sit_jax.train.metrics import MetricsWriter
from sit_jax.train.run import Run, Trainable
from sit_jax.train.state import TrainState


def classifier_config(
    config: ml_collections.ConfigDict, protocol: str, features: str, seed: int
) -> ml_collections.ConfigDict:
    """Returns the configuration of a classifier run, in the layout of a pre-training configuration."""
    c = ml_collections.ConfigDict(config.to_dict())
    section = c[protocol]
    with c.unlocked():
        c.update(frozen=protocol == "linear", features=features, seed=seed, hidden=0, learning_rates=(1.0,))
        c.update(
            batch_size=section.batch_size, epochs=section.epochs, steps=None, examples=None, augment=section.augment
        )
        c.update(extensions=(), held_out=section.held_out, keep_latest=1, keep_best=0, microbatches=1)
        c.optim.update(warmup_epochs=0.0, warmup_steps=None, warmup_examples=None)
    if protocol == "linear":
        c.hidden, c.learning_rates = section.hidden, tuple(section.learning_rates)
        c.optim.update(warmup_learning_rate=0.0, final_learning_rate=0.0)
    else:
        c.model.drop_path = section.drop_path
        c.optim.update(section.optim)
    return c


def train_classifier(
    config: ml_collections.ConfigDict,
    num_classes: int,
    encoder: dict,
    train: Subset,
    test: Images,
    workdir: pathlib.Path,
    mesh: Mesh,
) -> tuple[np.ndarray, dict] | None:
    """Trains a classifier on labelled images, in its own work directory.

    `config` comes from `classifier_config`. Returns (test logits [n, C], chosen hyper-parameters); None if a signal
    stopped it, and the same call resumes. If there are several heads, the head with the lowest cross-entropy on the
    held-out share of `train` is used. Raises InputError if another command trains in `workdir`.
    """
    assert train.labels is not None
    kept, held = hold_out(train.labels, config.held_out, config.seed)
    fitted, watched = (train.take(rows) for rows in (kept, held))
    # If there are fewer images than the smallest batch, they are repeated.
    fitted = fitted.take(np.resize(np.arange(len(fitted)), max(len(fitted), batch_quantum(mesh))))
    config = resolve(config, len(fitted), mesh)
    local = local_rows(mesh, config.batch_size)
    batches = Batches(fitted, config.batch_size, config.seed, local, labels=fitted.labels)
    classifier = Classifier(config, num_classes)
    predict = jax.jit(classifier.predict, out_shardings=replicated(mesh))
    with locked(workdir) as lock, jax.set_mesh(mesh):
        write_config(workdir, config)
        trainable = make_trainable(classifier, predict, encoder, fitted, watched, mesh)
        run = Run(config, workdir, mesh, batches, trainable, lock)
        say(f"{len(fitted)} labelled images, {config.steps} steps of {config.batch_size}; work directory {workdir}")
        if not run.train():
            return None
        entropies = [loss for loss, _ in held_out_scores(predict, run.state.params, watched, config, mesh)]
        logits = extract(predict, run.state.params, test.gather, len(test), config.batch_size, mesh)
    rates = config.learning_rates
    # Without held-out images there is no choice; the middle learning rate is a guess.
    head = int(np.argmin(entropies)) if entropies else len(rates) // 2
    peak = config.optim.base_learning_rate * config.batch_size / 512
    chosen = {"steps": config.steps, "batch_size": config.batch_size, "learning_rate": peak}
    if len(rates) > 1:
        tried = dict(zip(map(str, rates), entropies, strict=True)) if entropies else {}
        chosen |= {"learning_rate": rates[head], "held_out_cross_entropy": tried}
    return logits[:, head], chosen


def batch_quantum(mesh: Mesh) -> int:
    """Returns the divisor of batch sizes: 8 on 1, 2, 4 or 8 devices, so that they give the same result."""
    return math.lcm(8, mesh.size)


def resolve(config: ml_collections.ConfigDict, num_examples: int, mesh: Mesh) -> ml_collections.ConfigDict:
    """Returns the configuration with batch size, durations and intervals for this many images."""
    quantum = batch_quantum(mesh)
    config = ml_collections.ConfigDict(config.to_dict())
    config.batch_size = max(min(config.batch_size, num_examples) // quantum, 1) * quantum
    if config.frozen:  # `learning_rates` do not scale with the batch size
        config.optim.base_learning_rate = max(config.learning_rates) * 512 / config.batch_size
    config = durations.resolve(config, num_examples)
    config.eval_every = config.checkpoint_every = max(1, config.steps // 10)
    config.log_every = max(1, config.steps // 20)
    return config


def feature_statistics(encoder: dict, images: Subset, config: ml_collections.ConfigDict, mesh: Mesh) -> dict:
    """Returns `mean` and `std` [K, F] of the features of whole images, as in the convex probe."""
    encode = make_encode(config, mesh, config.features)
    features = extract(encode, {"encoder": encoder}, images.gather, len(images), config.batch_size, mesh)
    scales = [Standardiser(features[:, k]) for k in range(features.shape[1])]
    return {"mean": np.stack([s.mean for s in scales]), "std": np.stack([s.scale for s in scales])}


def make_trainable(
    classifier: Classifier, predict: Encode, encoder: dict, fitted: Subset, watched: Subset, mesh: Mesh
) -> Trainable:
    """Returns the trainable of a classifier; if there are held-out images `watched`, it evaluates on them."""
    # With features of unequal scales, SGD on a frozen encoder would take many times the steps.
    statistics = feature_statistics(encoder, fitted, classifier.config, mesh) if classifier.config.frozen else None
    shapes = jax.eval_shape(classifier.make_state, encoder, statistics)
    shardings = state_shardings(shapes, mesh)
    abstract = jax.tree.map(lambda s, sh: jax.ShapeDtypeStruct(s.shape, s.dtype, sharding=sh), shapes, shardings)
    batch = batch_sharding(mesh)
    train_step = jax.jit(
        classifier.train_step,
        in_shardings=(shardings, {"image": batch, "label": batch}),
        out_shardings=(shardings, replicated(mesh)),
        donate_argnums=0,
    )

    def watch(state: TrainState, step: int, writer: MetricsWriter) -> dict[str, float]:
        del step, writer
        scores = held_out_scores(predict, state.params, watched, classifier.config, mesh)
        loss, top1 = min(scores, key=lambda pair: pair[0])
        return {"eval/loss": loss, "eval/top1": top1}

    def init() -> TrainState:
        return jax.jit(classifier.make_state, out_shardings=shardings)(encoder, statistics)

    # Another batch size is another evaluation, which begins again.
    section = "linear" if classifier.config.frozen else "finetune"
    remedy = f"run the same command with a smaller --config.{section}.batch_size than {classifier.config.batch_size}"
    evaluation = watch if len(watched) else None
    return Trainable(abstract, init, train_step, evaluation, (), remedy, is_last=False)


def held_out_scores(
    predict: Encode, params: dict, watched: Subset, config: ml_collections.ConfigDict, mesh: Mesh
) -> list[tuple[float, float]]:
    """Returns (cross-entropy, top-1) of each head on held-out images; an empty list if there are none."""
    if not len(watched):
        return []
    labels = watched.labels
    assert labels is not None
    logits = extract(predict, params, watched.gather, len(watched), config.batch_size, mesh)
    heads = [logits[:, head] for head in range(logits.shape[1])]
    return [(cross_entropy(head, labels), float(np.mean(head.argmax(axis=1) == labels))) for head in heads]
