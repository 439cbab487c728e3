"""Pictures of reconstructions and of attention: their contents, and the errors for wrong input."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from PIL import Image

from configs import digits
from sit_jax import reconstruct
from sit_jax.common import commands
from sit_jax.common.keys import row_keys
from sit_jax.config import resolve
from sit_jax.data import open_source
from sit_jax.draw.heatmaps import SIDE
from sit_jax.draw.pictures import GAP, LINE, labelled_grid, text_width
from sit_jax.draw.rebuilt import DIFFERENCE, TURNED
from sit_jax.eval.attention_maps import attention_maps
from sit_jax.eval.reconstruction import ROWS, make_rebuild
from sit_jax.model.build import make_graphdefs
from sit_jax.parallel.mesh import make_mesh
from sit_jax.train.announce import write_config
from sit_jax.train.checkpoint import Checkpoints
from sit_jax.train.state import init_state, make_training
from sit_jax.views import whole_images
from sit_jax.views.corrupt import Donors, replace

TILE = 96 + 2 * GAP  # a model of 16 px is shown at 96
LABELS = max(map(text_width, [*ROWS, TURNED, DIFFERENCE]))
INTACT = ["--drop=0", "--replace=0", "--grayscale=0", "--blur=0", "--recolour=0"]


pytestmark = pytest.mark.usefixtures("quick_compilation")


def make_config(**values):
    config = digits.get_config("runlocal")
    config.update_from_flattened_dict({"model.image_size": 16, **values})
    return resolve.resolve(config, 1437)


@pytest.fixture(scope="module")
def config():
    return make_config()


@pytest.fixture(scope="module")
def state(config):
    return init_state(config, make_training(config), make_mesh())


@pytest.fixture(scope="module")
def workdir(config, state, tmp_path_factory):
    """A work directory as left by a training, without the training."""
    path = tmp_path_factory.mktemp("run")
    write_config(path, config)
    checkpoints = Checkpoints(path, keep_latest=1, keep_best=0)
    checkpoints.save(state, 2, None)
    checkpoints.close()
    return path


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    """Five pictures of several sizes and formats, in nested folders."""
    root = tmp_path_factory.mktemp("images")
    (root / "deep" / "er").mkdir(parents=True)
    rng = np.random.default_rng(0)
    for i, name in enumerate(["a.png", "b.jpg", "deep/c.bmp", "deep/d.png", "deep/er/e.webp"]):
        pixels = rng.integers(0, 256, (3, 4 + i % 2, 3), np.uint8)
        Image.fromarray(pixels).resize((30 + i, 20 + 3 * i)).save(root / name)
    return root


def run(workdir, out, *options):
    return commands.run(reconstruct.command, ["reconstruct", f"--workdir={workdir}", f"--out={out}", *options])


def draw(workdir, out, *options):
    assert run(workdir, out, *options) == 0
    return np.asarray(Image.open(out)).astype(int)


def tiles(picture, count):
    """The pixels of the three rows, [3, count, 96, 96, 3], of a picture with one group of one line."""
    return cut(picture[3 * LINE :, LABELS:], 3, count)


def cut(picture, rows, columns, tile=TILE):
    """The images [rows, columns, side, side, 3], starting at the upper left corner."""
    images = picture[: rows * tile, : columns * tile].reshape(rows, tile, columns, tile, 3)
    return images.swapaxes(1, 2)[:, :, GAP:-GAP, GAP:-GAP]


def test_the_picture_is_a_function_of_the_seed(workdir, images, tmp_path):
    pattern = f"--images={images}/**/*.*"
    first = draw(workdir, tmp_path / "first.png", pattern)
    draw(workdir, tmp_path / "again.png", pattern)
    assert (tmp_path / "first.png").read_bytes() == (tmp_path / "again.png").read_bytes()
    other = draw(workdir, tmp_path / "other.png", pattern, "--seed=1")
    original, corrupted, rebuilt = (tiles(first, 5) != tiles(other, 5)).any(axis=(2, 3, 4))
    assert not original.any()
    assert corrupted.all()
    assert rebuilt.all()


def test_a_folder_is_drawn_up_to_a_limit(workdir, images, tmp_path, capsys):
    whole = draw(workdir, tmp_path / "whole.png", f"--images={images}", *INTACT)
    assert tiles(whole, 5).shape[1] == 5 and "left out" not in capsys.readouterr().out
    few = draw(workdir, tmp_path / "few.png", f"--images={images}", "--limit=2", *INTACT)
    assert "the first 2 of 5 pictures are drawn, 3 are left out; --limit=N draws N" in capsys.readouterr().out
    np.testing.assert_array_equal(tiles(few, 2)[0], tiles(whole, 5)[0, :2])


def test_what_does_not_fit_goes_to_further_files(workdir, images, tmp_path, capsys):
    (tmp_path / "list.txt").write_text(f"{images / 'a.png'}\n" * 130)
    draw(workdir, tmp_path / "out.png", f"--images={tmp_path / 'list.txt'}", "--limit=130", *INTACT)
    assert sorted(path.name for path in tmp_path.glob("*.png")) == ["out-2.png", "out-3.png", "out.png"]
    assert f"{tmp_path / 'out-2.png'}: " in capsys.readouterr().out
    assert max(Image.open(path).size[1] for path in tmp_path.glob("*.png")) <= 2000


def test_images_of_the_data_are_drawn_by_the_seed():
    records = open_source("digits").test
    drawn = [reconstruct.draw_records("test", records, 20, seed).names for seed in (0, 0, 1)]
    assert drawn[0] == drawn[1]
    assert len(set(drawn[0])) == 20
    assert len(set(drawn[0]) & set(drawn[2])) < 10
    assert reconstruct.draw_records("test", records, 30, 0).names[:20] == drawn[0]


def test_without_corruption_the_second_row_equals_the_first(workdir, images, tmp_path, capsys):
    picture = draw(workdir, tmp_path / "out.png", f"--images={images}/**/*.*", *INTACT)
    original, corrupted, rebuilt = tiles(picture, 5)
    np.testing.assert_array_equal(corrupted, original)
    upright = Image.open(images / "a.png").resize((16, 16), Image.Resampling.BICUBIC, box=(5, 0, 25, 20))
    np.testing.assert_allclose(original[0, ::6, ::6], np.asarray(upright).astype(int), atol=1)
    found = re.search(r"pictures \(5\): mean absolute error ([\d.]+)", capsys.readouterr().out)
    # The picture is clipped and rounded; the untrained model stays near the middle of the range.
    np.testing.assert_allclose(float(found[1]), np.abs(rebuilt - original).mean() / 127.5, atol=5e-3)


def test_drop_covers_the_share_that_is_asked_for(workdir, images, tmp_path):
    picture = draw(workdir, tmp_path / "out.png", f"--images={images}/**/*.*", *INTACT, "--drop=0.7")
    original, corrupted, _ = tiles(picture, 5)
    share = (corrupted != original).any(axis=-1).mean(axis=(1, 2))
    assert ((share > 0.66) & (share < 0.78)).all()


def test_a_single_picture_has_nothing_to_be_replaced_by(config):
    twice = jax.random.uniform(jax.random.key(0), (1, 16, 16, 3)).repeat(2, axis=0)
    picked = replace(row_keys(jax.random.key(1), 2), twice, config.corrupt.replace, Donors(twice, 2))
    np.testing.assert_array_equal(picked, twice)


def test_flags_go_before_the_corruption_of_the_run(config):
    argv = ["reconstruct", "--drop=0.7", "--replace=0", "--grayscale=1", "--blur=0.5"]
    values = reconstruct.define_flags(argv)
    values(argv)
    changed = config.corrupt.copy_and_resolve_references()
    reconstruct.set_corruption(changed, values)
    expected = config.corrupt.to_dict()
    expected["drop"]["fraction"], expected["replace"]["fraction"] = (0.7, 0.7), (0.0, 0.0)
    expected["grayscale"]["probability"], expected["blur"]["probability"] = 1.0, 0.5
    assert changed.to_dict() == expected


def test_rebuilt_rows_are_the_output_of_the_model(config, state):
    images = np.random.default_rng(0).integers(0, 256, (5, 16, 16, 3), np.uint8)
    params = state.params["model"]
    found = make_rebuild(config)(params, images, jax.random.key(0))
    clean, corrupted, rebuilt = (found[name] for name in ROWS)
    assert not found["rotation"].any()
    np.testing.assert_array_equal(clean, whole_images(jnp.asarray(images), 16))
    out = nnx.merge(make_graphdefs(config)["model"], params)(corrupted)
    np.testing.assert_array_equal(found["predicted"], np.argmax(out["rotation"], axis=1))
    expected = np.asarray(out["patches"]).reshape(5, 4, 4, 4, 4, 3).swapaxes(2, 3).reshape(5, 16, 16, 3)
    np.testing.assert_allclose(rebuilt, expected, rtol=1e-4, atol=1e-5)


def test_rotated_rows_are_quarter_turns_and_all_occur(config, state):
    images = np.random.default_rng(0).integers(0, 256, (40, 16, 16, 3), np.uint8)
    found = make_rebuild(config, rotated=True)(state.params["model"], images, jax.random.key(0))
    assert set(np.asarray(found["rotation"]).tolist()) == {0, 1, 2, 3}
    upright = np.asarray(whole_images(jnp.asarray(images), 16))
    for image, quarters, rotated in zip(upright, np.asarray(found["rotation"]), found["original"], strict=True):
        np.testing.assert_array_equal(np.rot90(image, int(quarters)), rotated)


def test_the_size_of_the_pictures_can_be_chosen(workdir, images, tmp_path):
    picture = draw(workdir, tmp_path / "out.png", f"--images={images}", "--limit=2", "--size=200", "--rotate")
    assert picture.shape == (3 * LINE + 4 * (200 + 2 * GAP), LABELS + 2 * (200 + 2 * GAP), 3)


def test_long_rows_wrap():
    small, large = np.zeros((25, 16, 16, 3)), np.zeros((25, 224, 224, 3))
    assert labelled_grid({"x": small}).shape == (3 * TILE + 2 * 4 * GAP, text_width("x") + 9 * TILE, 3)
    assert labelled_grid({"x": large}).shape[0] == 5 * 228 + 4 * 4 * GAP


@pytest.mark.parametrize(
    "options,expected",
    [
        ([], "there is nothing to draw; give --images"),
        (["--images=IMAGES/*.tif"], "as a pattern it matches none"),
        (["--images=IMAGES", "--limit=0"], "--limit=0"),
        (["--test=2", "--drop=nan"], "--drop=nan"),
        (["--test=2", "--data="], "--data has an empty value"),
        (["--test=2", "--drop=1.5"], "--drop=1.5"),
        (["--test=2", "--blur=-1"], "--blur=-1"),
        (["--test=-2"], "--test=-2"),
        (["--test=2", "--out=OUT/x.jpg"], "must end in .png"),
        (["--test=2", "--out=IMAGES/a.png/x.png"], "cannot be written"),
        (["--images=IMAGES/*.png", "--data=digits"], "--data needs"),
        (["--test=2", "--attention", "--drop=0.5"], "--drop and --attention"),
        (["--test=2", "--attention", "--size=200"], "--size and --attention"),
        (["--test=2", "--size=20"], "--size=20"),
    ],
)
def test_wrong_input_is_found_before_any_work(workdir, images, tmp_path, monkeypatch, capsys, options, expected):
    monkeypatch.setattr(reconstruct, "restore", None)
    options = [option.replace("IMAGES", str(images)).replace("OUT", str(tmp_path)) for option in options]
    assert run(workdir, tmp_path / "out.png", *options) == 2
    assert_one_line(capsys, expected)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "options,expected",
    [
        (["--images=FOLDER/*.png"], "x.png: unreadable image"),
        (["--test=361"], "--test=361: the data set has 360 images"),
        (["--test=1", "--data=folder:IMAGES"], "--test=1: the data set has 0 images"),
    ],
)
def test_wrong_data(workdir, images, tmp_path, capsys, options, expected):
    (tmp_path / "x.png").write_bytes(b"no picture")
    options = [option.replace("IMAGES", str(images)).replace("FOLDER", str(tmp_path)) for option in options]
    assert run(workdir, tmp_path / "new" / "out.png", *options) == 2
    assert_one_line(capsys, expected)
    assert list((tmp_path / "new").iterdir()) == []


def assert_one_line(capsys, expected):
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 1, lines
    assert lines[0].startswith("error: ")
    assert expected in lines[0]


def softmax(x):
    x = np.exp(x - x.max(axis=-1, keepdims=True))
    return x / x.sum(axis=-1, keepdims=True)


def layer_norm(x, params):
    x = x - x.mean(axis=-1, keepdims=True)
    return x / np.sqrt((x**2).mean(axis=-1, keepdims=True) + 1e-6) * params["scale"] + params["bias"]


def test_attention_maps_equal_the_formula(config, state):
    """Against NumPy in float64, with the parameters of a model of one layer."""
    images = np.random.default_rng(0).integers(0, 256, (3, 16, 16, 3), np.uint8)
    params = jax.tree.map(np.array, state.params["model"])
    block = params["encoder"]["blocks"]
    # Larger than trained weights: untrained attention is nearly uniform.
    block["attention"]["qkv"]["kernel"] *= 20
    block["norm1"]["bias"] += 0.3
    block["attention"]["qkv"]["bias"] += np.linspace(-1, 1, 96, dtype=np.float32)
    found = attention_maps(params, images, config)

    p = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), params["encoder"])
    patches = (images / 127.5 - 1).reshape(3, 4, 4, 4, 4, 3).swapaxes(2, 3).reshape(3, 16, 48)
    x = patches @ p["patch_embedding"]["kernel"] + p["patch_embedding"]["bias"]
    x = np.concatenate([np.broadcast_to(p["tokens"], (3, 2, 32)), x], axis=1) + p["position_embedding"]
    first = jax.tree.map(lambda leaf: leaf[0], p["blocks"])
    qkv = layer_norm(x, first["norm1"]) @ first["attention"]["qkv"]["kernel"] + first["attention"]["qkv"]["bias"]
    q, k = qkv.reshape(3, 18, 3, 2, 16).transpose(2, 0, 3, 1, 4)[:2]
    weights = softmax(q @ k.swapaxes(-1, -2) / 4)  # [images, heads, queries, keys]
    expected = weights[:, :, :2, 2:].swapaxes(1, 2).reshape(3, 2, 2, 4, 4)
    assert found.shape == expected.shape
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, expected, atol=1e-5)
    assert expected.std() > 0.01
    assert (found.sum(axis=(-1, -2)) < 1).all()


def test_attention_sheets(workdir, images, tmp_path, capsys):
    picture = draw(workdir, tmp_path / "out.png", "--attention", f"--images={images / 'a.png'}", "--test=1")
    tile = SIDE + 2 * GAP
    block = 2 * LINE + 2 * tile  # name, headings, one line for each token
    assert picture.shape[0] == LINE + 2 * (block + 8 * GAP)
    left = text_width("contrastive token")
    shown = cut(picture[LINE + 8 * GAP + 2 * LINE :, left:], 2, 4, tile)  # picture, mean, head 1, head 2
    np.testing.assert_array_equal(shown[0, 0], shown[1, 0])
    assert (shown[:, 1:] != shown[:, :1]).any(axis=(2, 3, 4)).all()
    assert "are shown" not in capsys.readouterr().out


def test_attention_is_drawn_for_the_first_eight(workdir, images, tmp_path, capsys):
    draw(workdir, tmp_path / "some.png", "--attention", f"--images={images}/**/*.*", "--train=6")
    assert "11 pictures; the first 8 are shown" in capsys.readouterr().out
    names = sorted(path.name for path in tmp_path.glob("*.png"))
    assert names == ["some-2.png", "some.png"] or names == ["some-2.png", "some-3.png", "some.png"]
