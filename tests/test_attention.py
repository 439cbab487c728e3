import jax
import jax.numpy as jnp
import jax.test_util
import numpy as np
import pytest

from sit_jax.model.fast.attention import attend, softmax_weights

SHAPE = (3, 2, 10, 8)  # views, heads, tokens, dimensions


def draw(count, dtype=jnp.float32):
    return [jax.random.normal(jax.random.key(i), SHAPE).astype(dtype) for i in range(count)]


def library(q, k, v):
    order = (0, 2, 1, 3)  # the library has tokens before heads
    return jax.nn.dot_product_attention(*(x.transpose(order) for x in (q, k, v))).transpose(order)


@pytest.mark.parametrize("scale", [1.0, 100.0])
def test_values_and_gradients_equal_the_library(scale):
    """Also if the softmax has all its weight on one key, or if exp of a logit would overflow."""
    q, k, v, gradient = draw(4)
    q, k = scale * q, scale * k
    value, backward = jax.vjp(attend, q, k, v)
    expected, expected_backward = jax.vjp(library, q, k, v)
    np.testing.assert_allclose(value, expected, rtol=1e-4, atol=1e-6)
    for found, right in zip(backward(gradient), expected_backward(gradient), strict=True):
        np.testing.assert_allclose(found, right, rtol=1e-4, atol=1e-6 * scale)


def test_gradients_equal_finite_differences():
    jax.test_util.check_grads(attend, draw(3), order=1, modes=["rev"], atol=1e-2, rtol=1e-2)


def test_bfloat16_is_close_to_float32():
    rounded = draw(4, dtype=jnp.bfloat16)
    exact = [x.astype(jnp.float32) for x in rounded]
    value, backward = jax.vjp(attend, *rounded[:3])
    expected, expected_backward = jax.vjp(attend, *exact[:3])
    found, right = (value, *backward(rounded[3])), (expected, *expected_backward(exact[3]))
    for a, b in zip(found, right, strict=True):
        assert a.dtype == jnp.bfloat16
        assert jnp.linalg.norm(a - b) / jnp.linalg.norm(b) < 0.01


def test_weights_are_those_of_the_mean():
    q, k, v = draw(3)
    weights = softmax_weights(q, k)
    np.testing.assert_allclose(weights.sum(axis=-1), 1, rtol=1e-6)
    np.testing.assert_allclose(jnp.einsum("vhts,vhsd->vhtd", weights, v), attend(q, k, v), rtol=1e-5, atol=1e-6)
