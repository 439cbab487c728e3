"""Tasks, corruptions and protocols are rows: added toy rows reach everything that derives from the rows."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sit_jax import evaluate, main, reconstruct
from sit_jax.common.errors import InputError
from sit_jax.compiled.costs import model_flops
from sit_jax.config.checks import check_config
from sit_jax.config.resolve import resolve
from sit_jax.config.schema import defaults
from sit_jax.curves import panels
from sit_jax.data import Records, Source, load_images, open_source
from sit_jax.data.sources import OPENERS
from sit_jax.eval.protocols import PROTOCOLS
from sit_jax.eval.protocols.protocol import Protocol
from sit_jax.model.layers import linear
from sit_jax.model.sizes import CONTRASTIVE
from sit_jax.model.tasks import TASKS, Task
from sit_jax.probes.scores import score
from sit_jax.views.corrupt import OPERATIONS, Corruption, corrupt

TINY = (
    "--config=configs/digits.py:runlocal",
    *(
        "--config.steps=2",
        "--config.eval.page=0",
        "--config.log_every=1",
        "--config.batch_size=64",
        "--config.optim.warmup_steps=1",
    ),
    *("--config.eval.num_test=16", "--config.eval.num_train=32", "--config.model.image_size=8"),
)

pytestmark = pytest.mark.usefixtures("quick_compilation")


def brightness_loss(output, views, config):
    """Predicts the mean of the clean view from the contrastive token."""
    return {"loss": jnp.mean((output[:, 0] - views.clean.mean(axis=(1, 2, 3))) ** 2), "brightness_mean": output.mean()}


BRIGHTNESS = Task(
    reads=CONTRASTIVE,
    output="brightness",
    make_head=lambda model, width, dtype, rngs: linear(width, 1, rngs, dtype),
    of_chunk=brightness_loss,
    multiplications=lambda model, width, views: views * width,
    likelihood_scale=1.0,
    weight="learned",
    label="brightness, L2",
    line="-.",
    metrics=("brightness_mean",),
    shown=("brightness",),
)
INVERT = Corruption(
    lambda keys, images, section, donors: -section.strength * images,
    {"probability": 1.0, "block": (1.0, 1.0), "strength": 1.0, "mode": "all"},
    choices={"mode": ("all", "none")},
)


def open_stripes(count):
    """Images of 16 px; the direction of the stripes is the class."""

    def read(i):
        stripes = np.tile((np.arange(16) // 4 % 2 * 255).astype(np.uint8), (16, 1))
        return np.repeat((stripes.T if i % 2 else stripes)[..., None], 3, axis=-1)

    records = Records([f"stripes/{i}" for i in range(int(count))], read, None, lambda i: i % 2)
    return Source(f"stripes:{count}", records, records, None, ("vertical", "horizontal"))


def majority(subject, unit):
    """Predicts the class with the most labels for every test image."""
    votes = np.bincount(subject.data.train_labels[unit.rows], minlength=subject.data.num_classes).astype(float)
    votes = np.tile(votes, (len(subject.data.test_labels), 1))
    return score(votes, subject.data.test_labels) | {"hyperparameters": {"floor": subject.restored.config.eval.knn_k}}


@pytest.fixture
def toys(monkeypatch):
    monkeypatch.setitem(TASKS, "brightness", BRIGHTNESS)
    monkeypatch.setitem(OPERATIONS, "invert", INVERT)
    monkeypatch.setitem(OPENERS, "stripes", ("stripes:COUNT", open_stripes))
    settings = lambda config: {"k": config["eval"]["knn_k"]}  # noqa: E731
    monkeypatch.setitem(PROTOCOLS, "majority", Protocol("the largest class", majority, settings, features=("tokens",)))


def test_a_run_with_a_fourth_task_and_a_sixth_corruption(toys, tmp_path, capsys):
    run = tmp_path / "run"
    assert main.main(["main", *TINY, f"--workdir={run}"]) == 0
    printed = capsys.readouterr().out
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    trained = next(line for line in lines if "train/loss" in line)
    assert {"train/brightness", "train/log_var_brightness"} <= trained.keys()
    assert "brightness" in printed
    assert {"eval/brightness", "eval/brightness_mean"} <= lines[0].keys()
    saved = json.loads((run / "config.json").read_text())
    assert saved["loss"]["weights"]["brightness"] == "learned"
    assert saved["corrupt"]["invert"] == {"probability": 1.0, "block": [1.0, 1.0], "strength": 1.0, "mode": "all"}

    out = tmp_path / "rebuilt.png"
    argv = ["reconstruct", f"--workdir={run}", "--test=2", f"--out={out}"]
    assert reconstruct.main([*argv, "--invert=0.5"]) == 0 and out.exists()
    assert reconstruct.main([*argv, "--invert=1.5"]) == 2
    assert "--invert" in capsys.readouterr().err

    argv = ["evaluate", f"--workdir={run}", "--protocol=majority"]
    assert evaluate.main(argv) == 0
    (report,) = (json.loads(file.read_text()) for file in (run / "eval").glob("majority-*.json"))
    assert report["top1"] == report["baseline"]["top1"] == pytest.approx(0.1, abs=0.03) and report["pixels"] is None
    assert evaluate.main([*argv, "--config.eval.knn_k=3"]) == 0  # its settings are in the name of the report
    assert len(list((run / "eval").glob("majority-*.json"))) == 2
    assert evaluate.main([*argv, "--features=concat"]) == 2


def test_what_derives_from_a_source(toys):
    source = open_source("stripes:6")
    images = load_images(source.train, 16)
    assert images.labels.tolist() == [0, 1, 0, 1, 0, 1] and len(images) == 6
    np.testing.assert_array_equal(images.gather([1])[0], images.gather([0])[0].swapaxes(0, 1))
    with pytest.raises(InputError, match=r"the forms are .*digits, .*, stripes:COUNT"):
        open_source("stripes")


def test_what_derives_from_a_task(toys):
    assert panels()["train/brightness"] == "brightness, L2"
    c = resolve(defaults(), 1000)
    with_toy = model_flops(c)
    del TASKS["brightness"]
    assert with_toy - model_flops(c) == 6 * 512 * 384  # forward and backward, two FLOPs, V = 512, D = 384


def test_what_derives_from_a_corruption(toys):
    c = defaults()
    c.data.source = "digits"
    for key, value, message in (
        ("mode", "some", "must be one of all, none"),
        ("strength", -1.0, "must be 0 or more"),
        ("probability", 2.0, "must be from 0 to 1"),
        ("block", (0.5, 2.0), "must be a range"),
    ):
        wrong = c.copy_and_resolve_references()
        wrong.corrupt.invert[key] = value
        with pytest.raises(InputError, match=f"corrupt.invert.{key}=.* {message}"):
            check_config(wrong, 1)
    check_config(c, 1)
    section = c.corrupt
    section.share = 1.0
    for name in OPERATIONS.keys() - {"invert"}:
        section[name].update({"fraction": (0.0, 0.0)} if "fraction" in section[name] else {"probability": 0.0})
    images = jax.random.normal(jax.random.key(0), (4, 8, 8, 3))
    corrupted, masks = jax.jit(lambda key, images: corrupt(key, images, section))(jax.random.key(1), images)
    np.testing.assert_allclose(corrupted, -images)
    assert masks["invert"].all()
