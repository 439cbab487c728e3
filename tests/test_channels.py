"""Images of one, four and five channels from the file to features and pictures."""

import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tifffile
from PIL import Image

from configs import digits
from sit_jax import embed, main, plan, reconstruct, report
from sit_jax.common.errors import InputError
from sit_jax.common.layout import RGB, Layout, layout_of
from sit_jax.compiled.costs import model_flops
from sit_jax.config.checks import check_config
from sit_jax.config.pixels import choose_bits
from sit_jax.config.resolve import resolve
from sit_jax.config.saved import read_saved
from sit_jax.data import image_options, load_images, open_source
from sit_jax.draw.pictures import to_rgb
from sit_jax.eval.restore import load_config, restore
from sit_jax.look.collection import encode_collection, open_records, tiles
from sit_jax.model.layers import patch_init
from sit_jax.model.patches import patchify, unpatchify
from sit_jax.parallel.mesh import make_mesh
from sit_jax.timing.images import RandomImages
from sit_jax.train.state import abstract_state, make_training
from sit_jax.train.step import make_eval_step, make_train_step
from sit_jax.views import to_unit
from sit_jax.views.color import grayscale, jitter, solarize
from sit_jax.views.corrupt import OPERATIONS, corrupt
from sit_jax.views.randaugment import COLOUR, GEOMETRIC, apply

pytestmark = pytest.mark.usefixtures("quick_compilation")

SMALL = {
    **{"batch_size": 8, "steps": 2, "log_every": 1, "eval_every": 2, "optim.warmup_steps": 1},
    **{"eval.num_test": 8, "eval.num_train": 8, "model.image_size": 8, "data.image_size": 8},
    **{"model.projector_layers": 1, "model.projector_norm": "none"},
}


def configured(**changes):
    config = digits.get_config("runlocal")
    config.update_from_flattened_dict(SMALL | changes)
    return config


@pytest.fixture(scope="module")
def bands(tmp_path_factory):
    """Ten TIFF files of 4 x uint16, 12 x 10 pixels."""
    folder = tmp_path_factory.mktemp("bands")
    for i in range(10):
        values = np.random.default_rng(i).integers(0, 2**16, (12, 10, 4), np.uint16)
        tifffile.imwrite(folder / f"{i}.tif", values, photometric="minisblack", planarconfig="contig")
    return folder


@pytest.fixture(scope="module")
def run(bands, tmp_path_factory):
    """The work directory of two steps on the TIFF files, with evaluations, as a user trains."""
    workdir = tmp_path_factory.mktemp("run")
    options = [f"--config.{key}={value}" for key, value in SMALL.items()]
    options += [
        "--config.eval.page=0",
        f"--config.data.source=folder:{bands}",
        "--config.data.channels=4",
        f"--workdir={workdir}",
    ]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["main", "--config=configs/digits.py:runlocal", *options])
        assert main.main(sys.argv) == 0
    return workdir


def test_four_bands_of_16_bits_train_and_the_choice_is_recorded(run):
    saved = read_saved(run / "config.json")
    assert (saved["data"]["channels"], saved["model"]["channels"], saved["data"]["bits"]) == (4, 4, 16)
    assert Image.open(run / "reconstructions" / "2.png").mode == "RGB"
    config = configured(**{"data.channels": 4})
    assert choose_bits(config, open_source("digits").train.take([]), run).data.bits == 16


def test_features_and_pictures_of_four_bands(run, bands, tmp_path, capsys):
    common = [f"--workdir={run}"]
    out = tmp_path / "features.npz"
    assert embed.main(["embed", *common, f"--images={bands}", f"--out={out}", "--features=concat"]) == 0
    with np.load(out) as file:
        assert file["features"].shape == (10, 64) and np.ptp(file["features"], axis=0).max() > 0
    for options in (["--drop=0.5", "--config.data.shown=(3, 1, 0)"], ["--attention"]):
        picture = tmp_path / "out.png"
        images = [f"--images={bands}/*.tif", f"--out={picture}"]
        assert reconstruct.main(["reconstruct", *common, *images, *options]) == 0
        assert Image.open(picture).mode == "RGB"
    Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save(tmp_path / "colours.png")
    assert embed.main(["embed", *common, f"--images={tmp_path}", f"--out={out}"]) == 2
    error = capsys.readouterr().err
    assert "colours.png: image has 3 channels, data.channels is 4; set --config.data.channels=3" in error


