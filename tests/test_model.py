import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats
from flax import nnx

from sit_jax.config import presets, schema
from sit_jax.config.resolve import resolve
from sit_jax.model.build import make_compute
from sit_jax.model.fast import attention as fast_attention
from sit_jax.model.fast.gelu import gelu
from sit_jax.model.heads import project
from sit_jax.model.patches import patchify, unpatchify
from sit_jax.model.sizes import SIZES
from sit_jax.model.vit import SiT, resize_position_embedding
from sit_jax.parallel.mesh import make_mesh
from sit_jax.train.state import make_state, make_training

# With the three heads and three log variances; patch 16 at 224 px, for mu and XS patch 4 at 32 px.
PARAMETERS = {
    "mu": 35_082,
    "XS": 1_277_578,
    "Ti": 5_771_850,
    "S": 22_160_010,
    "M": 38_983_690,
    "B": 86_786_826,
    "L": 304_619_018,
    "H": 632_565_002,
    "g": 1_013_182_602,
}


def make(size="mu", patch_size=4, image_size=16, dtype="float32", **changes):
    """A model with the paper's contrastive head of one layer, unless `changes` of the section `model` override it."""
    c = schema.defaults()
    c.dtype = dtype
    c.model.update(projector_layers=1, projector_width=None, projector_norm="none", embedding_size=512)
    c.model.update(attention="xla", products="float32", unroll=False, halves=False)
    c.model.update(size=size, patch_size=patch_size, image_size=image_size, **changes)
    return SiT(c.model, make_compute(c), rngs=nnx.Rngs(0))


def test_every_size_has_a_golden_number():
    assert PARAMETERS.keys() == SIZES.keys()


@pytest.mark.parametrize("size", SIZES)
def test_number_of_parameters(size):
    c = schema.defaults()
    presets.paper(c)  # whose contrastive head is one layer
    patch_size, image_size = (4, 32) if size in ("mu", "XS") else (16, 224)
    c.model.update(size=size, patch_size=patch_size, image_size=image_size)
    c = resolve(c, 10_000)
    state = jax.eval_shape(lambda: make_state(c, make_training(c).optimizer))
    assert sum(leaf.size for leaf in jax.tree.leaves(state.params)) == PARAMETERS[size]


def test_output_shapes_and_types():
    out = make(dtype="bfloat16")(jnp.zeros((6, 16, 16, 3)))
    assert {name: (x.shape, x.dtype.name) for name, x in out.items()} == {
        "rotation": ((6, 4), "float32"),
        "token": ((6, 32), "float32"),
        "patches": ((6, 16, 48), "float32"),
    }


def test_bfloat16_is_close_to_float32():
    images = jax.random.uniform(jax.random.key(0), (4, 16, 16, 3), minval=-1)
    exact, rounded = make()(images), make(dtype="bfloat16")(images)
    for name in exact:
        error = jnp.linalg.norm(exact[name] - rounded[name]) / jnp.linalg.norm(exact[name])
        assert error < 0.02, name


def first_attention(encoder):
    graphdef, stacked = nnx.split(encoder.blocks.attention, nnx.Param)
    return graphdef, jax.tree.map(lambda x: x[0], stacked)


def test_attention_equals_the_library():
    attention = nnx.merge(*first_attention(make("Ti", 4, 16).encoder))
    x = jax.random.normal(jax.random.key(1), (2, 18, 192))
    qkv = attention.qkv(x).reshape(2, 18, 3, 3, 64)
    expected = jax.nn.dot_product_attention(qkv[:, :, 0], qkv[:, :, 1], qkv[:, :, 2])
    expected = attention.out(expected.reshape(2, 18, 192))
    np.testing.assert_allclose(attention(x), expected, rtol=1e-4, atol=1e-6)


def test_queries_keys_and_values_of_a_product_each_are_those_of_one():
    attention = nnx.merge(*first_attention(make("Ti", 4, 16).encoder))
    attention.qkv.bias[...] = jnp.arange(3.0 * 192)
    x = jax.random.normal(jax.random.key(1), (2, 18, 192))
    expected = fast_attention.project(attention.qkv, x, 3).swapaxes(2, 3)
    for part, right in zip(fast_attention.project_apart(attention.qkv, x, 3), expected, strict=True):
        np.testing.assert_allclose(part, right, rtol=1e-5, atol=1e-4)


