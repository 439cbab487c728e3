"""Cuts images into patches and joins patches into images."""

# The array_api variant does not look for other frameworks, so a broken TensorFlow does no harm.
import einops.array_api as einops
import jax


def patchify(images: jax.Array, patch_size: int) -> jax.Array:
    """Cuts images [V, s, s, c] into patches [V, N, P * P * c] in row-major order."""
    pattern = "v (h p) (w q) c -> v (h w) (p q c)"
    return einops.rearrange(images, pattern, p=patch_size, q=patch_size)


def unpatchify(patches: jax.Array, patch_size: int) -> jax.Array:
    """Joins the patches [V, N, P * P * c] of square images into images [V, s, s, c]."""
    side = round(patches.shape[1] ** 0.5)
    pattern = "v (h w) (p q c) -> v (h p) (w q) c"
    return einops.rearrange(patches, pattern, h=side, p=patch_size, q=patch_size)
