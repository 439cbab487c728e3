"""The three losses of SiT and their learned weighting (sections 3.1 to 3.4; T = 0.5), all in float32."""

import jax
import jax.numpy as jnp
import optax

TASKS = ("reconstruction", "rotation", "contrastive")
# A cross-entropy has the likelihood exp(-s), the L1 distance the Laplace likelihood exp(-s / 2), of a log variance s.
LIKELIHOOD_SCALE = {"reconstruction": 0.5, "rotation": 1.0, "contrastive": 1.0}


def reconstruction_loss(clean: jax.Array, rebuilt: jax.Array, mask: jax.Array | None = None) -> jax.Array:
    """Returns the mean L1 distance of images [V, s, s, 3], over all pixels or those of `mask` [V, s, s] bool."""
    distance = jnp.abs(clean - rebuilt).mean(axis=-1)
    if mask is None:
        return distance.mean()
    return jnp.sum(distance * mask) / jnp.maximum(mask.sum(), 1)


def rotation_loss(logits: jax.Array, rotation: jax.Array) -> jax.Array:
    """Returns the mean 4-way cross-entropy of logits [V, 4] and classes [V] int."""
    return optax.softmax_cross_entropy_with_integer_labels(logits, rotation).mean()


def nt_xent(embedding: jax.Array, temperature: float) -> jax.Array:
    """Returns the NT-Xent loss of the embeddings [2B, E] of a whole batch, rows 2i and 2i+1 being a positive pair.

    Cosine similarity over `temperature`, self-pairs masked out, mean over the 2B rows; identical embeddings give
    log(2B - 1). On a sharded batch this is still the loss of the global batch.
    """
    rows = jnp.arange(len(embedding))
    z = embedding * jax.lax.rsqrt(jnp.sum(embedding**2, axis=1, keepdims=True) + 1e-12)
    similarity = jnp.matmul(z, z.T, precision="highest") / temperature
    similarity = jnp.where(rows[:, None] == rows[None, :], -jnp.inf, similarity)
    first, second = z[0::2], z[1::2]
    positive = jnp.sum(first * second, axis=1).repeat(2) / temperature
    return jnp.mean(jax.nn.logsumexp(similarity, axis=1) - positive)


def total_loss(losses: dict[str, jax.Array], log_vars: dict[str, jax.Array], weights: dict[str, str]) -> jax.Array:
    """Adds the losses up: exp(-a s) L + s / 2 with the learned log variance s, or a fixed weight times L.

    `losses` and `log_vars` are scalars by task; `weights` gives for each task "learned" or a number as text, of which
    0 switches the task off (homoscedastic uncertainty; a = 1 for cross-entropies, 0.5 for L1).
    """
    total = jnp.zeros(())
    for task in TASKS:
        if weights[task] == "learned":
            s = log_vars[task]
            total += jnp.exp(-LIKELIHOOD_SCALE[task] * s) * losses[task] + 0.5 * s
        elif float(weights[task]):
            total += float(weights[task]) * losses[task]
    return total
