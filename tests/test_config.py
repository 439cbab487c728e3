import functools
import importlib
import json
import re

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from sit_jax.common.errors import InputError
from sit_jax.config import arguments, schema
from sit_jax.config.checks import check_config
from sit_jax.config.resolve import duration, resolve
from sit_jax.config.saved import FORMER, read_saved, to_json
from sit_jax.config.workdir import check_workdir
from sit_jax.train.optimizer import decay_mask, log_var_mask, make_optimizer, make_schedule
from sit_jax.train.state import make_state, make_training

NAMES = ("digits", "cifar10", "cifar10_laptop", "cifar100", "tiny_imagenet", "stl10", "folder")


def load(name, arg=None):
    return importlib.import_module(f"configs.{name}").get_config(arg)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("arg", [None, "runlocal", "paper", "variant=Ti/8,res=64"])
def test_every_config_passes_its_checks(name, arg):
    c = load(name, arg)
    c.data.source = c.data.source or "folder:somewhere"
    check_config(c, 1)
    resolved = resolve(c, 50_000)
    assert resolved.steps >= 2 * resolved.optim.warmup_steps >= 0
    if arg and "variant" in arg:
        assert (c.model.size, c.model.patch_size, c.model.image_size) == ("Ti", 8, 64)
    if arg == "paper":
        assert (c.model.size, c.model.patch_size, c.model.image_size, c.batch_size) == ("B", 16, 224, 288)
        assert (c.views.area, c.views.hue, c.corrupt.recolour.probability) == ((0.08, 1.0), 0.0, 0.0)
        assert (c.optim.base_learning_rate, c.finetune.augment.mixup) == (1e-3, 0.8)


@pytest.mark.parametrize("name", NAMES)
def test_every_config_has_a_run_card(name):
    card = importlib.import_module(f"configs.{name}").__doc__
    for line in ("Paper:", "Hardware and hours:", "Expected score:"):
        assert line in card
    assert not re.search(r"\b(HOURS|SCORE|TODO)\b", card)
    assert f"Command: python -m sit_jax.main --config=configs/{name}.py" in card


def test_config_arguments_are_typed():
    args = arguments.parse_arg("a=3,flag,b=x", a=1, b="", flag=False, c=2.0)
    assert args.to_dict() == {"a": 3, "b": "x", "flag": True, "c": 2.0}
    assert arguments.parse_arg(None, a=1).a == 1
    for wrong in ("d=1", "a=x", "flag=maybe"):
        with pytest.raises(InputError, match=wrong[0]):
            arguments.parse_arg(wrong, a=1, flag=False)
    with pytest.raises(InputError, match="variant=S"):
        load("cifar10", "variant=S")


@pytest.mark.parametrize(
    "values,steps",
    [
        ({"epochs": 2.0}, 20),
        ({"epochs": 0.25}, 3),
        ({"examples": 99}, 10),
        ({"steps": 7, "epochs": 3.0}, 7),
    ],
)
def test_durations(values, steps):
    c = schema.defaults()
    c.update(values)
    assert duration(c, "", num_examples=100, batch_size=10) == steps


def test_a_duration_given_twice_is_an_error():
    c = schema.defaults()
    c.update(steps=3, examples=30)
    with pytest.raises(InputError, match="both steps and examples"):
        duration(c, "", 100, 10)


