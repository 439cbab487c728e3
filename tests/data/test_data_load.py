import os
import threading

import numpy as np
import pytest
from PIL import Image

import sit_jax.data.load as load
from sit_jax.common import console
from sit_jax.common.errors import InputError
from sit_jax.data import Records, load_images, open_source


@pytest.fixture
def folder(tmp_path):
    """Two classes of 70 noise images, 4x4 pixels: more than one chunk of decoding."""
    noise = np.random.default_rng(0).integers(0, 256, (140, 4, 4, 3), np.uint8)
    for i, image in enumerate(noise):
        path = tmp_path / "images" / "ab"[i // 70] / f"{i:03}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(path)
    return tmp_path / "images", noise


def records_of(path) -> Records:
    return open_source(f"folder:{path}").train


@pytest.fixture
def decoded(monkeypatch):
    """Counts the images that are decoded."""
    names: list[str] = []
    real = load.decode

    def counting(raw, image_size, name, *rest):
        names.append(name)
        return real(raw, image_size, name, *rest)

    monkeypatch.setattr(load, "decode", counting)
    return names


def test_decoded_once_then_read_from_the_cache(folder, tmp_path, decoded):
    path, noise = folder
    for _ in range(2):
        images = load_images(records_of(path), 4, cache_dir=tmp_path / "cache")
        assert images.in_memory and len(images) == 140
        assert images.array.dtype == np.uint8 and np.array_equal(images.array, noise)
        assert np.array_equal(images[139], noise[139]) and np.array_equal(images.gather([3, 1]), noise[[3, 1]])
        assert images.labels.tolist() == [0] * 70 + [1] * 70
    assert len(decoded) == 140
    assert len(os.listdir(tmp_path / "cache")) == 1  # no temporary file is left


def test_cache_depends_on_size_and_files(folder, tmp_path, decoded):
    path, _ = folder
    load_images(records_of(path), 4, cache_dir=tmp_path / "cache")
    load_images(records_of(path), 5, cache_dir=tmp_path / "cache")
    assert len(decoded) == 280
    load_images(records_of(path).take(range(10)), 4, cache_dir=tmp_path / "cache")
    assert len(decoded) == 290
    new = np.zeros((4, 4, 3), np.uint8)
    Image.fromarray(new).save(path / "a" / "000.png")
    assert np.array_equal(load_images(records_of(path), 4, cache_dir=tmp_path / "cache")[0], new)
    assert len(decoded) == 430


@pytest.mark.parametrize("damage", [lambda b: b[:-7], lambda b: b[:20], lambda b: b"", lambda b: b + b"more"])
def test_damaged_cache_is_rebuilt(folder, tmp_path, decoded, damage):
    path, noise = folder
    load_images(records_of(path), 4, cache_dir=tmp_path / "cache")
    (file,) = (tmp_path / "cache").iterdir()
    file.write_bytes(damage(file.read_bytes()))
    assert np.array_equal(load_images(records_of(path), 4, cache_dir=tmp_path / "cache").array, noise)
    assert len(decoded) == 280
    load_images(records_of(path), 4, cache_dir=tmp_path / "cache")
    assert len(decoded) == 280


def test_cache_that_several_processes_fill_at_once(folder, tmp_path):
    path, noise = folder
    results = []

    def work():
        results.append(load_images(records_of(path), 4, cache_dir=tmp_path / "cache").array)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(results) == 4 and all(np.array_equal(array, noise) for array in results)
    assert len(os.listdir(tmp_path / "cache")) == 1


def test_cache_that_cannot_be_written_costs_a_warning(folder, tmp_path, caplog):
    path, noise = folder
    (tmp_path / "file").write_text("")
    images = load_images(records_of(path), 4, cache_dir=tmp_path / "file" / "cache")
    assert np.array_equal(images.array, noise)
    assert "not cached" in caplog.text and "data.cache_dir" in caplog.text


def test_default_cache_follows_xdg(folder, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    load_images(records_of(folder[0]), 4)
    assert len(list((tmp_path / "xdg" / "sit_jax" / "images").glob("*.npy"))) == 1


def test_arrays_are_not_cached(tmp_path):
    images = load_images(open_source("digits").test, 16, cache_dir=tmp_path / "cache")
    assert images.array.shape == (360, 16, 16, 3) and not (tmp_path / "cache").exists()


def test_unreadable_image_is_named(folder, tmp_path):
    path, _ = folder
    (path / "a" / "005.png").write_bytes(b"damaged")
    (path / "b" / "100.png").write_bytes(b"damaged")
    together = r"^a/005\.png: unreadable image \(in no known format\), and so are b/100\.png: 2 of 140 images; "
    for limit, message in ((8.0, together), (0.0, r"^a/005\.png: unreadable")):
        with pytest.raises(InputError, match=message + r".*--config\.data\.skip_unreadable$"):
            load_images(records_of(path), 4, limit, tmp_path / "cache").gather(range(140))


def test_skipping_keeps_labels_right_and_is_remembered(folder, tmp_path, decoded, caplog):
    path, noise = folder
    for name in ("a/005.png", "b/100.png", "b/101.png"):
        (path / name).write_bytes(b"damaged")
    kept = np.delete(np.arange(140), [5, 100, 101])
    for _ in range(2):
        caplog.clear()
        images = load_images(records_of(path), 4, cache_dir=tmp_path / "cache", skip_unreadable=True)
        assert np.array_equal(images.array, noise[kept])
        assert images.labels.tolist() == [0] * 69 + [1] * 68
        assert "skipped 3 unreadable images of 140" in caplog.text
    assert len(decoded) == 140
    with pytest.raises(InputError, match=r"a/005\.png"):
        load_images(records_of(path), 4, cache_dir=tmp_path / "cache")


def test_streaming_with_skipping_takes_the_next_readable_image(folder, caplog):
    path, noise = folder
    for name in ("a/005.png", "a/006.png", "b/139.png"):
        (path / name).write_bytes(b"damaged")
    images = load_images(records_of(path), 4, memory_limit_gb=0.0, skip_unreadable=True)
    assert np.array_equal(images.gather([4, 5, 6, 139]), noise[[4, 7, 7, 0]])
    assert images.skipped == {5, 6, 139}
    assert caplog.text.count("skipped: ") == 1


@pytest.mark.parametrize("limit", [8.0, 0.0])
def test_nothing_readable_at_all(folder, tmp_path, limit):
    path, _ = folder
    for name in ("000.png", "001.png"):
        (path / "a" / name).write_bytes(b"damaged")
    records = records_of(path).take([0, 1])
    with pytest.raises(InputError, match="as are all other images"):
        load_images(records, 4, limit, tmp_path / "cache", skip_unreadable=True)[0]


def test_memory_limit_decides(folder, tmp_path, decoded):
    path, noise = folder
    exact = 140 * 4 * 4 * 3 / 1e9
    assert load_images(records_of(path), 4, exact, tmp_path / "cache").in_memory
    decoded.clear()
    images = load_images(records_of(path), 4, exact * 0.999, tmp_path / "cache")
    assert not images.in_memory and len(images) == 140 and not decoded
    assert np.array_equal(images[7], noise[7]) and np.array_equal(images[-1], noise[-1]) and len(decoded) == 2
    assert images.labels.tolist() == [0] * 70 + [1] * 70
    with pytest.raises(IndexError):
        images[140]


def test_long_decoding_shows_progress(folder, tmp_path, monkeypatch, capsys):
    real = console.tqdm.tqdm
    monkeypatch.setattr(console.tqdm, "tqdm", lambda **options: real(**{**options, "delay": 0, "mininterval": 0}))
    load_images(records_of(folder[0]), 4, cache_dir=tmp_path / "cache")
    assert "decoding images: 100%" in capsys.readouterr().err


def test_image_size_must_be_positive(folder):
    with pytest.raises(InputError, match="image_size=0"):
        load_images(records_of(folder[0]), 0)
