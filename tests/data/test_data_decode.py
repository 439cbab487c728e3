import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from sit_jax.common.errors import InputError
from sit_jax.data.decode import decode

# Four flat quarters: every colour conversion is exact on them, and every rotation shows.
QUARTERS = np.zeros((8, 8, 3), np.uint8)
QUARTERS[:4, :4], QUARTERS[:4, 4:], QUARTERS[4:, :4], QUARTERS[4:, 4:] = (255, 0, 0), (0, 255, 0), (0, 0, 255), 90


def encoded(image: Image.Image, form: str = "PNG", **options) -> bytes:
    file = io.BytesIO()
    image.save(file, form, **options)
    return file.getvalue()


def grey_of(array):
    return np.repeat(array[..., None], 3, axis=-1)


@pytest.mark.parametrize(("form", "options"), [("PNG", {}), ("BMP", {}), ("WEBP", {"lossless": True})])
def test_lossless_format_of_the_right_size_is_left_as_it_is(form, options):
    image = np.random.default_rng(0).integers(0, 256, (8, 8, 3), np.uint8)
    assert np.array_equal(decode(encoded(Image.fromarray(image), form, **options), 8, "x"), image)


def test_path_and_array_give_what_bytes_give(tmp_path):
    path = tmp_path / "a.png"
    path.write_bytes(encoded(Image.fromarray(QUARTERS)))
    assert np.array_equal(decode(path, 8, "x"), QUARTERS)
    assert np.array_equal(decode(path, 5, "x"), decode(QUARTERS, 5, "x"))


def test_jpeg_is_close():
    image = decode(encoded(Image.fromarray(QUARTERS), "JPEG", quality=100, subsampling=0), 8, "x")
    assert np.abs(image.astype(int) - QUARTERS).max() <= 3


def test_palette_and_cmyk():
    assert np.array_equal(decode(encoded(Image.fromarray(QUARTERS).quantize(16)), 8, "x"), QUARTERS)
    cmyk = encoded(Image.fromarray(QUARTERS).convert("CMYK"), "JPEG", quality=100, subsampling=0)
    assert np.abs(decode(cmyk, 8, "x").astype(int) - QUARTERS).max() <= 6


def test_grey_in_8_bits_and_in_one():
    grey = np.arange(64, dtype=np.uint8).reshape(8, 8) * 4
    assert np.array_equal(decode(encoded(Image.fromarray(grey)), 8, "x"), grey_of(grey))
    one_bit = encoded(Image.fromarray(grey > 100))
    assert np.array_equal(decode(one_bit, 8, "x"), grey_of(np.where(grey > 100, 255, 0).astype(np.uint8)))


@pytest.mark.parametrize("image_size", [8, 16])
def test_16_bit_grey_is_scaled_not_clipped(image_size):
    wide = np.linspace(0, 65535, 64).astype(np.uint16).reshape(8, 8)
    narrow = np.round(wide / 257).astype(np.uint8)
    assert np.array_equal(decode(encoded(Image.fromarray(wide)), image_size, "x"), decode(narrow, image_size, "x"))
    as_integers = Image.fromarray(wide.astype(np.int32))
    assert as_integers.mode == "I"
    assert np.array_equal(decode(encoded(as_integers, "TIFF"), 8, "x"), grey_of(narrow))


def test_transparency_is_laid_over_white():
    alpha = np.full((8, 8), 255, np.uint8)
    alpha[:4, :4] = 0
    expected = QUARTERS.copy()
    expected[:4, :4] = 255
    rgba = np.dstack([QUARTERS, alpha])
    assert np.array_equal(decode(encoded(Image.fromarray(rgba)), 8, "x"), expected)
    assert np.array_equal(decode(rgba, 8, "x"), expected)
    half = np.dstack([np.zeros((8, 8, 3), np.uint8), np.full((8, 8), 51, np.uint8)])
    assert np.unique(decode(half, 8, "x")).tolist() == [204]
    grey_alpha = Image.merge("LA", [Image.fromarray(QUARTERS[..., 0]), Image.fromarray(alpha)])
    assert np.array_equal(decode(encoded(grey_alpha), 8, "x"), grey_of(expected[..., 0]))


