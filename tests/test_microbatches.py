import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sit_jax.common.errors import InputError
from sit_jax.config.checks import check_microbatches
from sit_jax.parallel import microbatches
from sit_jax.parallel.mesh import make_mesh


def test_the_gradient_of_a_loss_that_mixes_rows_is_exact():
    """Closed form: the loss (sum of w x)^2 has the gradient 2 (sum of w x) (sum of x)."""
    x, w = jnp.arange(12.0).reshape(4, 3), jnp.float32(0.5)

    def combine(outputs, w):
        return outputs.sum() ** 2, {"sum": outputs.sum()}

    (value, aux), gradient = microbatches.value_and_grad(lambda w, chunk: (w * chunk).sum(), combine, w, x)
    assert (value, aux["sum"], gradient) == (33.0**2, 33.0, 2 * 33.0 * 66.0)


def test_split_keeps_each_row_on_its_device_and_join_undoes_it():
    with jax.set_mesh(make_mesh()):
        chunks = microbatches.split(jnp.arange(16), 2)
        np.testing.assert_array_equal(chunks, [[0, 1, 4, 5, 8, 9, 12, 13], [2, 3, 6, 7, 10, 11, 14, 15]])
        np.testing.assert_array_equal(microbatches.join(chunks), np.arange(16))
    np.testing.assert_array_equal(microbatches.split(jnp.arange(6), 3), [[0, 1], [2, 3], [4, 5]])


def test_chunks_that_would_cut_a_group_of_donors_are_refused():
    check_microbatches(8, 256, 4)
    with pytest.raises(InputError, match=r"microbatches=3 does not cut the 64 images .* use one of 1, 2, 4, 8"):
        check_microbatches(3, 256, 4)
    with pytest.raises(InputError, match=r"use one of 1$"):
        check_microbatches(0, 64, 64)
