"""Shards against the folder that they were made from, and what is wrong with shards in one line."""

import json
import sys

import numpy as np
import pytest
import shards

from sit_jax.common.errors import InputError
from sit_jax.data import Batches, load_images, open_source
from sit_jax.data.blocks import Blocks

NAMES = [f"{kind}/{i}.{'png' if i % 2 else 'jpg'}" for kind in ("cat", "dog", "owl") for i in range(5)]
LABELS = [i // 5 for i in range(15)]


@pytest.fixture(scope="module")
def stores(tmp_path_factory):
    """The same images in the same order, in each form."""
    root = tmp_path_factory.mktemp("stores")
    shards.write_folder(root / "pictures", NAMES)
    files = [(name, shards.picture(name)) for name in NAMES]
    shards.write_tar(root / "plain.tar", files)
    kinds = [name.split("/")[0] for name in NAMES]
    for i, start in enumerate(range(0, 15, 6)):
        members = []
        for k in range(start, min(15, start + 6)):
            end = NAMES[k].rpartition(".")[2]
            members += [(f"{k:05d}.{end}", files[k][1]), (f"{k:05d}.cls", str(LABELS[k]).encode())]
        shards.write_tar(root / f"shard-{i:03d}.tar", members)
        shards.write_parquet(root / f"part-{i}.parquet", NAMES[start : start + 6], LABELS[start : start + 6])
        shards.write_array_record(root / f"part-{i}.array_record", NAMES[start : start + 6])
    named = [(f"{k}.json", json.dumps({"label": kinds[k]}).encode()) for k in range(15)]
    shards.write_tar(root / "named.tar", [*named, *((f"{k}.{NAMES[k][-3:]}", files[k][1]) for k in range(15))])
    shards.write_parquet(root / "texts.parquet", NAMES, kinds)
    shards.write_hf(root / "hf", NAMES, LABELS, class_names=["cat", "dog", "owl"])
    (root / "list.txt").write_text("".join(f"pictures/{n}\t{kind}\n" for n, kind in zip(NAMES, kinds, strict=True)))
    return root


FORMS = {
    "tar:plain.tar": True,
    "tar:shard-{000..002}.tar": False,
    "tar:shard-*.tar": False,
    "tar:named.tar": True,
    "parquet:part-{0..2}.parquet": False,
    "parquet:part-0.parquet,part-[12].parquet": False,
    "parquet:texts.parquet": True,
    "hf:hf": True,
    "list:list.txt": True,
    "glob:pictures/**/*": True,
    "glob:pictures/*/*.{jpg,png}": True,
    "arrayrecord:part-{0..2}.array_record": None,
    "pictures": True,
    "plain.tar": True,
    "pictures/*/*": True,
    "list.txt": True,
    "texts.parquet": True,
}


def batches(source, memory):
    images = load_images(source.pretrain, 8, memory_limit_gb=memory)
    labels = source.train.labels
    stream = Batches(images, 4, seed=3, labels=labels)
    return [stream.batch_at(step) for step in (0, 1, 7, 2)]


@pytest.mark.parametrize("memory", [0.0, 1.0], ids=["streamed", "in memory"])
@pytest.mark.parametrize("form", FORMS)
def test_each_form_gives_the_batches_of_the_folder(stores, monkeypatch, form, memory):
    """Bit for bit; FORMS tells whether a form keeps the names of the classes, None: no labels."""
    monkeypatch.chdir(stores)
    expected = open_source("folder:pictures")
    found = open_source(form)
    assert len(found.train) == 15 and found.test is None
    for one, other in zip(batches(found, memory), batches(expected, memory), strict=True):
        assert np.array_equal(one["image"], other["image"])
        assert FORMS[form] is None or np.array_equal(one["label"], other["label"])
    assert found.class_names == (expected.class_names if FORMS[form] else None)
    assert (found.train.labels is None) == (FORMS[form] is None)


@pytest.mark.parametrize("form", ["tar:shard-{000..002}.tar", "parquet:part-*.parquet", "hf:hf"])
def test_reading_again_uses_what_the_cache_keeps(stores, monkeypatch, form):
    monkeypatch.chdir(stores)
    first = [open_source(form).train.read(i) for i in range(15)]
    monkeypatch.setattr("sit_jax.data.tar_source._read_headers", None)
    monkeypatch.setattr("sit_jax.data.hf_source._places", None)
    monkeypatch.setattr("sit_jax.data.parquet_source.RowGroups._unpack", None)
    again = open_source(form).train
    assert [again.read(i) for i in range(15)] == first == [shards.picture(name) for name in NAMES]


def test_a_changed_tar_is_indexed_again_and_has_other_stamps(tmp_path):
    shards.write_tar(tmp_path / "a.tar", [("1.png", shards.picture("x.png")), ("2.png", b"-")])
    before = open_source(f"tar:{tmp_path}/a.tar").train
    shards.write_tar(tmp_path / "a.tar", [("3.png", shards.picture("longer.jpg"))])
    after = open_source(f"tar:{tmp_path}/a.tar").train
    assert list(after.names) == [f"{tmp_path}/a.tar/3.png"] and after.read(0) == shards.picture("longer.jpg")
    assert before.stamp(0) != after.stamp(0)
    (tmp_path / "a.tar").write_bytes(b"short")
    with pytest.raises(InputError, match=r"a\.tar: has become shorter while it is read"):
        before.read(0)


@pytest.mark.parametrize("kept", [True, False], ids=["in the cache folder", "in memory"])
def test_parquet_unpacks_a_row_group_when_an_image_of_it_is_read(stores, monkeypatch, kept, tmp_path, capsys):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setenv("SIT_JAX_CACHE_GB", "1" if kept else "0")
    unpacked = []
    from sit_jax.data.parquet_source import RowGroups

    unpack = RowGroups._unpack
    monkeypatch.setattr(RowGroups, "_unpack", lambda self, *place: unpacked.append(place) or unpack(self, *place))
    records = open_source(f"parquet:{stores}/part-*.parquet").train
    assert unpacked == []
    for row in (14, 13, 0, 14):
        assert records.read(row) == shards.picture(NAMES[row])
    assert unpacked == [(2, 0), (0, 0)]
    assert ("do not fit in the cache" in capsys.readouterr().err) == (not kept)


def test_many_threads_make_a_block_once(tmp_path, monkeypatch):
    from concurrent.futures import ThreadPoolExecutor

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    blocks, made = Blocks("a source", 1000), []
    with ThreadPoolExecutor(16) as threads:
        found = list(
            threads.map(lambda i: blocks.read("0", lambda: made.append(i) or b"0123456789", i % 5, 3), range(200))
        )
    assert len(made) == 1 and found == [b"0123456789"[i % 5 : i % 5 + 3] for i in range(200)]


def test_blocks_of_other_sources_make_room(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setenv("SIT_JAX_CACHE_GB", "1e-6")  # a thousand bytes
    old = Blocks("old", 600)
    old.read("0", lambda: bytes(600))
    assert Blocks("old", 600).read("0", lambda: b"made again") == bytes(600)
    new = Blocks("new", 700)
    assert new.on_disk and old.read("0", lambda: b"made again") == b"made again"
    assert not Blocks("large", 2000).on_disk


@pytest.mark.parametrize("form", ["tar:shard-*.tar", "parquet:part-*.parquet", "hf:hf"])
def test_without_a_cache_folder(stores, monkeypatch, form, tmp_path):
    (tmp_path / "file").write_text("")
    monkeypatch.chdir(stores)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    train = open_source(form).train
    assert [train.read(i) for i in range(15)] == [shards.picture(name) for name in NAMES]


def test_damaged_entries_of_the_cache_are_made_again(stores, monkeypatch, tmp_path):
    monkeypatch.chdir(stores)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    for form in ("tar:shard-*.tar", "parquet:part-*.parquet"):
        open_source(form).train.read(0)
        files = [path for path in tmp_path.rglob("*") if path.is_file()]
        assert files
        for path in files:
            path.write_bytes(path.read_bytes()[:10])
        train = open_source(form).train
        assert [train.read(i) for i in range(15)] == [shards.picture(name) for name in NAMES]


# -- splits and labels ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["tar", "parquet"])
def test_names_of_shards_tell_the_splits(tmp_path, kind):
    for split, names in {"train": NAMES[:10], "validation": NAMES[8:12]}.items():
        labels = [LABELS[NAMES.index(name)] for name in names]
        members = [(f"{i}.{name[-3:]}", shards.picture(name)) for i, name in enumerate(names)]
        members += [(f"{i}.cls", str(label).encode()) for i, label in enumerate(labels)]
        shards.write_tar(tmp_path / f"{split}-00000.tar", members)
        shards.write_parquet(tmp_path / f"{split}-00000.parquet", names, labels)
    source = open_source(f"{kind}:{tmp_path}/*.{kind}")
    assert (len(source.pretrain), source.train.labels.tolist()) == (10, LABELS[:10])
    assert source.test.labels.tolist() == LABELS[8:12] and source.test.read(3) == shards.picture(NAMES[11])


def test_folders_in_a_tar_tell_splits_and_classes(tmp_path):
    names = ["./train/a/1.png", "./train/b/2.png", "./test/b/3.png", "./unlabelled/4.png", "./train/b/._2.png"]
    shards.write_tar(tmp_path / "x.tar", [(name, shards.picture(name)) for name in names])
    source = open_source(f"tar:{tmp_path}/x.tar")
    assert (source.class_names, source.train.labels.tolist()) == (("a", "b"), [0, 1])
    assert source.test.labels.tolist() == [1] and len(source.pretrain) == 3
    assert source.pretrain.read(2) == shards.picture("./unlabelled/4.png")


def test_splits_in_capitals_and_two_training_splits(tmp_path):
    shards.write_tar(tmp_path / "x.tar", [(name, b"-") for name in ("Train/1.png", "Test/2.png", "Test/3.png")])
    source = open_source(f"tar:{tmp_path}/x.tar")
    assert (len(source.train), len(source.test)) == (1, 2)
    shards.write_tar(tmp_path / "y.tar", [(name, b"-") for name in ("train/1.png", "training/2.png", "test/3.png")])
    with pytest.raises(InputError, match="train and training are both training images"):
        open_source(f"tar:{tmp_path}/y.tar")


def test_hf_splits(tmp_path):
    shards.write_hf(tmp_path / "d/train", NAMES, LABELS, class_names=["cat", "dog", "owl"])
    shards.write_hf(tmp_path / "d/test", NAMES[3:7], LABELS[3:7], class_names=["cat", "dog", "owl"])
    (tmp_path / "d/dataset_dict.json").write_text('{"splits": ["train", "test"]}')
    source = open_source(f"hf:{tmp_path}/d")
    assert source.class_names == ("cat", "dog", "owl") and source.test.labels.tolist() == LABELS[3:7]
    assert [source.test.read(i) for i in range(4)] == [shards.picture(name) for name in NAMES[3:7]]


def test_a_class_name_without_images_stays(tmp_path):
    shards.write_parquet(tmp_path / "a.parquet", NAMES[:6], LABELS[:6], class_names=["cat", "dog", "owl"])
    source = open_source(f"parquet:{tmp_path}/a.parquet")
    assert source.class_names == ("cat", "dog", "owl") and source.train.labels.tolist() == LABELS[:6]


def test_a_tar_that_lacks_most_labels_has_none(tmp_path):
    shards.write_tar(tmp_path / "a.tar", [("1.png", b"-"), ("1.cls", b"3"), ("2.png", b"-"), ("2.json", b'{"x": 1}')])
    source = open_source(f"tar:{tmp_path}/a.tar")
    assert source.train.labels is None
    found, note = source.notes
    assert found == f"{len(source.pretrain)} images; no classes"
    few = "1 of 2 images have a label, not more than half, so no label is used"
    assert note == f"{few}; {tmp_path}/a.tar/2.png is the first without one"


def test_images_without_a_label_are_in_pretrain_only(tmp_path):
    labels = [(f"{i}.cls", b"3") for i in (0, 2)]
    shards.write_tar(tmp_path / "a.tar", [*((f"{i}.png", shards.picture(f"{i}.png")) for i in range(3)), *labels])
    source = open_source(f"tar:{tmp_path}/a.tar")
    assert source.train.labels.tolist() == [3, 3] and source.train.read(1) == shards.picture("2.png")
    assert len(source.pretrain) == 3 and source.pretrain.labels is None
    assert "1 of 3 images have no label, and only pre-training uses them" in source.notes[1]


def test_long_names_and_large_tars(tmp_path):
    names = ["n" * 150 + f"/{'é' * 70}{i}.png" for i in range(3)]
    for name, form in (("pax", shards.tarfile.PAX_FORMAT), ("gnu", shards.tarfile.GNU_FORMAT)):
        shards.write_tar(tmp_path / f"{name}.tar", [(one, shards.picture(one)) for one in names], format=form)
        records = open_source(f"tar:{tmp_path}/{name}.tar").train
        assert [records.read(i) for i in range(3)] == [shards.picture(one) for one in names]
        assert records.names[-1] == f"{tmp_path}/{name}.tar/{names[-1]}"


# -- what is wrong, in one line ---------------------------------------------------------------------------------------


def damaged_parquet(path):
    shards.write_parquet(path, NAMES[:2])
    path.write_bytes(path.read_bytes()[:-20])


def damaged_tar(path):
    shards.write_tar(path, [("1.png", bytes(3000)), ("2.png", bytes(3000))])
    content = bytearray(path.read_bytes())
    content[3584 : 3584 + 100] = b"x" * 100  # the second header
    path.write_bytes(content)


def short_tar(path):
    shards.write_tar(path, [("1.png", bytes(3000))])
    path.write_bytes(path.read_bytes()[:2000])


def other_column(path):
    shards.pa.parquet.write_table(shards.pa.table({"image": [1, 2], "text": ["a", "b"]}), path)


def hf_without_bytes(path):
    shards.write_hf(path, NAMES[:2])
    images = shards.pa.array([{"bytes": None, "path": "a.png"}], shards.table(NAMES[:1]).schema.field("image").type)
    with shards.pa.OSFile(str(path / "data-00000-of-00001.arrow"), "wb") as file:
        found = shards.pa.table({"image": images})
        with shards.pa.ipc.new_stream(file, found.schema) as writer:
            writer.write_table(found)


WRONG = {
    "tar:none-{000..127}.tar": (None, r"there is no file .*none-000\.tar.*none-019\.tar and 108 more; "),
    "tar:*.tar": (None, r"there is no file .*\*\.tar; correct the pattern"),
    "tar:x-{0..99999999}.tar": (None, "makes more than 1000000 names"),
    "tar:a.tar": (damaged_tar, r"a\.tar: cannot be read as a tar file \(damaged at byte 3584\)"),
    "tar:b.tar": (short_tar, r"b\.tar: cannot be read as a tar file \(unexpected end of data\)"),
    "tar:c.tar": (lambda path: path.write_bytes(b""), r"c\.tar: cannot be read as a tar file \(empty file\)"),
    "tar:d.tar": (lambda path: path.write_bytes(b"text" * 500), r"d\.tar: cannot be read as a tar file"),
    "tar:e.tar.gz": (lambda path: path.write_bytes(b"\x1f\x8b\x08"), "is packed with gzip, .*; unpack the file$"),
    "tar:f.tar": (lambda path: shards.write_tar(path, [("a.txt", b"a")]), r"holds no images"),
    "tar:g.tar": (
        lambda path: shards.write_tar(path, [("a.png", b"a"), ("a.json", b"[")]),
        r"g\.tar/a\.json: holds no label",
    ),
    "parquet:a.parquet": (damaged_parquet, r"a\.parquet: cannot be read as a Parquet file"),
    "parquet:b.parquet": (
        other_column,
        r"has no column image of encoded images .*only image \(int64\), text \(string\)",
    ),
    "parquet:none.parquet": (None, r"there is no file .*none\.parquet"),
    "hf:a": (lambda path: path.mkdir(), "no save_to_disk of `datasets` wrote such a folder"),
    "hf:b": (hf_without_bytes, "holds paths of images, not the images"),
    "arrayrecord:a": (lambda path: path.write_bytes(b"no"), "cannot be read as ArrayRecord files"),
    "list:none.txt": (None, r"none\.txt: cannot be read \(No such file"),
    "list:a.txt": (lambda path: path.write_text("\n \n"), "lists no images"),
    "list:b.txt": (
        lambda path: path.write_text("".join(f"{i}.png\n" for i in range(25))),
        r"25 of its 25 files are missing: 0\.png, .*, 19\.png and 5 more",
    ),
    "list:c.txt": (lambda path: path.write_text("a.png\t1\nb.png\n"), r"b\.png has no label, and others have"),
    "list:d.txt": (lambda path: path.write_bytes(b"\0\1"), "is no text file"),
    "glob:*.jpg": (None, "there is no file"),
    "glob:*.csv": (lambda path: path.with_name("a.csv").write_text("1"), "holds no images"),
}


@pytest.mark.parametrize("form", WRONG)
def test_wrong_shards_are_told_in_one_line(tmp_path, form):
    make, message = WRONG[form]
    word, _, name = form.partition(":")
    if make is not None:
        make(tmp_path / name)
    with pytest.raises(InputError, match=message) as error:
        open_source(f"{word}:{tmp_path}/{name}")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("kind", ["tar", "parquet"])
def test_a_member_that_is_no_image_is_named(tmp_path, kind, monkeypatch):
    monkeypatch.setattr("shards.picture", lambda name: b"no image")
    shards.write_tar(tmp_path / "a.tar", [("x/1.png", b"no image")])
    shards.write_parquet(tmp_path / "a.parquet", ["1.png"])
    name = {"tar": "x/1.png", "parquet": "0.0"}[kind]
    with pytest.raises(InputError, match=rf"a\.{kind}/{name}: unreadable image \(in no known format\)"):
        load_images(open_source(f"{kind}:{tmp_path}/a.{kind}").train, 8)


def test_without_pyarrow(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "pyarrow.parquet", None)
    with pytest.raises(InputError, match="needs pyarrow; run `pip install pyarrow`"):
        open_source(f"parquet:{tmp_path}/a.parquet")


def test_wrong_limit(stores, monkeypatch):
    monkeypatch.setenv("SIT_JAX_CACHE_GB", "much")
    with pytest.raises(InputError, match="SIT_JAX_CACHE_GB=much: must be a number"):
        open_source(f"parquet:{stores}/part-*.parquet")


# -- several folders --------------------------------------------------------------------------------------------------


def test_several_folders(tmp_path):
    shards.write_folder(tmp_path / "a", ["x/1.png", "y/2.png"])
    shards.write_folder(tmp_path / "b", ["train/x/3.png", "train/y/4.png", "test/y/5.png"])
    a, b = tmp_path / "a", tmp_path / "b"
    source = open_source(f"folder:{a},{b}")
    assert list(source.train.names) == [f"{a}/x/1.png", f"{a}/y/2.png", f"{b}/train/x/3.png", f"{b}/train/y/4.png"]
    assert (source.train.labels.tolist(), source.class_names) == ([0, 1, 0, 1], ("x", "y"))
    assert source.test.labels.tolist() == [1] and source.test.read(0) == b / "test/y/5.png"
    assert source.train.stamp(0) != source.train.stamp(2)


def test_several_folders_of_different_classes_have_no_labels(tmp_path):
    shards.write_folder(tmp_path, ["a/x/1.png", "a/y/2.png", "b/x/1.png", "b/z/2.png"])
    source = open_source(f"folder:{tmp_path}/a,{tmp_path}/b")
    assert source.train.labels is None and source.class_names is None and len(source.train) == 4
    assert source.notes[-1] == "no image has a label, because the folders have different classes"
    assert f"{tmp_path}/a: 2 images" in source.notes


@pytest.mark.parametrize("other", ["a", "a/x", "."])
def test_a_folder_within_another_is_refused(tmp_path, other):
    shards.write_folder(tmp_path, ["a/x/1.png"])
    with pytest.raises(InputError, match=r"lies in .*, which is given too; leave one of them out"):
        open_source(f"folder:{tmp_path}/a,{tmp_path}/{other}")


def test_a_folder_with_a_comma_in_its_name(tmp_path):
    shards.write_folder(tmp_path / "a,b", ["1.png"])
    assert len(open_source(f"folder:{tmp_path}/a,b").train) == 1