def test_transparent_palette_entry_is_white():
    image = Image.fromarray(QUARTERS).quantize(16)
    green = image.getpixel((7, 0))
    expected = QUARTERS.copy()
    expected[:4, 4:] = 255
    assert np.array_equal(decode(encoded(image, transparency=green), 8, "x"), expected)


@pytest.mark.parametrize(("orientation", "turns"), [(1, 0), (3, 2), (6, -1), (8, 1)])
def test_exif_rotation_is_applied(orientation, turns):
    exif = Image.Exif()
    exif[0x0112] = orientation
    image = encoded(Image.fromarray(QUARTERS), exif=exif)
    assert np.array_equal(decode(image, 8, "x"), np.rot90(QUARTERS, turns))


def test_broken_exif_does_not_spoil_the_image():
    image = encoded(Image.fromarray(QUARTERS), "JPEG", quality=100, subsampling=0, exif=b"Exif\0\0II*\0\xff\xff")
    assert np.abs(decode(image, 8, "x").astype(int) - QUARTERS).max() <= 3


def test_shorter_side_is_resized_and_the_centre_is_cropped():
    image = np.zeros((8, 24, 3), np.uint8)
    image[:, :8], image[:, 8:16], image[:, 16:] = (255, 0, 0), (0, 255, 0), (0, 0, 255)
    square = decode(image, 4, "x")
    assert square.shape == (4, 4, 3) and square.dtype == np.uint8
    assert np.array_equal(square[:, 1:3], np.broadcast_to(np.uint8([0, 255, 0]), (4, 2, 3)))
    assert np.array_equal(decode(image.transpose(1, 0, 2), 4, "x"), square.transpose(1, 0, 2))
    assert decode(np.zeros((1, 300, 3), np.uint8), 4, "x").shape == (4, 4, 3)


def test_resizing_is_antialiased():
    stripes = np.zeros((64, 64, 3), np.uint8)
    stripes[:, ::2] = 255
    inner = decode(stripes, 8, "x")[:, 1:-1].astype(int)
    assert np.abs(inner - 127.5).max() < 6


def test_large_jpeg_is_read_reduced_and_looks_the_same():
    ramp = np.add.outer(np.arange(640), np.arange(960)) * 255 // 1600
    image = Image.fromarray(grey_of(ramp.astype(np.uint8)))
    from_jpeg = decode(encoded(image, "JPEG", quality=95), 32, "x").astype(int)
    assert np.abs(from_jpeg - decode(np.asarray(image), 32, "x")).max() <= 3


@pytest.mark.parametrize("damage", [lambda b: b[: len(b) // 2], lambda b: b"", lambda b: b"no image", lambda b: b[:30]])
@pytest.mark.parametrize("form", ["PNG", "JPEG", "WEBP", "BMP"])
def test_damaged_file_is_named_in_one_line(form, damage):
    noise = np.random.default_rng(0).integers(0, 256, (32, 32, 3), np.uint8)
    with pytest.raises(InputError, match=r"^cats/1\.png: unreadable image .*skip_unreadable$"):
        decode(damage(encoded(Image.fromarray(noise), form)), 32, "cats/1.png")


def test_missing_file_is_named(tmp_path):
    with pytest.raises(InputError, match=r"gone\.png: unreadable"):
        decode(tmp_path / "gone.png", 8, "gone.png")


def test_decompression_bomb_is_refused_in_one_line():
    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = struct.pack(">IIBBBBB", 60_000, 60_000, 8, 2, 0, 0, 0)
    bomb = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"0")) + chunk(b"IEND", b"")
    with pytest.raises(InputError, match=r"^bomb: unreadable image .*pixels"):
        decode(bomb, 8, "bomb")
