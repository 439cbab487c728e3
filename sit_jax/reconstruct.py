"""Draws what a trained model rebuilds; `sit-jax reconstruct` is `python -m sit_jax.reconstruct`.

  sit-jax reconstruct --workdir=runs/mine --images=PHOTOS --out=grid.png
  sit-jax reconstruct --workdir=runs/mine --images=PHOTOS --attention --out=maps.png

Shows originals, corrupted images, reconstructions and their differences below each other, with the true and the
predicted rotation. --images (a folder, a pattern in quotes such as 'FOLDER/**/*.jpg', or a text file of paths) draws
the first --limit=32 of its pictures; --train=8 --test=8 draw images of the run's data set, or of --data=SOURCE.
Corruptions are as in training. --drop=0.7 sets the share covered with noise, --replace=0.3 the share covered with other
images. --grayscale, --blur and --recolour set probabilities. --rotate turns each picture by a random quarter.
--attention draws the attention maps of the two tokens instead, 224 pixels wide. --size=160 sets the pixels of a
picture. What does not fit on a sheet of 1600 x 2000 pixels goes to further files: grid-2.png, grid-3.png, ...
"""

import math
import pathlib
import sys
from typing import NamedTuple

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
from absl import flags

from sit_jax.common import commands
from sit_jax.common.console import say
from sit_jax.common.errors import InputError
from sit_jax.common.files import check_out
from sit_jax.common.keys import named_key
from sit_jax.common.layout import layout_of
from sit_jax.common.text import shown
from sit_jax.config import cli
from sit_jax.data import Records, image_options, open_source
from sit_jax.data.given import open_given
from sit_jax.data.load import StreamedImages
from sit_jax.draw import pictures, sheet
from sit_jax.draw.heatmaps import SIDE, attention_sheets
from sit_jax.draw.pictures import SMALLEST_SIDE
from sit_jax.draw.rebuilt import TURNED, rebuilt_rows, turns
from sit_jax.draw.sheet import sheets
from sit_jax.eval.adopted import place
from sit_jax.eval.attention_maps import attention_maps
from sit_jax.eval.data import use_source
from sit_jax.eval.reconstruction import ROWS, make_rebuild, reconstructions
from sit_jax.eval.restore import Restored, restore
from sit_jax.model.sizes import TOKEN_NAMES
from sit_jax.views import whole_images
from sit_jax.views.corrupt import OPERATIONS

MOST_WITH_ATTENTION = 8  # pictures
LARGEST_SIDE = 512


class Group(NamedTuple):
    """Images drawn together under a title."""

    title: str
    images: StreamedImages


def define_flags(argv: list[str]) -> flags.FlagValues:
    """Returns the flags of the command."""
    values = cli.make_flags(argv)
    cli.add_workdir_flags(values)
    flags.DEFINE_string("images", None, "A folder, a pattern in quotes, or a text file of paths.", flag_values=values)
    flags.DEFINE_integer("limit", 32, "Pictures of --images, at most.", lower_bound=1, flag_values=values)
    flags.DEFINE_integer("train", 0, "Number of random training images.", lower_bound=0, flag_values=values)
    flags.DEFINE_integer("test", 0, "Number of random test images.", lower_bound=0, flag_values=values)
    flags.DEFINE_string(
        "data", None, "A SOURCE for --train and --test. Default: the data set of the run.", flag_values=values
    )
    flags.DEFINE_string("out", None, "The .png file to write.", flag_values=values)
    cli.add_seed_flag(values, "Seed of the images and corruptions.")
    for name, row in OPERATIONS.items():
        meaning = "Share of each image for" if "fraction" in row.section else "Probability of"
        text = f"{meaning} the corruption '{name}'. Default: as in training."
        flags.DEFINE_float(name, None, text, lower_bound=0, upper_bound=1, flag_values=values)
    flags.DEFINE_boolean("rotate", False, "Turn each picture by 0, 90, 180 or 270 degrees.", flag_values=values)
    text = "Pixels of a picture. Default: as many as fit."
    flags.DEFINE_integer("size", None, text, lower_bound=SMALLEST_SIDE, upper_bound=LARGEST_SIDE, flag_values=values)
    flags.DEFINE_boolean("attention", False, "Draw attention maps instead.", flag_values=values)
    return values


def command(argv: list[str]) -> bool:
    """Draws the picture, and prints the reconstruction errors and the name of the file."""
    values = define_flags(argv)
    commands.parse(values, argv, ("out",), __doc__ or "")
    check(values)
    given = first_of(open_given(values.images).records, values.limit) if values.images else None
    out = pathlib.Path(values.out)
    check_out(out, ".png")
    workdir, with_heads = place(values.workdir, values.encoder), not values.attention
    restored = restore(workdir, values.step, values.weights, cli.overrides(values), with_heads)
    groups = make_groups(values, given, restored.config)
    if values.attention:
        drawn = draw_attention(groups, restored)
    else:
        set_corruption(restored.config.corrupt, values)
        drawn = draw_reconstructions(groups, restored, values)
    for number, picture in enumerate(drawn, start=1):
        path = out if number == 1 else out.with_stem(f"{out.stem}-{number}")
        pictures.save_png(path, picture)
        say(f"{path}: {picture.shape[1]} x {picture.shape[0]} pixels")
    return True


