"""Instruments that need no labels: contrastive progress and collapse of the features."""

from collections.abc import Callable

import numpy as np

from sit_jax.eval.protocols.protocol import Protocol
from sit_jax.eval.restore import Restored
from sit_jax.probes import instruments
from sit_jax.probes.features import extract, make_encode
from sit_jax.probes.monitors import kmeans_nmi

# How to read each figure. Compare figures only between runs of one model size on the same images.
READING = {
    "rank_me": "effective rank of the two tokens: more is better",
    "lidar": "effective rank of differences between images, relative to differences between views",
    "contrastive_progress": "NT-Xent loss: 0 is chance, 1 is its floor",
    "alignment": "squared distance of two views of an image: less is better",
    "uniformity": "0 is one point, -4 a spread over the sphere",
    "negative_cosine": "cosine of different images: 1 is one point, 0 a spread in all directions",
    "token_std": "spread of the narrower token: 0 is a collapse, 1 a spread in all directions",
    "token_std_rotation": "spread of the rotation token",
    "token_std_contrastive": "spread of the contrastive token",
    "shared_variance": "contrastive token: variance shared by views of an image; near 0, the views are too hard",
    "kmeans_nmi": "mutual information of clusters and labels: 1 is equal; no other figure reads labels",
}


def make_measure(restored: Restored) -> Callable[[dict, np.ndarray, np.ndarray | None], dict[str, float]]:
    """Returns `measure(params, images, labels)`: the figures of READING for images [n, H, W, c].

    If `labels` [n] is None, `kmeans_nmi` is missing.
    """
    config, mesh = restored.config, restored.mesh
    encode, of_views = make_encode(config, mesh), instruments.make_measure(config, mesh)

    def measure(params: dict, images: np.ndarray, labels: np.ndarray | None) -> dict[str, float]:
        size = config.batch_size // config.microbatches
        features = extract(encode, params, images.__getitem__, len(images), size, mesh)
        found = of_views(params, images) | instruments.of_features(features)
        found["token_std"] = min(value for name, value in found.items() if name.startswith("token_std"))
        if labels is not None:
            found["kmeans_nmi"] = kmeans_nmi(features.reshape(len(features), -1), labels)
        return found

    return measure


PROTOCOL = Protocol("instruments that need no labels", make_measure, labels=False, reading=READING)
