"""Evaluation during training: the three tasks on test images, instruments, and probes on frozen features."""

import pathlib
from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import ml_collections
import numpy as np
from jax.sharding import Mesh

from sit_jax.common.console import warn
from sit_jax.common.errors import InputError
from sit_jax.data import Images, Source, image_options, load_images
from sit_jax.data.split import stand_in
from sit_jax.draw.pictures import labelled_grid
from sit_jax.draw.rebuilt import TURNED, rebuilt_rows, turns
from sit_jax.model.tasks import TASKS, tasks_on
from sit_jax.probes.features import Encode, extract, make_encode, put_rows
from sit_jax.probes.instruments import make_measure, of_features, warnings
from sit_jax.probes.knn import knn_votes
from sit_jax.probes.linear import UNCHOSEN_L2, linear_logits
from sit_jax.probes.monitors import kmeans_nmi
from sit_jax.probes.scores import score
from sit_jax.train.metrics import MetricsWriter
from sit_jax.train.state import TrainState

COLUMNS = 8  # images in the reconstruction picture


class Voters(NamedTuple):
    """The training images of k-NN and the linear probe, with training and test labels."""

    train_images: np.ndarray  # [m, H, W, c]
    train_labels: np.ndarray  # [m] int32
    test_labels: np.ndarray  # [n] int32


class EvalData(NamedTuple):
    """Images to evaluate on."""

    test_images: np.ndarray  # [n, H, W, c]
    voters: Voters | None  # None if k-NN is off or there are no labels


def check_labels(source: Source, config: ml_collections.ConfigDict) -> None:
    """Raises InputError if `eval.knn` is "on" and there are no labels; it decodes nothing."""
    splits = [split for split in (source.train, source.test) if split is not None]
    if config.eval.knn == "on" and any(split.label is None for split in splits):
        raise InputError(
            f"eval.knn=on needs labels, and {source.name} has none; leave it at auto, or give class folders"
        )


def load_eval_data(source: Source, images: Images, config: ml_collections.ConfigDict) -> EvalData:
    """Draws the images of the evaluation, a function of the seed: test images and labelled training images.

    `images` are the images of `source.pretrain`. If there is no test split, `data.split.stand_in` splits the training
    images, and the kept images vote in k-NN; the training uses both parts, without labels.
    """
    train = images if source.train is source.pretrain else load_images(source.train, **image_options(config))
    labels = None if config.eval.knn == "off" else train.labels
    if source.test is None:
        test = train
        train_rows, test_rows = stand_in(len(train), train.labels)
        if not len(test_rows):  # every class has a single image
            (train_rows, test_rows), labels = stand_in(len(train), None), None
    else:
        test = load_images(source.test, **image_options(config))
        train_rows, test_rows = np.arange(len(train)), np.arange(len(test))
    test_rows = draw(test_rows, config.eval.num_test, [config.seed, 2])
    test_images = test.gather(test_rows)
    if labels is None or test.labels is None:
        return EvalData(test_images, None)
    train_rows = draw(train_rows, config.eval.num_train, [config.seed, 1])
    return EvalData(test_images, Voters(train.gather(train_rows), labels[train_rows], test.labels[test_rows]))


def draw(rows: np.ndarray, count: int, seed: list[int]) -> np.ndarray:
    """Returns at most `count` of the rows, in random order, a function of the seed."""
    return np.random.default_rng(seed).permutation(rows)[:count]


