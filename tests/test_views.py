import functools
import importlib

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
import pytest
import scipy.stats
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sit_jax import views
from sit_jax.config import schema
from sit_jax.views import blocks, random_rotation, rotate, whole_images
from sit_jax.views.augment import blur_view, crop_sides, random_resized_crop
from sit_jax.views.blocks import many_blocks, one_block
from sit_jax.views.blur import gaussian_blur
from sit_jax.views.color import grayscale, jitter, rotate_hue, solarize
from sit_jax.views.corrupt import OPERATIONS, Donors, blur, corrupted_images, group_size, recolour, replace
from sit_jax.views.noise import noise

SEEDS = given(seed=st.integers(0, 2**31))
SLOW = settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.too_slow], derandomize=True)

pytestmark = pytest.mark.usefixtures("quick_compilation")


@functools.partial(jax.jit, static_argnames=("function", "args"))
def compiled(function, *arrays, args):
    """Calls a function of (arrays, args), compiled once for each configuration and shape."""
    return function(*arrays, *args)


def frozen(section):
    return ml_collections.FrozenConfigDict(section)


def augment(key, images, size, section):
    return compiled(views.augment, key, images, args=(size, frozen(section)))


def corrupt(key, images, section):
    return compiled(views.corrupt, key, images, args=(frozen(section),))


def make_config(image_size=16, **sections):
    """All views are changed, so that a test has to draw few of them; `sections` go on top."""
    c = schema.defaults()
    c.model.image_size = image_size
    c.views.update(jitter=1.0, hue=0.0, grayscale=0.0, turned=0.75, share_rotation=False)
    c.corrupt.share = 1.0
    for name in ("grayscale", "blur", "recolour"):
        c.corrupt[name].probability = 1.0
    c.corrupt.drop.fraction = c.corrupt.replace.fraction = (0.0, 0.3)
    for name, values in sections.items():
        c[name].update(values)
    return c


def pictures(seed, count, size):
    return np.random.default_rng(seed).integers(0, 256, (count, size, size, 3), np.uint8)


def only(**operation):
    """The section `corrupt` with all operations off but those given."""
    c = make_config().corrupt
    for name in OPERATIONS:
        c[name].update({"fraction": (0.0, 0.0)} if "fraction" in c[name] else {"probability": 0.0})
    c.update(operation)
    return c


# --- views


@pytest.mark.parametrize("size,source,hue", [(8, 8, 0.0), (17, 40, 0.5), (32, 15, 0.1)])
@SLOW
@SEEDS
def test_views_have_shape_type_and_range(size, source, hue, seed):
    c = make_config(size, views={"hue": hue, "grayscale": 0.3})
    key, images = jax.random.key(seed), pictures(seed, 3, source)
    rows = augment(key, images, size, c.views)
    assert rows.shape == (6, size, size, 3)
    assert rows.dtype == jnp.float32
    assert jnp.isfinite(rows).all()
    assert rows.min() >= -1
    assert rows.max() <= 1
    np.testing.assert_array_equal(rows, augment(key, images, size, c.views))
    assert not np.array_equal(rows[0::2], rows[1::2])


@SLOW
@SEEDS
def test_a_view_depends_on_its_own_image_alone(seed):
    size = 16
    c = make_config(size)
    images, key = pictures(seed, 4, 16), jax.random.key(seed)
    changed = images.copy()
    changed[2] = 255 - changed[2]
    before, after = augment(key, images, size, c.views), augment(key, changed, size, c.views)
    rows = np.array([0, 1, 2, 3, 6, 7])
    np.testing.assert_array_equal(before[rows], after[rows])
    assert not np.array_equal(before[4:6], after[4:6])


def test_whole_crop_of_the_same_size_is_the_image():
    image = jax.random.uniform(jax.random.key(0), (16, 16, 3))
    crop = random_resized_crop(jax.random.key(1), image, 16, (1.0, 1.0), (1.0, 1.0))
    np.testing.assert_allclose(crop, image, atol=1e-6)


def numpy_crop_sides(rng, height, width, area, ratio):
    """The algorithm of torchvision's RandomResizedCrop, without rounding to pixels; shares of (height, width)."""
    for _ in range(10):
        target = height * width * rng.uniform(*area)
        aspect = np.exp(rng.uniform(np.log(ratio[0]), np.log(ratio[1])))
        w, h = np.sqrt(target * aspect), np.sqrt(target / aspect)
        if w <= width and h <= height:
            return h / height, w / width
    own = width / height
    if own < ratio[0]:
        return width / ratio[0] / height, 1.0
    return (1.0, height * ratio[1] / width) if own > ratio[1] else (1.0, 1.0)


