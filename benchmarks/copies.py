"""Plants copies of pictures in a folder's collection and counts how many are found; perceptual hashing for comparison.

python benchmarks/copies.py FOLDER [--planted=300] [--seed=0]

Of `planted` pictures of FOLDER, chosen by the seed, each gets one changed copy, in turns by CHANGES. Recall is the
share of the planted pairs that are found, by change. Precision counts all other pairs of the collection as wrong,
also true copies that FOLDER has, and all pairs of a group of copies beyond the planted ones. Needs imagehash.
"""

import argparse
import io
import pathlib
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))

import imagehash
import numpy as np
from PIL import Image, ImageOps

from sit_jax.common.console import table
from sit_jax.data.given import open_given
from sit_jax.look.collection import shrink_records, tiles
from sit_jax.probes import duplicates

SIDE = 64  # pixels of the pictures that are changed
DISTANCES = (4, 8, 12)  # bits of a hash of 64 that may differ
Pairs = set[tuple[int, int]]


def recompressed(picture: Image.Image) -> Image.Image:
    """Returns a picture after JPEG of quality 25."""
    file = io.BytesIO()
    picture.save(file, "JPEG", quality=25)
    return Image.open(file).convert("RGB")


CHANGES = {
    "resized": lambda picture: picture.resize((40, 40), Image.Resampling.BICUBIC),
    "recompressed": recompressed,
    "mirrored": ImageOps.mirror,
    "brighter": lambda picture: picture.point(lambda value: min(255, int(value * 1.2 + 10))),
    "cropped to 90 %": lambda picture: picture.crop((3, 3, SIDE - 3, SIDE - 3)),
}


def plant(pictures: list[Image.Image], count: int, seed: int) -> tuple[list[Image.Image], dict[tuple[int, int], str]]:
    """Returns the pictures with the changed copies behind them, and the change of each planted pair."""
    rows = np.random.default_rng(seed).permutation(len(pictures))[:count]
    changed, truth = list(pictures), {}
    for number, row in enumerate(rows.tolist()):
        name = list(CHANGES)[number % len(CHANGES)]
        truth[row, len(changed)] = name
        changed.append(CHANGES[name](pictures[row]))
    return changed, truth


def found_here(pictures: list[Image.Image]) -> Pairs:
    """Returns the pairs that `sit_jax.duplicates` finds."""
    squares = [np.asarray(ImageOps.fit(picture, (SIDE, SIDE), Image.Resampling.BICUBIC)) for picture in pictures]
    small = np.asarray(duplicates.shrink(np.stack(squares))).round().astype(np.uint8)
    found = duplicates.find_copies(small)
    return set(zip(found.first.tolist(), found.second.tolist(), strict=True))


def found_by_hashes(pictures: list[Image.Image], distance: int, mirrored: bool) -> Pairs:
    """Returns the pairs whose perceptual hashes differ in at most `distance` bits, also of the mirrored pictures."""
    plain = np.stack([imagehash.phash(picture).hash.ravel() for picture in pictures])
    others = [plain]
    if mirrored:
        others.append(np.stack([imagehash.phash(ImageOps.mirror(picture)).hash.ravel() for picture in pictures]))
    found: Pairs = set()
    for other in others:
        for row, bits in enumerate(plain):
            near = np.flatnonzero((other[row + 1 :] != bits).sum(axis=1) <= distance) + row + 1
            found |= {(row, int(second)) for second in near}
    return found


def scores(name: str, found: Pairs, truth: dict[tuple[int, int], str]) -> list[str]:
    """Returns the row of a method: recall by change, precision, and the number of pairs that were not planted."""
    recall = []
    for change in CHANGES:
        planted = [pair for pair, how in truth.items() if how == change]
        recall.append(f"{np.mean([pair in found for pair in planted]):.0%}")
    right = len(found & truth.keys())
    return [name, *recall, f"{right / max(len(found), 1):.1%}", str(len(found) - right)]


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("folder")
    parser.add_argument("--planted", type=int, default=300)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    shown, _ = shrink_records(open_given(options.folder).records, SIDE)
    pictures = [Image.fromarray(tile) for tile in tiles(shown, range(len(shown)), SIDE)]
    changed, truth = plant(pictures, options.planted, options.seed)
    rows = [scores("sit_jax.duplicates", found_here(changed), truth)]
    for mirrored in (False, True):
        for distance in DISTANCES:
            name = f"phash, {distance} of 64 bits{', also mirrored' if mirrored else ''}"
            rows.append(scores(name, found_by_hashes(changed, distance, mirrored), truth))
    print(f"{len(pictures)} pictures, {len(truth)} planted copies")
    print(table([["method", *CHANGES, "precision", "other pairs"], *rows], right=range(1, len(CHANGES) + 3)))


if __name__ == "__main__":
    main()
