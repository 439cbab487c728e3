"""Your folder -> nearest neighbours and clusters, as two pictures.

    python examples/neighbours_and_clusters.py --workdir=runs/mine --images=PHOTOS --out=runs

`--workdir` is a run, or weights of another project; without one, a small encoder is trained on the images first.
`sit-jax neighbours` and `sit-jax clusters` draw more; this shows how to do it with features in Python.
"""

# %%
import argparse
import pathlib

import numpy as np
from PIL import Image, ImageOps
from sklearn.cluster import KMeans

import sit_jax

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("--images", required=True)
parser.add_argument("--workdir", default="")
parser.add_argument("--out", default="runs", type=pathlib.Path)
parser.add_argument("--clusters", default=8, type=int)
arguments = parser.parse_args()
SIDE = 96  # of a thumbnail in pixels

# %% The pictures, then the encoder: a trained one, or a first try on these images.
kinds = Image.registered_extensions()
paths = sorted(path for path in pathlib.Path(arguments.images).rglob("*") if path.suffix.lower() in kinds)
if len(paths) < 2:
    raise SystemExit(f"{arguments.images}: give a folder with two pictures or more")
encoder = (
    sit_jax.load(arguments.workdir)
    if arguments.workdir
    else sit_jax.pretrain(arguments.images, arguments.out / "encoder", config="folder:runlocal", batch_size=4).encoder()
)
features = encoder(paths)  # [n, F]

# %% Each row: a picture, then its eight nearest neighbours.
chosen = paths[:: max(len(paths) // 8, 1)][:8]
indices, similarities = encoder.similar(paths, to=chosen, count=9)


def sheet(rows: list[list[pathlib.Path]]) -> Image.Image:
    """Draws pictures in rows."""
    picture = Image.new("RGB", (SIDE * max(map(len, rows)), SIDE * len(rows)), "white")
    for y, row in enumerate(rows):
        for x, path in enumerate(row):
            picture.paste(ImageOps.fit(Image.open(path).convert("RGB"), (SIDE, SIDE)), (x * SIDE, y * SIDE))
    return picture


arguments.out.mkdir(parents=True, exist_ok=True)
sheet([[paths[i] for i in row] for row in indices]).save(arguments.out / "neighbours.png")

# %% Clusters of unit vectors; each row shows the pictures nearest to a centre.
unit = features / np.linalg.norm(features, axis=1, keepdims=True)
kmeans = KMeans(min(arguments.clusters, len(paths)), n_init=4, random_state=0).fit(unit)
distances = kmeans.transform(unit)
rows = []
for cluster in range(kmeans.n_clusters):
    members = np.flatnonzero(kmeans.labels_ == cluster)
    rows.append([paths[i] for i in members[np.argsort(distances[members, cluster])][:9]])
sheet(rows).save(arguments.out / "clusters.png")
print(
    f"{len(paths)} pictures, {kmeans.n_clusters} clusters: {arguments.out}/neighbours.png, {arguments.out}/clusters.png"
)
