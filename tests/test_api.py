"""The door for Python: training from a call, an encoder that takes images in any form, scikit-learn."""

import json
import pickle
import signal
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import ROOT
from PIL import Image
from safetensors.numpy import save_file
from sklearn.base import clone
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from test_weights import MU, sit, vit, write

import sit_jax
from sit_jax import embed
from sit_jax.api.encoder import unit_rows
from sit_jax.data.given import open_given
from sit_jax.eval import adopted

pytestmark = pytest.mark.usefixtures("quick_compilation")
SMALL = {"eval__page": 0, "steps": 3, "batch_size": 4, "eval_every": 3, "checkpoint_every": 3, "log_every": 1}


def pictures(folder, count=6):
    folder.mkdir()
    rng = np.random.default_rng(0)
    for i in range(count):
        low = rng.integers(0, 256, (3, 4, 3), np.uint8)
        Image.fromarray(low).resize((40 + i, 30)).save(folder / f"{i}.png")
    return folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return pictures(tmp_path_factory.mktemp("api") / "photos")


@pytest.fixture(scope="module")
def run(folder, tmp_path_factory):
    return sit_jax.pretrain(folder, tmp_path_factory.mktemp("run") / "mine", config="folder:runlocal", **SMALL)


@pytest.fixture(scope="module")
def encoder(run):
    return run.encoder()


def test_a_run_from_python(run):
    assert run.config["steps"] == 3 and run.config["batch_size"] == 4
    assert [line["step"] for line in run.metrics if "train/loss" in line] == [1, 2, 3]


def test_signals_are_handled_as_before(run, folder):
    numbers = signal.SIGINT, signal.SIGTERM
    before = [signal.getsignal(number) for number in numbers]
    sit_jax.pretrain(folder, run.workdir, config="folder:runlocal", **SMALL)
    assert [signal.getsignal(number) for number in numbers] == before


def test_features_are_those_of_the_command(run, encoder, folder, tmp_path):
    out = tmp_path / "features.npz"
    assert embed.main(["embed", f"--workdir={run.workdir}", f"--images={folder}", f"--out={out}"]) == 0
    with np.load(out) as file:
        np.testing.assert_array_equal(encoder(folder), file["features"])


def test_every_form_of_the_same_pictures_gives_the_same_features(encoder, folder):
    paths = sorted(folder.iterdir())
    arrays = [np.asarray(Image.open(path)) for path in paths]
    expected = encoder(folder)
    assert expected.shape == (6, 64) and expected.dtype == np.float32
    for form in (paths, [str(path) for path in paths], [Image.open(path) for path in paths], arrays):
        np.testing.assert_array_equal(encoder(form), expected)
    floats = [array.astype(np.float32) / 255 for array in arrays]
    np.testing.assert_array_equal(encoder(floats), expected)
    stacked = np.stack([array[:, :40] for array in arrays])
    np.testing.assert_array_equal(encoder(stacked), encoder(list(stacked)))
    np.testing.assert_array_equal(encoder(jnp.asarray(stacked)), encoder(stacked))


def test_batches_change_nothing(run, encoder, folder):
    small = run.encoder()
    small.batch_size = 4
    np.testing.assert_allclose(small(folder), encoder(folder), rtol=0, atol=1e-5)


def test_the_module_gives_the_tokens_and_differentiates(encoder, folder):
    tokens = encoder(folder, "tokens")
    images = np.stack(
        [encoder._decoded(open_given(str(folder)).records)[i].astype(np.float32) / 127.5 - 1 for i in range(6)]
    )
    np.testing.assert_allclose(jax.jit(lambda x: encoder.module(x))(images)[:, :2], tokens, rtol=0, atol=1e-5)
    gradient = jax.grad(lambda x: encoder.module(x)[:, 0].std())(jnp.asarray(images))
    assert np.abs(gradient).max() > 0
    assert encoder.params["tokens"].shape == (2, 32)


def test_patches_attention_and_reconstructions(encoder, folder):
    assert encoder.patches(folder).shape == (6, 8, 8, 32)
    attention = encoder.attention(folder)
    assert attention.shape == (6, 2, 2, 8, 8)
    assert 0 < attention.sum(axis=(-1, -2)).max() < 1
    rows = encoder.reconstruct(folder)
    pictures = dict.fromkeys(("original", "corrupted", "reconstructed"), (6, 32, 32, 3))
    assert {name: row.shape for name, row in rows.items()} == pictures | {"rotation": (6,), "predicted": (6,)}
    assert not rows["rotation"].any() and set(rows["predicted"].tolist()) <= {0, 1, 2, 3}
    assert np.abs(rows["original"]).max() <= 1 and np.abs(rows["corrupted"] - rows["original"]).max() > 0.1


