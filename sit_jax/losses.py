"""The three losses of SiT and their learned weighting (sections 3.1 to 3.4; T = 0.5), all in float32."""

import math

import jax
import jax.numpy as jnp
import ml_collections
import optax

TASKS = ("reconstruction", "rotation", "contrastive")
# A cross-entropy has the likelihood exp(-s), the L1 distance the Laplace likelihood exp(-s / 2), of a log variance s.
LIKELIHOOD_SCALE = {"reconstruction": 0.5, "rotation": 1.0, "contrastive": 1.0}
AVERAGE_DECAY = 0.99  # of the losses whose averages give the weights in closed form
SMALLEST_LOSS = 1e-3  # no learned weight is that of a smaller loss


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

    Images are [V, s, s, 3], masks [V, s, s] bool by operation. A pixel counts as replaced or dropped by its last change,
    and as untouched without one. `reconstruction_dropped`, `_replaced` and `_untouched` measure the rebuilt images
    there. `copy_dropped`, `_replaced` and `_untouched` measure the corrupted images: the score of copying the input.
    `copy` measures them on the pixels of the loss: all, or with `corrupted_only` the changed ones.
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


def floors(config: ml_collections.ConfigDict, rows: int, views: int) -> dict[str, float]:
    """Returns what the weighting takes from the losses of `rows` views, by task: nothing, or the floor of NT-Xent."""
    return {"contrastive": nt_xent_floor(rows, config.temperature, views)} if config.subtract_floor else {}


def tasks_on(config: ml_collections.ConfigDict) -> list[str]:
    """Returns the tasks that are not switched off by their weight; `config` is the section `loss`."""
    return [task for task in TASKS if config.weights[task] == "learned" or float(config.weights[task])]


def total_loss(
    losses: dict[str, jax.Array],
    log_vars: dict[str, jax.Array],
    config: ml_collections.ConfigDict,
    floors: dict[str, float],
) -> jax.Array:
    """Adds the losses up: exp(-a s) L + s / 2 with the log variance s, or a fixed weight times L.

    `losses` and `log_vars` are scalars by task; `config.weights` gives for each task "learned" or a number as text, of
    which 0 switches the task off (homoscedastic uncertainty, arXiv 1705.07115; a = 1 for cross-entropies, 0.5 for L1).
    `floors` are taken from the losses: the model has the same gradients for the same weights, the weights are others.
    """
    total = jnp.zeros(())
    for task in TASKS:
        if config.weights[task] == "learned":
            s = log_vars[task] if config.weighting == "gradient" else jax.lax.stop_gradient(log_vars[task])
            excess = losses[task] - floors.get(task, 0.0)
            # Below the floor s would run away. The gradient of the model stays.
            excess += jax.lax.stop_gradient(jnp.maximum(SMALLEST_LOSS - excess, 0))
            total += jnp.exp(-LIKELIHOOD_SCALE[task] * s) * excess + 0.5 * s
        elif float(config.weights[task]):
            total += float(config.weights[task]) * losses[task]
    return total


def closed_form(
    log_vars: dict[str, jax.Array], losses: dict[str, jax.Array], floors: dict[str, float], step: jax.Array
) -> dict[str, jax.Array]:
    """Returns the log variances that minimise `total_loss` for running averages of the losses: w = 1 / (2 a EMA(L)).

    `log_vars` are those before the update of `step`: they hold the averages, which start at the first losses.
    """
    new = {}
    for task, s in log_vars.items():
        scale = LIKELIHOOD_SCALE[task]
        loss = jnp.maximum(losses[task] - floors.get(task, 0.0), SMALLEST_LOSS)
        average = jnp.exp(scale * s) / (2 * scale)
        average = jnp.where(step == 0, loss, AVERAGE_DECAY * average + (1 - AVERAGE_DECAY) * loss)
        new[task] = jnp.log(2 * scale * average) / scale
    return new
