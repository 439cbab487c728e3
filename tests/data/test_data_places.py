"""Shards and arrays by their place and content: no entry of a cache, label or fingerprint of other data."""

import io
import os

import numpy as np
import pyarrow as pa
import pyarrow.parquet
import pytest
import shards
from PIL import Image

from sit_jax.common.errors import InputError
from sit_jax.data import load_images, open_source
from sit_jax.data.blocks import Blocks
from sit_jax.data.fingerprint import fingerprint
from sit_jax.data.given import open_given
from sit_jax.eval.data import fingerprint as content_of

TIME = (10**18, 10**18)


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def bmp(value, i=0):
    """A picture whose size in bytes does not depend on its values."""
    file = io.BytesIO()
    Image.fromarray(np.full((8, 8, 3), (value, i % 256, i // 256), np.uint8)).save(file, "BMP")
    return file.getvalue()


def write_parquet(path, value):
    table = pa.table({"image": [bmp(value, i) for i in range(20)]})
    options = {"compression": "none", "use_dictionary": False, "write_statistics": False}
    pa.parquet.write_table(table, path, **options)


def write_tar(path, value, row=103):
    """Only one picture differs, which by default no sample of 64 sees."""
    shards.write_tar(path, [(f"{i:04}.bmp", bmp(value if i == row else 9, i)) for i in range(200)])


@pytest.mark.parametrize("memory", [0.0, 1.0], ids=["streamed", "in memory"])
@pytest.mark.parametrize(("form", "write", "row"), [("parquet", write_parquet, 0), ("tar", write_tar, 103)])
def test_two_shards_of_the_same_relative_name_size_and_time(tmp_path, monkeypatch, form, write, row, memory):
    found = []
    for value in (50, 60):
        folder = tmp_path / str(value)
        folder.mkdir()
        write(folder / f"x.{form}", value)
        os.utime(folder / f"x.{form}", ns=TIME)
        monkeypatch.chdir(folder)
        images = load_images(open_source(f"{form}:x.{form}").train, 8, memory)
        found.append(int(images.gather([row])[0, 0, 0, 0]))
    assert found == [50, 60]


def test_a_tar_that_is_exchanged_has_its_own_labels(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    found = []
    for label in (b"0", b"1"):
        members = [(f"{i}.bmp", bmp(1, i)) for i in range(4)] + [(f"{i}.cls", label) for i in range(4)]
        shards.write_tar("new.tar", members)
        os.utime("new.tar", ns=TIME)
        os.replace("new.tar", "a.tar")
        found.append(open_source("tar:a.tar").train.labels.tolist())
    assert found == [[0] * 4, [1] * 4]


@pytest.mark.parametrize("wrapper", ["set/", "a/b/", "./set/"])
def test_folders_that_hold_all_change_no_split_and_no_class(tmp_path, monkeypatch, wrapper):
    names = [f"{split}/{kind}/{i}.png" for split in ("train", "test") for kind in ("cat", "dog") for i in range(2)]
    monkeypatch.chdir(tmp_path)
    shards.write_folder(tmp_path / "w" / wrapper, names)
    shards.write_tar("w.tar", [(wrapper + name, shards.picture(name)) for name in names])
    for form in ("folder:w", "tar:w.tar", "glob:w/**/*.png"):
        source = open_source(form)
        assert len(source.pretrain) == 4 and source.class_names == ("cat", "dog"), form
        assert source.test is not None and source.test.labels.tolist() == [0, 0, 1, 1], form


def test_the_order_and_the_choice_of_files_are_those_of_a_folder(tmp_path, monkeypatch):
    """Folders are sorted by their parts, and folders of a system are left out."""
    names = ["cat/1.png", "cat-wild/2.png", "cat.old/3.png"]
    shards.write_folder(tmp_path / "p", [*names, "@eaDir/4.png", "__MACOSX/5.png"])
    monkeypatch.chdir(tmp_path)
    shards.write_tar("p.tar", [(name, shards.picture(name)) for name in [*names, "@eaDir/4.png", "__MACOSX/5.png"]])
    assert [open_source(form).pretrain.names[0][-5:] for form in ("folder:p", "glob:p/**/*")] == ["1.png", "1.png"]
    for form in ("folder:p", "glob:p/**/*", "tar:p.tar"):
        assert [name[-5:] for name in open_source(form).pretrain.names] == ["1.png", "2.png", "3.png"], form


@pytest.mark.parametrize("form", ["tar:{}/x.tar", "parquet:{}/x.parquet", "folder:{}/a,{}/b", "folder:{}/a"])
def test_moved_data_has_the_same_fingerprint(tmp_path, form):
    for place in ("here", "there"):
        for part in ("a", "b"):
            shards.write_folder(tmp_path / place / part, ["1.png", "2.png"])
        write_tar(tmp_path / place / "x.tar", 5)
        write_parquet(tmp_path / place / "x.parquet", 5)
    found = [fingerprint(open_source(form.replace("{}", f"{tmp_path}/{x}")).pretrain) for x in ("here", "there")]
    assert found[0] == found[1]
    (tmp_path / "there" / "a" / "1.png").rename(tmp_path / "there" / "a" / "3.png")
    write_tar(tmp_path / "there" / "x.tar", 6, row=0)
    write_parquet(tmp_path / "there" / "x.parquet", 6)
    assert fingerprint(open_source(form.replace("{}", f"{tmp_path}/there")).pretrain) != found[0]


@pytest.mark.parametrize("kind", ["P2", "P3", "P6"])
def test_a_portable_pixmap_is_a_picture_and_no_list(tmp_path, kind):
    path = tmp_path / "photo.ppm"
    pixels = b"\n".join(b"200" for _ in range(12 if kind != "P2" else 4)) if kind != "P6" else b"\xc8" * 12
    path.write_bytes(f"{kind}\n2 2\n255\n".encode() + pixels)
    records = open_given(str(path)).records
    assert len(records) == 1 and load_images(records, 8).array[0, 0, 0, 0] == 200


def test_large_numbers_are_names_of_classes(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    members = [(f"{i}.bmp", bmp(1, i)) for i in range(4)]
    members += [(f"{i}.cls", str(999_999_999 - i % 2).encode()) for i in range(4)]
    shards.write_tar("a.tar", members)
    source = open_source("tar:a.tar")
    assert source.class_names == ("999999998", "999999999") and source.train.labels.tolist() == [1, 0, 1, 0]
    np.savez("a.npz", images=np.zeros((2, 8, 8, 3), np.uint8), labels=np.array([0, 10**6]))
    with pytest.raises(InputError, match="number the classes"):
        open_source("npz:a.npz")


def test_arrays_of_the_other_byte_order_are_read(tmp_path):
    values = np.arange(2 * 64, dtype=np.uint16).reshape(2, 8, 8)
    np.savez(tmp_path / "a.npz", images=values.astype(">u2"))
    assert open_source(f"npz:{tmp_path}/a.npz").train.read(1).dtype == np.dtype(np.uint16)
    np.testing.assert_array_equal(open_source(f"npz:{tmp_path}/a.npz").train.read(1), values[1])
    (tmp_path / "p").mkdir()
    np.save(tmp_path / "p" / "a.npy", values[1].astype(">u2"))
    from sit_jax.common.layout import Layout

    images = load_images(open_source(f"folder:{tmp_path}/p").train, 8, layout=Layout(1, 16))
    np.testing.assert_array_equal(images.gather([0])[0, ..., 0], values[1])


def test_an_evaluation_knows_shapes_and_names_of_classes(tmp_path):
    def content(images=None, names=("a", "b")):
        if images is not None:
            np.savez(tmp_path / "a.npz", images=images)
            return content_of(open_source(f"npz:{tmp_path}/a.npz"), 8)
        for name in names:
            shards.write_folder(tmp_path / names[0] / name, ["1.png"])
        return content_of(open_source(f"folder:{tmp_path}/{names[0]}"), 8)

    pixels = np.zeros(288, np.uint8)
    assert content(pixels.reshape(2, 8, 18)) != content(pixels.reshape(2, 18, 8))
    assert content(names=("a", "b")) != content(names=("c", "b"))


def labelled_tar(path):
    shards.write_tar(path, [("1.bmp", bmp(1)), ("1.json", b"[")])


def test_blocks_that_never_fit_empty_no_cache(tmp_path, monkeypatch):
    Blocks("small", 10).read("x", lambda: b"0123456789")
    monkeypatch.setattr("sit_jax.data.blocks._free", lambda folder: 100)
    assert not Blocks("large", 1000).on_disk
    again = Blocks("small", 10)
    assert again.read("x", lambda: pytest.fail("the block was deleted")) == b"0123456789"


@pytest.mark.parametrize(
    ("write", "form", "message"),
    [
        (lambda path: path.mkdir(), "tar:{}", "cannot be read"),
        (lambda path: hf(path, "dataset_dict.json", '{"splits": [1]}'), "hf:{}", "names no splits"),
        (lambda path: hf(path, "state.json", '{"_data_files": ["x"]}'), "hf:{}", "names no files"),
        (
            lambda path: shards.write_tar(path, [("1.bmp", bmp(1)), ("1.json", b"[")]),
            "tar:{}",
            r"1\.json: holds no label",
        ),
    ],
    ids=["a folder as a tar", "hf splits", "hf files", "a label in a tar"],
)
def test_what_is_wrong_is_one_line(tmp_path, write, form, message):
    write(tmp_path / "x")
    with pytest.raises(InputError, match=message) as error:
        open_source(form.format(tmp_path / "x"))
    assert "\n" not in str(error.value) and "cannot be read as a tar file" not in str(error.value)


def hf(path, name, text):
    path.mkdir()
    (path / name).write_text(text)