@pytest.mark.parametrize(
    "key,value,message",
    [
        ("model.patch_size", 5, "divisible by model.patch_size=5"),
        ("model.image_size", 4, "at least 8"),
        ("model.size", "XXL", "must be one of mu, XS"),
        ("model.attention", "flash", "must be one of auto, xla, cudnn"),
        ("batch_size", 1, "at least 2"),
        ("views.count", 1, "views.count=1 must be at least 2"),
        ("model.projector_norm", "layer", "must be one of none, batch"),
        ("model.stem", "layer", "must be one of patches, convolutions"),
        ("views.blur", 1.5, "must be from 0 to 1"),
        ("loss.weighting", "fixed", "must be one of gradient, closed_form"),
        ("corrupt.share", 1.5, "from 0 to 1"),
        ("model.projector_width", 0, "must be above 0"),
        ("corrupt.drop.noise_std", -1.0, "0 or more"),
        ("batch_size", 255, "not divisible by the 4 devices; use 256 or 252"),
        ("corrupt.drop.fraction", (0.5, 0.2), "range"),
        ("corrupt.blur.block", (0.5, 1.2), "range"),
        ("corrupt.drop.fraction", (0.5,), "range"),
        ("corrupt.blur.sigma", (2.0, 1.0), "range"),
        ("views.area", (0.0, 1.0), "above 0"),
        ("seed", -1, "0 or more"),
        ("model.attention", "cudnn", "needs an NVIDIA GPU"),
        ("eval.knn_k", 0, "above 0"),
        ("loss.temperature", float("nan"), "above 0"),
        ("views.flip", 2.0, "from 0 to 1"),
        ("model.drop_path", 1.0, "not 1"),
        ("optim.ema", 1.5, "from 0 to 1"),
        ("corrupt.drop.fill", "gray", "must be one of"),
        ("loss.weights.rotation", "much", "must be"),
        ("loss.weights.rotation", "-1", "must be"),
        ("log_every", 0, "above 0"),
        ("data.source", "", "data.source is not set"),
    ],
)
def test_what_is_wrong_is_said(key, value, message):
    c = load("digits")
    c.update_from_flattened_dict({key: value})
    with pytest.raises(InputError, match=message) as error:
        check_config(c, 4)
    assert "\n" not in str(error.value)
    assert key in str(error.value)


def test_a_stem_of_convolutions_halves_the_image_until_it_has_patches():
    c = load("digits")
    c.model.update(stem="convolutions", patch_size=7, image_size=28)
    with pytest.raises(InputError, match="patch_size=7 must be a power of two"):
        check_config(c, 1)
    c.model.patch_size = 4
    check_config(c, 1)


@pytest.mark.parametrize(
    "values,message",
    [
        ({"loss.weighting": "closed_form"}, "loss.weighting=closed_form is for learned weights"),
        ({"loss.subtract_floor": True}, "loss.subtract_floor=True is for learned weights"),
        ({"optim.log_var_rate": 10.0}, "optim.log_var_rate=10.0 is for learned weights"),
        (
            {"loss.weighting": "closed_form", "optim.log_var_rate": 10.0, "loss.weights.rotation": "learned"},
            "optim.log_var_rate=10.0 is for loss.weighting=gradient",
        ),
    ],
)
def test_an_option_that_would_do_nothing_is_said(values, message):
    c = load("digits")
    c.update_from_flattened_dict(values)
    with pytest.raises(InputError, match=re.escape(message)):
        check_config(c, 1)


def test_configurations_of_former_versions_get_what_they_did(tmp_path):
    written = to_json(schema.defaults())
    written["dtype"] = "float32"
    for name in FORMER:
        *sections, key = name.split(".")
        del functools.reduce(dict.__getitem__, sections, written)[key]
    del written["model"]["products"]
    (tmp_path / "config.json").write_text(json.dumps(written))
    read = read_saved(tmp_path / "config.json")
    assert read["views"]["turned"] == 0.75 and read["corrupt"]["share"] == 1.0 and not read["views"]["share_rotation"]
    assert read["model"]["products"] == "float32" and read["model"]["projector_norm"] == "none"
    assert read["model"].keys() == to_json(schema.defaults())["model"].keys()


def test_all_tasks_off_is_an_error():
    c = load("digits")
    c.loss.weights.update(reconstruction="0", rotation="0.0", contrastive="0")
    with pytest.raises(InputError, match="all tasks off"):
        check_config(c, 1)


def test_durations_that_cannot_work():
    c = load("digits")
    c.steps = 0
    with pytest.raises(InputError, match="0 steps"):
        resolve(c, 100)
    c.steps, c.optim.warmup_steps = 10, -1
    with pytest.raises(InputError, match="warm-up"):
        resolve(c, 100)
    c.optim.warmup_steps = 11
    assert resolve(c, 100).optim.warmup_steps == 5


def test_resolve_leaves_its_argument_alone():
    c = load("cifar10")
    resolved = resolve(c, 1000)
    assert c.steps is None
    assert (resolved.steps, resolved.data.num_examples, resolved.dtype) == (1563, 1000, "float32")