def test_similar_is_brute_force(encoder, folder):
    indices, similarities = encoder.similar(folder, to=folder, count=3)
    features = encoder(folder).astype(np.float64)
    for row in range(6):
        cosines = [float(a @ features[row] / np.linalg.norm(a) / np.linalg.norm(features[row])) for a in features]
        np.testing.assert_allclose(similarities[row], sorted(cosines, reverse=True)[:3], rtol=0, atol=1e-5)
        assert indices[row, 0] == row
    np.testing.assert_array_equal(unit_rows(np.zeros((1, 3))), np.zeros((1, 3)))


ONE = np.zeros((1, 8, 8, 3))
# By name: the images, and a part of the line.
WRONG = {
    "0 to 255 as floats": (ONE + 200.0, r"values from 200 to 200; floats must be in \[0, 1\]"),
    "-1 to 1": (np.linspace(-1, 1, 192).reshape(1, 8, 8, 3), "values from -1 to 1"),
    "not a number": (ONE * np.nan, "floats must be in"),
    "integers": (ONE.astype(np.int64), "type int64; give uint8"),
    "booleans": (ONE.astype(bool), "type bool; give uint8"),
    "one image": (ONE[0], r"give images\[None\]"),
    "channels first": (np.zeros((1, 3, 8, 8), np.uint8), "move the channels to the last axis"),
    "five channels": (np.zeros((1, 8, 8, 5), np.uint8), "has 5 channels, and the encoder reads 3"),
    "no image": ([], "there is no image"),
    "no pixel": ([np.zeros((0, 4, 3), np.uint8)], "has the shape"),
    "a folder in a list": (["tests"], "is no file; a folder or a pattern is given alone"),
    "a number": (7, "is not understood"),
    "objects": (np.array([None]), "is not understood"),
    "a missing path": ("nowhere/*.jpg", "there is no such folder or file"),
    "one missing path": (["nowhere.jpg"], "nowhere.jpg is no file"),
    "text in a list": ([["a"]], "has the shape"),
}


@pytest.mark.parametrize("name", WRONG)
def test_images_that_are_not_understood_are_refused(encoder, name):
    images, expected = WRONG[name]
    with pytest.raises(sit_jax.InputError, match=expected) as error:
        encoder(images)
    assert "\n" not in str(error.value)


def test_wrong_arguments_are_one_line(encoder, folder, tmp_path):
    with pytest.raises(sit_jax.InputError, match="features='all' must be one of"):
        encoder(folder, "all")
    with pytest.raises(sit_jax.InputError, match="there is no such work directory"):
        sit_jax.load(tmp_path / "nowhere")
    with pytest.raises(sit_jax.InputError, match="weights='all'"):
        sit_jax.load(tmp_path, weights="all")
    with pytest.raises(sit_jax.InputError, match="holds no weights"):
        sit_jax.load(folder)
    with pytest.raises(sit_jax.InputError, match=r"there is no such key \(did you mean optim.b1"):
        sit_jax.pretrain(folder, tmp_path / "run", config="folder:runlocal", optim__bb1=1.0)
    with pytest.raises(sit_jax.InputError, match="the names are cifar10"):
        sit_jax.pretrain(folder, tmp_path / "run", config="nothing")
    assert not (tmp_path / "run").exists()
    with pytest.raises(sit_jax.InputError, match="workdir=s3://bucket/run: only images are read from remote stores"):
        sit_jax.pretrain(np.zeros((8, 12, 12, 3), np.uint8), "s3://bucket/run")


@pytest.mark.parametrize("mode", ["P", "RGB", "L", "LA", "RGBA", "HSV", "CMYK", "1"])
def test_images_of_pillow_give_the_features_of_their_files(encoder, tmp_path, mode):
    """Also with a transparent colour, which formats keep in different ways."""
    pixels = np.random.default_rng(3).integers(0, 256, (40, 36, 3), np.uint8)
    image = Image.fromarray(pixels).convert(mode)
    end = {"HSV": None, "CMYK": "tif"}.get(mode, "png")
    if end is None:
        return np.testing.assert_array_equal(encoder([image]), encoder([image.convert("RGB")]))
    transparent = {"P": 3, "RGB": tuple(map(int, pixels[0, 0])), "L": 7}.get(mode)
    options = {} if transparent is None else {"transparency": transparent}
    image.save(tmp_path / f"x.{end}", **options)
    opened = Image.open(tmp_path / f"x.{end}")
    return np.testing.assert_array_equal(encoder([opened]), encoder([tmp_path / f"x.{end}"]))


