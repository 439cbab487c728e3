"""The learned weighting of the tasks (SiT, section 3.4), in float32."""

import jax
import jax.numpy as jnp
import ml_collections

from sit_jax.model.tasks import TASKS

AVERAGE_DECAY = 0.99  # of the losses whose averages give the weights in closed form
SMALLEST_LOSS = 1e-3  # no learned weight is that of a smaller loss


def floors(config: ml_collections.ConfigDict, rows: int, views: int) -> dict[str, float]:
    """Returns what the weighting subtracts from the losses of `rows` views, by task; `config` is the section `loss`."""
    if not config.subtract_floor:
        return {}
    return {name: task.floor(rows, config.temperature, views) for name, task in TASKS.items() if task.floor}


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
            total += jnp.exp(-TASKS[task].likelihood_scale * s) * excess + 0.5 * s
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
        scale = TASKS[task].likelihood_scale
        loss = jnp.maximum(losses[task] - floors.get(task, 0.0), SMALLEST_LOSS)
        average = jnp.exp(scale * s) / (2 * scale)
        average = jnp.where(step == 0, loss, AVERAGE_DECAY * average + (1 - AVERAGE_DECAY) * loss)
        new[task] = jnp.log(2 * scale * average) / scale
    return new