def test_workdir_of_another_config(tmp_path):
    c = resolve(load("digits"), 1437)
    check_workdir(tmp_path, c)
    (tmp_path / "config.json").write_text(json.dumps(to_json(c)))
    (tmp_path / "checkpoints" / "100").mkdir(parents=True)
    check_workdir(tmp_path, c)
    c.log_every, c.mesh.fsdp = 7, 2
    check_workdir(tmp_path, c)
    c.seed, c.corrupt.drop.fraction = 1, (0.5, 0.7)
    with pytest.raises(InputError, match=r"corrupt.drop.fraction: \[0.0, 0.1\] -> \[0.5, 0.7\]; seed: 0 -> 1"):
        check_workdir(tmp_path, c)


def test_learning_rate_by_hand():
    c = load("digits")
    c.update(steps=110, batch_size=1024)
    c.optim.update(base_learning_rate=1e-3, warmup_steps=10)
    schedule = make_schedule(resolve(c, 2000))
    np.testing.assert_allclose(schedule(0), 1e-6, rtol=1e-5)
    np.testing.assert_allclose(schedule(5), 1e-6 + (2e-3 - 1e-6) / 2, rtol=1e-5)
    np.testing.assert_allclose(schedule(10), 2e-3, rtol=1e-5)
    np.testing.assert_allclose(schedule(60), (2e-3 + 5e-6) / 2, rtol=1e-5)
    np.testing.assert_allclose(schedule(110), 5e-6, rtol=1e-4)


def test_just_these_parameters_decay():
    import jax

    c = resolve(load("digits", "runlocal"), 1437)
    state = jax.eval_shape(lambda: make_state(c, make_training(c).optimizer))
    decays = jax.tree_util.tree_leaves_with_path(decay_mask(state.params))
    blocks = [f"model/encoder/blocks/{name}/kernel" for name in ("attention/out", "attention/qkv", "mlp_in", "mlp_out")]
    assert sorted("/".join(k.key for k in path) for path, decay in decays if decay) == sorted(
        [
            *blocks,
            *(f"model/contrastive/layer{index}/kernel" for index in range(3)),
            "model/encoder/patch_embedding/kernel",
            "model/reconstruction/linear/kernel",
            "model/rotation/kernel",
        ]
    )


@pytest.mark.parametrize("rate", [0.1, 2.0, 10.0])
def test_log_variances_move_at_a_rate_of_their_own(rate):
    params = {"model": {"kernel": jnp.ones((2, 2))}, "log_var": {"rotation": jnp.zeros(())}}
    grads = jax.tree.map(lambda x: jnp.full_like(x, 0.3), params)

    def start(rate):
        c = schema.defaults()
        c.optim.log_var_rate = rate
        optimizer = make_optimizer(resolve(c, 100_000))
        state = optimizer.init(params)
        return len(state), optimizer.update(grads, state, params)[0]

    (parts, plain), (other_parts, other) = start(1.0), start(rate)
    np.testing.assert_allclose(other["log_var"]["rotation"], rate * plain["log_var"]["rotation"], rtol=1e-6)
    np.testing.assert_array_equal(other["model"]["kernel"], plain["model"]["kernel"])
    assert plain["log_var"]["rotation"] < 0
    assert (parts, other_parts) == (2, 3)  # checkpoints of former versions have no state of the mask


@pytest.mark.parametrize("clip_norm,scale", [(0.0, 1.0), (2.5, 0.5), (7.0, 1.0)])
def test_gradients_are_clipped_by_the_norm_of_all_of_them(clip_norm, scale):
    """Of norm 5 over two arrays; the first moment after a step is (1 - b1) times what AdamW was given."""
    grads = {"model": {"kernel": jnp.full((2, 2), 2.0), "bias": jnp.full((1,), 3.0)}}
    c = schema.defaults()
    c.optim.update(clip_norm=clip_norm, b1=0.8)
    optimizer = make_optimizer(resolve(c, 100_000))
    _, state = optimizer.update(grads, optimizer.init(grads), grads)
    moment = optax.tree.get(state, "mu")
    jax.tree.map(lambda found, grad: np.testing.assert_allclose(found, 0.2 * scale * grad, rtol=1e-6), moment, grads)


def test_log_variances_are_told_by_their_name():
    params = {name: {"kernel": 0.0} for name in ("head", "log_var", "model")}
    assert log_var_mask(params) == {name: {"kernel": name == "log_var"} for name in params}