def test_the_transformer_follows_its_parameters(run, folder, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    other = write(tmp_path / "other", vit(seed=4), MU)
    features = sit_jax.SiTFeatures(run.workdir)
    first = features.transform(folder)
    assert np.abs(features.set_params(where=other).transform(folder) - first).max() > 0.1


def test_the_current_folder_may_change(run, folder, tmp_path, monkeypatch):
    monkeypatch.chdir(run.workdir.parent)
    encoder = sit_jax.load(run.workdir.name)
    monkeypatch.chdir(tmp_path)
    assert encoder.reconstruct(folder)["original"].shape == (6, 32, 32, 3)


def test_another_program_may_copy_the_same_weights_first(tmp_path):
    """The second copy goes, and nothing half-written is ever seen."""
    for value in (1.0, 2.0):
        adopted.save({"x": np.full(3, value, np.float32)}, {"value": value}, tmp_path / "encoders" / "one")
    assert json.loads((tmp_path / "encoders" / "one" / "config.json").read_text()) == {"value": 1.0}
    assert [path.name for path in (tmp_path / "encoders").iterdir()] == ["one"]


# By name: the arguments of `pretrain` beside the work directory, and a part of the line.
WRONG_TRAININGS = {
    "a list": ({"data": [1, 2]}, "data of type list is no data set"),
    "one image": ({"data": np.zeros((8, 8), np.uint8)}, "is no data set"),
    "floats to 255": ({"data": np.full((4, 8, 8, 3), 200.0)}, "values from 200 to 200"),
    "a section": ({"optim": {"b1": 0.9}}, "optim"),
    "text for a number": ({"seed": "one"}, "seed='one': the value must be a whole number, such as 0"),
    "half a step": ({"steps": 2.5}, "steps=2.5: the value must be a whole number"),
    "no batch size": ({"batch_size": None}, "batch_size=None: the value must be a whole number"),
    "a configuration without its function": ({"config": "tests/vit_numpy.py"}, "has no function get_config"),
    "hours of 0": ({"hours": 0}, "must be above 0"),
    "hours as text": ({"hours": "2"}, "hours='2' must be a number"),
    "no public weights": ({"config": "folder:continue"}, "add --config.init=FILE"),
}


@pytest.mark.parametrize("name", WRONG_TRAININGS)
def test_a_wrong_training_is_one_line_and_writes_nothing(folder, tmp_path, name):
    arguments, expected = WRONG_TRAININGS[name]
    arguments = {"data": folder, "config": "folder:runlocal"} | arguments
    with pytest.raises(sit_jax.InputError, match=expected) as error:
        sit_jax.pretrain(workdir=tmp_path / "run", **arguments)
    assert "\n" not in str(error.value) and not (tmp_path / "run").exists()


@pytest.mark.parametrize("overrides", [{"model.image_size": "96"}, {"data.nope": 1}])
def test_wrong_overrides_are_one_line(run, overrides):
    with pytest.raises(sit_jax.InputError) as error:
        sit_jax.load(run.workdir, overrides=overrides)
    assert "\n" not in str(error.value)


def test_an_array_is_stored_and_another_array_is_refused(tmp_path):
    images = np.random.default_rng(1).integers(0, 256, (8, 12, 12, 3), np.uint8)
    run = sit_jax.pretrain(images, tmp_path / "run", config="folder:runlocal", **SMALL | {"steps": 1})
    again = sit_jax.pretrain(images, tmp_path / "run", config="folder:runlocal", **SMALL | {"steps": 1})
    assert again.metrics == run.metrics
    with pytest.raises(sit_jax.InputError, match="holds a run with other images"):
        sit_jax.pretrain(images[::-1], tmp_path / "run", config="folder:runlocal", **SMALL | {"steps": 1})


def test_an_interrupt_saves_and_the_same_call_resumes(folder, tmp_path, monkeypatch):
    from sit_jax.train.run import Run

    log = Run.log

    def interrupted(self, step):
        log(self, step)
        if step == 2 and self.start == 0:
            signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr(Run, "log", interrupted)
    with pytest.raises(KeyboardInterrupt, match="the same call resumes"):
        sit_jax.pretrain(folder, tmp_path / "run", config="folder:runlocal", **SMALL)
    run = sit_jax.pretrain(folder, tmp_path / "run", config="folder:runlocal", **SMALL)
    assert [line["step"] for line in run.metrics if "train/loss" in line] == [1, 2, 3]


def test_features_in_a_pipeline_of_scikit_learn(run, encoder, folder):
    features = sit_jax.SiTFeatures(run.workdir, features="rotation")
    pipeline = make_pipeline(clone(features), LogisticRegression())
    paths = sorted(folder.iterdir())
    labels = np.arange(6) % 2
    expected = LogisticRegression().fit(encoder(folder, "rotation"), labels).predict_proba(encoder(folder, "rotation"))
    np.testing.assert_array_equal(pipeline.fit(paths, labels).predict_proba(paths), expected)
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(pipeline)).predict_proba(paths), expected)
    assert features.get_params() == {"where": run.workdir, "features": "rotation", "weights": "params"}