def check(values: flags.FlagValues) -> None:
    """Raises InputError if flags are missing or contradict each other."""
    if not (values.images or values.train or values.test):
        raise InputError("there is nothing to draw; give --images=FOLDER, --train=8 or --test=8")
    if values.data and not (values.train or values.test):
        raise InputError("--data needs the number of images to draw; add --train=8 or --test=8")
    given = [name for name in OPERATIONS if values[name].value is not None]
    for name in given:
        if math.isnan(float(values[name].value or 0)):
            raise InputError(f"--{name}=nan must be a number from 0 to 1")
    if values.attention and given:
        raise InputError(f"--{given[0]} and --attention exclude each other: attention maps show uncorrupted images")
    if values.attention and (values.size or values.rotate):
        name = "size" if values.size else "rotate"
        raise InputError(f"--{name} and --attention exclude each other: attention maps are {SIDE} pixels wide, upright")


def first_of(records: Records, limit: int) -> Records:
    """Returns the first `limit` pictures; prints how many are left out."""
    left_out = len(records) - limit
    if left_out <= 0:
        return records
    say(f"the first {limit} of {len(records)} pictures are drawn, {left_out} are left out; --limit=N draws N")
    return records.take(range(limit))


def make_groups(values: flags.FlagValues, given: Records | None, config: ml_collections.ConfigDict) -> list[Group]:
    """Returns the groups of images that the flags select; images are decoded when they are drawn.

    `given` are the pictures of --images.
    """
    groups, size = [], config.model.image_size
    if values.train or values.test:
        source = open_source(use_source(config, values.data, cli.overrides(values)))
        data_size = image_options(config)["image_size"]
        for split, records in (("train", source.pretrain), ("test", source.test)):
            if count := values[split].value:
                drawn = draw_records(split, records, count, values.seed)
                images = StreamedImages(drawn, data_size, config.data.skip_unreadable, layout_of(config.data))
                groups.append(Group(f"{split}{'ing' if split == 'train' else ''} images", images))
    if given:
        groups.append(Group("pictures", StreamedImages(given, size, layout=layout_of(config.data))))
    return groups


def draw_records(split: str, records: Records | None, count: int, seed: int) -> Records:
    """Returns `count` random images of a split, a function of the seed; raises InputError if it has fewer."""
    available = len(records) if records is not None else 0
    if records is None or count > available:
        raise InputError(f"--{split}={count}: the data set has {available} images in this split")
    return records.take(np.random.default_rng([seed, len(split)]).permutation(available)[:count])


def set_corruption(config: ml_collections.ConfigDict, values: flags.FlagValues) -> None:
    """Sets the section `corrupt` from the flags."""
    for name, row in OPERATIONS.items():
        if (value := values[name].value) is not None:
            config[name].update({"fraction": (value, value)} if "fraction" in row.section else {"probability": value})


def draw_reconstructions(groups: list[Group], restored: Restored, values: flags.FlagValues) -> list[np.ndarray]:
    """Returns sheets [H, W, 3] uint8 of the images and what the model makes of them, by group; prints the errors."""
    rebuild, parts = make_rebuild(restored.config, values.rotate), []
    for title, images in groups:
        key = named_key(jax.random.key(values.seed), title)
        found = reconstructions(rebuild, restored.params, images, key)
        error = np.abs(found["reconstructed"] - found["original"]).mean()
        caption = f"{title} ({len(images)}): mean absolute error {error:.4f} of values from -1 to 1"
        say(caption)
        original, corrupted, rebuilt = (found[name] for name in ROWS)
        rows = rebuilt_rows(original, corrupted, rebuilt, restored.config.data.shown)
        names = [shown(pathlib.PurePath(str(name)).name) for name in images.records.names]
        headings = {"": names, TURNED: turns(found["rotation"], found["predicted"])}
        parts.append(sheet.Group(caption, rows, headings))
    return sheets(parts, values.size)


def draw_attention(groups: list[Group], restored: Restored) -> list[np.ndarray]:
    """Returns sheets [H, W, 3] uint8 of the attention maps on the first images of the groups."""
    config, count = restored.config, sum(len(group.images) for group in groups)
    if count > MOST_WITH_ATTENTION:
        say(f"{count} pictures; the first {MOST_WITH_ATTENTION} are shown")
    photographs, maps = [], []
    names: list[str] = []
    for _, group in groups:
        rows = range(min(len(group), MOST_WITH_ATTENTION - len(names)))
        if rows:
            large = StreamedImages(group.records, SIDE, layout=group.layout).gather(rows)
            photographs.append(np.asarray(whole_images(jnp.asarray(large), SIDE)))
            maps.append(attention_maps(restored.params, group.gather(rows), config))
            names += [str(name) for name in group.records.names[: len(rows)]]
    seen = pictures.to_rgb(np.concatenate(photographs), config.data.shown)
    return attention_sheets(seen, np.concatenate(maps), names, TOKEN_NAMES)


def main(argv: list[str]) -> int:
    """Runs the command and returns its exit code."""
    return commands.run(command, argv, resumes=False)


if __name__ == "__main__":
    commands.end(main(sys.argv))