def test_the_checkpoint_fixes_the_channels(run):
    with pytest.raises(InputError, match=r"data\.channels is fixed by the checkpoint"):
        load_config(run, {"data.channels": 3})
    assert layout_of(load_config(run, {"data.range": (0, 4095)}).data) == Layout(4, 16, (0.0, 4095.0))


SOURCES = {
    "grey digits": ({"data.source": "digits", "data.channels": 1}, None, Layout(1, 8)),
    "colours as grey": ({"data.channels": 1}, np.zeros((9, 8, 8, 3), np.uint8), Layout(1, 8)),
    "five bands of floats": (
        {"data.channels": 5, "data.range": (-1.0, 1.0)},
        np.zeros((9, 8, 8, 5), np.float32),
        Layout(5, 16, (-1.0, 1.0)),
    ),
    "two channels, a stem of convolutions": (
        {"data.channels": 2, "model.stem": "convolutions"},
        np.zeros((9, 8, 8, 2), np.uint16),
        Layout(2, 16),
    ),
}


@pytest.mark.parametrize("row", SOURCES)
def test_step_and_evaluation_of_any_channels(row, tmp_path):
    """Traced, not compiled: shapes and types from the file to the metrics."""
    changes, images, layout = SOURCES[row]
    if images is not None:
        np.savez(tmp_path / "a.npz", images=images)
        changes = {"data.source": f"npz:{tmp_path}/a.npz"} | changes
    config = configured(**changes)
    check_config(config, 1)
    records = open_source(config.data.source).pretrain
    config = choose_bits(config, records)
    loaded = load_images(records.take(range(9)), **image_options(config))
    config = resolve(config, len(loaded))
    assert layout_of(config.data) == layout and loaded.array.dtype == layout.dtype
    if layout.range:
        assert np.unique(loaded.array).tolist() == [32768]  # 0 is in the middle of -1 to 1
    batch, training = loaded.gather(range(8)), make_training(config)
    state = abstract_state(config, training, make_mesh(devices=jax.devices()[:1]))
    image = jax.ShapeDtypeStruct(batch.shape, batch.dtype)
    stepped, metrics = jax.eval_shape(make_train_step(training, config), state, {"image": image})
    assert metrics["loss"].shape == () and stepped.params["model"]["reconstruction"]["bias"].shape == (layout.channels,)
    _, views, rebuilt, _ = jax.eval_shape(make_eval_step(training, config), state.params, image, jnp.int32(0))
    assert views.clean.shape == views.corrupted.shape == rebuilt.shape == (16, 8, 8, layout.channels)


WRONG = {
    "channels": ({"data.channels": 4, "data.source": "digits"}, r"train/0: image has 1 channel, data\.channels is 4"),
    "no channel": ({"data.channels": 0}, r"data\.channels=0 must be above 0"),
    "bits": ({"data.bits": 12}, r"data\.bits=12 must be 8 or 16"),
    "range": ({"data.range": (1.0, 0.0)}, r"data\.range=\(1\.0, 0\.0\) must be a range"),
    "shown": (
        {"data.channels": 4, "data.shown": (4, 1, 0)},
        r"data\.shown=\(4, 1, 0\) must be three channels from 0 to 3",
    ),
    "alpha": ({"data.alpha": True}, r"data\.alpha needs data\.channels=4 .*, not 3"),
}


@pytest.mark.parametrize("row", WRONG)
def test_what_is_wrong_is_said(row):
    changes, message = WRONG[row]
    config = configured(**changes)
    with pytest.raises(InputError, match=message):
        check_config(config, 1)
        choose_bits(config, open_source("digits").train)


def test_stored_values_become_floats_by_their_type():
    assert to_unit(jnp.array([0, 51, 255], jnp.uint8)).tolist() == pytest.approx([0, 0.2, 1])
    wide = to_unit(jnp.arange(256, dtype=jnp.uint16) * 257)
    assert np.abs(wide - to_unit(jnp.arange(256, dtype=jnp.uint8))).max() < 1e-7


@pytest.mark.parametrize("channels", [1, 2, 4, 7])
def test_patches_of_any_channels_are_those_of_each_channel(channels):
    images = np.random.default_rng(0).random((2, 8, 8, channels), np.float32)
    patches = np.asarray(patchify(images, 4)).reshape(2, 4, 16, channels)
    for c in range(channels):
        assert np.array_equal(patches[..., c], patchify(images[..., c : c + 1], 4))
    assert np.array_equal(unpatchify(patchify(images, 4), 4), images)
    bound = np.abs(patch_init(4, channels)(jax.random.key(0), (1000,))).max()
    assert 0.95 < bound * np.sqrt(channels * 16) <= 1


