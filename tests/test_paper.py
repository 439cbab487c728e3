"""The paper's preset: the areas of its corruptions against the first release, and its initialisation."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from benchmarks.mask_statistics import statistics
from configs import cifar10
from sit_jax.config import presets, schema
from sit_jax.config.resolve import resolve
from sit_jax.model.build import make_model
from sit_jax.views.corrupt import corrupt

# Shares of the area in 3,000 masks of the first release at 224 px.
RELEASE = {
    "drop": 0.147,
    "replace": 0.149,
    "noise or foreign": 0.271,
    "grayscale": 0.129,
    "blur": 0.132,
    "recolour": 0.0,
}


@pytest.fixture(scope="module")
def config():
    return resolve(cifar10.get_config("paper"), 50_000)


def test_two_thousand_masks_cover_the_shares_of_the_release(config):
    """To 1.2 points of the area; with 2,000 masks, a share has a standard error of 0.2 to 0.4 points.

    Blocks are shares of the side, so masks of 56 px have the same areas as masks of 224 px at a sixteenth of the cost.
    """
    masks = jax.jit(lambda key: corrupt(key, jnp.zeros((2000, 56, 56, 3)), config.corrupt)[1])(jax.random.key(0))
    shares = {name: float(mask.mean()) for name, mask in masks.items()}
    shares["noise or foreign"] = float((masks["drop"] | masks["replace"]).mean())
    assert shares == {name: pytest.approx(share, abs=0.012) for name, share in RELEASE.items()}


def test_the_noise_has_the_strength_of_the_release(config):
    """Views have the standard deviation of photographs, 0.5 in [-1, 1]; the release's noise had 0.84 times that."""
    gray = np.random.default_rng(0).normal(127.5, 70, (32, 14, 14, 1)).repeat(16, axis=1).repeat(16, axis=2)
    images = np.clip(gray, 0, 255).astype(np.uint8).repeat(3, axis=3)
    found = jax.jit(lambda key, images: statistics(key, images, config))(jax.random.key(0), images)
    assert float(found["noise over clean"]) == pytest.approx(0.84, abs=0.06)


def test_recipe_of_the_release(config):
    assert (config.epochs, config.batch_size, config.finetune.epochs, config.optim.warmup_epochs) == (501, 288, 501, 5)
    assert config.steps == -(-501 * 50_000 // 288)
    assert (config.loss.temperature, config.loss.weighting, config.model.projector_layers) == (0.5, "gradient", 1)
    assert (config.views.hue, config.views.grayscale, config.views.jitter, config.views.area) == (0, 0, 1, (0.08, 1))


def test_weights_start_as_in_the_release():
    """A normal distribution of 0.02, and +-1 / sqrt(3 P^2), uniform, to and from pixels."""
    c = schema.defaults()
    presets.paper(c)
    c.model.update(size="Ti", image_size=32)
    model = make_model(resolve(c, 1000), jax.random.key(0))
    for kernel in (
        model.encoder.blocks.attention.qkv.kernel,
        model.encoder.blocks.mlp_in.kernel,
        model.contrastive.kernel,
    ):
        assert float(kernel[...].std()) == pytest.approx(0.02, rel=0.02)
        assert float(jnp.abs(kernel[...]).max()) > 0.06  # not truncated at two standard deviations
    bound = 1 / np.sqrt(3 * 16**2)
    for kernel in (model.encoder.patch_embedding.kernel, model.reconstruction.linear.kernel):
        assert float(kernel[...].std()) == pytest.approx(bound / np.sqrt(3), rel=0.02)
        assert bound * 0.99 < float(jnp.abs(kernel[...]).max()) <= bound