@pytest.mark.parametrize(
    "height,width,area,ratio",
    [
        (32, 32, (0.08, 1.0), (3 / 4, 4 / 3)),
        (32, 32, (0.08, 1.0), (1.0, 4.0)),  # wide boxes alone: height and width are not exchanged
        (20, 50, (0.3, 1.0), (3 / 4, 4 / 3)),
        (20, 50, (0.9, 1.0), (3 / 4, 4 / 3)),  # no box ever fits
        (50, 20, (0.9, 1.0), (3 / 4, 4 / 3)),
    ],
)
def test_crops_are_drawn_as_by_an_independent_version(height, width, area, ratio):
    """Deciles of the sides, of the area and of the ratio; 4,000 draws have a standard error of 0.008 in a share."""
    keys = jax.random.split(jax.random.key(0), 4000)
    sides = np.asarray(jax.vmap(lambda key: crop_sides(key, width / height, area, ratio))(keys))
    rng = np.random.default_rng(0)
    expected = np.array([numpy_crop_sides(rng, height, width, area, ratio) for _ in range(4000)])
    assert sides.max() <= 1
    for found, wanted in ((sides, expected), (sides.prod(axis=1), expected.prod(axis=1))):
        deciles = [np.quantile(x, np.linspace(0.1, 0.9, 9), axis=0) for x in (found, wanted)]
        np.testing.assert_allclose(*deciles, atol=0.03)
    ratios = [np.quantile(np.log(x[:, 1] / x[:, 0]), np.linspace(0.1, 0.9, 9)) for x in (sides, expected)]
    np.testing.assert_allclose(*ratios, atol=0.05)


def test_crop_ratio_is_uniform_in_its_logarithm():
    """Small boxes always fit, so that none is drawn again; with a uniform ratio, half would be above 2.125."""
    keys = jax.random.split(jax.random.key(1), 4000)
    sides = jax.vmap(lambda key: crop_sides(key, 1.0, (0.05, 0.06), (1 / 4, 4.0)))(keys)
    deciles = np.quantile(np.log(sides[:, 1] / sides[:, 0]), np.linspace(0.1, 0.9, 9))
    np.testing.assert_allclose(deciles, np.linspace(-0.8, 0.8, 9) * np.log(4), atol=0.1)


def test_crop_takes_a_box_inside_the_image():
    """On a linear ramp, a crop is a ramp whose slope is the side of the box: the area is what was asked for."""
    ramp = jnp.broadcast_to(jnp.linspace(0, 1, 64)[:, None, None], (64, 64, 3))
    for seed in range(8):
        crop = random_resized_crop(jax.random.key(seed), ramp, 16, (0.25, 0.25), (1.0, 1.0))
        slope = jnp.diff(crop[2:-2, 8, 0]).mean()
        np.testing.assert_allclose(slope, 0.5 * 64 / 16 / 63, rtol=2e-2)
        assert crop.min() >= 0
        assert crop.max() <= 1


def test_flip_mirrors_left_and_right():
    off = {"area": (1.0, 1.0), "ratio": (1.0, 1.0), "brightness": 0.0, "contrast": 0.0, "saturation": 0.0}
    images = pictures(0, 2, 16)
    plain = augment(jax.random.key(0), images, 16, make_config(views=off | {"flip": 0.0}).views)
    flipped = augment(jax.random.key(0), images, 16, make_config(views=off | {"flip": 1.0}).views)
    np.testing.assert_allclose((plain[0::2] + 1) * 127.5, images, atol=1e-3)
    np.testing.assert_allclose(flipped, plain[:, :, ::-1], atol=1e-6)


def test_grayscale_and_hue_by_hand():
    image = jnp.array([[[1.0, 0.0, 0.0], [0.2, 0.5, 0.7]]])
    np.testing.assert_allclose(grayscale(image)[0, :, 0], [0.299, 0.2 * 0.299 + 0.5 * 0.587 + 0.7 * 0.114], rtol=1e-6)
    np.testing.assert_allclose(rotate_hue(image, jnp.float32(1.0)), image, atol=1e-5)
    np.testing.assert_allclose(grayscale(rotate_hue(image, jnp.float32(0.3))), grayscale(image), atol=1e-3)
    np.testing.assert_allclose(rotate_hue(grayscale(image), jnp.float32(0.3)), grayscale(image), atol=1e-3)
    assert jnp.abs(rotate_hue(image, jnp.float32(0.5)) - image).max() > 0.3


def test_a_turn_of_the_hue_is_one_in_the_plane_of_i_and_q():
    """Written out with the rounded coefficients of NTSC: I + Q i is multiplied by a complex number of length 1."""
    image = np.random.default_rng(0).uniform(0.2, 0.8, (2, 3, 3))
    r, g, b = np.moveaxis(image, -1, 0)
    y = 0.299 * r + 0.587 * g + 0.114 * b
    z = (0.5959 * r - 0.2746 * g - 0.3213 * b) + 1j * (0.2115 * r - 0.5227 * g + 0.3112 * b)
    z *= np.exp(2j * np.pi * 0.2)
    i, q = z.real, z.imag
    expected = [y + 0.956 * i + 0.619 * q, y - 0.272 * i - 0.647 * q, y - 1.106 * i + 1.703 * q]
    np.testing.assert_allclose(rotate_hue(jnp.float32(image), jnp.float32(0.2)), np.stack(expected, -1), atol=2e-3)


