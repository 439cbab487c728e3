"""Images of any number of channels: what is read, how values are scaled, and what is refused in one line."""

import builtins
import io
import tarfile

import numpy as np
import pytest
import shards
import tifffile
from PIL import Image

from sit_jax.common.errors import InputError
from sit_jax.common.layout import RGB, Layout
from sit_jax.data import cache, load_images, open_source
from sit_jax.data.channels import decode, found_bits
from sit_jax.data.decode import decode as decode_picture
from sit_jax.eval.data import fingerprint

BANDS = {"photometric": "minisblack", "planarconfig": "contig"}
RANDOM = np.random.default_rng(0)
EIGHT = RANDOM.integers(0, 256, (8, 8, 3), np.uint8)
WIDE = RANDOM.integers(0, 2**16, (8, 8, 4), np.uint16)
LUMA = np.round(EIGHT @ np.array((0.299, 0.587, 0.114)))


def png(array, **options):
    file = io.BytesIO()
    Image.fromarray(array).save(file, "PNG", **options)
    return file.getvalue()


def npy(array):
    file = io.BytesIO()
    np.save(file, array)
    return file.getvalue()


def tiff(array, **options):
    file = io.BytesIO()
    tifffile.imwrite(file, array, **options)
    return file.getvalue()


RGBA = np.dstack([EIGHT, np.full((8, 8), 255, np.uint8)])
ROWS = {
    "4 x uint16, interleaved": (tiff(WIDE, **BANDS), Layout(4, 16), WIDE),
    "4 x uint16, one band after the other": (
        tiff(WIDE.transpose(2, 0, 1), photometric="minisblack", planarconfig="separate"),
        Layout(4, 16),
        WIDE,
    ),
    "4 x uint16, stored as 8 bits": (tiff(WIDE, **BANDS), Layout(4), np.round(WIDE / 257)),
    "channels of a microscope": (
        tiff(WIDE.transpose(2, 0, 1), imagej=True, metadata={"axes": "CYX"}),
        Layout(4, 16),
        WIDE,
    ),
    "the first depth": (
        tiff(np.stack([WIDE[..., 0], WIDE[..., 1]]), imagej=True, metadata={"axes": "ZYX"}),
        Layout(1, 16),
        WIDE[..., :1],
    ),
    "7 x uint8": (
        tiff(np.dstack([EIGHT, EIGHT, EIGHT[..., :1]]), **BANDS),
        Layout(7),
        np.dstack([EIGHT, EIGHT, EIGHT[..., :1]]),
    ),
    "3 x uint16 TIFF": (tiff(WIDE[..., :3], photometric="rgb"), Layout(3, 16), WIDE[..., :3]),
    "3 x uint16 TIFF, stored as 8 bits": (tiff(WIDE[..., :3], photometric="rgb"), RGB, np.round(WIDE[..., :3] / 257)),
    "3 x uint8 TIFF": (tiff(EIGHT, photometric="rgb"), RGB, EIGHT),
    "uint8 as uint16": (png(EIGHT), Layout(3, 16), EIGHT.astype(np.uint16) * 257),
    "16-bit grey PNG": (png(WIDE[..., 0]), Layout(1, 16), WIDE[..., :1]),
    "16-bit grey PNG, three channels": (png(WIDE[..., 0]), Layout(3, 16), WIDE[..., :1].repeat(3, axis=-1)),
    "colour to grey": (png(EIGHT), Layout(1), LUMA[..., None]),
    "grey to grey": (png(EIGHT[..., 0]), Layout(1), EIGHT[..., :1]),
    "transparency kept": (png(RGBA), Layout(4, alpha=True), RGBA),
    "no transparency to keep": (png(EIGHT), Layout(4, alpha=True), RGBA),
    "array": (WIDE, Layout(4, 16), WIDE),
    "array of 4 x uint8 with three channels": (RGBA, RGB, EIGHT),
    ".npy [H, W]": (npy(WIDE[..., 0]), Layout(1, 16), WIDE[..., :1]),
    ".npy [H, W, 2]": (npy(WIDE[..., :2]), Layout(2, 16), WIDE[..., :2]),
    ".npy with three channels": (npy(EIGHT), RGB, EIGHT),
    "12 bits": (npy(WIDE >> 4), Layout(4, 16, (0, 4095)), np.round((WIDE >> 4) / 4095 * 65535)),
    "floats": (
        npy(np.array([[[-1.0], [0.0], [0.5], [1.0], [2.0], [np.nan]]] * 6, np.float32)),
        Layout(1, 16, (0, 1)),
        np.array([[[0], [0], [32768], [65535], [65535], [0]]] * 6),
    ),
    "signed": (npy(np.array([[-5, 5]] * 2, np.int16)), Layout(1, 8, (-5, 5)), np.array([[[0], [255]]] * 2)),
}


