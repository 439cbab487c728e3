"""Every configuration takes two real steps on random images of its size."""

import functools
import importlib
import json

import jax
import numpy as np
import pytest

from sit_jax.train import loop

pytestmark = pytest.mark.usefixtures("quick_compilation")


@pytest.mark.parametrize(
    "name,size",
    [
        ("cifar10", 32),
        ("cifar10_laptop", 32),
        ("cifar100", 32),
        ("tiny_imagenet", 64),
        ("stl10", 96),
        ("folder", 50),
    ],
)
def test_two_steps(tmp_path, monkeypatch, name, size):
    """On one device, which compiles in three quarters of the time; other tests are about several."""
    monkeypatch.setattr(loop, "make_mesh", functools.partial(loop.make_mesh, devices=jax.devices()[:1]))
    rng = np.random.default_rng(0)
    arrays = {f"{split}_images": rng.integers(0, 256, (40, size, size, 3), np.uint8) for split in ("train", "test")}
    arrays |= {f"{split}_labels": np.arange(40) % 10 for split in ("train", "test")}
    np.savez(tmp_path / "data.npz", **arrays)
    config = importlib.import_module(f"configs.{name}").get_config("runlocal")
    config.data.source = f"npz:{tmp_path / 'data.npz'}"
    config.update(steps=2, log_every=1)
    assert loop.train(config, tmp_path / "run")
    rows = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows] == [0, 1, 2, 2]
    assert "eval/knn_top1" in rows[-1]
    assert (tmp_path / "run" / "checkpoints" / "2").is_dir()
