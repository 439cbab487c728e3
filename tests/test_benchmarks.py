"""The comparison with PyTorch: wrong input is one line, and the peers are the same model, losses, views and masks."""

import importlib.util
import subprocess
import sys

import jax
import numpy as np
import pytest
from conftest import ROOT
from PIL import Image

from benchmarks import compare, copies, equality
from benchmarks.ours import Ours
from configs.digits import get_config
from sit_jax import views
from sit_jax.common.errors import InputError
from sit_jax.common.keys import view_rows
from sit_jax.config import resolve, saved
from sit_jax.train.state import make_state, make_training

CONFIG = "--config=configs/digits.py:paper,runlocal"


@pytest.mark.parametrize(
    "arguments,expected",
    [
        ([], "--config is missing"),
        ([CONFIG, "--peers=tensor"], "the peers are torch, library"),
        ([CONFIG, "--config.model.patch_size=5"], "divisible by model.patch_size=5"),
        ([CONFIG, "--config.microbatches=2"], "microbatches=2: the peers support only 1"),
        ([CONFIG, "--config.views.solarize=0.2"], "add --config.views.solarize=0.0"),
        (["--config=configs/digits.py:runlocal"], "views.jitter=0"),
        ([CONFIG, "--out=/nowhere/at/all.json"], "no such folder"),
    ],
)
def test_wrong_input_is_one_line_and_exit_code_2(arguments, expected):
    command = [sys.executable, "benchmarks/compare.py", *arguments]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=100)
    assert done.returncode == 2, done.stderr
    (line,) = [line for line in done.stderr.splitlines() if "error: " in line]
    assert expected in line
    assert "Traceback" not in done.stderr


def test_missing_pytorch_is_said_before_anything_is_compiled(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    argv = ["compare", CONFIG]
    with pytest.raises(InputError, match=r"requirements-bench\.txt"):
        compare.parse(compare.make_flags(argv), argv)


def test_several_gpus_are_refused(monkeypatch):
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    with pytest.raises(InputError, match="one of the 4 GPUs; set CUDA_VISIBLE_DEVICES=0"):
        Ours().setup({}, "synthetic", "")


@pytest.fixture(scope="module")
def resolved():
    return resolve.resolve(get_config("paper,runlocal"), 1000)


@pytest.fixture(scope="module")
def images():
    return np.random.default_rng(0).integers(0, 256, (16, 40, 36, 3), np.uint8)


@pytest.mark.parametrize("corrupted_only, projector_layers", [(False, 3), (True, 1)])
def test_same_parameters_and_losses(resolved, images, tmp_path, corrupted_only, projector_layers):
    torch_model = pytest.importorskip("benchmarks.torch_model", exc_type=ImportError)
    resolved = resolved.copy_and_resolve_references()
    resolved.loss.corrupted_only = corrupted_only
    resolved.model.projector_layers = projector_layers
    state = jax.jit(lambda: make_state(resolved, make_training(resolved).optimizer))()
    path = str(tmp_path / "exchange.npz")
    ours = {"losses": equality.write_exchange(path, resolved, state.params, images)}
    ours["parameters"] = sum(leaf.size for leaf in jax.tree.leaves(state.params))
    as_dict = saved.to_json(resolved)
    theirs = {"losses": equality.losses_of_exchange(path, as_dict)}
    theirs["parameters"] = torch_model.parameter_count(torch_model.SiT(as_dict))
    assert equality.largest_difference(ours, theirs) < 1e-5
    theirs["losses"]["rotation"] *= 1.001
    with pytest.raises(AssertionError, match="rotation is"):
        equality.largest_difference(ours, theirs)


def test_views_without_chance_are_ours(resolved, images):
    torch_views = pytest.importorskip("benchmarks.torch_views", exc_type=ImportError)
    import torch

    resolved = resolved.copy_and_resolve_references()
    resolved.views.update(area=(1.0, 1.0), ratio=(1.0, 1.0), flip=0.0, brightness=0.0, contrast=0.0, saturation=0.0)
    generator = torch.Generator().manual_seed(0)
    made = torch_views.make_views(torch.from_numpy(images), saved.to_json(resolved), generator)
    whole = views.whole_images(images, 32).repeat(2, axis=0)
    expected = views.rotate(whole, made.rotation.numpy())
    assert set(made.rotation.tolist()) == {0, 1, 2, 3}
    np.testing.assert_allclose(made.clean.numpy(), expected, atol=1e-5)
    kept = ~np.any([mask.numpy() for mask in made.masks.values()], axis=0)
    np.testing.assert_array_equal(made.corrupted.numpy()[kept], made.clean.numpy()[kept])


def test_corruptions_are_as_ours_in_the_mean(resolved, images):
    torch_views = pytest.importorskip("benchmarks.torch_views", exc_type=ImportError)
    import torch

    resolved = resolved.copy_and_resolve_references()
    resolved.corrupt.drop.fraction = (0.1, 0.5)
    resolved.views.update(hue=0.2, grayscale=0.2)
    many = images.repeat(16, axis=0)
    assert len(view_rows(len(many))) == 512
    ours = jax.jit(lambda key: views.make_views(key, many, resolved))(jax.random.key(0))
    theirs = torch_views.make_views(torch.from_numpy(many), saved.to_json(resolved), torch.Generator().manual_seed(0))
    for name, mask in ours.masks.items():
        share, other = mask.mean(axis=(1, 2)), theirs.masks[name].float().mean(dim=(1, 2)).numpy()
        assert abs(share.mean() - other.mean()) < 0.04, name
        assert abs(share.std() - other.std()) < 0.04, name
    for a, b in ((ours.clean, theirs.clean), (ours.corrupted, theirs.corrupted)):
        b = b.numpy()
        np.testing.assert_allclose(a.mean(axis=(0, 1, 2)), b.mean(axis=(0, 1, 2)), atol=0.04)
        np.testing.assert_allclose(a.std(axis=(0, 1, 2)), b.std(axis=(0, 1, 2)), atol=0.04)
        # Blur, crop and jitter change this statistic within an image.
        np.testing.assert_allclose(a.std(axis=(1, 2)).mean(axis=0), b.std(axis=(1, 2)).mean(axis=0), atol=0.04)


def test_planted_copies_are_counted():
    rng = np.random.default_rng(0)
    pictures = [
        Image.fromarray(rng.integers(0, 256, (8, 8, 3), np.uint8)).resize((64, 64), Image.Resampling.BICUBIC)
        for _ in range(12)
    ]
    changed, truth = copies.plant(pictures, 10, seed=0)
    assert len(changed) == 22 and sorted(truth.values()) == sorted([*copies.CHANGES] * 2)
    found = copies.found_here(changed)
    without_crops = {pair for pair, change in truth.items() if not change.startswith("cropped")}
    assert without_crops <= found <= truth.keys()
    row = copies.scores("x", {*without_crops, (0, 1)}, truth)
    assert row == ["x", "100%", "100%", "100%", "100%", "0%", "88.9%", "1"]
    hashed = copies.found_by_hashes(changed, 4, mirrored=False)
    mirrored = {pair for pair, change in truth.items() if change == "mirrored"}
    assert not hashed & mirrored and mirrored <= copies.found_by_hashes(changed, 4, mirrored=True)