def test_solarize_inverts_the_brighter_half():
    values = jnp.array([0.0, 0.2, 0.499, 0.5, 0.7, 1.0])
    np.testing.assert_allclose(solarize(values), [0.0, 0.2, 0.499, 0.5, 0.3, 0.0], atol=1e-7)


@pytest.mark.parametrize("name,operation", [("solarize", solarize), ("grayscale", grayscale)])
def test_colour_operations_of_views_come_with_their_probability(name, operation):
    images, key = pictures(0, 200, 8), jax.random.key(0)
    plain = augment(key, images, 8, make_config().views)
    always = augment(key, images, 8, make_config(views={name: 1.0}).views)
    np.testing.assert_allclose(always, 2 * operation((plain + 1) / 2) - 1, atol=1e-5)
    some = augment(key, images, 8, make_config(views={name: 0.3}).views)
    changed = np.any(np.abs(some - plain) > 1e-3, axis=(1, 2, 3))  # more than compilers differ by
    # 400 draws: the share is 0.3 within four standard deviations.
    assert abs(changed.mean() - 0.3) < 0.092
    np.testing.assert_allclose(some[changed], always[changed], atol=1e-5)


def test_jitter_of_strength_zero_is_the_identity():
    image = jax.random.uniform(jax.random.key(0), (8, 8, 3))
    off = make_config(views={"brightness": 0.0, "contrast": 0.0, "saturation": 0.0}).views
    np.testing.assert_array_equal(jitter(jax.random.key(1), image, off), image)
    bright = make_config(views={"brightness": 0.4, "contrast": 0.0, "saturation": 0.0}).views
    ratio = jitter(jax.random.key(1), image * 0.5, bright) / (image * 0.5)
    np.testing.assert_allclose(ratio, ratio[0, 0, 0], rtol=1e-5)
    assert 0.6 <= ratio[0, 0, 0] <= 1.4


def assert_uniform(draws, low, high):
    """Deciles of at least 400 draws: their standard error is 0.025 of the range, of which this allows four."""
    deciles = np.quantile((np.asarray(draws) - low) / (high - low), np.linspace(0.0, 1.0, 11))
    assert deciles[0] >= -1e-3 and deciles[-1] <= 1 + 1e-3
    np.testing.assert_allclose(deciles, np.linspace(0.0, 1.0, 11), atol=0.1)


@functools.cache
def jitter_factors(name, strength):
    """By hand: the factors [400] of one change, from black, from the mean of the luma or from that of the pixel."""
    c = make_config(views=dict.fromkeys(("brightness", "contrast", "saturation"), 0.0) | {name: strength}).views
    image = 0.5 + 0.04 * jax.random.normal(jax.random.key(0), (4, 4, 3))
    out = jax.jit(jax.vmap(lambda key: jitter(key, image, c)))(jax.random.split(jax.random.key(1), 400))
    grey = np.asarray(image) @ [0.299, 0.587, 0.114]
    away = image - {"brightness": 0.0, "contrast": grey.mean(), "saturation": grey[..., None]}[name]
    factors = 1 + np.sum((out - image) * away, axis=(1, 2, 3)) / np.sum(away**2)
    np.testing.assert_allclose(out - image, (factors[:, None, None, None] - 1) * away, atol=1e-4)
    return factors


JITTERS = (("brightness", 0.4), ("contrast", 0.4), ("saturation", 2.0))


@pytest.mark.parametrize("name,strength", JITTERS)
def test_jitter_scales_what_it_is_called_after_by_a_uniform_factor(name, strength):
    assert_uniform(jitter_factors(name, strength), max(0, 1 - strength), 1 + strength)


def test_jitter_draws_its_changes_independently():
    correlation = np.corrcoef([jitter_factors(*each) for each in JITTERS])
    assert np.abs(correlation - np.eye(3)).max() < 0.2  # four standard deviations


