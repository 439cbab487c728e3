"""Open settings of the computation are chosen for the device of the step."""

import re
import types

import jax
import jax.numpy as jnp
import pytest

from sit_jax.common.errors import InputError
from sit_jax.config import computation as compute
from sit_jax.config import schema
from sit_jax.config.checks import check_config
from sit_jax.config.resolve import resolve
from sit_jax.model.fast.norm import normalize


def device(platform, capability=None):
    return types.SimpleNamespace(platform=platform, compute_capability=capability)


CPU, TPU, AMD = device("cpu"), device("tpu"), device("gpu", "gfx942")
OLD, NEW, NEWEST = device("gpu", "7.5"), device("gpu", "8.0"), device("gpu", "10.0")


def open_config(**model):
    c = schema.defaults()
    c.data.source = "digits"
    c.model.update(model)
    return c


@pytest.mark.parametrize(
    "chosen_for,model,expected",
    [  # dtype, attention, unroll, halves
        (CPU, {}, ("float32", "xla", True, True)),
        (CPU, {"remat": True}, ("float32", "xla", False, False)),
        (CPU, {"unroll": False}, ("float32", "xla", False, False)),
        (TPU, {}, ("bfloat16", "xla", False, False)),
        (AMD, {}, ("bfloat16", "xla", True, False)),
        (OLD, {}, ("bfloat16", "xla", True, False)),
        (NEW, {}, ("bfloat16", "cudnn", True, False)),
        (NEWEST, {"remat": True}, ("bfloat16", "cudnn", False, False)),
        (NEW, {"image_size": 224, "patch_size": 32}, ("bfloat16", "xla", True, False)),  # 51 tokens
        (NEW, {"image_size": 224, "patch_size": 16}, ("bfloat16", "cudnn", True, False)),  # 198
        (NEW, {"attention": "xla", "halves": True}, ("bfloat16", "xla", True, True)),
    ],
)
def test_what_is_open_is_chosen_by_the_device(chosen_for, model, expected):
    c = resolve(open_config(**model), 1000, chosen_for)
    assert (c.dtype, c.model.attention, c.model.unroll, c.model.halves) == expected
    again = resolve(c, 1000, CPU)
    assert again.model == c.model  # explicit settings stay


def test_float32_on_a_gpu_has_plain_attention():
    c = open_config()
    c.dtype = "float32"
    assert resolve(c, 1000, NEW).model.attention == "xla"


@pytest.mark.parametrize(
    "wanted_on,changes,message",
    [
        (CPU, {}, "needs an NVIDIA GPU of compute capability 8.0 or higher"),
        (AMD, {}, "needs an NVIDIA GPU"),
        (OLD, {}, "needs an NVIDIA GPU of compute capability 8.0"),
        (NEW, {"dtype": "float32"}, "needs bfloat16, and dtype is float32"),
        (
            NEW,
            {"model.image_size": 240, "model.patch_size": 16},
            "needs an even number of tokens in training, .* are 227",
        ),
    ],
)
def test_insisting_on_cudnn_where_it_does_not_run_is_an_error(wanted_on, changes, message):
    c = open_config(attention="cudnn")
    c.update_from_flattened_dict(changes)
    with pytest.raises(InputError, match=f"model.attention=cudnn {message}"):
        check_config(c, 1, wanted_on)
    c.model.attention = "auto"
    check_config(c, 1, wanted_on)


def test_choices_of_another_machine_are_made_anew():
    c = resolve(open_config(), 1000, NEW)
    compute.reopen(c)
    compute.choose(c, CPU)
    assert (c.dtype, c.model.attention, c.model.halves) == ("bfloat16", "xla", True)


def test_row_means_of_the_norm_are_a_product_on_cpus_only():
    x, scale = jax.random.normal(jax.random.key(0), (6, 8)), jnp.ones(8)
    backward = jax.jit(jax.grad(lambda x: (normalize(x, scale, scale, 1e-6) ** 2).sum()))
    counts = {
        platform: len(re.findall("dot_general", backward.trace(x).lower(lowering_platforms=(platform,)).as_text()))
        for platform in ("cpu", "cuda", "tpu")
    }
    assert counts == {"cpu": 2, "cuda": 0, "tpu": 0}
