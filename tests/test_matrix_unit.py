"""Dense products with bfloat16 factors: their error against float32, all layouts, and when they are chosen."""

import json
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec as P

from configs import digits
from sit_jax.common.errors import InputError
from sit_jax.config.checks import check_config
from sit_jax.config.resolve import resolve
from sit_jax.config.saved import to_json
from sit_jax.config.workdir import check_workdir, keep_products
from sit_jax.eval.restore import load_config
from sit_jax.model.fast import matrix_unit
from sit_jax.parallel.mesh import make_mesh
from sit_jax.parallel.microbatches import stacked
from sit_jax.train.state import make_state, make_training
from sit_jax.train.step import combine, forward
from sit_jax.views import make_views

UNIT = matrix_unit.is_here()
CPUINFO = "processor\t: 0\nflags\t\t: fpu avx512_bf16 {}amx_tile\n"


def draw(*shape, seed=0):
    return jax.random.normal(jax.random.key(seed), shape)


def whole(tree):
    return jnp.concatenate([leaf.ravel() for leaf in jax.tree.leaves(tree)])


def error(found, expected):
    return float(jnp.linalg.norm(found - expected) / jnp.linalg.norm(expected))


@pytest.mark.parametrize("rows, inputs, outputs", [(50, 24, 40), (50, 40, 24), (51, 24, 40), (51, 40, 24), (50, 24, 5)])
def test_product_and_gradients_are_those_of_rounded_factors(rows, inputs, outputs):
    x, kernel, gradient = draw(rows, inputs), draw(inputs, outputs, seed=1), draw(rows, outputs, seed=2)
    rounded = [value.astype(jnp.bfloat16).astype(jnp.float32) for value in (x, kernel, gradient)]
    value, backward = jax.vjp(jax.jit(matrix_unit.product), x, kernel)
    expected, expected_backward = jax.vjp(jnp.matmul, *rounded[:2])
    found, right = (value, *backward(gradient)), (expected, *expected_backward(rounded[2]))
    for a, b in zip(found, right, strict=True):
        assert a.dtype == jnp.float32
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4)


@pytest.mark.skipif(not UNIT, reason="the processor has no matrix unit")
@pytest.mark.parametrize("inputs, outputs", [(128, 512), (512, 128)])
def test_no_factor_is_taken_back_to_float32(inputs, outputs):
    """XLA does so if it cannot use the unit for a product, which costs more than the rounding saves."""

    def gradients(x, kernel, gradient):
        return jax.vjp(matrix_unit.product, x, kernel)[1](gradient)

    shapes = [
        jax.ShapeDtypeStruct(shape, jnp.float32) for shape in ((1152, inputs), (inputs, outputs), (1152, outputs))
    ]
    program = jax.jit(gradients).lower(*shapes).compile().as_text()
    assert "bf16[" in program
    assert not re.search(r"f32\[[\d,]+\]\S* convert\(", program)


@pytest.mark.parametrize("inputs, outputs", [(24, 40), (40, 24)])
def test_rows_of_four_devices_stay_where_they_are(inputs, outputs):
    mesh = make_mesh(4, 1, jax.devices()[:4])
    x, kernel = draw(64, inputs), draw(inputs, outputs, seed=1)

    def gradients(x, kernel):
        return jax.grad(lambda x, kernel: jnp.sum(matrix_unit.product(x, kernel) ** 2), (0, 1))(x, kernel)

    with jax.set_mesh(mesh):
        rows = jax.device_put(x, jax.NamedSharding(mesh, P(mesh.axis_names)))
        compiled = jax.jit(gradients).lower(rows, kernel).compile()
        found = compiled(rows, kernel)
    assert "all-gather" not in compiled.as_text()
    for a, b in zip(found, gradients(x, kernel), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-3)


def make_config(**values):
    config = digits.get_config("paper,runlocal,variant=XS/4,res=16")
    config.dtype = "float32"
    config.update_from_flattened_dict(values)
    return resolve(config, 1000)


@pytest.fixture(scope="module")
def drawn():
    """The same parameters and views for all types of products."""
    config = make_config()
    images = np.random.default_rng(0).integers(0, 256, (16, 16, 16, 3), np.uint8)

    def make(images):
        return make_state(config, make_training(config).optimizer).params, make_views(jax.random.key(0), images, config)

    return jax.jit(make)(images)


def losses_and_gradients(products, unroll, params, views):
    config = make_config(**{"model.products": products, "model.unroll": unroll})
    training = make_training(config)

    def loss(params):
        outputs = forward(params, training, views, None, config)[0]
        total, (parts, _) = combine(stacked(outputs), params, training, config)
        return total, parts

    return jax.jit(jax.grad(loss, has_aux=True))(params)


