"""Groups similar images; `sit-jax clusters` is `python -m sit_jax.clusters`.

  sit-jax clusters --workdir=runs/mine --out=clusters.png
  sit-jax clusters --workdir=runs/mine --images=PHOTOS --count=20 --out=clusters.png

k-means of the features. The picture has a line for each cluster: the images nearest to its centre and, if folders or
labels are known, the most frequent of them with its share. The .csv file has a line for each image: its cluster, the
distance to the centre, and `outlier`, the mean cosine distance to its ten nearest neighbours.
"""

import sys

import numpy as np
from absl import flags

from sit_jax.common import commands
from sit_jax.draw.gallery import Line
from sit_jax.look import options
from sit_jax.look.collection import tiles
from sit_jax.look.explore import groupings, purity_line
from sit_jax.probes import clusters as kmeans
from sit_jax.probes.surroundings import outlier_scores

SIDE = 128  # pixels of a picture
DRAWN = 11  # images of a cluster: one line


def define_flags(argv: list[str]) -> flags.FlagValues:
    """Returns the flags of the command."""
    values = options.define_flags(argv)
    text = f"Number of clusters. Default: about sqrt(images / 2), at most {kmeans.MOST}."
    flags.DEFINE_integer("count", None, text, lower_bound=1, flag_values=values)
    return values


def command(argv: list[str]) -> bool:
    """Writes the picture and the table."""
    values = define_flags(argv)
    commands.parse(values, argv, ("out",), __doc__ or "")
    restored, found = options.open_collection(values)
    features = found.token(values.token)
    count = values.count or kmeans.default_count(len(found))
    clusters = kmeans.cluster(kmeans.compress(features), min(count, len(found)))
    known, lines = groupings(found, clusters)[1:], []
    for which in range(clusters.number):
        members = np.flatnonzero(clusters.of == which)
        notes = [note for group in known if (note := purity_line(group, members))]
        rows = kmeans.central(clusters, which, DRAWN)
        title = ", ".join([f"cluster {which + 1}: {len(members)} images", *notes])
        lines.append(Line(title, tiles(found, rows, SIDE)))
    outliers = outlier_scores(features, restored.mesh)
    table = [
        [found.records.names[row], clusters.of[row] + 1, f"{clusters.distance[row]:.4f}", f"{outliers[row]:.4f}"]
        for row in range(len(found))
    ]
    title = f"{len(found)} images in {clusters.number} clusters by k-means; of each, the images nearest to its centre"
    options.write(values.out, title, lines, ["image", "cluster", "distance", "outlier"], table)
    return True


def main(argv: list[str]) -> int:
    """Runs the command and returns its exit code."""
    return commands.run(command, argv, resumes=False)


if __name__ == "__main__":
    commands.end(main(sys.argv))
