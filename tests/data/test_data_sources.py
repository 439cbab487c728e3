import os
import zlib

import numpy as np
import pytest
from PIL import Image

from sit_jax.common.errors import InputError
from sit_jax.data import open_source


def write_images(root, *names, size=4):
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        value = zlib.crc32(name.encode()) % 256
        Image.new("RGB", (size, size), (value, 0, 255 - value)).save(path)


# -- the SOURCE string ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["", "digit", "digits:x", "folder", "folder:", "imagenet:/x", "/some/path"])
def test_unknown_form_lists_the_forms(name):
    with pytest.raises(InputError, match=r"digits, folder:PATH, .*, npz:PATH\.npz, .*, tfds:NAME, tiny_imagenet:PATH"):
        open_source(name)


def test_records_can_be_picked_and_joined():
    source = open_source("digits")
    picked = source.train.take([5, 2])
    assert picked.names == ["train/5", "train/2"]
    assert picked.labels.tolist() == source.train.labels[[5, 2]].tolist()
    joined = picked + source.test
    assert len(joined) == 362 and joined.names[2] == "test/0"
    assert np.array_equal(joined.read(2), source.test.read(0)) and np.array_equal(joined.read(1), source.train.read(2))
    assert joined.labels.tolist() == [*picked.labels, *source.test.labels]


# -- digits and .npz --------------------------------------------------------------------------------------------------


def test_digits():
    source = open_source("digits")
    assert (source.name, len(source.train), len(source.test)) == ("digits", 1437, 360)
    assert source.class_names == tuple("0123456789") and source.pretrain is source.train
    image = source.train.read(0)
    assert image.shape == (8, 8) and image.dtype == np.uint8
    assert max(source.train.read(i).max() for i in range(100)) == 255
    assert source.train.labels.dtype == np.int32
    assert np.abs(np.bincount(source.test.labels) - 36).max() <= 1


def test_digits_split_is_fixed():
    source = open_source("digits")
    assert source.train.labels[:12].tolist() == [3, 9, 1, 3, 1, 9, 4, 4, 2, 8, 3, 5]
    assert source.test.labels[:12].tolist() == [7, 6, 3, 7, 7, 3, 2, 8, 9, 3, 2, 6]


def rgb(n, *shape):
    return np.random.default_rng(0).integers(0, 256, (n, *shape), np.uint8)


def test_npz_with_splits(tmp_path):
    path = tmp_path / "a.npz"
    np.savez(
        path, train_images=rgb(5, 6, 6, 3), train_labels=np.arange(5), test_images=rgb(2, 6, 6), test_labels=[1, 0]
    )
    source = open_source(f"npz:{path}")
    assert source.name == f"npz:{path}" and source.class_names is None
    assert (source.train.labels.tolist(), source.test.labels.tolist()) == ([0, 1, 2, 3, 4], [1, 0])
    assert source.train.labels.dtype == np.int32 and source.test.names == ["test/0", "test/1"]
    assert np.array_equal(source.train.read(3), rgb(5, 6, 6, 3)[3])


@pytest.mark.parametrize("shape", [(6, 5), (6, 5, 1), (6, 5, 3), (6, 5, 4)])
def test_npz_of_images_alone(tmp_path, shape):
    np.savez(tmp_path / "a.npz", images=rgb(3, *shape))
    source = open_source(f"npz:{tmp_path}/a.npz")
    assert len(source.pretrain) == 3 and source.train.labels is None and source.test is None


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        (
            {"train_images": np.zeros((2, 4, 4, 3), np.int32)},
            r"train_images must be uint8, uint16 or float .* not int32 \[2, 4, 4, 3\]",
        ),
        ({"images": np.zeros((2, 2, 3, 3, 2), np.uint8)}, r"images must be uint8, .* not uint8 \[2, 2, 3, 3, 2\]"),
        ({"images": np.zeros((0, 4, 4, 3), np.uint8)}, "images must be uint8"),
        ({"images": np.zeros((2, 4, 4, 3), np.uint8), "labels": [1]}, r"labels must be integers \[2\]"),
        ({"images": np.zeros((2, 4, 4, 3), np.uint8), "labels": [1.0, 2.0]}, "labels must be integers"),
        ({"images": np.zeros((2, 4, 4, 3), np.uint8), "labels": [-1, 2]}, "labels must be integers .* from 0 on"),
        ({"train_images": rgb(2, 4, 4), "test_images": rgb(2, 4)}, "test_images must be uint8"),
        ({"x": np.zeros(3)}, "holds x; needs train_images or images"),
        ({"images": np.array([{}, []], object)}, "cannot be read as a .npz file of plain arrays"),
    ],
)
def test_npz_that_does_not_fit_names_the_array(tmp_path, arrays, message):
    np.savez(tmp_path / "a.npz", **arrays)
    with pytest.raises(InputError, match=message):
        open_source(f"npz:{tmp_path}/a.npz")