class Evaluation:
    """Evaluates a state on fixed images; training calls it at step 0, at intervals and at the end."""

    def __init__(
        self,
        data: EvalData,
        eval_step: Callable,
        config: ml_collections.ConfigDict,
        mesh: Mesh,
        workdir: pathlib.Path,
    ):
        self.data, self.eval_step, self.config, self.mesh, self.workdir = data, eval_step, config, mesh, workdir
        self.encode: Encode = make_encode(config, mesh)
        self.measure = make_measure(config, mesh)

    def __call__(self, state: TrainState, step: int, writer: MetricsWriter) -> dict[str, float]:
        """Returns the `eval/` metrics of the current weights; writes the picture of the reconstructions."""
        metrics, picture = self.pretext_tasks(state.params)
        model = state.params["model"]
        test, found = self.features(model, self.data.test_images), {}
        if len(self.data.test_images) > 1:  # the instruments compare images
            found = self.measure(model, self.data.test_images) | of_features(test)
            lines = warnings(found, tasks_on(self.config.loss), trained=step > 0)
            for line in lines if jax.process_index() == 0 else []:
                warn(f"step {step}: {line}")
        if self.data.voters:
            found |= self.probes(self.features(model, self.data.voters.train_images), test, self.data.voters)
        metrics |= {f"eval/{name}": value for name, value in found.items()}
        writer.write_image(step, "reconstructions", self.workdir / "reconstructions" / f"{step}.png", picture)
        return metrics

    def pretext_tasks(self, params: dict) -> tuple[dict[str, float], np.ndarray]:
        """Returns the mean metrics of the three tasks over whole batches of test images, and the picture.

        The batch size is as in training, because the contrastive loss depends on it. If there are fewer images than a
        batch, they are repeated. Images after the last whole batch are left out.
        """
        images, size = self.data.test_images, self.config.batch_size
        rows = np.arange(max(1, len(images) // size) * size) % len(images)
        results = []
        for index, start in enumerate(range(0, len(rows), size)):
            batch = put_rows(images[rows[start : start + size]], self.mesh)
            metrics, *seen = self.eval_step(params, batch, np.int32(index))
            results.append(metrics)
            if index == 0:
                shown = corrupted_first(seen, self.config.views.count)
        fetched = jax.device_get(results)
        metrics = {f"eval/{name}": float(np.mean([row[name] for row in fetched])) for name in task_metrics()}
        for name in fetched[0]["distances"]:
            distances, pixels = np.sum([row["distances"][name] for row in fetched], axis=0)
            if pixels:
                metrics[f"eval/{name}"] = float(distances / pixels)
        clean, corrupted, rebuilt, rotation, predicted = shown
        drawn = rebuilt_rows(clean, corrupted, rebuilt, self.config.data.shown)
        return metrics, labelled_grid(drawn, {TURNED: turns(rotation, predicted)}, COLUMNS)

    def features(self, model_params: dict, images: np.ndarray) -> np.ndarray:
        """Returns the two tokens of whole images from the frozen encoder, [n, 2, D]."""
        size = self.config.batch_size // self.config.microbatches
        return extract(self.encode, model_params, images.__getitem__, len(images), size, self.mesh)

    def probes(self, train: np.ndarray, test: np.ndarray, voters: Voters) -> dict[str, float]:
        """Returns the accuracies of k-NN and a linear probe on [m, 2, D] and [n, 2, D], and the NMI of k-means."""
        eval_config = self.config.eval
        num_classes = int(max(voters.train_labels.max(), voters.test_labels.max())) + 1
        k, temperature = eval_config.knn_k, eval_config.knn_temperature
        votes = knn_votes(train, voters.train_labels, test, num_classes, (k,), temperature, self.mesh)[k]
        # One penalty and no held-out images: during training, the probe is fitted only once.
        logits = linear_logits(train, voters.train_labels, test, num_classes, (UNCHOSEN_L2,), 0.0, 0, self.mesh)[0]
        flat = test.reshape(len(test), -1)
        return {
            "knn_top1": score(votes, voters.test_labels)["top1"],
            "linear_top1": score(logits, voters.test_labels)["top1"],
            "kmeans_nmi": kmeans_nmi(flat, voters.test_labels),
        }


def task_metrics() -> list[str]:
    """Returns the names of the task metrics of a step."""
    return ["loss", *TASKS, *(name for task in TASKS.values() for name in task.metrics)]


def corrupted_first(seen: Sequence, count: int) -> list[np.ndarray]:
    """Returns clean, corrupted and rebuilt views, each [n, s, s, c], and true and predicted rotations [n].

    `seen` holds the views, the rebuilt views and the predicted rotations of an evaluation step. This takes the first of
    `count` views per image, from at most COLUMNS images on this host, corrupted views first.
    """
    views, rebuilt, predicted = seen
    found = [
        np.concatenate([np.asarray(shard.data)[::count] for shard in array.addressable_shards])
        for array in (views.clean, views.corrupted, rebuilt, views.rotation, predicted)
    ]
    changed = np.any(found[0] != found[1], axis=(1, 2, 3))
    shown = np.argsort(~changed, kind="stable")[:COLUMNS]
    return [row[shown] for row in found]
