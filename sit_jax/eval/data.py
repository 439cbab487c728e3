"""The labelled images of an evaluation: training images and test images."""

import hashlib
import pathlib
from typing import NamedTuple

import ml_collections
import numpy as np

from sit_jax.common.console import say_all
from sit_jax.common.errors import InputError
from sit_jax.common.layout import RGB, Layout
from sit_jax.data import Source, Subset, cache, image_options, load_images, open_source
from sit_jax.data.records import Records
from sit_jax.data.sources import parse_source
from sit_jax.data.split import stand_in


class Labelled(NamedTuple):
    """A labelled data set."""

    name: str  # the SOURCE string
    train: Subset
    test: Subset
    train_labels: np.ndarray  # [m] int32
    test_labels: np.ndarray  # [n] int32
    num_classes: int
    class_names: tuple[str, ...]
    test_split: str  # description of the test images
    has_test: bool  # whether the data set has a labelled test split
    fingerprint: str  # changes with images, labels and image size


def load_labelled(name: str, config: ml_collections.ConfigDict, seed: int) -> Labelled:
    """Opens a data set by its SOURCE string and loads it with the options of `config.data`.

    If there is no labelled test split, a tenth of the training images of each class replaces it, drawn by the seed.
    Raises InputError if there are no labels, or if every class has a single image.
    """
    source = open_source(name)
    say_all(source.notes)
    if source.train.label is None:
        raise InputError(f"{name}: has no labels, and this protocol needs them; give class folders, or another --data")
    options = image_options(config)
    train = load_images(source.train, **options)
    labels = train.labels
    assert labels is not None
    has_test = source.test is not None and source.test.label is not None
    if has_test:
        assert source.test is not None
        test = load_images(source.test, **options)
        train_rows, test_rows, split = np.arange(len(train)), np.arange(len(test)), "test"
        test_labels = test.labels
        assert test_labels is not None
    else:
        train_rows, test_rows = stand_in(len(labels), labels, seed)
        test, test_labels, split = train, labels, "a tenth of the training images (there is no labelled test split)"
    if not len(test_rows):
        raise InputError(f"{name}: every class has a single image, so none is left to test on; add images")
    num_classes = int(max(labels.max(), test_labels.max())) + 1
    names = source.class_names or tuple(map(str, range(num_classes)))
    return Labelled(
        name,
        Subset(train, train_rows),
        Subset(test, test_rows),
        labels[train_rows],
        test_labels[test_rows],
        max(num_classes, len(names)),
        names,
        split,
        has_test,
        fingerprint(source, options["image_size"], options["cache_dir"], options["layout"]),
    )


def use_source(config: ml_collections.ConfigDict, name: str | None, overrides: dict) -> str:
    """Returns the SOURCE string to evaluate on: `name`, or the data set of the run if `name` is None.

    If it is another data set, sets `data.image_size` to `model.image_size`, unless `overrides` sets it. Raises
    InputError if there is none.
    """
    name = name or config.data.source
    if not name:
        raise InputError("--data is missing: weights of another project have no data set of their own")
    if not same_source(name, config.data.source) and "data.image_size" not in overrides:
        config.data.image_size = config.model.image_size
    return name


def same_source(first: str, second: str) -> bool:
    """Tells whether two SOURCE strings name the same data, possibly by different paths."""
    return resolved_source(first) == resolved_source(second)


def resolved_source(name: str) -> str:
    """Returns a SOURCE string with its path resolved; the path of a source without one is the current folder."""
    scheme, colon, path = parse_source(name)
    return f"{scheme}{colon}{pathlib.Path(path).expanduser().resolve() if colon else ''}"


def fingerprint(source: Source, image_size: int, cache_dir: str | None = None, layout: Layout = RGB) -> str:
    """Returns a hash of the images and labels of both splits in this size and layout; see `image_hash`."""
    digest = hashlib.sha256()
    for records in (source.train, source.test):
        if records is not None:
            digest.update(image_hash(records, image_size, cache_dir, layout).encode())
            digest.update(b"" if records.labels is None else records.labels.tobytes())
    digest.update("\n".join(source.class_names or ()).encode())
    return digest.hexdigest()[:16]


def image_hash(records: Records, image_size: int, cache_dir: str | None = None, layout: Layout = RGB) -> str:
    """Returns a hash of the whole content of undecoded images, wherever they lie; `cache_dir` remembers it."""
    if records.stamp is not None:
        return cache.content_key(records, image_size, cache.folder(cache_dir), layout)
    digest = hashlib.sha256(f"{image_size}{layout.tag}".encode())
    for row in range(len(records)):
        array = np.ascontiguousarray(records.read(row))
        digest.update(f"{array.dtype} {array.shape}".encode() + array.tobytes())  # other shapes can hold the same bytes
    return digest.hexdigest()