@pytest.mark.parametrize("row", ROWS)
def test_values_and_channels_of_an_image_of_the_right_size(row):
    raw, layout, expected = ROWS[row]
    found = decode(raw, len(expected), "x", layout)
    assert found.dtype == layout.dtype and np.abs(found.astype(float) - expected).max() <= (row == "colour to grey")
    assert found.shape == layout.shape(len(expected))


WRONG = {
    "colours for 4": (
        png(EIGHT),
        Layout(4),
        r"^x: image has 3 channels, data\.channels is 4; set --config\.data\.channels=3$",
    ),
    "grey for 4": (png(EIGHT[..., 0]), Layout(4), "has 1 channel, data.channels is 4; set --config.data.channels=1$"),
    "4 for 3": (tiff(WIDE, **BANDS), RGB, "has 4 channels, .* set --config.data.channels=4$"),
    "transparency": (png(np.dstack([EIGHT, EIGHT[..., 0]])), Layout(4), "or add --config.data.alpha to keep"),
    "channels first": (npy(WIDE.transpose(2, 0, 1)), Layout(4), r"move the channels of \[4, 8, 8\] to the last axis"),
    "floats": (
        npy(np.ones((4, 4), np.float32)),
        Layout(1),
        r'type float32 .* set --config\.data\.range="\(low, high\)"$',
    ),
    "objects": (npy(np.ones(3)), Layout(1), r"unreadable image \(an image is numbers .* not float64 \[3\]\)"),
    "damaged TIFF": (tiff(WIDE, **BANDS)[:200], Layout(4), "^x: unreadable image"),
    "damaged .npy": (npy(WIDE)[:200], Layout(4), "^x: unreadable image"),
    "pickle": (b"\x93NUMPY\x01\x00", Layout(4), "^x: unreadable image"),
}


@pytest.mark.parametrize("row", WRONG)
def test_what_does_not_fit_is_one_line(row):
    raw, layout, message = WRONG[row]
    with pytest.raises(InputError, match=message) as error:
        decode(raw, 4, "x", layout)
    assert "\n" not in str(error.value)


def test_without_tifffile_the_package_is_named(monkeypatch):
    real = builtins.__import__

    def without(name, *rest):
        if name == "tifffile":
            raise ImportError(name)
        return real(name, *rest)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(InputError, match=r"^x: unreadable image \(.* needs a package: pip install tifffile\)"):
        decode(ROWS["4 x uint16, interleaved"][0], 8, "x", Layout(4, 16))
    assert np.array_equal(decode(tiff(EIGHT, photometric="rgb"), 8, "x"), EIGHT)


@pytest.mark.parametrize("size", [5, 16])
def test_resizing_is_that_of_pictures(size):
    """uint8 exactly, channel by channel; uint16 up to the rounding of 8 bits."""
    expected = decode_picture(EIGHT, size, "x")
    assert np.array_equal(decode(np.dstack([EIGHT, EIGHT]), size, "x", Layout(6)), np.dstack([expected, expected]))
    grey = EIGHT // 4 + 96  # away from the limits, where 8 bits are clipped between rows and columns
    wide = decode(grey.astype(np.uint16) * 257, size, "x", Layout(3, 16))
    assert np.abs(wide / 257 - decode_picture(grey, size, "x")).max() <= 1.5


def test_bits_are_those_of_the_first_readable_image(tmp_path):
    (tmp_path / "a.png").write_bytes(b"damaged")
    (tmp_path / "b.tif").write_bytes(tiff(WIDE, **BANDS))
    records = open_source(f"folder:{tmp_path}").train
    assert found_bits(records, Layout(4)) == 16
    with pytest.raises(InputError, match=r"^b\.tif: image has 4 channels, data\.channels is 3"):
        found_bits(records, RGB)
    assert found_bits(open_source("digits").train, RGB) == 8


@pytest.mark.parametrize("limit", [8.0, 0.0])
def test_type_and_channels_reach_memory_cache_and_stream(tmp_path, limit):
    for i in range(3):
        tifffile.imwrite(tmp_path / f"{i}.tif", np.roll(WIDE, i, axis=0), **BANDS)
    records = open_source(f"folder:{tmp_path}").train
    for layout in (Layout(4, 16), Layout(4, 8), Layout(4, 16, (0, 1000))):
        for _ in range(2):  # decoded, then from the cache
            images = load_images(records, 8, limit, tmp_path / "cache", layout=layout)
            found = images.gather([2, 0])
            assert (
                found.dtype == layout.dtype and found.shape == (2, 8, 8, 4) and images.gather([]).shape == (0, 8, 8, 4)
            )
            assert np.array_equal(found[0], decode(tmp_path / "2.tif", 8, "x", layout))