def test_jitter_stays_in_range_and_turns_the_hue_to_both_sides():
    c = make_config(views={"brightness": 0.0, "contrast": 0.0, "saturation": 0.0, "hue": 0.1}).views
    image = jnp.array([[[0.6, 0.5, 0.4]]])
    keys = jax.random.split(jax.random.key(0), 400)
    out = np.asarray(jax.jit(jax.vmap(lambda key: jitter(key, image, c)))(keys), np.float64)
    plane = np.array([0.5959 + 0.2115j, -0.2746 - 0.5227j, -0.3213 + 0.3112j])
    assert_uniform(np.angle((out @ plane) / (np.asarray(image) @ plane)) / (2 * np.pi), -0.1, 0.1)
    c = make_config(views={"brightness": 0.9, "contrast": 0.9, "saturation": 0.9, "hue": 0.5}).views
    out = jax.jit(jax.vmap(lambda key: jitter(key, jnp.array([[[1.0, 0.0, 0.9], [0.1, 1.0, 0.0]]]), c)))(keys)
    assert out.min() == 0 and out.max() == 1


def test_whole_images_keep_every_pixel_at_their_own_size():
    images = pictures(0, 2, 16)
    np.testing.assert_allclose((whole_images(images, 16) + 1) * 127.5, images, atol=1e-3)
    assert whole_images(images, 24).shape == (2, 24, 24, 3)


# --- rotation


def test_rotation_equals_numpy():
    images = jax.random.normal(jax.random.key(0), (8, 9, 9, 3))
    turned = rotate(images, jnp.arange(8) % 4)
    for i in range(8):
        np.testing.assert_array_equal(turned[i], np.rot90(images[i], i % 4))


def test_four_quarter_turns_are_the_identity():
    images = jax.random.normal(jax.random.key(0), (4, 8, 8, 3))
    turned = images
    for _ in range(4):
        turned = rotate(turned, jnp.ones(4, jnp.int32))
    np.testing.assert_array_equal(turned, images)


def test_random_rotation_is_uniform_and_matches_its_labels():
    upright = jax.random.normal(jax.random.key(0), (2000, 2, 2, 3))
    turned, quarters = random_rotation(jax.random.key(1), upright)
    np.testing.assert_array_equal(rotate(upright, quarters), turned)
    assert np.abs(np.bincount(quarters, minlength=4) - 500).max() < 80  # four standard deviations


# --- corruptions


@pytest.mark.parametrize("size,fill", [(8, "noise"), (17, "zeros"), (32, "mean")])
@SLOW
@SEEDS
def test_corruptions_have_shape_type_masks_and_repeat(size, fill, seed):
    c = make_config().corrupt
    c.drop.fill = fill
    key = jax.random.key(seed)
    images = jax.random.uniform(jax.random.fold_in(key, 1), (8, size, size, 3), minval=-1)
    out, masks = corrupt(key, images, c)
    assert out.shape == images.shape
    assert out.dtype == images.dtype
    assert jnp.isfinite(out).all()
    assert masks.keys() == OPERATIONS.keys()
    for mask in masks.values():
        assert mask.shape == (8, size, size)
        assert mask.dtype == bool
    untouched = ~np.any(list(masks.values()), axis=0)
    np.testing.assert_array_equal(out[untouched], images[untouched])
    outside_noise = ~masks["drop"] if fill == "noise" else jnp.ones_like(masks["drop"])
    assert jnp.abs(out[outside_noise]).max() <= 1 + 1e-5
    again, _ = corrupt(key, images, c)
    np.testing.assert_array_equal(out, again)


@pytest.mark.parametrize("name", OPERATIONS)
def test_each_operation_changes_just_its_mask(name):
    on = {"fraction": (0.4, 0.4)} if name in ("drop", "replace") else {"probability": 1.0, "block": (0.5, 0.5)}
    c = only()
    c[name].update(on)
    images = jax.random.uniform(jax.random.key(0), (8, 32, 32, 3), minval=-1)
    out, masks = corrupt(jax.random.key(1), images, c)
    changed = jnp.any(out != images, axis=-1)
    assert not jnp.any(changed & ~masks[name])
    assert changed.sum() >= 0.99 * masks[name].sum()
    assert masks[name].sum() > 0
    for other in OPERATIONS.keys() - {name}:
        assert not masks[other].any()


@pytest.mark.parametrize("share,expected", [(0.0, 0), (0.05, 1), (0.25, 2), (0.5, 4), (1.0, 8)])
def test_a_share_of_the_images_is_corrupted_as_if_all_were(share, expected):
    """All views of the first images of each group of eight; their pixels are those of a run in which all are."""
    c = make_config().corrupt
    images = jax.random.uniform(jax.random.key(0), (48, 16, 16, 3), minval=-1)  # 16 images, three views each
    all_out, all_masks = compiled(views.corrupt, jax.random.key(1), images, args=(frozen(c), None, 3))
    c.share = share
    out, masks = compiled(views.corrupt, jax.random.key(1), images, args=(frozen(c), None, 3))
    corrupted = np.arange(48) // 3 % 8 < expected
    np.testing.assert_allclose(out[corrupted], all_out[corrupted], atol=1e-6)
    np.testing.assert_array_equal(out[~corrupted], images[~corrupted])
    for name, mask in masks.items():
        np.testing.assert_array_equal(mask[corrupted], all_masks[name][corrupted])
        assert not mask[~corrupted].any()
    # A part of a batch, of whole groups, is corrupted as in the batch.
    part, _ = jax.jit(lambda rows: views.corrupt(jax.random.key(1), images[24:], c, rows, 3))(jnp.arange(24, 48))
    np.testing.assert_allclose(part, out[24:], atol=1e-6)


