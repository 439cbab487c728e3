"""Lists images that occur twice; `sit-jax duplicates` is `python -m sit_jax.duplicates`.

  sit-jax duplicates --images=PHOTOS --out=copies.png

Finds resized, compressed again, brightened and mirrored copies from the pixels; no trained encoder is needed. The
picture shows the largest groups. The .csv file has a line for each pair: the two images, the correlation of their
16 x 16 versions, and whether one is mirrored. Nothing is deleted.
"""

import pathlib
import sys

from absl import flags

from sit_jax.common import commands
from sit_jax.common.console import say, say_all
from sit_jax.common.files import check_out
from sit_jax.data.given import open_given
from sit_jax.draw.gallery import Line
from sit_jax.look import options
from sit_jax.look.collection import shrink_records, tiles
from sit_jax.probes import duplicates

SIDE = 128  # pixels of a picture
DRAWN = 11  # images of a group: one line


def define_flags() -> flags.FlagValues:
    """Returns the flags of the command."""
    values = commands.new_flags()
    flags.DEFINE_string("images", None, "A folder, a pattern in quotes, or a text file of paths.", flag_values=values)
    flags.DEFINE_integer("rows", 40, "Groups that are drawn, at most.", lower_bound=1, flag_values=values)
    flags.DEFINE_string("out", None, "The .png file; a .csv file of the same name has all.", flag_values=values)
    return values


def command(argv: list[str]) -> bool:
    """Writes the picture and the table, and prints how many copies there are."""
    values = define_flags()
    commands.parse(values, argv, ("images", "out"), __doc__ or "")
    check_out(pathlib.Path(values.out), ".png")
    given = open_given(values.images)
    say_all(given.notes)
    images, small = shrink_records(given.records, SIDE)
    found = duplicates.find_copies(small)
    groups = duplicates.groups(found, len(small))
    say(f"{len(small)} images: {len(groups)} groups of copies, {sum(map(len, groups))} images in them")
    lines = []
    for number, rows in enumerate(groups[: values.rows], start=1):
        captions = [pathlib.PurePath(str(images.records.names[row])).name for row in rows[:DRAWN]]
        lines.append(Line(f"group {number}: {len(rows)} images", tiles(images, rows[:DRAWN], SIDE), captions))
    names = images.records.names
    table = [
        [names[first], names[second], f"{correlation:.4f}", "yes" if mirrored else "no"]
        for first, second, correlation, mirrored in zip(*found, strict=True)
    ]
    title = f"{len(groups)} groups of images that show the same, of {len(small)} images"
    options.write(values.out, title, lines, ["first", "second", "correlation", "mirrored"], table)
    return True


def main(argv: list[str]) -> int:
    """Runs the command and returns its exit code."""
    return commands.run(command, argv, resumes=False)


if __name__ == "__main__":
    commands.end(main(sys.argv))
