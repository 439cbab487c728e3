"""Classifiers trained on augmented images: linear heads on the frozen encoder, and fine-tuning of all weights."""

import jax
import jax.numpy as jnp
import ml_collections
import optax
from flax import nnx

from sit_jax.common.keys import named_key, row_keys
from sit_jax.model.build import make_graphdefs
from sit_jax.model.layers import INIT
from sit_jax.model.sizes import SIZES
from sit_jax.probes.features import CLASSIFIED
from sit_jax.train.optimizer import make_optimizer, make_schedule
from sit_jax.train.state import TrainState
from sit_jax.views import whole_images
from sit_jax.views.classification import make_training_images

MOMENTUM = 0.9


class Classifier:
    """Trains several heads side by side on one encoder; a head averages the logits of K linear classifiers.

    The heads differ only in their learning rates. `config` comes from `classifier_config`.
    """

    def __init__(self, config: ml_collections.ConfigDict, num_classes: int):
        self.config, self.num_classes = config, num_classes
        self.encoder = make_graphdefs(config)["encoder"]
        self.schedule = make_schedule(config)
        self.optimizer = self._linear_optimizer() if config.frozen else make_optimizer(config)

    def _linear_optimizer(self) -> optax.GradientTransformation:
        rates = jnp.array(self.config.learning_rates) / max(self.config.learning_rates)

        def scale(updates: dict) -> dict:
            return jax.tree.map(lambda update: update * rates.reshape(-1, *[1] * (update.ndim - 1)), updates)

        heads = optax.chain(optax.sgd(self.schedule, MOMENTUM), optax.stateless(lambda updates, params: scale(updates)))
        return optax.partition({"encoder": optax.set_to_zero(), "head": heads}, {"encoder": "encoder", "head": "head"})

    def init_head(self, key: jax.Array) -> dict:
        """Returns the weights of the heads: kernels [heads, K, F, C], after a hidden tanh layer if `config.hidden`."""
        config = self.config
        width, heads = SIZES[config.model.size][0], len(config.learning_rates)
        tokens = jnp.zeros((1, 3, width))  # two tokens and one patch: only the shape of the features counts
        _, count, width = CLASSIFIED[config.features](tokens).shape
        sizes = [width, config.hidden, self.num_classes] if config.hidden else [width, self.num_classes]
        names = ("hidden", "out") if config.hidden else ("out",)
        head = {}
        for name, inputs, outputs in zip(names, sizes[:-1], sizes[1:], strict=True):
            kernel = INIT(jax.random.fold_in(key, inputs), (count, inputs, outputs))
            layer = {"kernel": kernel, "bias": jnp.zeros((count, 1, outputs))}
            head[name] = jax.tree.map(lambda x: jnp.repeat(x[None], heads, axis=0), layer)
        return head

    def logits(self, params: dict, images: jax.Array, keys: jax.Array | None = None) -> jax.Array:
        """Returns logits [heads, K, B, C] of images [B, s, s, c] in [-1, 1]; `keys` turn on stochastic depth."""
        encoder = nnx.merge(self.encoder, params["encoder"])
        tokens = encoder(images, keys).astype(jnp.float32)
        if self.config.frozen:
            tokens = jax.lax.stop_gradient(tokens)
        x = jnp.einsum("bkf->kbf", CLASSIFIED[self.config.features](tokens))[None]
        if "standardise" in params["head"]:
            mean, std = (jax.lax.stop_gradient(params["head"]["standardise"][name]) for name in ("mean", "std"))
            x = (x - mean) / std
        if "hidden" in params["head"]:
            x = jnp.tanh(x @ params["head"]["hidden"]["kernel"] + params["head"]["hidden"]["bias"])
        return x @ params["head"]["out"]["kernel"] + params["head"]["out"]["bias"]

    def loss(self, params: dict, batch: dict, key: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Returns (cross-entropy summed over heads and K classifiers, mean over K of the best head)."""
        config = self.config
        images, targets = make_training_images(
            key, batch["image"], batch["label"], self.num_classes, config.model.image_size, config.augment
        )
        keys = None if config.frozen else row_keys(named_key(key, "model"), len(images))
        logits = self.logits(params, images, keys)
        entropy = optax.softmax_cross_entropy(logits, targets).mean(axis=2)
        return entropy.sum(), entropy.mean(axis=1).min()

    def train_step(self, state: TrainState, batch: dict) -> tuple[TrainState, dict]:
        """Updates the state on {"image": [B, H, W, c], "label": [B] int32}.

        Random numbers depend on (seed, step, row) only.
        """
        key = jax.random.fold_in(named_key(jax.random.key(self.config.seed), "classify"), state.step)
        (_, shown), grads = jax.value_and_grad(self.loss, has_aux=True)(state.params, batch, key)
        updates, opt_state = self.optimizer.update(grads, state.opt_state, state.params)
        params = optax.apply_updates(state.params, updates)
        metrics = {"loss": shown, "learning_rate": self.schedule(state.step), "grad_norm": optax.global_norm(grads)}
        return TrainState(state.step + 1, params, opt_state, None), metrics

    def predict(self, params: dict, images: jax.Array) -> jax.Array:
        """Returns logits [B, heads, C], averaged over K, of whole images [B, H, W, c]."""
        logits = self.logits(params, whole_images(images, self.config.model.image_size))
        return logits.mean(axis=1).swapaxes(0, 1)

    def make_state(self, encoder: dict, statistics: dict | None) -> TrainState:
        """Returns the state at step 0; `statistics` (`mean` and `std` [K, F]) scale the features, None does not."""
        head = self.init_head(named_key(jax.random.key(self.config.seed), "head"))
        if statistics:
            shape = len(self.config.learning_rates), statistics["mean"].shape[0], 1, statistics["mean"].shape[1]
            head["standardise"] = jax.tree.map(lambda x: jnp.broadcast_to(x[None, :, None], shape), statistics)
        # Copies: the step donates the state, and later units need the encoder again.
        params = {"encoder": jax.tree.map(jnp.copy, encoder), "head": head}
        return TrainState(jnp.int32(0), params, self.optimizer.init(params), None)