def test_npz_that_is_missing_or_is_something_else(tmp_path):
    with pytest.raises(InputError, match="there is no such file"):
        open_source(f"npz:{tmp_path}/none.npz")
    np.save(tmp_path / "b.npy", np.zeros(3))
    (tmp_path / "c.npz").write_bytes(b"PK\x03\x04 damaged")
    (tmp_path / "d.npz").write_bytes(b"")
    (tmp_path / "e.npz").write_bytes((tmp_path / "b.npy").read_bytes())
    messages = {
        "b.npy": r"is a single array \(\.npy\), and npz: needs names; write it with numpy\.savez",
        "c.npz": r"cannot be read as a \.npz file of plain arrays \(damaged",
        "d.npz": "is empty; write it with numpy",
        "e.npz": "is a single array",
        "": "is a folder; give a .npz file, or folder:PATH",
    }
    for name, message in messages.items():
        with pytest.raises(InputError, match=message):
            open_source(f"npz:{tmp_path}/{name}")


# -- folders ----------------------------------------------------------------------------------------------------------


def test_folder_with_splits_and_classes(tmp_path):
    write_images(
        tmp_path, "train/dog/1.png", "train/cat/2.JPEG", "train/cat/10.webp", "test/dog/3.bmp", "val/dog/4.png"
    )
    source = open_source(f"folder:{tmp_path}")
    assert source.class_names == ("cat", "dog")
    assert source.train.names == ["train/cat/10.webp", "train/cat/2.JPEG", "train/dog/1.png"]
    assert source.train.labels.tolist() == [0, 0, 1] and source.train.labels.dtype == np.int32
    assert source.test.names == ["test/dog/3.bmp"] and source.test.labels.tolist() == [1]
    assert source.pretrain is source.train
    assert source.train.read(0) == tmp_path / "train/cat/10.webp"


@pytest.mark.parametrize("name", ["val", "valid", "validation"])
def test_folder_without_test_uses_validation(tmp_path, name):
    write_images(tmp_path, "train/a/1.png", "train/b/1.png", f"{name}/b/2.png")
    assert open_source(f"folder:{tmp_path}").test.labels.tolist() == [1]


def test_folder_prefers_the_labelled_test_split(tmp_path):
    write_images(tmp_path, "train/a/1.png", "train/b/1.png", "test/1.png", "val/b/2.png")
    assert open_source(f"folder:{tmp_path}").test.names == ["val/b/2.png"]


def test_folder_of_classes_has_no_test_split(tmp_path):
    write_images(tmp_path, "b/1.png", "a/1.png", "a/2.png")
    source = open_source(f"folder:{tmp_path}")
    assert (source.class_names, source.train.labels.tolist(), source.test) == (("a", "b"), [0, 0, 1], None)


@pytest.mark.parametrize(
    "names",
    [
        ["1.png", "2.png"],
        ["a/1.png", "a/2.png"],  # one folder is no class
        ["a/1.png", "b/1.png", "2.png", "3.png"],  # most images would have to lie in class folders
        ["a/1.png", "b/c/1.png"],
        ["a/x/1.png", "b/x/1.png"],
        ["train/1.png", "train/2.png", "test/1.png"],
        ["train/a/1.png", "test/a/1.png"],
    ],
)
def test_every_other_layout_has_no_labels(tmp_path, names):
    write_images(tmp_path, *names)
    source = open_source(f"folder:{tmp_path}")
    assert source.train.labels is None and source.class_names is None
    assert source.train.names == sorted(name for name in names if not name.startswith("test/"))
    assert source.test is None or source.test.labels is None


def test_train_beside_other_classes_is_a_class(tmp_path):
    write_images(tmp_path, "train/1.png", "plane/1.png")
    source = open_source(f"folder:{tmp_path}")
    assert source.class_names == ("plane", "train") and source.test is None


def test_unlabelled_split_adds_to_pretraining_only(tmp_path):
    write_images(tmp_path, "train/a/1.png", "train/b/1.png", "unlabelled/x.png", "test/a/1.png")
    source = open_source(f"folder:{tmp_path}")
    assert source.pretrain.names == ["train/a/1.png", "train/b/1.png", "unlabelled/x.png"]
    assert source.pretrain.labels is None and source.train.labels.tolist() == [0, 1]


def test_hidden_and_foreign_files_are_ignored(tmp_path):
    write_images(tmp_path, "a/1.png", "b/1.png", "a/.2.png", ".thumbs/1.png")
    (tmp_path / "a" / "notes.txt").write_text("x")
    (tmp_path / "c").mkdir()
    source = open_source(f"folder:{tmp_path}")
    assert source.train.names == ["a/1.png", "b/1.png"] and source.class_names == ("a", "b")


