"""Data sets of TensorFlow Datasets, prepared as ArrayRecord files; reading needs no TensorFlow."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from sit_jax.common.errors import InputError
from sit_jax.common.files import check_local
from sit_jax.data.records import Raw, Records, Source

UNLABELLED_SPLITS = ("unlabelled", "unlabeled")
TEST_SPLITS = ("test", "validation")


def open_tfds(name: str) -> Source:
    """Opens `name`, `name/config` or `name:version`, prepared in TFDS_DATA_DIR (default ~/tensorflow_datasets).

    Splits: `train` is the training split; `unlabelled` or `unlabeled` adds images for pre-training. The test split is
    `test`, or `validation` if `test` is missing or has no labels. Images come from the feature `image`, else from the
    first image feature; labels come from the class label `label`. Raises InputError if the data set is unknown, has no
    images or no split `train`, or is not prepared (with the command that prepares it). Downloads nothing.
    """
    builder = find_builder(name)
    _check_prepared(name, builder)
    image_key, label_key = _feature_keys(name, builder.info.features)
    splits = list(builder.info.splits)
    if "train" not in splits:
        raise InputError(f"tfds:{name}: has no split train, only {', '.join(splits)}; choose another data set")
    train = _split_records(builder, "train", image_key, label_key)
    pretrain = train
    for split in (split for split in splits if split in UNLABELLED_SPLITS):
        pretrain += _split_records(builder, split, image_key, None)
    tests = [_split_records(builder, split, image_key, label_key) for split in TEST_SPLITS if split in splits]
    # ImageNet's test images have the label -1: their labels are not published.
    labelled = [records for records in tests if records.label is None or records.label(0) >= 0]
    class_names = tuple(builder.info.features[label_key].names) if label_key else None
    return Source(f"tfds:{name}", pretrain, train, labelled[0] if labelled else None, class_names)


def find_builder(name: str, data_dir: str | None = None) -> Any:
    """Returns the TFDS builder of `name`; needs no network.

    Raises InputError if there is no such data set, or if the folder is an address in a remote store.
    """
    import tensorflow_datasets as tfds

    # TFDS itself reads the variable only once, when it is imported.
    data_dir = data_dir or os.environ.get("TFDS_DATA_DIR") or None
    check_local("TFDS_DATA_DIR", data_dir)
    if name.startswith("huggingface:"):  # TFDS would ask its server
        raise InputError(f"tfds:{name}: no such data set is prepared here; for data of `datasets`, use hf:FOLDER")
    try:
        return tfds.builder(name, data_dir=data_dir)
    except tfds.core.DatasetNotFoundError:
        raise InputError(
            f"tfds:{name}: TensorFlow Datasets has no such data set; its catalogue is at "
            "tensorflow.org/datasets/catalog"
        ) from None
    except (ValueError, AssertionError, ImportError) as error:
        reason = str(error).strip().splitlines()[0]
        raise InputError(f"tfds:{name}: cannot be opened; check name, config and version ({reason})") from error


def has_array_records(builder: Any) -> bool:
    """Returns whether prepared ArrayRecord files exist, which allow random access."""
    return bool(builder.info.splits) and "array_record" in {
        form.value for form in builder.info.available_file_formats()
    }


def _check_prepared(name: str, builder: Any) -> None:
    command = f"python -m sit_jax.data.prepare tfds:{name}"
    if not builder.info.splits:
        raise InputError(f"tfds:{name}: not prepared in {builder.data_dir}; run `{command}`")
    if not has_array_records(builder):
        raise InputError(
            f"tfds:{name}: {builder.data_dir} holds no ArrayRecord files but {builder.info.file_format.value}; "
            f"run `{command} --data_dir=NEW_FOLDER` and set TFDS_DATA_DIR=NEW_FOLDER"
        )


def _feature_keys(name: str, features: Any) -> tuple[str, str | None]:
    """Returns the key of the image and the key of the class label (None without labels)."""
    import tensorflow_datasets as tfds

    found = dict(features) if isinstance(features, tfds.features.FeaturesDict) else {}
    images = [key for key, feature in found.items() if _is_image(feature)]
    if not images:
        raise InputError(f"tfds:{name}: has no image feature among {', '.join(found)}; choose a data set of images")
    is_label = isinstance(found.get("label"), tfds.features.ClassLabel)
    return ("image" if "image" in images else images[0]), ("label" if is_label else None)


def _is_image(feature: Any) -> bool:
    import tensorflow_datasets as tfds

    if isinstance(feature, tfds.features.Image):
        return np.dtype(feature.np_dtype) in (np.uint8, np.uint16)
    return type(feature) is tfds.features.Tensor and len(feature.shape) == 3 and feature.np_dtype == np.uint8


def _split_records(builder: Any, split: str, image_key: str, label_key: str | None) -> Records:
    import tensorflow_datasets as tfds

    source = builder.as_data_source(split, deserialize_method=tfds.decode.DeserializeMethod.RAW_BYTES)
    info = Path(builder.data_dir) / "dataset_info.json"
    folder = os.path.realpath(builder.data_dir)
    version = (
        f"{folder} {builder.info.full_name} {split} {builder.info.splits[split].num_bytes} {info.stat().st_mtime_ns}"
    )
    return Records(
        names=[f"{split}/{i}" for i in range(len(source))],
        read=_reader(source, builder.info.features, image_key),
        stamp=lambda i: f"{version} {i}",
        label=None if label_key is None else _reader(source, builder.info.features, label_key),
    )


def _reader(source: Any, features: Any, key: str) -> Callable[[int], Any]:
    """Returns a function from an index to the feature `key`; images stay encoded, other features are not parsed."""
    import tensorflow_datasets as tfds

    # tfds.decode.PartialDecoding does the same, but imports TensorFlow.
    partial = tfds.features.FeaturesDict({key: features[key]})
    encoded = isinstance(features[key], tfds.features.Image)
    decoders = {key: tfds.decode.SkipDecoding()} if encoded else None

    def read(i: int) -> Raw | int:
        return partial.deserialize_example_np(source[i], decoders=decoders)[key]

    return read
