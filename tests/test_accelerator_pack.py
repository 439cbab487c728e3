"""The pack for a GPU machine: lossless images in parts; wrong input is one line."""

import subprocess
import sys

import numpy as np
import pytest
from conftest import ROOT

from benchmarks import mosaics

SPLITS = {"train": 23, "test": 7}


@pytest.fixture
def array_file(tmp_path):
    rng, arrays = np.random.default_rng(1), {}
    for split, count in SPLITS.items():
        arrays[f"{split}_images"] = rng.integers(0, 256, (count, 8, 8, 3), np.uint8)
        arrays[f"{split}_labels"] = np.arange(count)
    np.savez(tmp_path / "source.npz", **arrays)
    return tmp_path / "source.npz", arrays


def test_parts_hold_every_image_once_without_loss(array_file, tmp_path, monkeypatch):
    monkeypatch.setattr(mosaics, "TILES", 5)
    monkeypatch.setattr(mosaics, "PART_BYTES", 2500)
    path, arrays = array_file
    parts = mosaics.write_parts(path, tmp_path, "images")
    assert [part.name for part in parts] == [f"images-{i}.npz" for i in range(len(parts))]
    assert len(parts) > 1
    found = mosaics.read_parts(parts)
    assert found.keys() == arrays.keys()
    for split, count in SPLITS.items():
        labels = found[f"{split}_labels"]
        assert sorted(labels) == list(range(count))
        assert not np.array_equal(labels, np.arange(count))  # at random
        np.testing.assert_array_equal(found[f"{split}_images"], arrays[f"{split}_images"][labels])
    first = mosaics.read_parts(parts[:1])
    assert 0 < len(first["train_images"]) < SPLITS["train"]
    assert len(first["test_images"])


@pytest.mark.parametrize(
    "arguments,expected",
    [
        (["--data=missing.npz"], "--data=missing.npz does not exist"),
        (["--data=text.npz"], "--data=text.npz is not an array file"),
        (["--data=few.npz"], "--data=few.npz lacks train_labels, test_images, test_labels"),
        (["--check=python"], "holds no pack; make it with --data"),
        (["--unpack=images.npz"], "holds no part images-N.npz"),
    ],
)
def test_wrong_input_is_one_line_and_exit_code_2(arguments, expected, tmp_path):
    (tmp_path / "text.npz").write_text("no arrays")
    np.savez(tmp_path / "few.npz", train_images=np.zeros(3))
    (tmp_path / "pack" / "wheels").mkdir(parents=True)
    command = [sys.executable, str(ROOT / "benchmarks" / "accelerator_pack.py"), str(tmp_path / "pack"), *arguments]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=100)
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert line.startswith("error: ")
    assert expected in line
    assert (tmp_path / "pack" / "wheels").is_dir()  # nothing is lost
