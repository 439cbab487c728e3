"""Sheets fit on a screen: images shrink first, and then there are more sheets."""

import numpy as np
import pytest

from sit_jax.draw.heatmaps import attention_picture
from sit_jax.draw.pictures import GAP, LINE, WIDTH, labelled_grid, stack, text
from sit_jax.draw.sheet import HEIGHT, SIDES, sheets, total_height
from sit_jax.model.sizes import TOKEN_NAMES


def group(count, side, title="pictures"):
    """Each image has a colour of its own, so that it can be counted."""
    levels = np.linspace(-0.9, 0.9, count).reshape(-1, 1, 1, 1)
    return title, {row: np.broadcast_to(levels, (count, side, side, 3)) for row in ("original", "reconstructed", "x")}


@pytest.mark.parametrize("counts,side", [((1,), 224), ((8, 8), 224), ((32,), 224), ((32,), 64), ((60, 30), 96)])
def test_one_sheet_fits_on_a_screen(counts, side):
    groups = [group(count, side) for count in counts]
    (sheet,) = sheets(groups)
    assert sheet.shape[0] <= HEIGHT and sheet.shape[1] <= WIDTH
    sides = [side, *(smaller for smaller in SIDES if smaller < side)]
    assert sheet.shape[0] in [total_height(groups, smaller) for smaller in sides]


def test_few_pictures_keep_their_size():
    title, rows = group(6, 128)
    (sheet,) = sheets([(title, rows)])
    np.testing.assert_array_equal(sheet, stack([text(title), labelled_grid(rows)]))


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


@pytest.mark.parametrize("heads,side", [(3, 32), (6, 224), (12, 224), (16, 224)])
def test_attention_of_eight_pictures_fits_on_a_screen(heads, side):
    images, maps = np.zeros((8, side, side, 3), np.float32), np.full((8, 2, heads, side // 16, side // 16), 0.1)
    picture = attention_picture(images, maps, [f"{i}.png" for i in range(8)], TOKEN_NAMES)
    assert picture.shape[0] <= HEIGHT and picture.shape[1] <= WIDTH + 4 * GAP