def test_layers_one_by_one_give_the_tokens_and_the_attention_of_the_last():
    encoder_def, params = nnx.split(make("XS").encoder, nnx.Param)
    images = jax.random.normal(jax.random.key(0), (2, 16, 16, 3))

    @jax.jit
    def one_by_one(params):
        encoder = nnx.merge(encoder_def, params)
        tokens = jnp.broadcast_to(encoder.tokens[...], (2, 2, 128))
        x = jnp.concatenate([tokens, encoder.patch_embedding(patchify(images, 4))], axis=1)
        x = x + encoder.position_embedding[...]
        block_def, stacked = nnx.split(encoder.blocks, nnx.Param)
        for layer in range(6):
            block = nnx.merge(block_def, jax.tree.map(lambda leaf, layer=layer: leaf[layer], stacked))
            before, x = x, block(x, 0.0, None)
        q, k, _ = jnp.moveaxis(block.attention.qkv(block.norm1(before)).reshape(2, 18, 3, 4, 32), 2, 0)
        return encoder.norm(x), jax.nn.softmax(jnp.einsum("vthd,vshd->vhts", q, k) / 32**0.5, axis=-1)

    tokens, weights = one_by_one(params)
    found = jax.jit(lambda params: nnx.merge(encoder_def, params).attention_weights(images))(params)
    np.testing.assert_allclose(
        jax.jit(lambda p: nnx.merge(encoder_def, p)(images))(params), tokens, rtol=1e-4, atol=1e-5
    )
    np.testing.assert_allclose(found, weights, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(found.sum(axis=-1), 1, rtol=1e-5)


def test_patchify_takes_blocks_of_the_image_row_by_row():
    images = jnp.arange(2 * 8 * 8 * 3).reshape(2, 8, 8, 3)
    patches = patchify(images, 4)
    np.testing.assert_array_equal(patches[1, 1], images[1, :4, 4:].reshape(-1))
    np.testing.assert_array_equal(patches[0, 2], images[0, 4:, :4].reshape(-1))
    np.testing.assert_array_equal(unpatchify(patches, 4), images)


def test_reconstruction_head_has_one_bias_a_channel():
    head = make().reconstruction
    head.bias[...] = jnp.array([1.0, 2.0, 3.0])
    pixels = unpatchify(head(jnp.zeros((1, 16, 32))), 4)
    np.testing.assert_array_equal(pixels, jnp.broadcast_to(jnp.array([1.0, 2.0, 3.0]), (1, 16, 16, 3)))


def test_rotation_logits_read_the_first_token_and_the_contrastive_head_the_second():
    model = make()
    images = jax.random.normal(jax.random.key(0), (2, 16, 16, 3))
    tokens, out = model.encoder(images), model(images)
    np.testing.assert_allclose(out["rotation"], model.rotation(tokens[:, 0]), rtol=1e-6)
    np.testing.assert_array_equal(out["token"], tokens[:, 1])
    embedding, statistics = project(model.contrastive, out["token"])
    np.testing.assert_allclose(embedding, model.contrastive(tokens[:, 1]), rtol=1e-6)
    assert not statistics
    np.testing.assert_allclose(out["patches"], model.reconstruction(tokens[:, 2:]), rtol=1e-6)


def test_a_stem_of_convolutions_makes_a_token_of_each_patch_and_its_border():
    stem = make(stem="convolutions", image_size=32, patch_size=8).encoder.patch_embedding
    kernels = [getattr(stem, f"convolution{i}").kernel.shape for i in range(3)]
    assert kernels == [(3, 3, 3, 8), (3, 3, 8, 16), (3, 3, 16, 32)]
    images = jax.random.uniform(jax.random.key(0), (2, 32, 32, 3), minval=-1)
    run = nnx.jit(lambda stem, images: stem(images))
    tokens = run(stem, images)
    assert tokens.shape == (2, 16, 32)
    # Token k belongs to the patch in row k // 4. It reads from 7 pixels before the patch to the last pixel of the
    # patch.
    changed = np.any(np.asarray(run(stem, images.at[0, 8, 16].add(1.0)) != tokens), axis=-1)
    np.testing.assert_array_equal(np.flatnonzero(changed[0]), [1 * 4 + 2])
    changed = np.any(np.asarray(run(stem, images.at[0, 7, 16].add(1.0)) != tokens), axis=-1)
    np.testing.assert_array_equal(np.flatnonzero(changed[0]), [0 * 4 + 2, 1 * 4 + 2])
    assert not changed[1].any()
    # One output by hand: layers of a valid convolution, a normalisation over channels and a ReLU.
    window = np.pad(np.float64(images[0]), ((7, 0), (7, 0), (0, 0)))[0:15, 0:15]
    for i in range(3):
        kernel = np.float64(getattr(stem, f"convolution{i}").kernel[...])
        side = (len(window) - 1) // 2
        out = np.zeros((side, side, kernel.shape[-1]))
        for y in range(side):
            for x in range(side):
                out[y, x] = np.einsum("yxc,yxco->o", window[2 * y : 2 * y + 3, 2 * x : 2 * x + 3], kernel)
        out = (out - out.mean(-1, keepdims=True)) / np.sqrt(out.var(-1, keepdims=True) + 1e-6)
        window = np.maximum(out, 0)
        # Padding is zero in every layer, whatever values the layer before has.
        outside = (7 >> (i + 1)) if i < 2 else 0
        window[:outside] = window[:, :outside] = 0
    expected = window[0, 0] @ np.float64(stem.out.kernel[...])
    np.testing.assert_allclose(tokens[0, 0], expected, rtol=1e-4, atol=1e-5)


def test_projector_is_dense_layers_with_gelu_between_them():
    head = make(projector_layers=3, embedding_size=8).contrastive
    params = jax.tree.map(np.float64, nnx.to_pure_dict(nnx.state(head, nnx.Param)))
    assert {name: layer["kernel"].shape for name, layer in params.items()} == {
        "layer0": (32, 128),
        "layer1": (128, 128),
        "layer2": (128, 8),
    }
    x = expected = np.random.default_rng(0).normal(size=(5, 32)) * 50  # beyond the near-linear range of GELU around 0
    for name, layer in params.items():
        expected = expected if name == "layer0" else expected * scipy.stats.norm.cdf(expected)
        expected = expected @ layer["kernel"] + layer["bias"]
    np.testing.assert_allclose(project(head, jnp.float32(x))[0], expected, rtol=1e-4, atol=1e-4)


def test_projector_with_batch_normalisation_after_each_layer():
    head = make(projector_layers=2, projector_width=24, projector_norm="batch", embedding_size=8).contrastive
    params = jax.tree.map(np.float64, nnx.to_pure_dict(nnx.state(head, nnx.Param)))
    assert {name: params[name]["kernel"].shape for name in ("layer0", "layer1")} == {
        "layer0": (32, 24),
        "layer1": (24, 8),
    }
    x = expected = np.random.default_rng(0).normal(size=(50, 32)) * 3 + 1
    seen = {}
    for index in range(2):
        expected = expected if index == 0 else expected * scipy.stats.norm.cdf(expected)
        expected = expected @ params[f"layer{index}"]["kernel"]
        seen[f"norm{index}"] = {"mean": expected.mean(axis=0), "var": expected.var(axis=0)}
        expected = (expected - expected.mean(axis=0)) / np.sqrt(expected.var(axis=0) + 1e-5)
    embedding, statistics = project(head, jnp.float32(x), training=True)
    np.testing.assert_allclose(embedding, expected, rtol=1e-4, atol=1e-4)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6), statistics, seen)
    # In evaluation, a row does not depend on other rows: the statistics are parameters.
    for name, values in statistics.items():
        norm = getattr(head, name)
        norm.mean[...], norm.var[...] = values["mean"], values["var"]
    np.testing.assert_allclose(project(head, jnp.float32(x[:3]))[0], expected[:3], rtol=1e-3, atol=1e-3)


