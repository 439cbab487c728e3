"""Linear classifiers on cached features: multinomial logistic regression, a convex problem solved to its optimum."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh

from sit_jax.data.split import hold_out
from sit_jax.probes.features import put_rows

MAX_STEPS = 1000
TOLERANCE = 1e-5  # largest entry of the gradient of the mean loss
UNCHOSEN_L2 = 1e-2  # for standardised features, if there are too few labels to choose


def objective(params: dict, features: jax.Array, targets: jax.Array, count: jax.Array, l2: jax.Array) -> jax.Array:
    """Returns the mean cross-entropy plus l2 / 2 times the squared norm of the kernel.

    `params` are kernel [F, C] and bias [C]. `features` are [n, F], `targets` [n, C] one-hot. Rows of padding have zero
    targets; `count` is the number of the other rows.
    """
    logits = jnp.matmul(features, params["kernel"], precision="highest") + params["bias"]
    entropy = -jnp.sum(targets * jax.nn.log_softmax(logits)) / count
    return entropy + 0.5 * l2 * jnp.sum(params["kernel"] ** 2)


@jax.jit
def solve(params: dict, features: jax.Array, targets: jax.Array, count: jax.Array, l2: jax.Array) -> dict:
    """Minimises `objective` by L-BFGS, starting from `params`, up to TOLERANCE or MAX_STEPS."""
    value = functools.partial(objective, features=features, targets=targets, count=count, l2=l2)
    solver = optax.lbfgs()
    value_and_grad = optax.value_and_grad_from_state(value)

    def step(carry: tuple) -> tuple:
        params, state, _, steps = carry
        loss, grad = value_and_grad(params, state=state)
        updates, state = solver.update(grad, state, params, value=loss, grad=grad, value_fn=value)
        params = optax.apply_updates(params, updates)
        return params, state, optax.tree.norm(optax.tree.get(state, "grad"), ord=jnp.inf), steps + 1

    def unfinished(carry: tuple) -> jax.Array:
        return (carry[2] > TOLERANCE) & (carry[3] < MAX_STEPS)

    return jax.lax.while_loop(unfinished, step, (params, solver.init(params), jnp.float32(jnp.inf), 0))[0]


class Standardiser:
    """Scales features [n, F] by the mean and standard deviation of the features given at construction."""

    def __init__(self, features: np.ndarray):
        self.mean, self.scale = features.mean(axis=0), np.maximum(features.std(axis=0), 1e-6)

    def __call__(self, features: np.ndarray) -> np.ndarray:
        """Returns the scaled features."""
        return (features - self.mean) / self.scale


def fit(features: np.ndarray, labels: np.ndarray, num_classes: int, l2s: tuple[float, ...], mesh: Mesh) -> list[dict]:
    """Returns the optimal parameters for each strength in `l2s`; each solution starts from the previous solution.

    `features` [n, F] float32 are standardised; `labels` are [n] int. The rows are sharded over the devices.
    """
    padding = -len(features) % mesh.size
    rows = put_rows(np.pad(features, ((0, padding), (0, 0))), mesh)
    targets = put_rows(np.pad(np.eye(num_classes, dtype=np.float32)[labels], ((0, padding), (0, 0))), mesh)
    params = {"kernel": jnp.zeros((features.shape[1], num_classes)), "bias": jnp.zeros(num_classes)}
    solutions = []
    for l2 in l2s:
        params = solve(params, rows, targets, np.float32(len(features)), np.float32(l2))
        solutions.append(jax.device_get(params))
    return solutions


def predict(params: list[dict], features: np.ndarray) -> np.ndarray:
    """Returns logits [n, C], averaged over the classifiers of the K vectors in `features` [n, K, F]."""
    logits = [features[:, k] @ p["kernel"] + p["bias"] for k, p in enumerate(params)]
    return np.mean(logits, axis=0)


def cross_entropy(logits: np.ndarray, labels: np.ndarray) -> float:
    """Returns the mean cross-entropy of logits [n, C] for labels [n]."""
    shifted = logits - logits.max(axis=1, keepdims=True)
    log_sum = np.log(np.exp(shifted).sum(axis=1))
    return float(np.mean(log_sum - shifted[np.arange(len(labels)), labels]))


def fit_each(
    features: np.ndarray, labels: np.ndarray, num_classes: int, l2s: tuple[float, ...], mesh: Mesh
) -> list[list[dict]]:
    """Returns for each strength the parameters of the K classifiers on `features` [n, K, F]."""
    each = [fit(features[:, k], labels, num_classes, l2s, mesh) for k in range(features.shape[1])]
    return [list(params) for params in zip(*each, strict=True)]


def linear_logits(
    train: np.ndarray,
    labels: np.ndarray,
    test: np.ndarray,
    num_classes: int,
    l2s: tuple[float, ...],
    held_out: float,
    seed: int,
    mesh: Mesh,
) -> tuple[np.ndarray, dict]:
    """Fits one classifier on each of K vectors; returns (averaged test logits [n, C], chosen hyper-parameters).

    `train` [m, K, F] and `test` [n, K, F] are float32. The chosen penalty has the lowest cross-entropy of averaged
    logits on a held-out share of the training features; the final fit uses all training features. If a class has no
    held-out image, the penalty is UNCHOSEN_L2. If `l2s` has one strength, there is no choice.
    """
    scales = [Standardiser(train[:, k]) for k in range(train.shape[1])]
    train, test = (np.stack([s(x[:, k]) for k, s in enumerate(scales)], axis=1) for x in (train, test))
    l2s = tuple(sorted(l2s, reverse=True))  # strongest first: each solution is near the next
    kept, held = hold_out(labels, held_out, seed)
    entropies = None
    if len(l2s) > 1 and len(held) and len(np.unique(labels[held])) == len(np.unique(labels)):
        solutions = fit_each(train[kept], labels[kept], num_classes, l2s, mesh)
        entropies = [cross_entropy(predict(params, train[held]), labels[held]) for params in solutions]
        l2 = l2s[int(np.argmin(entropies))]
    else:
        l2 = l2s[0] if len(l2s) == 1 else UNCHOSEN_L2
    params = fit_each(train, labels, num_classes, (l2,), mesh)[0]
    tried = dict(zip(map(str, l2s), entropies, strict=True)) if entropies else {}
    return predict(params, test), {"l2": l2, "held_out_cross_entropy": tried}