@pytest.mark.parametrize("unroll", [False, True])
def test_step_is_close_to_float32(unroll, drawn):
    """Losses to 0.02 %, gradients to 1.5 % in total and 3 % per array: bfloat16 rounds each factor by up to 0.4 %."""
    exact, exact_losses = losses_and_gradients("float32", unroll, *drawn)
    rounded, rounded_losses = losses_and_gradients("bfloat16", unroll, *drawn)
    for name, loss in exact_losses.items():
        np.testing.assert_allclose(rounded_losses[name], loss, rtol=2e-4, err_msg=name)
    errors = jax.tree.map(error, rounded["model"], exact["model"])
    assert 0 < max(jax.tree.leaves(errors)) < 0.03, errors
    assert error(whole(rounded["model"]), whole(exact["model"])) < 0.015


@pytest.mark.parametrize(
    "flag, dtype, expected",
    [
        ("amx_bf16 ", "auto", "bfloat16"),
        ("amx_bf16 ", "float32", "float32"),
        ("amx_bf16 ", "bfloat16", "bfloat16"),
        ("", "auto", "float32"),
    ],
)
def test_chosen_by_the_processor_where_the_type_is_open(tmp_path, monkeypatch, flag, dtype, expected):
    monkeypatch.setattr(matrix_unit, "CPUINFO", tmp_path / "cpuinfo")
    assert not matrix_unit.is_here()
    matrix_unit.CPUINFO.write_text(CPUINFO.format(flag))
    config = digits.get_config("runlocal")
    config.dtype = dtype
    resolved = resolve(config, 1000)
    assert resolved.model.products == expected
    assert resolved.dtype == ("bfloat16" if dtype == "bfloat16" else "float32")
    assert resolve(resolved, 1000) == resolved
    config.model.products = "float32" if dtype == "auto" else expected
    assert resolve(config, 1000).model.products == config.model.products


def test_float32_products_in_bfloat16_are_refused():
    config = digits.get_config("runlocal")
    config.dtype, config.model.products = "bfloat16", "float32"
    with pytest.raises(InputError, match="add dtype=float32"):
        check_config(config, 1)


def saved_run(workdir, products):
    """Writes the configuration of a run, with None for a run older than the key, and the folder of a checkpoint."""
    saved = to_json(make_config(**{"model.products": products or "float32"}))
    if products is None:
        del saved["model"]["products"]
    (workdir / "config.json").write_text(json.dumps(saved))
    (workdir / "checkpoints" / "100").mkdir(parents=True)


@pytest.mark.parametrize("saved, expected", [(None, "float32"), ("float32", "float32"), ("bfloat16", "bfloat16")])
def test_an_evaluation_computes_as_the_run_did_on_any_processor(tmp_path, saved, expected):
    saved_run(tmp_path, saved)
    assert load_config(tmp_path, {}).model.products == expected
    assert load_config(tmp_path, {"model.products": "float32"}).model.products == "float32"
    for dtype in ("float32", "bfloat16"):
        assert load_config(tmp_path, {"dtype": dtype}).model.products == dtype


@pytest.mark.parametrize("saved, expected", [(None, "float32"), ("float32", "float32"), ("bfloat16", "bfloat16")])
def test_a_run_continues_with_the_products_that_it_has(tmp_path, monkeypatch, saved, expected):
    """On any processor; runs older than the key resume with float32, and other products are refused."""
    saved_run(tmp_path, saved)
    monkeypatch.setattr(matrix_unit, "is_here", lambda: expected == "float32")
    opened = digits.get_config("paper,runlocal,variant=XS/4,res=16")
    check_workdir(tmp_path, resolve(keep_products(opened, tmp_path), 1000))
    other = {"float32": "bfloat16", "bfloat16": "float32"}[expected]
    with pytest.raises(InputError, match=rf"model\.products: {expected} -> {other}"):
        check_workdir(tmp_path, make_config(**{"model.products": other}))


def test_a_run_with_rounded_factors_does_not_continue_where_float32_is_asked_for(tmp_path):
    saved_run(tmp_path, "bfloat16")
    config = digits.get_config("paper,runlocal,variant=XS/4,res=16")
    config.dtype = "float32"
    with pytest.raises(InputError, match=r"model\.products: bfloat16 -> float32"):
        check_workdir(tmp_path, resolve(keep_products(config, tmp_path), 1000))
