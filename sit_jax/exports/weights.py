"""What an export starts from: the encoder of a checkpoint, or a fine-tuned classifier, under timm's names."""

import json
import pathlib
from typing import NamedTuple

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
import orbax.checkpoint as ocp
from flax import nnx

from sit_jax.common.errors import InputError
from sit_jax.eval.restore import Restored
from sit_jax.eval.stored import read_report, short_hash
from sit_jax.eval.units import unit_name
from sit_jax.model.build import make_graphdefs
from sit_jax.model.sizes import SIZES, TOKENS
from sit_jax.weights.names import Arrays, to_timm

FINETUNE = "finetune"


class Weights(NamedTuple):
    """The weights to export."""

    config: ml_collections.ConfigDict
    params: dict  # of the encoder, and of the heads that were restored
    arrays: Arrays  # under timm's names; {} for a model that they do not fit
    class_names: tuple[str, ...]  # of a classifier; () for an encoder alone
    step: int  # of the checkpoint

    @property
    def heads(self) -> int:
        """The number of attention heads."""
        return SIZES[self.config.model.size][3]

    @property
    def epsilon(self) -> float:
        """The epsilon of the layer norms."""
        return self.config.model.norm_epsilon

    def expected(self, images: np.ndarray) -> dict[str, np.ndarray]:
        """Returns `tokens` [n, 2 + N, D], and `logits` [n, C] of a classifier, of images [n, s, s, c] in [0, 1]."""
        encoder = nnx.merge(make_graphdefs(self.config)["encoder"], self.params["encoder"])
        tokens = np.asarray(jax.jit(lambda x: encoder(2 * x - 1))(jnp.asarray(images)))
        if not self.class_names:
            return {"tokens": tokens}
        logits = [
            tokens[:, k] @ self.arrays[f"{name}.weight"].T + self.arrays[f"{name}.bias"]
            for k, name in enumerate(("head", "head_dist"))
        ]
        return {"tokens": tokens, "logits": np.mean(logits, axis=0)}


def collect(restored: Restored, report: pathlib.Path | None) -> Weights:
    """Returns the weights of a checkpoint, or those of the classifier whose fine-tuning has this report.

    Raises InputError if the report is of no fine-tuning, or if its weights are gone.
    """
    config, params = restored.config, restored.params
    if report is None:
        return Weights(config, params, arrays_of(params["encoder"], config), (), restored.step)
    check_same_start(restored, report)
    found = read_classifier(report)
    params = {"encoder": found["encoder"]}
    kernel, bias = (np.asarray(found["head"]["out"][name][0]) for name in ("kernel", "bias"))  # [K, F, C], [K, 1, C]
    if len(kernel) != TOKENS:
        raise InputError(f"--classifier={report}: was fine-tuned with --features=concat; only tokens can be exported")
    arrays = arrays_of(params["encoder"], config)
    for k, name in enumerate(("head", "head_dist")):
        arrays |= {f"{name}.weight": np.ascontiguousarray(kernel[k].T), f"{name}.bias": bias[k, 0]}
    return Weights(config, params, arrays, tuple(json.loads(report.read_text())["class_names"]), restored.step)


def check_same_start(restored: Restored, path: pathlib.Path) -> None:
    """Raises InputError unless the fine-tuning of a report began with the restored weights, at their image size."""
    report = read_report(path) if path.is_file() else None
    if report is None or report.get("protocol") != FINETUNE:
        raise InputError(f"--classifier={path}: is no report of --protocol=finetune; give WORKDIR/eval/finetune-*.json")
    side = report["settings"]["model"]["image_size"]
    if side != restored.config.model.image_size:
        raise InputError(f"--classifier={path}: was fine-tuned at {side} px; add --config.model.image_size={side}")
    if report["settings"]["weights"] != restored.fingerprint():
        raise InputError(
            f"--classifier={path}: was fine-tuned from other weights; give the --workdir, --step and --weights of them"
        )


def arrays_of(encoder: dict, config: ml_collections.ConfigDict) -> Arrays:
    """Returns the encoder under timm's names; {} if it starts with convolutions."""
    return {} if config.model.stem != "patches" else to_timm(jax.device_get(encoder), config.model.channels)


def read_classifier(path: pathlib.Path) -> dict:
    """Returns the parameters of a fine-tuned classifier: of the most labels and the first repeat of its report."""
    report = json.loads(path.read_text())
    labels = report["labels"]
    unit = unit_name("pretrained", labels if isinstance(labels, str) else f"{labels:g}", 0)
    folder = path.parent / f"{FINETUNE}-{short_hash(report['settings'])}" / unit / "checkpoints"
    steps = ocp.utils.checkpoint_steps(folder) if folder.is_dir() else []
    if not steps:
        raise InputError(f"--classifier={path}: the weights in {folder} are gone; fine-tune again")
    with ocp.Checkpointer(ocp.PyTreeCheckpointHandler()) as checkpointer:
        return checkpointer.restore(folder.absolute() / str(max(steps)) / "state")["params"]
