import io
import os
import subprocess
import sys
import time

import numpy as np
import pytest
import tensorflow_datasets as tfds
from PIL import Image

from sit_jax.common.errors import InputError
from sit_jax.data import load_images, open_source, prepare

IMAGES = np.random.default_rng(0).integers(0, 256, (20, 6, 8, 3), np.uint8)

# What a finder must be for TensorFlow to look like it is not installed, while all else imports as before.
WITHOUT_TENSORFLOW = """
import sys
class Without:
    def __init__(self, finder): self.finder = finder
    def __getattr__(self, name): return getattr(self.finder, name)
    def find_spec(self, name, *args):
        return None if name.split(".")[0] == "tensorflow" else self.finder.find_spec(name, *args)
sys.meta_path[:] = map(Without, sys.meta_path)
"""


class TinyNoise(tfds.core.GeneratorBasedBuilder):
    """PNG images with labels; the split `unlabelled` has -1 for a label, as STL-10 has."""

    VERSION = tfds.core.Version("1.0.0")
    rows = {"train": range(8), "test": range(8, 12), "unlabelled": range(12, 20)}  # noqa: RUF012

    def _info(self):
        features = {"image": tfds.features.Image(shape=(6, 8, 3)), "label": tfds.features.ClassLabel(names=["x", "y"])}
        return tfds.core.DatasetInfo(builder=self, features=tfds.features.FeaturesDict(features))

    def _split_generators(self, dl_manager):
        return {split: self._generate_examples(split) for split in self.rows}

    def _generate_examples(self, split):
        for i in self.rows[split]:
            file = io.BytesIO()
            Image.fromarray(IMAGES[i]).save(file, "PNG")
            yield i, {"image": io.BytesIO(file.getvalue()), "label": -1 if split == "unlabelled" else i % 2}


class HiddenTestLabels(TinyNoise):
    """As ImageNet: the labels of the test split are not published."""

    rows = {"train": range(8), "validation": range(8, 12), "test": range(12, 20)}  # noqa: RUF012

    def _generate_examples(self, split):
        for i, example in super()._generate_examples(split):
            yield i, {**example, "label": -1 if split == "test" else i % 2}


class RawPixels(tfds.core.GeneratorBasedBuilder):
    """Images as plain tensors, without labels, and with no split but train."""

    VERSION = tfds.core.Version("1.0.0")

    def _info(self):
        features = {"image": tfds.features.Tensor(shape=(6, 8, 3), dtype=np.uint8), "id": tfds.features.Text()}
        return tfds.core.DatasetInfo(builder=self, features=tfds.features.FeaturesDict(features))

    def _split_generators(self, dl_manager):
        return {"train": self._generate_examples()}

    def _generate_examples(self):
        for i in range(4):
            yield i, {"image": IMAGES[i], "id": str(i)}


class OnlyText(RawPixels):
    """Has no image."""

    def _info(self):
        features = tfds.features.FeaturesDict({"text": tfds.features.Text()})
        return tfds.core.DatasetInfo(builder=self, features=features)

    def _generate_examples(self):
        yield 0, {"text": "a"}


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tfds")
    for builder in (TinyNoise, HiddenTestLabels, RawPixels, OnlyText):
        builder(data_dir=folder, file_format="array_record").download_and_prepare()
    return folder


@pytest.fixture
def prepared(data_dir, monkeypatch):
    monkeypatch.setenv("TFDS_DATA_DIR", str(data_dir))


def sorted_images(records, size=6):
    """The images of records, in the order of their bytes: TFDS writes examples in an order of its own."""
    array = load_images(records, size, memory_limit_gb=0.0).gather(range(len(records)))
    return sorted(image.tobytes() for image in array)


def centres(rows):
    return sorted(IMAGES[row][:, 1:7].tobytes() for row in rows)


def test_splits_labels_and_names(prepared):
    before = "tensorflow" in sys.modules
    source = open_source("tfds:tiny_noise")
    assert source.name == "tfds:tiny_noise" and source.class_names == ("x", "y")
    assert (len(source.pretrain), len(source.train), len(source.test)) == (16, 8, 4)
    assert sorted(source.train.labels.tolist()) == [0] * 4 + [1] * 4 and source.train.labels.dtype == np.int32
    assert source.pretrain.labels is None
    assert source.train.names[1] == "train/1" and source.pretrain.names[8] == "unlabelled/0"
    assert isinstance(source.train.read(0), bytes)
    assert ("tensorflow" in sys.modules) == before, "reading must not import TensorFlow, even where it is installed"


