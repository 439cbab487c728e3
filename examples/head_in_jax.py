"""A head of your own in JAX: how many of an image's pixels are bright, from the frozen encoder's tokens.

    python examples/head_in_jax.py --workdir=runs/digits

`encoder.module` is a flax module: differentiable, and free to be jitted together with what you put on it.
"""

# %%
import argparse

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from sklearn.datasets import load_digits

import sit_jax

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("--workdir", default="runs/digits-example")
parser.add_argument("--train", action="store_true", help="train the encoder first")
parser.add_argument("--steps", type=int, default=300)
arguments = parser.parse_args()
if arguments.train:
    sit_jax.pretrain("digits", arguments.workdir, config="digits:runlocal")

# %% Images [n, s, s, c] in [-1, 1], as the module takes them, and the target.
encoder = sit_jax.load(arguments.workdir)
side = encoder.config.model.image_size
pixels = load_digits().data[:512].reshape(-1, 8, 8, 1) / 16
images = jax.image.resize(2 * pixels.repeat(3, axis=-1) - 1, (len(pixels), side, side, 3), "cubic")
target = jnp.asarray(pixels.mean(axis=(1, 2, 3)))

# %% The head is yours; gradients flow into the encoder too, if you let them.
frozen, head = encoder.module, nnx.Linear(2 * encoder.params["tokens"].shape[1], 1, rngs=nnx.Rngs(0))
optimizer = nnx.Optimizer(head, optax.adam(1e-2), wrt=nnx.Param)


def loss_of(head: nnx.Linear, tokens: jax.Array) -> jax.Array:
    """Mean squared error of the head."""
    return jnp.mean((head(tokens)[:, 0] - target) ** 2)


@nnx.jit
def step(head: nnx.Linear, optimizer: nnx.Optimizer, tokens: jax.Array) -> jax.Array:
    """Updates the head; returns the loss before."""
    loss, gradients = nnx.value_and_grad(loss_of)(head, tokens)
    optimizer.update(head, gradients)
    return loss


tokens = jax.jit(lambda x: frozen(x)[:, :2].reshape(len(x), -1))(images)
losses = [float(step(head, optimizer, tokens)) for _ in range(arguments.steps)]
print(
    f"mean squared error {losses[0]:.4f} -> {losses[-1]:.5f}; the variance of the target is {float(np.var(target)):.5f}"
)

# %% Where does the prediction look? Its gradient with respect to the pixels.
gradient = jax.grad(lambda x: head(frozen(x)[:, :2].reshape(len(x), -1)).sum())(images[:1])
print(f"largest gradient at {np.unravel_index(np.abs(gradient).sum(-1).argmax(), (side, side))}")
