"""Odd inputs of folders and files: each ends in a right result or in one line that names the thing and the remedy."""

import inspect
import io
import os
import socket
import struct
import sys
import zipfile

import numpy as np
import pytest
from PIL import Image

from sit_jax.common.errors import InputError
from sit_jax.common.layout import Layout
from sit_jax.data import Records, content, formats, load_images, open_source
from sit_jax.data.cache import key
from sit_jax.data.channels import decode, found_bits
from sit_jax.eval.data import fingerprint

SIZE = 8
REMEDY = "; repair it, remove it or set --config.data.skip_unreadable"


def png(value=7, size=SIZE):
    file = io.BytesIO()
    Image.new("RGB", (size, size), (value, 0, 9)).save(file, "PNG")
    return file.getvalue()


def encoded(array, form, **options):
    file = io.BytesIO()
    (array if isinstance(array, Image.Image) else Image.fromarray(array)).save(file, form, **options)
    return file.getvalue()


def put(root, *names, content=None):
    """Writes pictures, or `content`, under names of text or bytes."""
    for name in names:
        path = os.path.join(os.fsencode(root), os.fsencode(name))
        os.makedirs(os.path.dirname(path), exist_ok=True)
        with open(path, "wb") as file:
            file.write(png() if content is None else content)


def put_link(root, target, name):
    (root / name).parent.mkdir(parents=True, exist_ok=True)
    os.symlink(target, root / name)


def put_pipe(root, name):
    put(root, "a.png")
    os.mkfifo(root / name)


def put_socket(root, name):
    put(root, "a.png")
    here = os.getcwd()
    os.chdir(root)  # names of sockets are short
    try:
        socket.socket(socket.AF_UNIX).bind(name)
    finally:
        os.chdir(here)


def put_siblings(root, count):
    """Folders that all link to each other."""
    for i in range(count):
        put(root, f"{i}/a.png")
        for j in range(count):
            put_link(root, root / str(j), f"{i}/to{j}")


def all_of(*makers):
    return lambda root: [maker(root) for maker in makers]


def pictures(*names):
    return lambda root: put(root, *names)


