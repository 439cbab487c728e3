"""Sheets fit on a screen: images shrink first, and then there are more sheets."""

import numpy as np
import pytest

from sit_jax.draw.heatmaps import HEAT, SIDE, attention_sheets, heat
from sit_jax.draw.pictures import GAP, LINE, WIDTH, labelled_grid, stack, text
from sit_jax.draw.rebuilt import DIFFERENCE, rebuilt_rows, turns
from sit_jax.draw.sheet import HEIGHT, SIDES, Group, sheets, total_height
from sit_jax.model.sizes import TOKEN_NAMES


def group(count, side, title="pictures"):
    """Each image has a colour of its own, so that it can be counted."""
    levels = np.linspace(-0.9, 0.9, count).reshape(-1, 1, 1, 1)
    rows = {row: np.broadcast_to(levels, (count, side, side, 3)) for row in ("original", "reconstructed", "x")}
    return Group(title, rows, {"": [f"{i}.png" for i in range(count)]})


@pytest.mark.parametrize("counts,side", [((1,), 224), ((8, 8), 224), ((32,), 224), ((32,), 64), ((30, 20), 96)])
def test_one_sheet_fits_on_a_screen(counts, side):
    groups = [group(count, side) for count in counts]
    (sheet,) = sheets(groups)
    assert sheet.shape[0] <= HEIGHT and sheet.shape[1] <= WIDTH
    sides = [side, *(smaller for smaller in SIDES if smaller < side)]
    assert sheet.shape[0] in [total_height(groups, smaller) for smaller in sides]


def test_few_pictures_keep_their_size():
    few = group(6, 128)
    (sheet,) = sheets([few])
    np.testing.assert_array_equal(sheet, stack([text(few.title), labelled_grid(few.rows, few.headings)]))


@pytest.mark.parametrize("size", [96, 200])
def test_a_sheet_of_a_chosen_size(size):
    (sheet,) = sheets([group(3, 32)], size)
    level = round((-0.9 + 1) * 127.5)
    columns = (sheet == level).all(axis=-1).sum(axis=1)
    assert columns.max() == size and (columns == size).sum() == 3 * size


@pytest.mark.parametrize("side", [16, 64, 96])
def test_many_pictures_take_several_sheets_and_none_is_lost(side):
    done = sheets([group(150, side), group(100, side, "others")])
    assert len(done) > 1
    found = set()
    for sheet in done:
        assert sheet.shape[0] <= HEIGHT and sheet.shape[1] <= WIDTH
        found |= set(np.unique(sheet[LINE:]))
    expected = {round((level + 1) * 127.5) for count in (150, 100) for level in np.linspace(-0.9, 0.9, count)}
    assert len(expected - found) <= 2  # rounding of a shrunk image


@pytest.mark.parametrize("heads,count", [(3, 8), (6, 3), (12, 2), (16, 1)])
def test_attention_fits_on_sheets_and_no_picture_shrinks(heads, count):
    images, maps = np.full((count, SIDE, SIDE, 3), (0.6, -0.2, 0.1), np.float32), np.full((count, 2, heads, 4, 4), 0.1)
    drawn = attention_sheets(images, maps, [f"a/b/{i}.png" for i in range(count)], TOKEN_NAMES)
    assert all(sheet.shape[0] <= HEIGHT and sheet.shape[1] <= WIDTH + 4 * GAP for sheet in drawn)
    photograph = sum((sheet == (204, 102, 140)).all(axis=-1).sum() for sheet in drawn)
    assert photograph == count * 2 * SIDE * SIDE


def test_heat_is_brightest_at_the_largest_weight_and_keeps_the_picture_below():
    image = np.full((36, 36, 3), -1, np.float32)
    weights = np.zeros((4, 4))
    weights[1, 2] = 0.3
    drawn = heat(image, weights)
    assert drawn.shape == (36, 36, 3)
    np.testing.assert_allclose(drawn[13, 22], 0.65 * HEAT[-1] - 0.35, atol=1e-6)
    np.testing.assert_allclose(drawn[35, 0], 0.65 * HEAT[0] - 0.35, atol=1e-6)


def test_the_difference_is_the_mean_distance_of_the_channels():
    original = np.zeros((1, 2, 2, 3), np.float32)
    rebuilt = np.array([[[[0.1, 0.1, 0.1], [0, 0, 0.3]], [[0, 0, 0], [5, 5, 5]]]], np.float32)
    rows = rebuilt_rows(original, original, rebuilt, None)
    assert list(rows) == ["original", "corrupted", "reconstructed", DIFFERENCE]
    np.testing.assert_allclose(rows[DIFFERENCE][0, ..., 0], [[-0.6, -0.6], [-1, 1]], atol=1e-6)


def test_a_wrong_rotation_is_told_apart_without_colour():
    assert turns(np.array([0, 1, 3]), np.array([0, 1, 2])) == ["0°, 0°", "90°, 90°", "270°, not 180°"]
