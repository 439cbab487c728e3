"""Features of a folder of images in one file: layouts, kinds of features, and files left after errors."""

import os
import subprocess
import sys

import numpy as np
import pytest
from conftest import ROOT
from PIL import Image
from sklearn.neighbors import KNeighborsClassifier

from configs import digits
from sit_jax import embed
from sit_jax.common import commands
from sit_jax.config import resolve
from sit_jax.data.decode import decode
from sit_jax.eval.restore import restore
from sit_jax.parallel.mesh import make_mesh
from sit_jax.probes.features import make_encode
from sit_jax.train.announce import write_config
from sit_jax.train.checkpoint import Checkpoints
from sit_jax.train.state import init_state, make_training

pytestmark = pytest.mark.usefixtures("quick_compilation")


@pytest.fixture(scope="module")
def workdir(tmp_path_factory):
    """A work directory as left by a training, without the training; its weights differ from those of its seed."""
    config = digits.get_config("runlocal")
    config.model.image_size = 16
    config = resolve.resolve(config, 1437)
    path = tmp_path_factory.mktemp("run")
    write_config(path, config)
    config.seed = 1
    checkpoints = Checkpoints(path, keep_latest=1, keep_best=0)
    checkpoints.save(init_state(config, make_training(config), make_mesh()), 2, None)
    checkpoints.close()
    return path


def save_picture(path, seed):
    path.parent.mkdir(parents=True, exist_ok=True)
    height, width = 20 + seed % 3, 24
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)).save(path)


@pytest.fixture(scope="module")
def classes(tmp_path_factory):
    """Two class folders."""
    root = tmp_path_factory.mktemp("classes")
    for i in range(11):
        save_picture(root / ("dog" if i % 3 else "cat") / f"{i:02}.png", i)
    return root


def run(workdir, images, out, *options):
    return commands.run(
        embed.command, ["embed", f"--workdir={workdir}", f"--images={images}", f"--out={out}", *options]
    )


def load(workdir, images, out, *options):
    assert run(workdir, images, out, *options) == 0
    with np.load(out, allow_pickle=False) as file:
        return dict(file)


@pytest.fixture(scope="module")
def by_kind(workdir, classes, tmp_path_factory):
    """The files written for the two class folders, by kind of features."""
    out = tmp_path_factory.mktemp("kinds") / "out.npz"
    return {kind: load(workdir, classes, out, f"--features={kind}") for kind in embed.KINDS}


def test_features_are_those_of_the_decoded_images(workdir, classes, by_kind):
    found, restored = by_kind["tokens"], restore(workdir, None, "params", {})
    images = np.stack([decode(classes / path, 16, path) for path in found["paths"]])
    expected = make_encode(restored.config, restored.mesh)(restored.params, images)
    np.testing.assert_allclose(found["features"], expected, rtol=1e-5, atol=1e-6)
    assert np.abs(expected - make_encode(restored.config, restored.mesh)(restored.random_params, images)).max() > 0.1


def test_paths_and_labels(classes, by_kind):
    for found in by_kind.values():
        assert found["paths"].tolist() == sorted(str(path.relative_to(classes)) for path in classes.rglob("*.png"))
        assert found["class_names"].tolist() == ["cat", "dog"]
        assert found["labels"].dtype == np.int32
        assert [found["class_names"][label] for label in found["labels"]] == [p.split("/")[0] for p in found["paths"]]


def test_kinds_of_features(by_kind):
    features = {kind: found["features"] for kind, found in by_kind.items()}
    assert {kind: values.shape for kind, values in features.items()} == {
        "tokens": (11, 2, 32),
        "concat": (11, 64),
        "rotation": (11, 32),
        "contrastive": (11, 32),
        "patch_mean": (11, 32),
        "projection": (11, 128),
        "patches": (11, 4, 4, 32),
    }
    assert {values.dtype for values in features.values()} == {np.dtype(np.float32)}
    np.testing.assert_array_equal(features["concat"], features["tokens"].reshape(11, -1))
    np.testing.assert_array_equal(features["rotation"], features["tokens"][:, 0])
    np.testing.assert_array_equal(features["contrastive"], features["tokens"][:, 1])
    np.testing.assert_allclose(features["patches"].mean(axis=(1, 2)), features["patch_mean"], rtol=1e-5, atol=1e-6)


def test_the_batch_size_changes_nothing(workdir, classes, by_kind, tmp_path):
    found = load(workdir, classes, tmp_path / "out.npz", "--batch_size=4")
    np.testing.assert_allclose(found["features"], by_kind["concat"]["features"], rtol=1e-5, atol=1e-6)
    for name in ("paths", "labels", "class_names"):
        np.testing.assert_array_equal(found[name], by_kind["concat"][name])


def test_scikit_learn_takes_the_default(workdir, classes, tmp_path):
    found = load(workdir, classes, tmp_path / "out.npz")
    assert found["features"].shape == (11, 64)
    KNeighborsClassifier(1).fit(found["features"], found["labels"])


def test_a_pattern_and_a_list_give_the_features_of_the_folder(workdir, classes, by_kind, tmp_path):
    paths = by_kind["concat"]["paths"].tolist()
    odd = classes / os.fsdecode(b"cat/\xff.png")  # a name that is not UTF-8
    odd.write_bytes((classes / paths[0]).read_bytes())
    try:
        (tmp_path / "list").write_bytes(b"\n".join(os.fsencode(classes / path) for path in [*paths, odd]))
        listed = load(workdir, tmp_path / "list", tmp_path / "list.npz")
    finally:
        odd.unlink()
    pattern = load(workdir, f"{classes}/**/*.png", tmp_path / "pattern.npz")
    for found in (listed, pattern):
        np.testing.assert_allclose(found["features"][:11], by_kind["concat"]["features"], rtol=1e-5, atol=1e-6)
    assert listed["paths"][-1] == str(odd) and set(listed["labels"]) == {-1}


