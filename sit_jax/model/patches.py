"""From images to patches and back."""

# The array_api variant never looks for other frameworks, such as a TensorFlow that cannot be imported.
import einops.array_api as einops
import jax


def patchify(images: jax.Array, patch_size: int) -> jax.Array:
    """Cuts [V, s, s, 3] into patches [V, N, P * P * 3], row by row."""
    pattern = "v (h p) (w q) c -> v (h w) (p q c)"
    return einops.rearrange(images, pattern, p=patch_size, q=patch_size)


def unpatchify(patches: jax.Array, patch_size: int) -> jax.Array:
    """Puts patches [V, N, P * P * 3] of square images together again, [V, s, s, 3]."""
    side = round(patches.shape[1] ** 0.5)
    pattern = "v (h w) (p q c) -> v (h p) (w q) c"
    return einops.rearrange(patches, pattern, h=side, p=patch_size, q=patch_size)
