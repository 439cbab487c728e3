"""The three losses of SiT (sections 3.1 to 3.3), in float32; the paper's temperature is 0.5."""

import math

import jax
import jax.numpy as jnp
import optax


def reconstruction_loss(clean: jax.Array, rebuilt: jax.Array, mask: jax.Array | None = None) -> jax.Array:
    """Returns the mean L1 distance of images [V, s, s, c] over all pixels, or over `mask` [V, s, s] bool."""
    distance = jnp.abs(clean - rebuilt).mean(axis=-1)
    if mask is None:
        return distance.mean()
    return jnp.sum(distance * mask) / jnp.maximum(mask.sum(), 1)


def distances(
    clean: jax.Array,
    corrupted: jax.Array,
    rebuilt: jax.Array,
    masks: dict[str, jax.Array],
    corrupted_only: bool = False,
) -> dict[str, tuple[jax.Array, jax.Array]]:
    """Returns L1 distances to the clean images, by image and area, as (sum over pixels, number of pixels).

    Images are [V, s, s, c]; masks are [V, s, s] bool, by operation. A pixel that was dropped and then replaced counts
    as replaced. A pixel without any change counts as untouched. `reconstruction_dropped`, `_replaced` and `_untouched`
    measure the rebuilt images on these pixels. `copy_dropped`, `_replaced` and `_untouched` measure the corrupted
    images, which is the score of copying the input. `copy` measures the corrupted images on the pixels of the loss: on
    all pixels, or with `corrupted_only` on the changed pixels.
    """
    nothing = jnp.zeros(clean.shape[:3], bool)
    replaced, dropped = masks.get("replace", nothing), masks.get("drop", nothing)
    touched = jnp.any(jnp.stack([nothing, *masks.values()]), axis=0)
    areas = {"_dropped": dropped & ~replaced, "_replaced": replaced, "_untouched": ~touched}
    of_copy = areas | {"": touched if corrupted_only else ~nothing}
    found = {}
    for name, images, measured in (("reconstruction", rebuilt, areas), ("copy", corrupted, of_copy)):
        distance = jnp.abs(clean - images).mean(axis=-1)
        for area, mask in measured.items():
            found[name + area] = (jnp.sum(distance * mask), mask.sum().astype(jnp.float32))
    return found


def rotation_loss(logits: jax.Array, rotation: jax.Array) -> jax.Array:
    """Returns the mean 4-way cross-entropy of logits [V, 4] for classes [V] int."""
    return optax.softmax_cross_entropy_with_integer_labels(logits, rotation).mean()


def nt_xent(embedding: jax.Array, temperature: float, views: int = 2) -> jax.Array:
    """Returns the NT-Xent loss of a whole batch's embeddings [V, E]; `views` consecutive rows belong to one image.

    Cosine similarities are divided by `temperature`, self-pairs are masked out, and the loss is the mean over the V
    rows. If all embeddings are equal, the loss is log(V - 1). With more than two views, each row averages over its
    positives (L_out of arXiv 2004.11362, equation 2). On a sharded batch, the result is the loss of the global batch.
    """
    rows = jnp.arange(len(embedding))
    z = embedding * jax.lax.rsqrt(jnp.sum(embedding**2, axis=1, keepdims=True) + 1e-12)
    similarity = jnp.matmul(z, z.T, precision="highest") / temperature
    similarity = jnp.where(rows[:, None] == rows[None, :], -jnp.inf, similarity)
    of_image = z.reshape(-1, views, z.shape[-1])
    # A row's positives are the other views of its image: sum over the image, minus the row itself.
    others = of_image.sum(axis=1, keepdims=True) - of_image
    positive = jnp.sum(of_image * others, axis=-1).reshape(-1) / ((views - 1) * temperature)
    return jnp.mean(jax.nn.logsumexp(similarity, axis=1) - positive)


def nt_xent_floor(rows: int, temperature: float, views: int = 2) -> float:
    """Returns the NT-Xent loss of V = `rows` embeddings if positives are equal and negatives are orthogonal.

    Negatives that point away from each other give a smaller loss: far smaller in a batch of a few images, slightly
    smaller in a larger batch.
    """
    return math.log((views - 1) * math.exp(1 / temperature) + rows - views) - 1 / temperature