def test_remat_and_unrolling_change_nothing():
    images = jax.random.normal(jax.random.key(0), (4, 16, 16, 3))
    keys = jax.random.split(jax.random.key(1), 4)

    def lowered(**kwargs):
        graphdef, params = nnx.split(make("XS", drop_path=0.3, **kwargs), nnx.Param)
        loss = lambda p: jnp.mean(nnx.merge(graphdef, p)(images, keys)["patches"] ** 2)  # noqa: E731
        return jax.jit(jax.grad(loss)).lower(params), params

    def gradient(**kwargs):
        program, params = lowered(**kwargs)
        return nnx.to_pure_dict(program.compile()(params))

    expected = gradient()
    for found in (gradient(remat=True), gradient(unroll=True)):
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-7), found, expected)
    # Without a loop, only barriers keep XLA from merging the recomputation with the forward pass.
    counts = [lowered(remat=remat, unroll=True)[0].as_text().count("optimization_barrier") for remat in (False, True)]
    assert counts[0] < counts[1]


@pytest.mark.parametrize("drop_path", [0.0, 0.3])
def test_layers_train_on_two_halves_of_the_rows_of_one_device(drop_path):
    def run(views, devices=1, halves=True, training=True):
        """Returns the number of rows in the products for queries, keys and values, and the rebuilt patches."""
        graphdef, params = nnx.split(make("XS", drop_path=drop_path, unroll=True, halves=halves), nnx.Param)
        images = jax.random.normal(jax.random.key(0), (views, 16, 16, 3))
        keys = jax.random.split(jax.random.key(1), views) if training else None
        program = jax.jit(lambda images, keys: nnx.merge(graphdef, params)(images, keys)["patches"])
        with jax.set_mesh(make_mesh(devices=jax.devices()[:devices])):
            text = program.lower(images, keys).as_text()
            return set(re.findall(r"dot_general .*-> tensor<(\d+)x384xf32>", text)), program(images, keys)

    tokens = 2 + 16
    whole, expected = run(8, halves=False)
    assert whole == {str(8 * tokens)}
    halves, found = run(8)
    assert halves == {str(4 * tokens)}
    np.testing.assert_allclose(found, expected, atol=1e-5)
    odd, found = run(7)
    assert odd == {str(7 * tokens)}
    np.testing.assert_allclose(found, run(7, halves=False)[1], atol=1e-5)
    assert run(8, training=False)[0] == whole
    several, found = run(8, devices=4)
    assert several == whole
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_the_compiled_gradient_of_gelu_keeps_its_input_alone():
    """Sixteen layers store 32 arrays; without a barrier, XLA also stores each layer's distribution function: 47."""
    weight = jnp.ones((256, 256))

    def chain(weight):
        x = jnp.ones((256, 256))
        for _ in range(16):
            x = gelu(x @ weight)
        return jnp.sum(x**2)

    held = jax.jit(jax.grad(chain)).lower(weight).compile().memory_analysis().temp_size_in_bytes
    assert held < 36 * weight.nbytes