def test_weights_of_another_project_are_an_encoder(folder, tmp_path, monkeypatch):
    """They are copied into the cache once; the features are those of the arrays."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    where = write(tmp_path / "public", sit(), MU)
    encoder = sit_jax.load(where)
    assert encoder(folder).shape == (6, 64)
    assert encoder.reconstruct(folder)["reconstructed"].shape == (6, 16, 16, 3)
    np.testing.assert_array_equal(sit_jax.load(where)(folder), encoder(folder))
    assert len(list((tmp_path / "cache" / "sit_jax" / "encoders").iterdir())) == 1
    other = write(tmp_path / "other", vit(seed=3), MU)
    assert np.abs(sit_jax.load(other)(folder) - encoder(folder)).max() > 0.1


def test_a_training_starts_from_public_weights(folder, tmp_path, capsys):
    """The first evaluation sees them; a resume does not read the file again."""
    where = write(tmp_path / "public", vit(), MU)
    config = "folder:continue,runlocal"
    run = sit_jax.pretrain(folder, tmp_path / "run", config=config, init=str(where), **SMALL | {"steps": 1})
    printed = capsys.readouterr().out
    assert "ViT, DeiT, DINO or MAE, mu/4" in printed and "positions resized from 16 to 32 px" in printed
    assert run.config["init"] == str(where) and len(run.config["init_hash"]) == 64
    start = sit_jax.load(where)
    moved = np.abs(run.encoder().params["tokens"] - start.params["tokens"]).max()
    assert 0 < moved < 0.05
    save_file({}, where / "model.safetensors")
    again = sit_jax.pretrain(folder, tmp_path / "run", config=config, init=str(where), **SMALL | {"steps": 1})
    assert again.metrics == run.metrics


def test_importing_the_package_is_light():
    """No NumPy, no JAX, no handler, no restart; all public names are there."""
    code = (
        "import sys, signal; before = signal.getsignal(signal.SIGTERM); import sit_jax; "
        "heavy = {'jax', 'numpy', 'sklearn', 'flax', 'matplotlib'} & set(sys.modules); assert not heavy, heavy; "
        "assert signal.getsignal(signal.SIGTERM) is before; "
        "assert {'pretrain', 'load', 'Encoder', 'InputError', 'SiTFeatures'} <= set(dir(sit_jax)); "
        "from sit_jax import InputError, pretrain; print(sit_jax.__version__)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("0.")


@pytest.mark.parametrize(
    "values,expected",
    [
        ((-1.0, 1.0), "give \\(images \\+ 1\\) / 2"),
        ((0.0, 200.0), "astype\\('uint8'\\)"),
        ((0.0, 60000.0), "astype\\('uint16'\\)"),
        ((-500.0, 9.0), "scale them by the range"),
        ((0.0, np.nan), "no numbers"),
    ],
)
def test_floats_of_another_range_get_a_remedy_that_fits(encoder, values, expected):
    images = np.zeros((1, 8, 8, 3))
    images[0, 0, 0, :2] = values
    with pytest.raises(sit_jax.InputError, match=expected):
        encoder(images)


def test_an_encoder_says_what_it_is(encoder, run):
    assert repr(encoder) == f"Encoder(mu/4 at 32 px, step 3, {str(run.workdir)!r})"
    with pytest.raises(sit_jax.InputError, match="give a work directory"):
        sit_jax.load(None)


def test_loading_logs_nothing(run):
    code = f"import sit_jax; sit_jax.load({str(run.workdir)!r})"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=100)
    assert done.returncode == 0 and "WARNING" not in done.stderr