def test_layouts(workdir, tmp_path):
    """Every layout gives all images; the labels are those of a training on the folder."""
    flat, deep, split = tmp_path / "flat", tmp_path / "deep", tmp_path / "split"
    for i in range(3):
        save_picture(flat / f"{i}.png", i)
        save_picture(deep / "a" / "b" / f"{i}.png", i)
        save_picture(split / "train" / ("x" if i else "y") / f"{i}.png", i)
    save_picture(deep / "top.jpg", 3)
    save_picture(split / "test" / "y" / "3.png", 3)
    save_picture(split / "unlabelled" / "4.png", 4)
    found = {root: load(workdir, root, tmp_path / f"{root.name}.npz") for root in (flat, deep, split)}
    assert found[flat]["paths"].tolist() == ["0.png", "1.png", "2.png"]
    assert found[deep]["paths"].tolist() == ["a/b/0.png", "a/b/1.png", "a/b/2.png", "top.jpg"]
    for root in (flat, deep):
        assert found[root]["labels"].tolist() == [-1] * len(found[root]["paths"])
        assert found[root]["class_names"].shape == (0,)
    expected = {"test/y/3.png": 1, "train/x/1.png": 0, "train/x/2.png": 0, "train/y/0.png": 1, "unlabelled/4.png": -1}
    assert dict(zip(found[split]["paths"].tolist(), found[split]["labels"].tolist(), strict=True)) == expected
    np.testing.assert_allclose(found[flat]["features"], found[deep]["features"][:3], rtol=1e-5, atol=1e-6)


@pytest.fixture
def broken(tmp_path):
    """A folder with an unreadable image."""
    for i in range(9):
        save_picture(tmp_path / "broken" / f"{i}.png", i)
    whole = (tmp_path / "broken" / "5.png").read_bytes()
    (tmp_path / "broken" / "5.png").write_bytes(whole[: len(whole) // 2])
    return tmp_path / "broken"


def test_an_unreadable_image_is_named_and_no_file_is_left(workdir, broken, tmp_path, capsys):
    out = tmp_path / "new" / "out.npz"
    assert run(workdir, broken, out, "--batch_size=4") == 2
    line = capsys.readouterr().err.strip().splitlines()[-1]
    assert line.startswith("error: 5.png: unreadable image")
    assert "skip_unreadable" in line
    assert list(out.parent.iterdir()) == []


def test_an_unreadable_image_can_be_left_out(workdir, broken, tmp_path, capsys):
    found = load(workdir, broken, tmp_path / "out.npz", "--skip_unreadable")
    assert found["paths"].tolist() == [f"{i}.png" for i in range(9) if i != 5]
    assert "left out 1 of 9 images that cannot be read, the first: 5.png" in capsys.readouterr().out
    (broken / "5.png").unlink()
    whole = load(workdir, broken, tmp_path / "whole.npz")
    np.testing.assert_allclose(found["features"], whole["features"], rtol=1e-5, atol=1e-6)


def test_a_folder_of_nothing_readable(workdir, tmp_path, capsys):
    for name in ("a.png", "b.png"):
        (tmp_path / name).write_bytes(b"no picture")
    assert run(workdir, tmp_path, tmp_path / "out.npz", "--skip_unreadable") == 2
    assert "error: a.png: unreadable, as are all other images" in capsys.readouterr().err
    assert not (tmp_path / "out.npz").exists()


def test_a_file_that_is_there_survives_a_failure(workdir, broken, tmp_path):
    out = tmp_path / "out.npz"
    out.write_bytes(b"precious")
    assert run(workdir, broken, out) == 2
    assert out.read_bytes() == b"precious"


@pytest.mark.parametrize(
    "out,options,expected",
    [
        ("out.npy", [], "the name must end in .npz"),
        ("file/out.npz", [], "cannot be written"),
        ("folder.npz", [], "cannot be written"),
        ("out.npz", ["--batch_size=0"], "batch_size"),
        ("out.npz", ["--features=pixels"], "features"),
        ("out.npz", ["--images=nowhere"], "--images=nowhere: there is no such folder or file"),
    ],
)
def test_wrong_input_is_found_before_any_work(workdir, classes, tmp_path, monkeypatch, capsys, out, options, expected):
    monkeypatch.setattr(embed, "restore", None)
    (tmp_path / "file").write_text("")
    (tmp_path / "folder.npz").mkdir()
    assert run(workdir, classes, tmp_path / out, *options) == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1
    assert lines[0].startswith("error: ")
    assert expected in lines[0]
    assert {path.name for path in tmp_path.iterdir()} == {"file", "folder.npz"}


def test_importing_the_commands_is_light():
    code = "import sys, sit_jax.embed, sit_jax.reconstruct; print(' '.join(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert not {"tensorflow", "tensorflow_datasets", "matplotlib", "sklearn", "torch"} & set(done.stdout.split())


def test_features_are_never_all_in_memory(classes, tmp_path):
    """Each batch is written before the next batch is requested."""
    written = []

    class File:
        def write(self, data):
            written.append(len(data))

    def batches():
        for size in (4, 4, 3):
            yield np.zeros((size, 2, 8), np.float32)
            assert written[-1] == size * 2 * 8 * 4

    assert embed.write_rows(File(), batches(), 11) == (11, 2, 8)