def test_flops_of_channels_are_those_of_the_first_and_last_product():
    """16 values of a patch and channel: two passes of the embedding, three of the reconstruction."""
    flops = [model_flops(resolve(configured(**{"data.channels": c}), 100)) for c in (3, 4)]
    views, patches, width = 16, 4, 32
    assert flops[1] - flops[0] == 2 * views * patches * 16 * width * (2 + 3)


@pytest.mark.parametrize("channels", [1, 4])
def test_without_colour_brightness_and_contrast_act_on_each_channel(channels):
    image = jnp.asarray(np.random.default_rng(0).random((6, 6, channels), np.float32)) / 2 + 0.25
    section = digits.get_config().views
    key = jax.random.key(1)
    section.update(brightness=0.0, contrast=0.0, saturation=0.9, hue=0.4)
    assert np.array_equal(jitter(key, image, section), image) and np.array_equal(grayscale(image), image)
    section.update(brightness=0.2, contrast=0.3)
    jittered = jitter(key, image, section)
    for c in range(channels):  # the same factors as for the channel alone
        alone = jitter(key, image[..., c : c + 1], section)
        np.testing.assert_allclose(jittered[..., c : c + 1], alone, atol=1e-6)
        x, y = np.asarray(image[..., c]).ravel(), np.asarray(alone).ravel()
        slope, offset = np.polyfit(x, y, 1)
        np.testing.assert_allclose(y, slope * x + offset, atol=1e-5)
        assert abs(slope - 1) > 1e-3
    assert np.allclose(solarize(image), np.where(image < 0.5, image, 1 - image))


def test_without_colour_the_grayscale_corruption_is_off():
    images = jnp.asarray(np.random.default_rng(0).random((16, 8, 8, 4), np.float32)) * 2 - 1
    section = digits.get_config().corrupt
    section.share = 1.0
    for name in OPERATIONS:
        section[name].update({"fraction": (0.0, 0.0)} if "fraction" in section[name] else {"probability": 0.0})
    section.grayscale.probability = 1.0
    corrupted, masks = corrupt(jax.random.key(0), images, section)
    assert np.array_equal(corrupted, images) and not masks["grayscale"].any()
    assert corrupt(jax.random.key(0), images[..., :3], section)[1]["grayscale"].any()


def test_every_operation_of_randaugment_takes_four_channels():
    image = jnp.asarray(np.random.default_rng(0).random((8, 8, 4), np.float32))
    for op in range(len(GEOMETRIC) + len(COLOUR)):
        changed = apply(jnp.int32(op), image, jnp.float32(0.7), jnp.float32(1))
        assert changed.shape == image.shape and np.isfinite(changed).all()


def test_the_channels_of_pictures():
    images = np.random.default_rng(0).random((2, 4, 4, 5), np.float32)
    assert np.array_equal(to_rgb(images), images[..., :3])
    assert np.array_equal(to_rgb(images, (4, 2, 0)), images[..., [4, 2, 0]])
    assert np.array_equal(to_rgb(images[..., :1]), images[..., :1].repeat(3, axis=-1))
    assert np.allclose(to_rgb(images[..., :2])[..., 1], images[..., :2].mean(axis=-1))
    assert to_rgb(images[..., :3]) is not None and np.shares_memory(to_rgb(images[..., :3]), images)


def test_plan_and_bench_take_the_layout():
    config = resolve(configured(**{"data.channels": 5, "data.bits": 16}), 100)
    batch = plan.abstract_batch(config, make_mesh(devices=jax.devices()[:1]))["image"]
    assert batch.shape == (8, 8, 8, 5) and batch.dtype == np.uint16
    random = RandomImages(3, 8, layout_of(config.data)).gather([0, 2])
    assert random.shape == (2, 8, 8, 5) and random.dtype == np.uint16 and random.max() > 255
    assert np.array_equal(RandomImages(3, 8).array, RandomImages(3, 8, RGB).array)


def test_the_page_of_a_run_shows_the_chosen_channels(run, bands):
    assert report.main(["report", f"--workdir={run}"]) == 0
    assert '<section id="map"' in (run / "report.html").read_text()
    restored = restore(run, None, "params", {"data.shown": (3, 1, 0)})
    found = encode_collection(*open_records(None, restored), restored)
    decoded = found.images.gather([0])
    assert decoded.shape[-1] == 4
    expected = decoded[..., [3, 1, 0]].astype(float) * (255 / np.iinfo(decoded.dtype).max)
    np.testing.assert_allclose(tiles(found, [0], decoded.shape[1]), expected, atol=0.51)
