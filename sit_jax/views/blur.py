"""Gaussian blur of many images at once, each with its own kernel."""

import jax
import jax.numpy as jnp


def gaussian_blur(keys: jax.Array, images: jax.Array, sizes: tuple[int, int], sigma: tuple[float, float]) -> jax.Array:
    """Blurs each of the images [n, s, s, c] with its own Gaussian: sigma from U(*sigma) pixels, odd width in `sizes`.

    At the border, the kernel is cut and renormalised, so that a constant image stays constant. `keys` is [n].
    """
    # On CPU, a sum of shifted copies takes half the time of banded matrix products and a tenth of a convolution.
    radius, size = sizes[1] // 2, images.shape[1]
    offset = jnp.arange(-radius, radius + 1)

    def gaussian(key: jax.Array) -> jax.Array:
        sigma_key, radius_key = jax.random.split(key)
        own_sigma = jax.random.uniform(sigma_key, minval=sigma[0], maxval=sigma[1])
        own_radius = jax.random.randint(radius_key, (), sizes[0] // 2, radius + 1)
        return jnp.exp(-0.5 * (offset / own_sigma) ** 2) * (jnp.abs(offset) <= own_radius)

    kernels = jax.vmap(gaussian)(keys)
    position = jnp.arange(size)[:, None] + offset
    inside = ((position >= 0) & (position < size)).astype(kernels.dtype)
    total = jnp.einsum("vk,sk->vs", kernels, inside, precision="highest")

    def along(images: jax.Array, axis: int) -> jax.Array:
        padded = jnp.pad(images, [(radius, radius) if a == axis else (0, 0) for a in range(4)])
        shifted = (jax.lax.slice_in_dim(padded, k, k + size, axis=axis) for k in range(2 * radius + 1))
        blurred = sum(kernels[:, k, None, None, None] * copy for k, copy in enumerate(shifted))
        return blurred / jnp.expand_dims(total, [a for a in range(1, 4) if a != axis])

    return along(along(images, 1), 2)