def test_links_are_followed_and_circles_end(tmp_path):
    write_images(tmp_path, "data/a/1.png", "elsewhere/1.png")
    os.symlink(tmp_path / "elsewhere", tmp_path / "data" / "b")
    os.symlink(tmp_path / "data", tmp_path / "data" / "loop")
    os.symlink(tmp_path / "data", tmp_path / "elsewhere" / "back")
    assert open_source(f"folder:{tmp_path}/data").train.names == ["a/1.png", "b/1.png"]


def test_class_that_train_does_not_have(tmp_path):
    write_images(tmp_path, "train/a/1.png", "train/b/1.png", "test/c/1.png")
    with pytest.raises(InputError, match="test/c: a class that train has no folder for"):
        open_source(f"folder:{tmp_path}")


def test_folder_that_is_missing_empty_or_without_training_images(tmp_path):
    with pytest.raises(InputError, match="there is no such folder"):
        open_source(f"folder:{tmp_path}/none")
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match=r"empty: holds no images; the files that are read are png .*jpg jpeg"):
        open_source(f"folder:{tmp_path}/empty")
    (tmp_path / "x.mp4").write_bytes(b"")
    with pytest.raises(InputError, match=r"holds no images, only 1 \.mp4; the files that are read are png"):
        open_source(f"folder:{tmp_path}")
    (tmp_path / "train").mkdir()
    write_images(tmp_path, "test/1.png")
    with pytest.raises(InputError, match="train: holds no images"):
        open_source(f"folder:{tmp_path}")


def test_stamp_changes_with_the_file(tmp_path):
    write_images(tmp_path, "1.png")
    records = open_source(f"folder:{tmp_path}").train
    before = records.stamp(0)
    os.utime(tmp_path / "1.png", ns=(1, 1))
    assert records.stamp(0) != before and records.stamp(0).startswith("1.png ")


# -- Tiny-ImageNet ----------------------------------------------------------------------------------------------------


@pytest.fixture
def tiny_imagenet(tmp_path):
    write_images(tmp_path, *[f"train/{w}/images/{w}_{i}.JPEG" for w in ("n02", "n01") for i in range(2)])
    write_images(tmp_path, "val/images/val_0.JPEG", "val/images/val_1.JPEG", "test/images/test_0.JPEG")
    (tmp_path / "train/n01/n01_boxes.txt").write_text("n01_0.JPEG\t0\t0\t1\t1\n")
    (tmp_path / "wnids.txt").write_text("n02\nn01\n")
    (tmp_path / "words.txt").write_text("n01\tgoldfish, Carassius auratus\nn02\tbarn\nn03\tbow\n")
    (tmp_path / "val/val_annotations.txt").write_text("val_1.JPEG\tn02\t0\t0\t9\t9\nval_0.JPEG\tn01\t0\t0\t9\t9\n")
    return tmp_path


def test_tiny_imagenet(tiny_imagenet):
    source = open_source(f"tiny_imagenet:{tiny_imagenet}")
    assert source.class_names == ("barn", "goldfish, Carassius auratus")
    assert source.train.labels.tolist() == [0, 0, 1, 1] and source.train.names[0] == "train/n02/images/n02_0.JPEG"
    assert source.test.names == ["val/images/val_0.JPEG", "val/images/val_1.JPEG"]
    assert source.test.labels.tolist() == [1, 0]
    assert len(source.pretrain) == 4


@pytest.mark.parametrize("piece", ["wnids.txt", "words.txt", "val/val_annotations.txt"])
def test_tiny_imagenet_names_the_missing_file(tiny_imagenet, piece):
    (tiny_imagenet / piece).unlink()
    with pytest.raises(InputError, match=f"{piece}: missing"):
        open_source(f"tiny_imagenet:{tiny_imagenet}")


def test_tiny_imagenet_names_the_missing_folder(tiny_imagenet):
    (tiny_imagenet / "val/images").rename(tiny_imagenet / "val/pictures")
    with pytest.raises(InputError, match="val/images: missing"):
        open_source(f"tiny_imagenet:{tiny_imagenet}")
    (tiny_imagenet / "train/n01").rename(tiny_imagenet / "train/n09")
    with pytest.raises(InputError, match="train/n01/images: missing"):
        open_source(f"tiny_imagenet:{tiny_imagenet}")


def test_tiny_imagenet_image_without_annotation(tiny_imagenet):
    (tiny_imagenet / "val/val_annotations.txt").write_text("val_0.JPEG\tn01\n")
    with pytest.raises(InputError, match=r"val_1.JPEG has no class"):
        open_source(f"tiny_imagenet:{tiny_imagenet}")
