"""The three losses of SiT and their learned weighting (sections 3.1 to 3.4; T = 0.5), all in float32."""

import math

import jax
import jax.numpy as jnp
import optax


def reconstruction_loss(clean: jax.Array, rebuilt: jax.Array, mask: jax.Array | None = None) -> jax.Array:
    """Returns the mean L1 distance of images [V, s, s, 3], over all pixels or those of `mask` [V, s, s] bool."""
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
    """Returns L1 distances to the clean images as (sum over pixels, number of pixels), by where they are taken.

    Images are [V, s, s, 3], masks [V, s, s] bool by operation. A pixel counts as replaced or dropped by its last
    change, and as untouched without one. `reconstruction_dropped`, `_replaced` and `_untouched` measure the rebuilt
    images there. `copy_dropped`, `_replaced` and `_untouched` measure the corrupted images: the score of copying the
    input. `copy` measures them on the pixels of the loss: all, or with `corrupted_only` the changed ones.
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
    """Returns the mean 4-way cross-entropy of logits [V, 4] and classes [V] int."""
    return optax.softmax_cross_entropy_with_integer_labels(logits, rotation).mean()


def nt_xent(embedding: jax.Array, temperature: float, views: int = 2) -> jax.Array:
    """Returns the NT-Xent loss of the embeddings [V, E] of a whole batch; each `views` rows on end are of one image.

    Cosine similarity over `temperature`, self-pairs masked out, mean over the V rows; identical embeddings give
    log(V - 1). With more than two views, a row has the mean over its positives (L_out of arXiv 2004.11362, equation 2).
    On a sharded batch this is still the loss of the global batch.
    """
    rows = jnp.arange(len(embedding))
    z = embedding * jax.lax.rsqrt(jnp.sum(embedding**2, axis=1, keepdims=True) + 1e-12)
    similarity = jnp.matmul(z, z.T, precision="highest") / temperature
    similarity = jnp.where(rows[:, None] == rows[None, :], -jnp.inf, similarity)
    of_image = z.reshape(-1, views, z.shape[-1])
    # The positives of a row are the other views of its image: their sum, without the row itself.
    others = of_image.sum(axis=1, keepdims=True) - of_image
    positive = jnp.sum(of_image * others, axis=-1).reshape(-1) / ((views - 1) * temperature)
    return jnp.mean(jax.nn.logsumexp(similarity, axis=1) - positive)


def nt_xent_floor(rows: int, temperature: float, views: int = 2) -> float:
    """Returns the NT-Xent loss of V = `rows` embeddings with equal positives and orthogonal negatives.

    Negatives that point away from each other are below it: by much in batches of a few images, by little in others.
    """
    return math.log((views - 1) * math.exp(1 / temperature) + rows - views) - 1 / temperature
