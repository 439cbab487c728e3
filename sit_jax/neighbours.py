"""Draws the most similar images; `sit-jax neighbours` is `python -m sit_jax.neighbours`.

  sit-jax neighbours --workdir=runs/mine --out=neighbours.png
  sit-jax neighbours --workdir=runs/mine --images=PHOTOS --to=wanted.jpg --out=found.png

The picture has a line for each of --rows=8 images: the image, then its --count=10 nearest neighbours with their cosine
similarities. --to names the images to search for (a folder, a pattern in quotes, or a list); without it, every image is
searched for, and the picture shows some. The .csv file has a line for each image and neighbour. The search is exact.
"""

import sys

import numpy as np
from absl import flags

from sit_jax.common import commands
from sit_jax.common.errors import InputError
from sit_jax.data.given import open_given
from sit_jax.draw.gallery import Line
from sit_jax.look import options
from sit_jax.look.collection import TOKENS, Collection, encode_collection, tiles
from sit_jax.probes.surroundings import neighbours

SIDE = 128  # pixels of a picture
COMPARED = {name: f"the {name} token" if name != "both" else "both tokens" for name in TOKENS}


def define_flags(argv: list[str]) -> flags.FlagValues:
    """Returns the flags of the command."""
    values = options.define_flags(argv)
    flags.DEFINE_string("to", None, "The images to search for. Default: all images.", flag_values=values)
    flags.DEFINE_integer("count", 10, "Neighbours of an image.", lower_bound=1, flag_values=values)
    flags.DEFINE_integer("rows", 8, "Images whose neighbours are drawn, at most.", lower_bound=1, flag_values=values)
    return values


def command(argv: list[str]) -> bool:
    """Writes the picture and the table."""
    values = define_flags(argv)
    commands.parse(values, argv, ("out",), __doc__ or "")
    wanted = open_given(values.to) if values.to else None
    restored, found = options.open_collection(values)
    asked = found if wanted is None else encode_collection(wanted.records, (), restored)
    if len(found) + (wanted is not None) < 2:
        raise InputError("there is a single image, and a neighbour is another image; give two or more")
    features = np.concatenate([found.token(values.token), asked.token(values.token)])
    among = np.arange(len(found))
    queries = among if wanted is None else len(found) + np.arange(len(asked))
    near, similarity = neighbours(features, queries, among, values.count, restored.mesh)
    drawn = np.unique(np.linspace(0, len(asked) - 1, min(values.rows, len(asked))).round().astype(int))
    lines = [line(asked, found, row, near[row], similarity[row]) for row in drawn]
    table = [
        [asked.records.names[i], rank + 1, found.records.names[int(near[i, rank])], f"{similarity[i, rank]:.4f}"]
        for i, rank in np.ndindex(near.shape)
    ]
    title = f"The first of each line, then its nearest neighbours: cosine similarity of {COMPARED[values.token]}"
    options.write(values.out, title, lines, ["image", "rank", "neighbour", "similarity"], table)
    return True


def line(asked: Collection, found: Collection, row: int, near: np.ndarray, similarity: np.ndarray) -> Line:
    """Returns the line of a picture: the image, then its neighbours."""
    pictures = np.concatenate([tiles(asked, [row], SIDE), tiles(found, near, SIDE)])
    return Line(asked.name(row), pictures, ["", *(f"{one:.3f}" for one in similarity)])


def main(argv: list[str]) -> int:
    """Runs the command and returns its exit code."""
    return commands.run(command, argv, resumes=False)


if __name__ == "__main__":
    commands.end(main(sys.argv))