def test_images(prepared):
    source = open_source("tfds:tiny_noise:1.0.0")
    assert sorted_images(source.test) == centres(range(8, 12))
    assert sorted_images(source.pretrain) == centres([*range(8), *range(12, 20)])
    labels = {IMAGES[i][:, 1:7].tobytes(): i % 2 for i in range(8)}
    images = load_images(source.train, 6, memory_limit_gb=0.0)
    assert [labels[images[i].tobytes()] for i in range(8)] == images.labels.tolist()


def test_cache_is_used(prepared, tmp_path, monkeypatch):
    records = open_source("tfds:tiny_noise").pretrain
    first = np.array(load_images(records, 6, cache_dir=tmp_path).array)
    monkeypatch.setattr("sit_jax.data.load.decode", None)
    assert np.array_equal(load_images(open_source("tfds:tiny_noise").pretrain, 6, cache_dir=tmp_path).array, first)


def test_test_split_without_labels_gives_way_to_validation(prepared):
    source = open_source("tfds:hidden_test_labels")
    assert len(source.test) == 4 and source.test.names[0] == "validation/0"
    assert source.test.labels.min() >= 0


def test_images_as_plain_tensors(prepared):
    source = open_source("tfds:raw_pixels")
    assert source.train.labels is None and source.test is None and source.class_names is None
    assert sorted_images(source.train) == centres(range(4))


def test_data_set_without_images(prepared):
    with pytest.raises(InputError, match="tfds:only_text: has no image feature among text"):
        open_source("tfds:only_text")


@pytest.mark.parametrize("name", ["stl10", "cifar10", "imagenet_resized/64x64"])
def test_unprepared_says_at_once_which_command_prepares(tmp_path, monkeypatch, name):
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path))
    start = time.monotonic()
    with pytest.raises(InputError, match=rf"not prepared in .*`python -m sit_jax.data.prepare tfds:{name}`$"):
        open_source(f"tfds:{name}")
    assert time.monotonic() - start < 5


@pytest.mark.parametrize("name", ["no_such_data", "cifar10/x", "cifar10:9.9.9", "cifar 10", "huggingface:x"])
def test_unknown_name_fails_in_one_line(tmp_path, monkeypatch, name):
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path))
    with pytest.raises(InputError, match=f"^tfds:{name}: .*(no such data set|check name, config and version)") as error:
        open_source(f"tfds:{name}")
    assert "\n" not in str(error.value)


def test_a_folder_in_a_remote_store_is_refused_in_one_line(monkeypatch, capsys):
    assert prepare.main(["prepare", "tfds:tiny_noise", "--data_dir=s3://bucket/tfds"]) == 2
    refused = "only images are read from remote stores; give a folder of this machine"
    assert capsys.readouterr().err == f"error: --data_dir=s3://bucket/tfds: {refused}\n"
    monkeypatch.setenv("TFDS_DATA_DIR", "gs://bucket/tfds")
    with pytest.raises(InputError, match=f"^TFDS_DATA_DIR=gs://bucket/tfds: {refused}$"):
        open_source("tfds:tiny_noise")


@pytest.fixture
def as_tfrecord(data_dir, tmp_path, monkeypatch):
    """A data set that says it was prepared as TFRecord; writing one would take TensorFlow."""
    source = data_dir / "tiny_noise" / "1.0.0"
    target = tmp_path / "tiny_noise" / "1.0.0"
    target.mkdir(parents=True)
    for path in source.iterdir():
        text = path.read_bytes()
        if path.name == "dataset_info.json":
            text = text.replace(b'"array_record"', b'"tfrecord"').replace(b"{FILEFORMAT}", b"tfrecord")
        (target / path.name.replace("array_record", "tfrecord")).write_bytes(text)
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path))


def test_prepared_as_tfrecord_says_what_to_do(as_tfrecord):
    with pytest.raises(InputError, match=r"no ArrayRecord files but tfrecord.*--data_dir=NEW_FOLDER.*TFDS_DATA_DIR"):
        open_source("tfds:tiny_noise")
    with pytest.raises(InputError, match="another file format; give another --data_dir"):
        prepare.prepare("tfds:tiny_noise")


