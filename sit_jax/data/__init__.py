"""Data: from a SOURCE string to batches that are a pure function of (seed, step)."""

from sit_jax.data.batches import Batches
from sit_jax.data.load import Images, Subset, image_options, load_images
from sit_jax.data.records import Records, Source
from sit_jax.data.sources import open_source

__all__ = ["Batches", "Images", "Records", "Source", "Subset", "image_options", "load_images", "open_source"]