def test_a_recolouring_of_strength_zero_changes_nothing():
    images = jax.random.uniform(jax.random.key(0), (4, 8, 8, 3), minval=-1)
    section = only().recolour
    section.update(dict.fromkeys(("brightness", "contrast", "saturation", "hue"), 0.0))
    out = recolour(jax.random.split(jax.random.key(1), 4), images, section, None)
    np.testing.assert_allclose(out, images, atol=1e-6)


@pytest.mark.parametrize("views_of_each", [(), (2,), (4,)])
def test_rows_of_an_image_stay_together_in_a_share(views_of_each, monkeypatch):
    """Two rows an image where nothing is said; a corruption that adds one shows which rows have it."""
    module = importlib.import_module("sit_jax.views.corrupt")
    monkeypatch.setattr(module, "operate", lambda key, images, *rest: (images + 1, {}))
    count = 16 * (views_of_each or (2,))[0]
    images = jnp.arange(count, dtype=jnp.float32)[:, None, None, None] * jnp.ones((1, 2, 2, 3))
    out, _ = views.corrupt(jax.random.key(0), images, only(share=0.25), None, *views_of_each)
    expected = np.arange(count) // (count // 16) % 8 < 2  # of sixteen images, the first two of each eight
    np.testing.assert_array_equal((out - images)[:, 0, 0, 0], expected)


def test_views_of_an_image_can_be_turned_alike_and_seldom():
    images = np.zeros((400, 16, 16, 3), np.uint8)

    def rotations(**values):
        c = make_config(views={"count": 4, **values})
        # Compiled with nothing else as its result, the pixels are not computed.
        return np.asarray(jax.jit(lambda key: views.make_views(key, images, c).rotation)(jax.random.key(0)))

    rotation = rotations(share_rotation=True, turned=0.3).reshape(400, 4)
    assert np.all(rotation == rotation[:, :1])
    np.testing.assert_allclose(np.bincount(rotation[:, 0], minlength=4) / 400, [0.7, 0.1, 0.1, 0.1], atol=0.06)
    rotation = rotations(share_rotation=False, turned=0.75)
    np.testing.assert_allclose(np.bincount(rotation, minlength=4) / 1600, 0.25, atol=0.04)
    assert len(np.unique(rotation.reshape(400, 4)[:, :2], axis=0)) == 16


@SLOW
@SEEDS
def test_a_row_depends_on_its_neighbours_in_replace_alone(seed):
    size = 16
    key = jax.random.key(seed)
    images = jax.random.uniform(jax.random.fold_in(key, 1), (8, size, size, 3), minval=-1)
    changed = images.at[5].set(-images[5])
    c = make_config().corrupt
    c.replace.fraction = (0.0, 0.0)
    before, after = corrupt(key, images, c)[0], corrupt(key, changed, c)[0]
    np.testing.assert_array_equal(np.delete(before, 5, axis=0), np.delete(after, 5, axis=0))
    c.replace.fraction = (0.3, 0.3)
    (before, masks), (after, _) = corrupt(key, images, c), corrupt(key, changed, c)
    differ = np.delete(np.any(before != after, axis=-1), 5, axis=0)
    assert not np.any(differ & ~np.delete(masks["replace"], 5, axis=0))