def test_gelu_and_its_gradient_equal_the_library():
    x = jnp.linspace(-6, 6, 1001)
    library = lambda x: jax.nn.gelu(x, approximate=False)  # noqa: E731
    np.testing.assert_allclose(gelu(x), library(x), atol=1e-6)
    np.testing.assert_allclose(jax.grad(lambda x: gelu(x).sum())(x), jax.grad(lambda x: library(x).sum())(x), atol=1e-6)
    rounded = x.astype(jnp.bfloat16)
    exact = library(rounded.astype(jnp.float32))
    assert gelu(rounded).dtype == jnp.bfloat16
    np.testing.assert_allclose(gelu(rounded).astype(jnp.float32), exact, rtol=2**-8, atol=1e-6)


def test_drop_path_drops_by_row_and_is_off_without_keys():
    model = make("XS", drop_path=0.5)
    images = jnp.broadcast_to(jax.random.normal(jax.random.key(0), (16, 16, 3)), (8, 16, 16, 3))
    plain, again = model(images), model(images)
    np.testing.assert_array_equal(plain["token"], again["token"])
    np.testing.assert_allclose(plain["token"], jnp.broadcast_to(plain["token"][0], (8, 128)), atol=1e-5)
    dropped = model(images, jax.random.split(jax.random.key(1), 8))["token"]
    assert len(np.unique(np.round(np.asarray(dropped[:, 0]), 5))) > 4
    same_key = model(images, jnp.stack([jax.random.key(3)] * 8))["token"]
    np.testing.assert_allclose(same_key, jnp.broadcast_to(same_key[0], (8, 128)), atol=1e-5)


def test_drop_path_keeps_the_expectation():
    from sit_jax.model.vit import drop_path

    kept = drop_path(jnp.ones((20_000, 1, 1)), 0.25, jax.random.split(jax.random.key(0), 20_000), 0)
    assert set(np.unique(kept)) <= {0.0, np.float32(1 / 0.75)}
    np.testing.assert_allclose(kept.mean(), 1.0, atol=0.02)


def test_position_embedding_follows_the_image_size():
    model = make(image_size=16)
    position = model.encoder.position_embedding[...]
    larger = resize_position_embedding(position, 8)
    assert larger.shape == (2 + 64, 32)
    np.testing.assert_array_equal(larger[:2], position[:2])
    expected = jax.image.resize(position[2:].reshape(4, 4, 32), (8, 8, 32), "cubic")
    np.testing.assert_allclose(larger[2:].reshape(8, 8, 32), expected, rtol=1e-6)
    assert resize_position_embedding(position, 4) is position
    assert model(jnp.zeros((2, 32, 32, 3)))["patches"].shape == (2, 64, 48)


def test_constant_position_embedding_stays_constant_when_resized():
    position = jnp.ones((2 + 49, 8)) * jnp.arange(8)
    np.testing.assert_allclose(resize_position_embedding(position, 5), position[:27], rtol=1e-5)
