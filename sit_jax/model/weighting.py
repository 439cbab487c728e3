"""The learned weighting of the tasks (SiT, section 3.4), in float32."""

import jax
import jax.numpy as jnp
import ml_collections

from sit_jax.model.tasks import TASKS

AVERAGE_DECAY = 0.99  # of the running averages in `closed_form`
SMALLEST_LOSS = 1e-3  # lower bound on a loss that sets a learned weight


def floors(config: ml_collections.ConfigDict, rows: int, views: int) -> dict[str, float]:
    """Returns the floor to subtract from each loss of `rows` views, by task; `config` is the section `loss`."""
    if not config.subtract_floor:
        return {}
    return {name: task.floor(rows, config.temperature, views) for name, task in TASKS.items() if task.floor}


def total_loss(
    losses: dict[str, jax.Array],
    log_vars: dict[str, jax.Array],
    config: ml_collections.ConfigDict,
    floors: dict[str, float],
) -> jax.Array:
    """Returns the sum of the weighted losses: exp(-a s) L + s / 2 with the log variance s, or a fixed weight times L.

    The learned weighting is homoscedastic uncertainty (arXiv 1705.07115), with a = 1 for cross-entropies and 0.5 for
    L1. `losses` and `log_vars` hold one scalar per task. `config.weights` holds "learned" or a number as text per task;
    0 switches the task off. `floors` are subtracted from the losses. This changes the learned weights; at equal
    weights, it does not change the gradients of the model.
    """
    total = jnp.zeros(())
    for task in TASKS:
        if config.weights[task] == "learned":
            s = log_vars[task] if config.weighting == "gradient" else jax.lax.stop_gradient(log_vars[task])
            excess = losses[task] - floors.get(task, 0.0)
            # Without this bound, s would diverge for a loss below its floor. The gradient of the model is unchanged.
            excess += jax.lax.stop_gradient(jnp.maximum(SMALLEST_LOSS - excess, 0))
            total += jnp.exp(-TASKS[task].likelihood_scale * s) * excess + 0.5 * s
        elif float(config.weights[task]):
            total += float(config.weights[task]) * losses[task]
    return total


def closed_form(
    log_vars: dict[str, jax.Array], losses: dict[str, jax.Array], floors: dict[str, float], step: jax.Array
) -> dict[str, jax.Array]:
    """Returns the log variances that minimise `total_loss` for running averages of the losses: w = 1 / (2 a EMA(L)).

    `log_vars` are the values before the update of `step`. They encode the running averages, which start at the first
    losses.
    """
    new = {}
    for task, s in log_vars.items():
        scale = TASKS[task].likelihood_scale
        loss = jnp.maximum(losses[task] - floors.get(task, 0.0), SMALLEST_LOSS)
        average = jnp.exp(scale * s) / (2 * scale)
        average = jnp.where(step == 0, loss, AVERAGE_DECAY * average + (1 - AVERAGE_DECAY) * loss)
        new[task] = jnp.log(2 * scale * average) / scale
    return new