def test_images_that_do_not_fit_are_listed_at_once(tmp_path):
    for i in range(4):
        tifffile.imwrite(tmp_path / f"{i}.tif", WIDE, **BANDS)
    for name in ("x.png", "y.png"):
        (tmp_path / name).write_bytes(png(EIGHT))
    records = open_source(f"folder:{tmp_path}").train
    with pytest.raises(InputError) as error:
        load_images(records, 8, cache_dir=tmp_path / "cache", layout=Layout(4, 16))
    assert str(error.value) == (
        "x.png: unreadable image (image has 3 channels, data.channels is 4; set --config.data.channels=3), and so are "
        "y.png: 2 of 6 images; repair or remove them, or set --config.data.skip_unreadable"
    )
    for limit, count in ((8.0, 4), (0.0, 6)):  # in memory they are left out, streamed they are replaced
        images = load_images(records, 8, limit, tmp_path / "cache", True, Layout(4, 16))
        assert len(images) == count and np.array_equal(images.gather(range(count))[-1], WIDE)


def test_of_pages_depths_and_times_the_first_is_used_and_said(tmp_path, capsys):
    stack = np.stack([WIDE, WIDE[::-1]]).transpose(0, 3, 1, 2)
    (tmp_path / "a.tif").write_bytes(tiff(stack, imagej=True, metadata={"axes": "ZCYX"}))
    (tmp_path / "b.tif").write_bytes(tiff(WIDE, **BANDS))
    images = load_images(open_source(f"folder:{tmp_path}").train, 8, cache_dir=tmp_path / "cache", layout=Layout(4, 16))
    assert np.array_equal(images.gather([0, 1]), np.stack([WIDE, WIDE]))
    assert "1 of 2 files have several pages or frames; only the first page is used" in capsys.readouterr().out


def test_bands_in_shards_are_those_of_the_folder(tmp_path):
    root = tmp_path / "folder"
    root.mkdir()
    contents = {"a.tif": tiff(WIDE, **BANDS), "b.npy": npy(WIDE[::-1]), "c.npy": npy(WIDE[:, ::-1])}
    with tarfile.open(tmp_path / "x.tar", "w") as archive:
        for name, content in contents.items():
            (root / name).write_bytes(content)
            archive.add(root / name, name)
    (tmp_path / "x.txt").write_text("".join(f"folder/{name}\n" for name in contents))
    forms = (f"folder:{root}", f"tar:{tmp_path}/x.tar", f"list:{tmp_path}/x.txt", f"glob:{root}/*.*")
    expected = np.stack([WIDE, WIDE[::-1], WIDE[:, ::-1]])
    for form in forms:
        records = open_source(form).train
        assert found_bits(records, Layout(4)) == 16, form
        images = load_images(records, 8, cache_dir=tmp_path / "cache", layout=Layout(4, 16))
        assert np.array_equal(images.gather(range(3)), expected), form


def test_an_array_beside_a_picture_in_a_shard_is_no_image(tmp_path):
    members = [("a.jpg.npy", npy(EIGHT)), ("a.png", png(EIGHT)), ("b.npy", npy(EIGHT)), ("c.mask.npy", npy(EIGHT))]
    shards.write_tar(tmp_path / "x.tar", [*members, ("c.png", png(EIGHT))])
    names = open_source(f"tar:{tmp_path}/x.tar").train.names
    assert [name.rpartition("/")[2] for name in names] == ["a.png", "b.npy", "c.png"]


def test_a_report_belongs_to_one_layout(tmp_path):
    (tmp_path / "a.npy").write_bytes(npy(WIDE))
    source = open_source(f"folder:{tmp_path}")
    layouts = (RGB, Layout(4), Layout(4, 16), Layout(4, 16, (0, 9)), Layout(4, 16, (0, 9), True))
    for function in (
        lambda layout: fingerprint(source, 8, tmp_path / "cache", layout),
        lambda layout: cache.key(source.train, 8, layout),
        lambda layout: cache.content_key(source.train, 8, tmp_path / "cache", layout),
    ):
        assert len({function(layout) for layout in layouts}) == len(layouts)
        assert function(RGB) == function(Layout())
