"""Layer normalisation against flax's layer and its derived gradients."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from sit_jax.model.fast.norm import layer_norm


def make(width, dtype):
    layer = nnx.LayerNorm(width, epsilon=1e-6, dtype=dtype, rngs=nnx.Rngs(0))
    layer.scale[...] = 1 + 0.3 * jax.random.normal(jax.random.key(1), (width,))
    layer.bias[...] = 0.2 * jax.random.normal(jax.random.key(2), (width,))
    return layer


def gradients(apply, layer, x, weight):
    graphdef, params = nnx.split(layer, nnx.Param)

    def loss(params, x):
        return jnp.sum(apply(nnx.merge(graphdef, params), x) * weight)

    by_params, by_x = jax.jit(jax.grad(loss, (0, 1)))(params, x)
    return {"x": by_x, **nnx.to_pure_dict(by_params)}


@pytest.mark.parametrize("shape", [(3, 5, 24), (7, 24)])
def test_values_and_gradients_are_those_of_flax_within_1e_5(shape):
    layer = make(24, jnp.float32)
    x = 0.5 + 2 * jax.random.normal(jax.random.key(3), shape)
    weight = jax.random.normal(jax.random.key(4), shape)
    np.testing.assert_allclose(jax.jit(layer_norm)(layer, x), layer(x), atol=1e-5)
    expected = gradients(lambda layer, x: layer(x), layer, x, weight)
    found = gradients(layer_norm, layer, x, weight)
    assert found.keys() == expected.keys() == {"x", "scale", "bias"}
    for name, value in expected.items():
        np.testing.assert_allclose(found[name], value, atol=1e-5 * float(jnp.abs(value).max()))


def test_rows_have_the_mean_and_the_deviation_asked_for():
    layer = make(24, jnp.float32)
    layer.scale[...], layer.bias[...] = jnp.full(24, 3.0), jnp.full(24, -1.0)
    y = layer_norm(layer, 5 + 2 * jax.random.normal(jax.random.key(3), (4, 6, 24)))
    np.testing.assert_allclose(y.mean(axis=-1), -1, atol=1e-5)
    np.testing.assert_allclose(y.std(axis=-1), 3, atol=1e-4)


def test_bfloat16_is_rounded_only_at_the_end():
    x = (0.5 + 2 * jax.random.normal(jax.random.key(3), (4, 6, 24))).astype(jnp.bfloat16)
    weight = jax.random.normal(jax.random.key(4), x.shape).astype(jnp.bfloat16)
    layer, wide, exact = make(24, jnp.bfloat16), x.astype(jnp.float32), make(24, jnp.float32)
    y = layer_norm(layer, x)
    assert y.dtype == jnp.bfloat16
    np.testing.assert_array_equal(y, layer_norm(exact, wide).astype(jnp.bfloat16))
    found = gradients(layer_norm, layer, x, weight)
    expected = gradients(layer_norm, exact, wide, weight.astype(jnp.float32))
    assert {name: value.dtype for name, value in found.items()} == {
        "x": jnp.bfloat16,
        "scale": jnp.float32,
        "bias": jnp.float32,
    }
    np.testing.assert_allclose(found["x"].astype(jnp.float32), expected["x"], rtol=2**-8, atol=1e-6)
    np.testing.assert_allclose(found["scale"], expected["scale"], atol=1e-5)
    np.testing.assert_allclose(found["bias"], expected["bias"], atol=1e-5)


def test_a_constant_row_gives_finite_values_and_gradients():
    """At 3.3, rounding makes the variance -1.9e-6, which is below zero even with epsilon."""
    layer = make(24, jnp.float32)
    x = jnp.full((2, 3, 24), 3.3)
    assert bool(jnp.isfinite(layer_norm(layer, x)).all())
    found = gradients(layer_norm, layer, x, jnp.ones(x.shape))
    assert all(bool(jnp.isfinite(value).all()) for value in found.values())


def test_the_compiled_backward_pass_keeps_less_than_the_derived_one():
    """Sixteen layers store input and output of each and two numbers per row; flax's layers store a third array."""
    x, weight = jnp.ones((8, 64, 64)), jnp.ones((64, 64))
    graphdef, params = nnx.split(make(64, jnp.float32), nnx.Param)

    def held(apply):
        def chain(params, weight):
            y = x
            for _ in range(16):
                y = apply(nnx.merge(graphdef, params), y @ weight)
            return jnp.sum(y**2)

        program = jax.jit(jax.grad(chain, (0, 1))).lower(params, weight).compile()
        return program.memory_analysis().temp_size_in_bytes / x.nbytes

    assert held(layer_norm) < 38 < 48 < held(lambda layer, x: layer(x))
