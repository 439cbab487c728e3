"""The augmentation of labelled images: operations against Pillow, mixed targets against the pixels."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats
from PIL import Image, ImageEnhance, ImageOps

from sit_jax.common.keys import row_keys
from sit_jax.config.schema import defaults
from sit_jax.parallel.mesh import batch_sharding, make_mesh
from sit_jax.views import randaugment as ra
from sit_jax.views.classification import make_training_images
from sit_jax.views.mix import mixup_cutmix, partners, random_erase, smooth_labels

pytestmark = pytest.mark.usefixtures("quick_compilation")
SIZE = 16
OPERATIONS = (*ra.GEOMETRIC, *ra.COLOUR)
NAMES = [operation.__name__ for operation in OPERATIONS]


def picture(seed=0):
    """A smooth picture with noise, uint8 [16, 16, 3], with less than the full range."""
    rng = np.random.default_rng(seed)
    ramp = np.linspace(40, 170, SIZE)[:, None, None] + np.linspace(0, 30, SIZE)[None, :, None] * np.array([1, -1, 0.5])
    return np.clip(ramp + rng.normal(0, 12, (SIZE, SIZE, 3)), 20, 230).astype(np.uint8)


def enhance(kind):
    return lambda image, level, sign: kind(image).enhance(max(0.1, 1 + sign * level * 0.9))


def smooth_enhance(image, level, sign):
    return ImageEnhance.Sharpness(image).enhance(max(0.1, 1 + sign * level * 0.9))


def warp(*matrix):
    """Pillow's affine transformation by `matrix`, a function of strength, in Pillow's pixel coordinates."""

    def transform(image, level, sign):
        values = [value(level * sign) if callable(value) else value for value in matrix]
        return image.transform(
            image.size, Image.Transform.AFFINE, values, Image.Resampling.BILINEAR, fillcolor=(128,) * 3
        )

    return transform


def turn(image, level, sign):
    return image.rotate(30 * level * sign, Image.Resampling.BILINEAR, fillcolor=(128,) * 3)


PILLOW = {
    "rotate": turn,
    "shear_x": warp(1, lambda v: 0.3 * v, 0, 0, 1, 0),
    "shear_y": warp(1, 0, 0, lambda v: 0.3 * v, 1, 0),
    "translate_x": warp(1, 0, lambda v: 0.45 * v * SIZE, 0, 1, 0),
    "translate_y": warp(1, 0, 0, 0, 1, lambda v: 0.45 * v * SIZE),
    "autocontrast": lambda image, level, sign: ImageOps.autocontrast(image),
    "equalize": lambda image, level, sign: ImageOps.equalize(image),
    "invert": lambda image, level, sign: ImageOps.invert(image),
    "posterize": lambda image, level, sign: ImageOps.posterize(image, 4 - int(level * 4)),
    "solarize": lambda image, level, sign: ImageOps.solarize(image, 256 - int(level * 256)),
    "solarize_add": lambda image, level, sign: image.point(lambda v: min(255, v + int(level * 110)) if v < 128 else v),
    "color": enhance(ImageEnhance.Color),
    "contrast": enhance(ImageEnhance.Contrast),
    "brightness": enhance(ImageEnhance.Brightness),
    "sharpness": smooth_enhance,
}


@functools.cache
def compiled():
    return jax.jit(ra.apply)


@pytest.mark.parametrize("level,sign", [(0.9, 1.0), (0.33, -1.0)])
@pytest.mark.parametrize("name", NAMES)
def test_each_operation_is_that_of_pillow(name, level, sign):
    image = picture()
    expected = np.asarray(PILLOW[name](Image.fromarray(image), level, sign)).astype(int)
    found = compiled()(NAMES.index(name), jnp.float32(image) / 255, jnp.float32(level), jnp.float32(sign))
    difference = np.abs(np.round(np.asarray(found) * 255) - expected)
    # Pillow rounds to whole levels and to 1/65536 of a pixel: an edge pixel may fall on the other side of the border.
    limit = 3 if name in NAMES[:5] else 1
    assert np.mean(difference > limit) <= (0.02 if name in NAMES[:5] else 0.0)
    unchanged = np.array_equal(expected, image)
    assert unchanged == np.allclose(found, image / 255, atol=1e-6)


@pytest.mark.parametrize("height,width", [(40, 48), (20, 20)])
def test_larger_pictures_are_equalised_as_by_pillow(height, width):
    """A level has several pixels here, the highest one a sixth of all, which Pillow leaves out of the count."""
    image = np.clip(np.random.default_rng(0).normal(90, 40, (height, width, 3)), 0, 130).astype(np.uint8)
    found = jax.jit(lambda x: ra.equalize(x, 1.0, 1.0))(jnp.float32(image) / 255)
    np.testing.assert_array_equal(np.round(found * 255), ImageOps.equalize(Image.fromarray(image)))


def test_equal_channels_stay_as_they_are():
    flat = jnp.full((SIZE, SIZE, 3), 0.3)
    for name in ("autocontrast", "equalize", "contrast", "sharpness", "color"):
        found = compiled()(NAMES.index(name), flat, jnp.float32(0.9), jnp.float32(1.0))
        np.testing.assert_allclose(found, flat, atol=2e-3)


def test_rounding_noise_of_a_flat_picture_is_not_contrast():
    flat = jnp.float32(1.0) - jnp.float32(np.random.default_rng(0).uniform(0, 5e-7, (SIZE, SIZE, 3)))
    for name in ("autocontrast", "equalize"):
        found = compiled()(NAMES.index(name), flat, jnp.float32(0.9), jnp.float32(1.0))
        np.testing.assert_allclose(found, flat, atol=2e-3)


def config(**values):
    c = defaults().finetune.augment
    c.update(values)
    return c


def images_and_labels(count, classes=5):
    """Images of one colour that encodes the class: class c has c / 4 * 200 in all channels."""
    labels = np.arange(count) % classes
    return np.broadcast_to((labels * 50)[:, None, None, None], (count, SIZE, SIZE, 3)).astype(np.uint8), labels


def test_randaugment_probability_and_range():
    images = jnp.stack([jnp.float32(picture(seed)) / 255 for seed in range(64)])
    keys = row_keys(jax.random.key(0), 64)
    changed = []
    for probability in (0.0, 0.5, 1.0):
        settings = config().randaugment.copy_and_resolve_references()
        settings.probability = probability
        out = np.asarray(jax.jit(lambda k, x, s=settings: ra.randaugment(k, x, s))(keys, images))
        assert out.min() >= 0 and out.max() <= 1
        changed.append(np.mean(np.abs(out - np.asarray(images)).max(axis=(1, 2, 3)) > 1e-3))
    assert changed[0] == 0
    assert 0.55 < changed[1] < 0.92  # 1 - 1 / 4, but for operations that change nothing
    assert changed[2] > 0.9


def test_operations_magnitudes_and_signs_are_drawn_as_configured(monkeypatch):
    def record(op, image, level, sign):
        return jnp.stack([op.astype(jnp.float32), level * 10, sign]) + 0 * image

    monkeypatch.setattr(ra, "apply", record)
    settings = config().randaugment.copy_and_resolve_references()
    settings.update(layers=1, probability=1.0)
    count = 6000
    out = ra.randaugment(row_keys(jax.random.key(5), count), jnp.zeros((count, 1, 1, 3)), settings)
    op, magnitude, sign = np.asarray(out)[:, 0, 0].T
    share = count / len(OPERATIONS)
    counts = np.bincount(op.astype(int), minlength=len(OPERATIONS))
    assert len(counts) == len(OPERATIONS)
    assert np.abs(counts - share).max() < 4 * np.sqrt(share)
    assert magnitude.max() == 10  # 9 + 2 standard deviations: the upper tail is cut
    np.testing.assert_allclose([magnitude.mean(), magnitude.std()], [9.0, 0.49], atol=0.03)
    assert set(np.unique(sign)) == {-1.0, 1.0}
    assert abs(sign.mean()) < 4 / np.sqrt(count)


def test_random_erase_fills_one_box_of_the_right_area():
    images = jnp.full((400, SIZE, SIZE, 3), 5.0)
    out = np.asarray(jax.jit(lambda k, x: random_erase(k, x, 0.25))(row_keys(jax.random.key(1), 400), images))
    erased = np.any(out != 5.0, axis=-1)
    share = erased.mean(axis=(1, 2))
    assert np.mean(share > 0) == pytest.approx(0.25, abs=0.065)  # three standard deviations
    assert 0.11 < share[share > 0].mean() < 0.24 and share.max() < 0.42
    for mask in erased[share > 0]:
        np.testing.assert_array_equal(mask, mask.any(axis=1)[:, None] & mask.any(axis=0)[None, :])
    noise = out[erased]
    assert abs(noise.mean()) < 0.05 and abs(noise.std() - 1) < 0.05


def test_erased_boxes_have_any_place_area_and_ratio():
    """Of 600 boxes in images of 64 pixels: the area is U(0.02, 1/3), the ratio log-uniform where no side is cut."""
    images = jnp.full((600, 64, 64, 3), 5.0)
    out = jax.jit(lambda k, x: jnp.any(random_erase(k, x, 1.0) != 5.0, axis=-1))(
        row_keys(jax.random.key(7), 600), images
    )
    masks = np.asarray(out)
    high, wide = masks.any(axis=2).sum(axis=1), masks.any(axis=1).sum(axis=1)
    areas, ratios = high * wide / 64**2, np.log(high / wide)
    whole = (high < 64) & (wide < 64)
    rng = np.random.default_rng(0)
    area, ratio = rng.uniform(0.02, 1 / 3, 60_000), np.exp(rng.uniform(np.log(0.3), np.log(1 / 0.3), 60_000))
    sides = np.minimum(np.sqrt(area * np.stack([ratio, 1 / ratio])), 1)
    assert scipy.stats.ks_2samp(areas, sides.prod(axis=0)).pvalue > 1e-3
    assert scipy.stats.ks_2samp(ratios, np.log(sides[0] / sides[1])).pvalue > 1e-3
    for line, side in ((masks.any(axis=2), high), (masks.any(axis=1), wide)):
        places = (line.argmax(axis=1) / np.maximum(64 - side, 1))[whole]
        assert scipy.stats.kstest(places, "uniform").pvalue > 1e-3


def test_partners_are_the_mirrored_rows_of_a_group():
    np.testing.assert_array_equal(partners(jnp.arange(16)), [*range(7, -1, -1), *range(15, 7, -1)])
    np.testing.assert_array_equal(partners(jnp.arange(6).reshape(3, 2)), [[4, 5], [2, 3], [0, 1]])


def test_the_own_share_is_drawn_from_beta():
    """White images on black ones show the share of each pixel; a box that is cut at the border enlarges the share."""
    white = np.arange(200) % 2
    images = np.broadcast_to(np.float32(white)[:, None, None, None], (200, SIZE, SIZE, 3))
    targets = jax.nn.one_hot(white, 5)
    mix = jax.jit(lambda k, x, t: mixup_cutmix(k, x, t, 0.8, 1.0))  # the shapes, and so the program, of the test below
    out = [mix(row_keys(jax.random.key(seed), 200), images, targets)[0] for seed in range(4)]
    own = np.concatenate([np.where(images == 1, x, 1 - x)[..., 0] for x in out])
    blended = np.all((own > 0) & (own < 1), axis=(1, 2))
    assert abs(blended.mean() - 0.5) < 0.071 and np.ptp(own[blended], axis=(1, 2)).max() == 0
    assert scipy.stats.kstest(own[blended, 0, 0], scipy.stats.beta(0.8, 0.8).cdf).pvalue > 1e-3
    own, rng = own[~blended], np.random.default_rng(0)
    half, centre = np.sqrt(1 - rng.uniform(size=10_000)) / 2, rng.uniform(size=(2, 10_000))
    covered = np.abs((np.arange(SIZE) + 0.5) / SIZE - centre[..., None]) < half[:, None]
    expected = 1 - covered[0, :, :, None] * covered[1, :, None, :]
    np.testing.assert_allclose(own.mean(axis=0), expected.mean(axis=0), atol=0.1)  # four standard deviations
    shares = [np.quantile(x.mean(axis=(1, 2)), np.linspace(0.1, 0.9, 9)) for x in (own, expected)]
    np.testing.assert_allclose(*shares, atol=0.08)


@pytest.mark.parametrize("mixup,cutmix", [(0.8, 1.0), (0.8, 0.0), (0.0, 1.0)])
def test_mixed_targets_are_the_shares_of_the_pixels(mixup, cutmix):
    images, labels = images_and_labels(200)
    targets = jax.nn.one_hot(labels, 5)
    mix = jax.jit(lambda k, x, t: mixup_cutmix(k, x, t, mixup, cutmix))
    out, mixed = mix(row_keys(jax.random.key(2), 200), jnp.float32(images), targets)
    out, mixed = np.asarray(out), np.asarray(mixed)
    np.testing.assert_allclose(mixed.sum(axis=1), 1, rtol=1e-5)
    np.testing.assert_allclose(out.mean(axis=(1, 2, 3)), mixed @ (np.arange(5) * 50), atol=1e-2)
    mixing = np.flatnonzero((mixed > 0).sum(axis=1) > 1)
    assert len(mixing) > 100
    boxes = [len(np.unique(np.round(out[row], 2))) > 1 for row in mixing]  # a blend of two colours is one colour
    assert np.mean(boxes) == pytest.approx({(0.8, 1.0): 0.5}.get((mixup, cutmix), float(cutmix > 0)), abs=0.15)


def test_mixing_switched_off_and_smoothing():
    images, labels = images_and_labels(8)
    targets = smooth_labels(jnp.asarray(labels), 5, 0.1)
    np.testing.assert_allclose(targets, np.eye(5)[labels] * 0.9 + 0.02, rtol=1e-6)
    out, same = mixup_cutmix(row_keys(jax.random.key(0), 8), jnp.float32(images), targets, 0.0, 0.0)
    np.testing.assert_array_equal(out, images)
    np.testing.assert_array_equal(same, targets)


def test_all_of_it_is_the_same_on_any_number_of_devices_and_in_any_batch():
    images = np.stack([picture(seed) for seed in range(32)])
    labels = np.arange(32, dtype=np.int32) % 5
    make = jax.jit(lambda key, x, y: make_training_images(key, x, y, 5, SIZE, config()))
    key = jax.random.key(3)
    expected = make(key, images, labels)
    mesh = make_mesh()
    sharded = make(key, *(jax.device_put(x, batch_sharding(mesh)) for x in (images, labels)))
    first = make(key, images[:16], labels[:16])
    for reference, all_rows, half in zip(expected, sharded, first, strict=True):
        np.testing.assert_allclose(all_rows, reference, atol=1e-5)
        np.testing.assert_allclose(half, reference[:16], atol=1e-5)
    out, targets = (np.asarray(x) for x in expected)
    assert out.shape == (32, SIZE, SIZE, 3) and targets.shape == (32, 5)
    assert np.abs(out - np.asarray(make(jax.random.key(4), images, labels)[0])).mean() > 0.1


def test_everything_off_is_crop_and_flip():
    off = defaults().linear.augment
    off.update(area=(1.0, 1.0), ratio=(1.0, 1.0), flip=1.0)
    images = np.stack([picture(seed) for seed in range(8)])
    out, targets = make_training_images(jax.random.key(0), images, np.zeros(8, np.int32), 2, SIZE, off)
    np.testing.assert_allclose(out, images[:, :, ::-1] / 127.5 - 1, atol=1e-4)
    np.testing.assert_array_equal(targets, np.eye(2)[np.zeros(8, int)])