# What makes the folder, the names of the training images (or their number), their labels, and parts of the notes.
RIGHT = {
    "case of the splits": (
        pictures("Train/a/1.png", "Train/b/1.png", "Test/a/2.png"),
        ["Train/a/1.png", "Train/b/1.png"],
        [0, 1],
        ["3 images", "2 splits, 2 classes (Train, Test)"],
    ),
    "capital letters": (pictures("TRAIN/a/1.png", "TRAIN/b/1.png", "DEV/a/2.png"), 2, [0, 1], ["2 splits, 2 classes"]),
    "training, testing": (
        pictures("training/a/1.png", "training/b/1.png", "testing/b/2.png"),
        2,
        [0, 1],
        ["2 splits, 2 classes (training, testing)"],
    ),
    "one test split of two": (
        pictures("train/a/1.png", "train/b/1.png", "val/a/2.png", "Test/b/2.png"),
        2,
        [0, 1],
        ["(train, Test)", "val is not used, because Test is the test split"],
    ),
    "pictures beside the splits": (
        pictures("train/a/1.png", "train/b/1.png", "test/a/2.png", "other/3.png", "4.png"),
        2,
        [0, 1],
        ["2 images outside of the splits are not used: 4.png is the first; move them into train to train on them"],
    ),
    "all in one folder": (
        pictures("set/train/a/1.png", "set/train/b/1.png", "set/test/a/2.png"),
        ["set/train/a/1.png", "set/train/b/1.png"],
        [0, 1],
        ["2 splits, 2 classes (train, test)"],
    ),
    "classes in one folder": (pictures("set/a/1.png", "set/b/2.png"), 2, [0, 1], ["2 images", "2 classes"]),
    "one stray picture": (
        pictures("a/1.png", "a/2.png", "b/1.png", "x.png"),
        ["a/1.png", "a/2.png", "b/1.png"],
        [0, 0, 1],
        ["2 classes", "1 of 4 images without a label, because not in a class folder: x.png is the first"],
    ),
    "stray pictures in splits": (
        all_of(
            pictures("train/a/1.png", "train/a/2.png", "train/b/1.png", "train/x.png"),
            pictures("test/a/1.png", "test/b/1.png", "test/y.png"),
        ),
        3,
        [0, 0, 1],
        ["1 of 4 images without a label", "train/x.png is the first", "1 of 3 images", "test/y.png is the first"],
    ),
    "few in class folders": (
        pictures("a/1.png", "b/1.png", "1.png", "2.png", "3.png"),
        5,
        None,
        ["no classes", "no image has a label, because only 2 of 5 lie in class folders; 1.png is the first that"],
    ),
    "names of any byte": (
        pictures(b"caf\xe9/\xff.png", b"z/a\nb.png", "z/☃.png"),
        3,
        [0, 1, 1],
        ["3 images", "2 classes"],
    ),
    "a folder named like a picture": (pictures("x.jpg/1.png", "y.jpg/1.png"), 2, [0, 1], ["2 images", "2 classes"]),
    "extensions in capitals": (pictures("1.PNG", "2.JPeG", "3.TIFF"), 3, None, ["3 images"]),
    "other files": (
        all_of(
            pictures("1.png"),
            lambda root: put(root, "a.mp4", "b.txt", "c.TXT", "README", "raw.CR2", ".hidden", content=b"x"),
        ),
        ["1.png"],
        None,
        [
            "1 image; ignored: 1 .cr2 (convert it to JPEG or TIFF), 1 .mp4, 2 .txt, 1 without extension",
        ],
    ),
    "many kinds of other files": (
        all_of(pictures("1.png"), lambda root: put(root, *[f"f.x{i}" for i in range(40)], content=b"x")),
        1,
        None,
        ["28 of 28 other kinds"],
    ),
    "folders of the system": (
        pictures("a/1.png", "b/1.png", "a/@eaDir/1.png/THUMB.png", "__MACOSX/a/1.png", "$RECYCLE.BIN/1.png"),
        ["a/1.png", "b/1.png"],
        [0, 1],
        ["2 images", "2 classes"],
    ),
    "a link to itself": (
        all_of(pictures("1.png"), lambda root: put_link(root, "me.png", "me.png")),
        1,
        None,
        ["1 image; ignored: 1 broken link"],
    ),
    "a broken link": (
        all_of(pictures("1.png"), lambda root: put_link(root, "nowhere", "gone.jpg")),
        1,
        None,
        ["ignored: 1 broken link"],
    ),
    "a circle of links": (
        all_of(pictures("a/1.png", "b/1.png"), lambda root: put_link(root, root, "a/up")),
        2,
        [0, 1],
        ["2 images", "2 classes"],
    ),
    "a pipe": (lambda root: put_pipe(root, "p.png"), ["a.png"], None, ["1 image; ignored: 1 special file"]),
    "a socket": (lambda root: put_socket(root, "s.png"), ["a.png"], None, ["1 image; ignored: 1 special file"]),
}


@pytest.mark.parametrize("row", RIGHT.values(), ids=RIGHT)
def test_folder_that_is_odd_is_understood(row, tmp_path):
    make, names, labels, notes = row
    make(tmp_path)
    source = open_source(f"folder:{tmp_path}")
    assert names in (source.train.names, len(source.train))
    assert (None if source.train.labels is None else source.train.labels.tolist()) == labels
    text = "\n".join(source.notes)
    assert all(line.isprintable() for line in source.notes)
    for part in notes:
        assert part in text


def test_folder_deeper_than_the_limit_of_recursion(tmp_path):
    put(tmp_path, "/".join("d" * 200) + "/a.png")
    before = sys.getrecursionlimit()
    sys.setrecursionlimit(len(inspect.stack(0)) + 100)
    try:
        assert len(open_source(f"folder:{tmp_path}").train) == 1
    finally:
        sys.setrecursionlimit(before)