def test_prepare_writes_what_can_be_read(tmp_path, capsys, monkeypatch):
    assert prepare.main(["prepare", "tfds:tiny_noise", f"--data_dir={tmp_path}"]) == 0
    assert f"prepared in {tmp_path}/tiny_noise/1.0.0" in capsys.readouterr().out
    assert prepare.main(["prepare", "tfds:tiny_noise", f"--data_dir={tmp_path}"]) == 0
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path))
    assert sorted_images(open_source("tfds:tiny_noise").test) == centres(range(8, 12))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["digits"], "only data sets of the form tfds:NAME"),
        (["tfds:no_such_data"], "no such data set"),
        (["tfds:stl10", "--manual_dir=/no/such"], "--manual_dir=/no/such: there is no such folder"),
    ],
)
def test_prepare_with_wrong_input(tmp_path, capsys, arguments, message):
    assert prepare.main(["prepare", *arguments, f"--data_dir={tmp_path}"]) == 2
    error = capsys.readouterr().err.strip().splitlines()
    assert message in error[-1]


def test_prepare_with_a_damaged_archive(tmp_path, capsys):
    (tmp_path / "archives").mkdir()
    (tmp_path / "archives" / "stl10_binary.tar.gz").write_bytes(b"damaged")
    arguments = ["prepare", "tfds:stl10", f"--data_dir={tmp_path}", f"--manual_dir={tmp_path}/archives"]
    assert prepare.main(arguments) == 2
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert "wrong checksum" in error and error.endswith("into a folder and give --manual_dir=FOLDER")
    assert "stl10_binary.tar.gz into a folder" in error


def test_prepare_without_tensorflow_says_so(tmp_path):
    script = f"{WITHOUT_TENSORFLOW}\nimport sys; from sit_jax.data import prepare; sys.exit(prepare.main(sys.argv))"
    command = [sys.executable, "-c", script, "tfds:stl10", f"--data_dir={tmp_path}"]
    result = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert result.returncode == 2
    assert result.stderr.strip() == (
        "error: tfds:stl10: preparing it needs TensorFlow; run `pip install -r requirements-tfds.txt` "
        "(reading does not)"
    )


def test_all_sources_can_be_read_without_tensorflow(data_dir, tmp_path):
    for name in ("train/a/1.png", "train/b/1.png", "train/n01/images/1.png", "val/images/2.png"):
        root = tmp_path / ("tiny" if "images" in name else "folder")
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(IMAGES[0]).save(root / name)
    (tmp_path / "tiny/wnids.txt").write_text("n01\n")
    (tmp_path / "tiny/words.txt").write_text("n01\tcat\n")
    (tmp_path / "tiny/val/val_annotations.txt").write_text("2.png\tn01\n")
    np.savez(tmp_path / "arrays.npz", images=IMAGES)
    script = f"""{WITHOUT_TENSORFLOW}
import sit_jax.data
heavy = [m for m in ("tensorflow", "tensorflow_datasets", "sklearn", "matplotlib") if m in sys.modules]
assert not heavy, heavy
from sit_jax.data import Batches, load_images, open_source
for name in ("digits", "npz:arrays.npz", "folder:folder", "tiny_imagenet:tiny", "tfds:tiny_noise"):
    source = open_source(name)
    images = load_images(source.pretrain, 8, cache_dir="cache")
    batch = next(Batches(images, 1, seed=0).iterate(5))
    print(name, len(source.pretrain), batch["image"].shape)
try:
    import tensorflow
except ModuleNotFoundError:
    print("no TensorFlow")
"""
    environment = {**os.environ, "TFDS_DATA_DIR": str(data_dir), "PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, "-c", script]
    result = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=60)
    assert result.returncode == 0, result.stderr
    assert result.stdout.splitlines() == [
        "digits 1437 (1, 8, 8, 3)",
        "npz:arrays.npz 20 (1, 8, 8, 3)",
        "folder:folder 2 (1, 8, 8, 3)",
        "tiny_imagenet:tiny 1 (1, 8, 8, 3)",
        "tfds:tiny_noise 16 (1, 8, 8, 3)",
        "no TensorFlow",
    ]