@pytest.mark.parametrize("images", [2, 3, 8, 11, 24])
def test_donors_are_other_images_of_a_small_group(images):
    rows = 2 * images
    images_of_rows = jnp.broadcast_to(jnp.arange(rows, dtype=jnp.float32)[:, None, None, None], (rows, 1, 1, 3))
    keys = jax.random.split(jax.random.key(0), (300, rows))
    picked = jax.vmap(lambda key: replace(key, images_of_rows, only(), Donors(images_of_rows, 2))[:, 0, 0, 0])(keys)
    picked = np.asarray(picked)
    donor_image, own_image = picked // 2, np.arange(rows) // 2
    assert not np.any(donor_image == own_image)
    if images % 8 == 0:
        assert np.all(donor_image // 8 == own_image // 8)
    for row in range(rows):
        group = 8 if images % 8 == 0 else images
        assert len(np.unique(donor_image[:, row])) == group - 1


def test_sizes_of_groups_by_hand():
    """A group is the smallest divisor from eight on, or all; of its images the rounded share is corrupted, or one."""
    sizes = {1: 1, 4: 4, 8: 8, 9: 9, 10: 10, 11: 11, 16: 8, 18: 9, 22: 11, 27: 9, 48: 8}
    assert {batch: group_size(batch) for batch in sizes} == sizes
    counts = {(0.0, 8): 0, (0.01, 8): 1, (0.3, 8): 2, (0.6, 10): 6, (1.0, 11): 11}
    assert {of: corrupted_images(*of) for of in counts} == counts


def test_one_image_has_no_donor_but_itself():
    pair = jnp.arange(2.0)[:, None, None, None] * jnp.ones((2, 2, 2, 3))
    picked = replace(jax.random.split(jax.random.key(0), 2), pair, only(), Donors(pair, 2))
    assert set(np.unique(picked)) <= {0.0, 1.0}


@SLOW
@given(
    seed=st.integers(0, 2**31),
    size=st.sampled_from([8, 33, 224]),
    fraction=st.sampled_from([0.0, 0.1, 0.3, 0.5, 0.7, 0.95, 1.0]),
    block=st.sampled_from([(0.05, 0.25), (0.5, 0.5), (0.02, 0.03)]),
)
def test_blocks_cover_what_was_asked_for_to_within_one_block(seed, size, fraction, block):
    mask = compiled(many_blocks, jax.random.key(seed), args=(size, (fraction, fraction), block))
    largest_block = max(1 / 8, block[1] + 1 / size) ** 2 if size < 32 else (block[1] + 2 / 33) ** 2
    assert mask.shape == (size, size)
    assert fraction - 1e-6 <= mask.mean() <= fraction + largest_block


def test_blocks_are_rectangles_not_pixels():
    """Every covered pixel lies in a covered square of the side of the smallest block."""
    mask = np.asarray(many_blocks(jax.random.key(0), 64, (0.3, 0.3), (0.125, 0.25)))
    corners = np.lib.stride_tricks.sliding_window_view(mask, (4, 4)).all(axis=(2, 3))
    covered = np.zeros_like(mask)
    for y, x in np.argwhere(corners):
        covered[y : y + 4, x : x + 4] = True
    np.testing.assert_array_equal(covered, mask)


def test_blocks_cover_all_places_alike():
    masks = jax.vmap(lambda key: many_blocks(key, 32, (0.3, 0.3), (0.05, 0.25)))(
        jax.random.split(jax.random.key(0), 2000)
    )
    share = masks.mean(axis=0)
    assert share[8:24, 8:24].mean() < 0.38
    assert share[0, 0] > 0.12
    np.testing.assert_allclose(share, share[::-1, ::-1], atol=0.06)


def test_random_blocks_have_any_side_and_reach_over_the_border():
    """The first of them against an independent version; all of them nearly always cover what was asked for."""
    fraction, block, cells = (0.2, 0.4), (0.1, 0.3), 32
    draw = jax.jit(jax.vmap(lambda a, b: blocks._first_random_block(a, b, cells, fraction, block)))
    first = np.asarray(draw(*jax.random.split(jax.random.key(0), (2, 1500))))
    rng, inside = np.random.default_rng(0), []
    for _ in range(2):
        sides = np.clip(np.round(rng.uniform(*block, 6000) * cells), 1, cells)
        reach = np.floor(sides / 2)
        start = np.floor(rng.uniform(size=6000) * (cells - sides + 2 * reach + 1)) - reach
        position = np.arange(cells) - start[:, None]
        inside.append((position >= 0) & (position < sides[:, None]))
    expected = inside[0][:, :, None] & inside[1][:, None, :]
    np.testing.assert_allclose((first == 0).mean(axis=0), expected.mean(axis=0), atol=0.025)  # four deviations
    areas = [np.quantile(x.mean(axis=(1, 2)), np.linspace(0.1, 0.9, 9)) for x in (first == 0, expected)]
    np.testing.assert_allclose(*areas, atol=0.005)
    none = np.iinfo(np.int32).max
    assert np.mean((first < none).mean(axis=(1, 2)) >= fraction[1]) > 0.9
    # Of a mean area of 0.04, n blocks leave exp(-0.04 n) free; drawn are half as many again as leave 0.6, and one.
    assert first[first < none].max() == np.ceil(1.5 * np.log(1 / 0.6) / 0.04)


def test_the_grid_of_blocks_and_its_tiles_by_hand():
    sides = {8: 8, 32: 32, 33: 33, 64: 64, 67: 67, 96: 48, 128: 64, 130: 130, 224: 56}
    assert {size: blocks.grid_side(size) for size in sides} == sides
    rank = np.asarray(blocks._random_tiles(jax.random.key(0), 8, (0.1, 0.4)))  # three cells wide, cut at the end
    tiles = rank[::3, ::3]
    np.testing.assert_array_equal(rank, np.kron(tiles, np.ones((3, 3)))[:8, :8])
    assert sorted(tiles.ravel()) == list(range(9))
    assert not np.array_equal(rank, blocks._random_tiles(jax.random.key(1), 8, (0.1, 0.4)))


def test_one_block_is_a_rectangle_of_the_asked_side():
    for seed in range(20):
        mask = np.asarray(one_block(jax.random.key(seed), 40, (0.25, 0.5), 1.0))
        rows, columns = mask.any(axis=1).sum(), mask.any(axis=0).sum()
        assert mask.sum() == rows * columns
        assert 10 <= rows <= 20
        assert 10 <= columns <= 20
    assert not one_block(jax.random.key(0), 40, (0.25, 0.5), 0.0).any()


def test_one_block_lies_anywhere_with_any_side():
    draw = jax.jit(jax.vmap(lambda key: one_block(key, 24, (0.25, 0.75), 0.7)))
    masks = np.asarray(draw(jax.random.split(jax.random.key(0), 2000)))
    found = masks[masks.any(axis=(1, 2))]
    assert abs(len(found) / 2000 - 0.7) < 0.041  # four standard deviations
    for axis in (1, 2):
        line = found.any(axis=axis)
        sides, start = line.sum(axis=1), line.argmax(axis=1)
        # Rounded sides of U(6, 18): the smallest and the largest have half a share.
        expected = np.array([0.5, *np.ones(11), 0.5]) / 12
        np.testing.assert_allclose(np.bincount(sides)[6:] / len(found), expected, atol=0.03)
        assert set(sides) == set(range(6, 19))
        last = 24 - sides
        assert np.all(start <= last)
        for share, expected in ((start / last, 0.5), (start == 0, 1 / (last + 1)), (start == last, 1 / (last + 1))):
            assert abs(np.mean(share - expected)) < 0.035  # about four standard deviations
    assert abs(np.corrcoef(found.any(axis=1).sum(axis=1), found.any(axis=2).sum(axis=1))[0, 1]) < 0.1


def test_a_share_of_the_views_is_jittered():
    images = pictures(0, 100, 16)
    sections = [make_config(views={"jitter": probability}).views for probability in (0.0, 0.8, 1.0)]
    plain, some, all_ = (augment(jax.random.key(0), images, 16, section) for section in sections)
    changed = np.any(np.asarray(some != plain), axis=(1, 2, 3))
    assert 0.7 < changed.mean() < 0.9  # of 200 views; standard deviation 0.03
    assert np.any(np.asarray(all_ != plain), axis=(1, 2, 3)).all()


def test_a_share_of_the_views_is_blurred_and_nothing_else_changes():
    images = pictures(0, 64, 32)
    plain = augment(jax.random.key(0), images, 32, make_config().views)
    blurred = augment(jax.random.key(0), images, 32, make_config(views={"blur": 0.3}).views)
    changed = np.any(np.asarray(blurred != plain), axis=(1, 2, 3))
    assert 0.2 < changed.mean() < 0.4  # of 128 views
    # A sigma of a tenth of a pixel changes next to nothing; the larger ones bring neighbours together.
    steps = [np.abs(np.diff(views[changed], axis=1)).mean(axis=(1, 2, 3)) for views in (plain, blurred)]
    assert np.all(steps[1] <= steps[0] * 1.001) and np.median(steps[1] / steps[0]) < 0.7


def test_blur_by_hand():
    c = only().blur
    c.update(kernel=(3, 3), sigma=(1.0, 1.0))
    impulse = jnp.zeros((1, 9, 9, 3)).at[0, 4, 4].set(1.0)
    kernel = np.exp(-0.5 * np.array([1.0, 0.0, 1.0]))
    kernel /= kernel.sum()
    blurred = blur(jax.random.split(jax.random.key(0), 1), impulse, c, None)
    np.testing.assert_allclose(blurred[0, 3:6, 3:6, 0], np.outer(kernel, kernel), rtol=1e-5)
    np.testing.assert_allclose(blurred.sum(), 3.0, rtol=1e-5)
    constant = jnp.full((1, 8, 8, 3), 0.3)
    np.testing.assert_allclose(blur(jax.random.split(jax.random.key(0), 1), constant, c, None), constant, rtol=1e-5)


def test_blur_equals_a_renormalised_gaussian_at_the_border():
    c = only().blur
    c.update(kernel=(7, 7), sigma=(2.0, 2.0))
    images = np.random.default_rng(0).uniform(-1, 1, (2, 8, 8, 3)).astype(np.float32)
    distance = np.abs(np.arange(8)[:, None] - np.arange(8))
    matrix = np.exp(-0.5 * (distance / 2.0) ** 2) * (distance <= 3)
    matrix /= matrix.sum(axis=1, keepdims=True)
    expected = np.einsum("ij,vjkc,lk->vilc", matrix, images, matrix)
    blurred = blur(jax.random.split(jax.random.key(0), 2), jnp.asarray(images), c, None)
    np.testing.assert_allclose(blurred, expected, atol=1e-6)


def kernel_of(row):
    """The radius and the sigma of the Gaussian in the middle row of a blurred impulse."""
    middle = len(row) // 2
    reached = np.flatnonzero(row > 1e-12)
    return np.abs(reached - middle).max(), np.sqrt(-0.5 / np.log(row[middle + 1] / row[middle]))


def test_the_width_and_the_sigma_of_a_blur_are_uniform():
    impulse = jnp.zeros((400, 15, 15, 3)).at[:, 7, 7].set(1.0)
    blurred = gaussian_blur(jax.random.split(jax.random.key(0), 400), impulse, (3, 7), (1.0, 3.0))
    radii, sigmas = np.transpose([kernel_of(row) for row in np.asarray(blurred)[:, 7, :, 1]])
    np.testing.assert_allclose(np.bincount(radii.astype(int)) / 400, [0, 1 / 3, 1 / 3, 1 / 3], atol=0.1)
    assert_uniform(sigmas, 1.0, 3.0)


@pytest.mark.parametrize("side,radius", [(9, 1), (25, 1), (39, 2)])
def test_the_blur_of_a_view_covers_a_tenth_of_its_side(side, radius):
    impulse = jnp.zeros((side, side, 3)).at[side // 2, side // 2].set(1.0)
    keys = jax.random.split(jax.random.key(0), 400 if side < 20 else 40)
    rows = jax.jit(jax.vmap(lambda key: blur_view(key, impulse)[side // 2, :, 0]))(keys)
    radii, sigmas = np.transpose([kernel_of(row) for row in np.asarray(rows, np.float64) if row[side // 2 + 1] > 0])
    assert radii.max() == radius
    assert sigmas.max() < 2.0 + 1e-3
    if len(keys) == 400:
        # Smaller ones leave no weight outside the middle in float32; they are 1 in 20 or fewer.
        assert_uniform(sigmas, 0.1, 2.0)


@pytest.mark.parametrize("shape", [(3, 5, 7), (50, 50, 40)])
def test_noise_is_normal_and_independent(shape):
    draws = np.asarray(jax.vmap(lambda key: noise(key, shape))(jax.random.split(jax.random.key(0), 1000 // shape[0])))
    assert draws.shape[1:] == shape and draws.dtype == np.float32
    flat = draws.reshape(len(draws), -1)
    for sample in (draws[:, 0, 0, 0], flat[0], flat.ravel()):
        if sample.size > 100:
            assert scipy.stats.kstest(sample, "norm").pvalue > 1e-3
    assert np.abs(flat).max() < 4.4
    # The four numbers of a hash, which lie a quarter of the array apart, and neighbours are not related.
    for lag in (1, flat.shape[1] // 4, flat.shape[1] // 2):
        correlation = np.corrcoef(flat[:, lag:].ravel(), flat[:, :-lag].ravel())[0, 1]
        assert abs(correlation) < 4 / np.sqrt(flat[:, lag:].size)
    assert not np.array_equal(draws[0], draws[1])


def test_drop_fills():
    images = jax.random.uniform(jax.random.key(0), (4, 32, 32, 3), minval=-1)
    for fill in ("noise", "zeros", "mean"):
        c = only(drop={"fraction": (1.0, 1.0), "block": (0.25, 0.25), "fill": fill})
        out, masks = corrupt(jax.random.key(1), images, c)
        assert masks["drop"].all()
        if fill == "noise":
            np.testing.assert_allclose([out.mean(), out.std()], [0.0, 1.0], atol=0.03)
        else:
            expected = images.mean(axis=(1, 2), keepdims=True) if fill == "mean" else jnp.zeros((4, 1, 1, 3))
            np.testing.assert_allclose(out, jnp.broadcast_to(expected, out.shape), atol=1e-6)


# --- the whole


def test_make_views_keeps_target_and_input_apart():
    out = compiled(views.make_views, jax.random.key(0), pictures(0, 8, 20), args=(frozen(make_config(16)),))
    assert out.clean.shape == out.corrupted.shape == (16, 16, 16, 3)
    touched = np.any(list(out.masks.values()), axis=0)
    np.testing.assert_array_equal(out.clean[~touched], out.corrupted[~touched])
    assert set(np.unique(out.rotation)) <= {0, 1, 2, 3}


def test_test_views_show_whole_images_turned():
    images = pictures(0, 8, 16)
    out = compiled(views.make_test_views, jax.random.key(0), images, args=(frozen(make_config(16)),))
    upright = rotate(out.clean, (4 - out.rotation) % 4)
    np.testing.assert_allclose((upright[0::2] + 1) * 127.5, images, atol=1e-3)
    np.testing.assert_array_equal(upright[0::2], upright[1::2])
    assert not np.array_equal(out.corrupted[0::2], out.corrupted[1::2])