def test_stray_pictures_are_pre_trained_on(tmp_path):
    put(tmp_path, "a/1.png", "a/2.png", "b/1.png", "x.png")
    source = open_source(f"folder:{tmp_path}")
    assert source.pretrain.names == ["a/1.png", "a/2.png", "b/1.png", "x.png"] and source.pretrain.labels is None
    put(tmp_path, "test/a/1.png", "train/a/1.png", "train/b/1.png", "train/b/2.png", "train/x.png")
    assert len(open_source(f"folder:{tmp_path}").pretrain) == 4
    assert "test/a/1.png" not in open_source(f"folder:{tmp_path}").pretrain.names


def test_names_of_any_byte_are_read_and_shown(tmp_path):
    put(tmp_path, b"caf\xe9/\xff.png", b"z/a\nb.png", b"z/\x1b[31m.png")
    source = open_source(f"folder:{tmp_path}")
    assert source.class_names == ("caf?", "z")
    images = load_images(source.train, SIZE, cache_dir=tmp_path / "cache")
    assert images.array.shape == (3, SIZE, SIZE, 3) and (images.array[..., 0] == 7).all()
    put(tmp_path, b"z/a\nb.png", b"z/\x1b[31m.png", content=b"damaged")
    with pytest.raises(InputError) as error:
        load_images(source.train, SIZE, cache_dir=tmp_path / "cache")
    assert str(error.value).isprintable() and "z/a?b.png" in str(error.value) and "z/?[31m" in str(error.value)


# What makes the folder, and the one line.
WRONG = {
    "two training splits": (
        pictures("Train/1.png", "train/1.png", "test/1.png"),
        "Train and train are both training images; merge them or rename one",
    ),
    "an empty training split": (
        all_of(pictures("test/1.png"), lambda root: (root / "Train").mkdir()),
        "Train: holds no images; the files that are read are png",
    ),
    "a class that only the test split has": (
        pictures("Training/a/1.png", "Training/b/1.png", "Dev/c/1.png"),
        "Dev/c: a class that Training has no folder for; remove it or add Training/c",
    ),
    "nothing that is read": (
        lambda root: put(root, "1.mp4", "2.nef", content=b"x"),
        "holds no images, only 1 .mp4, 1 .nef (convert it to JPEG or TIFF); the files that are read are png",
    ),
    "folders that link to each other": (lambda root: put_siblings(root, 9), "more than 64 paths of links lead to it"),
}


@pytest.mark.parametrize("row", WRONG.values(), ids=WRONG)
def test_folder_that_is_wrong_is_told_in_one_line(row, tmp_path):
    row[0](tmp_path)
    with pytest.raises(InputError) as error:
        open_source(f"folder:{tmp_path}")
    assert row[1] in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize("path", ["{}/none", "{}/file.png", "{}/" + "x" * 300, "~no such user/x", "{}/\0", "{}/l\n"])
def test_path_that_is_no_folder(path, tmp_path):
    put(tmp_path, "file.png")
    expected = (
        "is a file; give a folder" if path.endswith(".png") else "there is no such folder; give a folder of images"
    )
    with pytest.raises(InputError, match=expected) as error:
        open_source(f"folder:{path.format(tmp_path)}")
    assert str(error.value).isprintable()


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may read all")
def test_folders_and_files_without_permission(tmp_path):
    put(tmp_path, "a/1.png", "b/1.png")
    os.chmod(tmp_path / "a" / "1.png", 0)
    records = open_source(f"folder:{tmp_path}").train
    with pytest.raises(InputError, match=r"a/1\.png: unreadable image \(Permission denied\)"):
        load_images(records, SIZE, cache_dir=tmp_path / "cache")
    os.chmod(tmp_path / "a", 0)
    with pytest.raises(InputError, match="a: cannot be listed"):
        open_source(f"folder:{tmp_path}")


# -- files -----------------------------------------------------------------------------------------------------------

GREY = np.linspace(0, 255, SIZE * SIZE).round().astype(np.uint8).reshape(SIZE, SIZE)
RGB = np.random.default_rng(0).integers(0, 256, (SIZE, SIZE, 3), np.uint8)


def as_rgb(grey):
    return np.repeat(np.asarray(grey)[..., None], 3, axis=-1)


