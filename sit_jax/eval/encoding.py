"""Features of pictures by a restored encoder, batch by batch."""

from collections.abc import Iterator

import numpy as np

from sit_jax.common.layout import layout_of
from sit_jax.data import Records
from sit_jax.data.load import StreamedImages
from sit_jax.eval.restore import Restored
from sit_jax.probes.features import CLASSIFIED, extract_batches, make_encode

KINDS = (*CLASSIFIED, "projection", "patches")
WITH_AXES = ("tokens", "patches")  # the other kinds have one vector per image


def encode_records(restored: Restored, records: Records, kind: str, batch_size: int) -> Iterator[np.ndarray]:
    """Returns an iterator over features of a kind of KINDS, float32 [B, ...]; the images are decoded batch by batch."""
    config, mesh = restored.config, restored.mesh
    images = StreamedImages(records, config.model.image_size, layout=layout_of(config.data))
    encode = make_encode(config, mesh, kind)
    batches = extract_batches(encode, restored.params, images.gather, len(images), batch_size, mesh)
    return batches if kind in WITH_AXES else (batch[:, 0] for batch in batches)