def tiff(values, bits, sample_format=1):
    """A grey TIFF without compression, written by hand: Pillow writes only some kinds."""
    data = values.tobytes()
    entries = [(256, 3, SIZE), (257, 3, SIZE), (258, 3, bits), (259, 3, 1), (262, 3, 1), (273, 4, 8), (277, 3, 1)]
    entries += [(278, 3, SIZE), (279, 4, len(data)), (339, 3, sample_format)]
    table = b"".join(struct.pack("<HHII", tag, kind, 1, value) for tag, kind, value in entries)
    return b"II*\0" + struct.pack("<I", 8 + len(data)) + data + struct.pack("<H", len(entries)) + table + b"\0\0\0\0"


def packed_12_bits(values):
    pairs = values.reshape(-1, 2).astype(int)
    rows = np.stack([pairs[:, 0] >> 4, (pairs[:, 0] & 15) << 4 | pairs[:, 1] >> 8, pairs[:, 1] & 255], -1)
    return rows.astype(np.uint8)


def portable(kind, largest, values):
    return f"{kind}\n{SIZE} {SIZE}\n{largest}\n".encode() + values.astype(">u2").tobytes()


WIDE = GREY.astype(np.uint16) * 257
LAB = np.dstack([GREY, np.zeros_like(GREY), np.zeros_like(GREY)])
LUMINANCE = np.where(GREY > 20, ((GREY / 2.55 + 16) / 116) ** 3, GREY / 2.55 / 903.3)  # of CIE L*
OF_LAB = 255 * np.where(LUMINANCE > 0.0031308, 1.055 * LUMINANCE ** (1 / 2.4) - 0.055, 12.92 * LUMINANCE)  # sRGB
# The name of the file, its bytes, and the pixels: floats are not exact.
PICTURES = {
    "TIFF": ("1.tif", encoded(RGB, "TIFF"), RGB),
    "TIFF of two pages": ("1.tiff", encoded(RGB, "TIFF", save_all=True, append_images=[Image.new("L", (9, 9))]), RGB),
    "TIFF of 16 bits": ("1.tif", encoded(WIDE, "TIFF"), as_rgb(GREY)),
    "TIFF of 16 bits, big-endian": (
        "1.tif",
        encoded(Image.frombytes("I;16B", (SIZE, SIZE), WIDE.astype(">u2").tobytes()), "TIFF"),
        as_rgb(GREY),
    ),
    "TIFF of 12 bits": ("1.tif", tiff(packed_12_bits(GREY.astype(int) * 4095 // 255), 12), as_rgb(GREY)),
    "TIFF of 32 bits with values of 16": ("1.tif", encoded(WIDE.astype(np.int32), "TIFF"), as_rgb(GREY)),
    "TIFF in Lab": ("1.tif", encoded(Image.fromarray(LAB, "LAB"), "TIFF"), as_rgb(OF_LAB)),
    "GIF of three frames": (
        "1.gif",
        encoded(Image.fromarray(GREY), "GIF", save_all=True, append_images=[Image.new("L", (SIZE, SIZE), 5)] * 2),
        as_rgb(GREY),
    ),
    "PPM": ("1.ppm", encoded(RGB, "PPM"), RGB),
    "PNM of 16 bits": ("1.pnm", portable("P5", 65535, WIDE), as_rgb(GREY)),
    "PGM of 10 bits": ("1.pgm", portable("P5", 1023, GREY.astype(int) * 1023 / 255 + 0.5), as_rgb(GREY.astype(float))),
    "PPM of 16 bits": ("1.ppm", portable("P6", 65535, RGB.astype(int) * 257), RGB),
    "PBM": ("1.pbm", encoded(Image.fromarray(GREY > 99), "PPM"), as_rgb(np.where(GREY > 99, 255, 0))),
    "PNG of 16 bits": ("1.png", encoded(WIDE, "PNG"), as_rgb(GREY)),
    "APNG": ("1.apng", encoded(RGB, "PNG", save_all=True, append_images=[Image.new("RGB", (SIZE, SIZE))]), RGB),
    "JPEG named PNG": ("1.png", encoded(as_rgb(GREY), "JPEG", quality=95), as_rgb(GREY.astype(float))),
    "one pixel": ("1.png", png(7, 1), np.full((SIZE, SIZE, 3), (7, 0, 9))),
    "a very wide picture": ("1.png", encoded(np.full((2, 20_000, 3), 50, np.uint8), "PNG"), np.full((8, 8, 3), 50)),
}


@pytest.mark.parametrize("row", PICTURES.values(), ids=PICTURES)
def test_picture_of_any_kind_is_read(row, tmp_path):
    name, content, expected = row
    put(tmp_path, name, content=content)
    image = load_images(open_source(f"folder:{tmp_path}").train, SIZE, cache_dir=tmp_path / "cache").array[0]
    assert np.abs(image.astype(int) - expected).max() <= (3 if expected.dtype == float else 0)


@pytest.mark.parametrize(
    ("extension", "options"), [("jp2", {"irreversible": False}), ("avif", {"quality": 100}), ("heic", {"quality": 100})]
)
def test_picture_of_an_optional_format(extension, options, tmp_path):
    if f".{extension}" not in formats.extensions():
        pytest.skip("not in this installation")
    content = encoded(
        as_rgb(np.full((64, 64), 90, np.uint8)),
        next(row.name for row in formats.FORMATS if f".{extension}" in row.extensions),
        **options,
    )
    put(tmp_path, f"1.{extension}", content=content)
    records = open_source(f"folder:{tmp_path}").train
    assert np.abs(load_images(records, SIZE, cache_dir=tmp_path / "cache").array.astype(int) - 90).max() <= 2


def test_12_bits_are_kept_in_16():
    values = np.arange(64).reshape(8, 8) * 65
    found = decode(tiff(packed_12_bits(values), 12), SIZE, "x", Layout(1, 16))
    assert np.array_equal(found[..., 0], np.round(values * 65535 / 4095))


def test_format_without_its_plugin_is_counted_with_the_remedy(tmp_path, monkeypatch):
    others = tuple(row for row in formats.readable() if row.name != "HEIF")
    monkeypatch.setattr(formats, "readable", lambda: others)
    for function in (formats.extensions, formats.pillow_names):
        function.cache_clear()
    try:
        put(tmp_path, "1.png", "2.png")
        put(tmp_path, "1.HEIC", "1.mp4", "1.txt", "2.txt", content=b"\0\0\0\x1cftypheic")
        source = open_source(f"folder:{tmp_path}")
        assert source.notes[0] == "2 images; ignored: 1 .heic (pip install pillow-heif), 1 .mp4, 2 .txt"
        put(tmp_path, "1.png", content=b"\0\0\0\x1cftypheic")
        with pytest.raises(InputError, match=r"1\.png: unreadable image \(needs a plugin: pip install pillow-heif\)"):
            load_images(source.train, SIZE, cache_dir=tmp_path / "cache")
    finally:
        for function in (formats.extensions, formats.pillow_names):
            function.cache_clear()


BROKEN = {
    "an empty file": (b"", "the file is empty"),
    "text": (b"<html>not found</html>", "in no known format"),
    "half a picture": (encoded(RGB, "PNG")[:100], "truncated|broken|Truncated"),
    "a program in PostScript": (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "in no known format"),
    "floats": (
        encoded(GREY.astype(np.float32), "TIFF"),
        "float values have no known range; convert it to 8 or 16 bits",
    ),
    "32 bits": (encoded(WIDE.astype(np.int32) * 9, "TIFF"), "values from 0 to 589815, beyond 16 bits; convert it"),
    "below zero": (encoded(WIDE.astype(np.int32) - 5, "TIFF"), "values from -5 to 65530, beyond 16 bits"),
    "too many pixels": (b"P5\n60000 60000\n255\n", "more than the 268 million pixels that are decoded; shrink it"),
    "no pixels": (b"P5\n0 0\n255\n", "in no known format"),
    "random bytes": (b"\xff\xd8\xff" + bytes(range(256)), "in no known format"),
}


@pytest.mark.parametrize("row", BROKEN.values(), ids=BROKEN)
def test_file_that_is_broken_is_told_in_one_line(row, tmp_path):
    put(tmp_path, "1.png")
    put(tmp_path, "2.tif", content=row[0])
    records = open_source(f"folder:{tmp_path}").train
    with pytest.raises(InputError, match=rf"^2\.tif: unreadable image \(.*({row[1]}).*\){REMEDY}$"):
        load_images(records, SIZE, cache_dir=tmp_path / "cache")
    assert len(load_images(records, SIZE, cache_dir=tmp_path / "cache", skip_unreadable=True)) == 1


def test_all_unreadable_files_are_listed_and_the_others_are_decoded_once(tmp_path, monkeypatch):
    put(tmp_path, *[f"{i:02}.png" for i in range(50)])
    put(tmp_path, *[f"{i:02}.png" for i in range(10, 35)], content=b"x")
    records = open_source(f"folder:{tmp_path}").train
    with pytest.raises(InputError) as error:
        load_images(records, SIZE, cache_dir=tmp_path / "cache")
    assert str(error.value) == (
        f"10.png: unreadable image (in no known format), and so are {', '.join(f'{i}.png' for i in range(11, 30))} "
        "and 5 more: 25 of 50 images; repair or remove them, or set --config.data.skip_unreadable"
    )
    monkeypatch.setattr("sit_jax.data.load.decode", None)
    assert len(load_images(records, SIZE, cache_dir=tmp_path / "cache", skip_unreadable=True)) == 25


@pytest.mark.parametrize("limit", [8.0, 0.0])
def test_files_of_more_pages_are_counted_once(limit, tmp_path, capsys):
    for i in range(3):
        put(tmp_path, f"{i}.tif", content=encoded(RGB, "TIFF", save_all=True, append_images=[Image.new("L", (9, 9))]))
    put(tmp_path, "4.png")
    images = load_images(open_source(f"folder:{tmp_path}").train, SIZE, limit, tmp_path / "cache")
    images.gather(range(4))
    expected = {8.0: "3 of 4 files have several pages or frames; only the first page is used"}
    line = expected.get(limit, ".tif has several pages or frames; of such files, only the first page is used")
    assert capsys.readouterr().out.count(line) == 1


# -- arrays ----------------------------------------------------------------------------------------------------------


def zipped(**members):
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        for name, content in members.items():
            archive.writestr(f"{name}.npy", content)
    return file.getvalue()


def array_file(array):
    file = io.BytesIO()
    np.save(file, array)
    return file.getvalue()


HUGE = array_file(np.zeros((1, 2, 2), np.uint8)).replace(b"(1, 2, 2)", b"(9**9,2,)".ljust(9))
ARRAYS = {
    "text": (b"hello", "cannot be read as a .npz file of plain arrays"),
    "nothing": (b"", "is empty; write it with numpy.savez"),
    "an empty archive": (zipped(), "holds no arrays; needs train_images or images: write it with numpy.savez"),
    "one array": (array_file(RGB), "is a single array (.npy), and npz: needs names; write it with numpy.savez"),
    "no images": (zipped(x=array_file(RGB), y=array_file(RGB)), "holds x, y; needs train_images or images"),
    "integers": (
        zipped(images=array_file(np.zeros((2, 4, 4), int))),
        "images must be uint8, uint16 or float [n, H, W]",
    ),
    "five axes": (zipped(images=array_file(RGB[None, None])), "move the channels to the end"),
    "floats": (
        zipped(images=array_file(np.zeros((2, 4, 4, 3)))),
        'train/0: values of type float64 need the range from black to white; set --config.data.range="(low, high)"',
    ),
    "channels first": (
        zipped(images=array_file(RGB[None].transpose(0, 3, 1, 2))),
        "the channels of [3, 8, 8] to the last axis",
    ),
    "labels too large": (
        zipped(images=array_file(RGB[None]), labels=array_file(np.array([2**40]))),
        "labels must be integers [1] from 0 on, below 1000000, not int64 [1]; number the classes",
    ),
    "damaged array": (zipped(images=b"\x93NUMPY\1\0v\0{'descr'"), "cannot be read as a .npz file of plain arrays"),
    "impossible shape": (zipped(images=HUGE), "cannot be read as a .npz file of plain arrays"),
    "no array": (zipped(images=b"text"), "holds no arrays; needs train_images or images"),
}


@pytest.mark.parametrize("row", ARRAYS.values(), ids=ARRAYS)
def test_array_file_that_is_wrong_is_told_in_one_line(row, tmp_path):
    put(tmp_path, "x.npz", content=row[0])
    with pytest.raises(InputError) as error:
        found_bits(open_source(f"npz:{tmp_path}/x.npz").train, Layout())
    assert row[1] in str(error.value) and str(error.value).isprintable()


# -- content ---------------------------------------------------------------------------------------------------------


def put_archive(root, value, count=100):
    """A folder as an archive makes it: the names, sizes and times are those of every other one."""
    names = [f"{'ab'[i % 2]}/{i}.bmp" for i in range(count)]
    for i, name in enumerate(names):
        put(root, name, content=encoded(np.full((4, 4, 3), (value, i, 9), np.uint8), "BMP"))
        os.utime(root / name, ns=(10**18, 10**18))
    return open_source(f"folder:{root}")


def test_folders_with_the_same_names_sizes_and_times_never_share_pixels_or_reports(tmp_path):
    cache = tmp_path / "cache"
    for value in (50, 60):
        source = put_archive(tmp_path / str(value), value)
        images = load_images(source.train, 4, cache_dir=cache)
        assert (images.array[..., 0] == value).all()
    one, other = (open_source(f"folder:{tmp_path}/{value}") for value in (50, 60))
    assert fingerprint(one, 4, cache) != fingerprint(other, 4, cache)


def test_one_exchanged_picture_is_noticed_whatever_its_size_and_time(tmp_path):
    """Also one that is not in the sample: the path, the name, the size and the time stay."""
    cache, source = tmp_path / "cache", put_archive(tmp_path / "x", 50)
    load_images(source.train, 4, cache_dir=cache)
    before = fingerprint(source, 4, cache)
    for row in (0, 1, 57):
        name = source.train.names[row]
        put(tmp_path / "x", name, content=encoded(np.full((4, 4, 3), 200, np.uint8), "BMP"))
        os.utime(tmp_path / "x" / name, ns=(10**18, 10**18))
        source = open_source(f"folder:{tmp_path}/x")
        assert (load_images(source.train, 4, cache_dir=cache).array[row] == 200).all()
        after = fingerprint(source, 4, cache)
        assert after != before
        before = after


def test_an_evaluation_is_found_again_when_the_pictures_move(tmp_path, monkeypatch):
    """Only the content and the labels count, and it is read once."""
    cache, source = tmp_path / "cache", put_archive(tmp_path / "x", 50)
    before = fingerprint(source, 4, cache)
    os.rename(tmp_path / "x", tmp_path / "y")
    moved = open_source(f"folder:{tmp_path}/y")
    assert fingerprint(moved, 4, cache) == before != fingerprint(moved, 5, cache)
    monkeypatch.setattr(content, "_digests", None)
    assert fingerprint(moved, 4, cache) == before


def test_sample_finds_other_content_behind_the_same_stamps():
    """As on two machines that share the cache."""
    keys = set()
    for end in (b"x", b"y"):
        records = Records(["1", "2"], [b"a" * 10_000, b"a" * 10_000 + end].__getitem__, lambda i: "same")
        keys |= {key(records, 4)}
    assert len(keys) == 2


def test_hash_of_the_content_does_not_need_the_cache(tmp_path):
    source = put_archive(tmp_path / "x", 50, count=3)
    (tmp_path / "file").write_text("")
    assert fingerprint(source, 4, tmp_path / "file" / "cache") == fingerprint(source, 4, tmp_path / "cache")


INNER = "no classes, because the images lie in PATH/class/images; move them to PATH/class"


@pytest.mark.parametrize(
    "names,expected",
    [
        (("cats/images/a.png", "dogs/images/b.png"), INNER),
        (("2023/01/a.png", "2023/02/b.png", "2024/01/c.png"), "no classes"),
        (("a.png", "b.png"), "no classes"),
    ],
)
def test_why_a_folder_has_no_classes(tmp_path, names, expected):
    for name in names:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (8, 8)).save(tmp_path / name)
    assert open_source(f"folder:{tmp_path}").notes == (f"{len(names)} images", expected)
