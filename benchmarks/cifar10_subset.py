"""Writes the CIFAR-10 subsets of docs/results.md as array files: `python benchmarks/cifar10_subset.py FOLDER OUT`.

FOLDER holds all of CIFAR-10 as {train,test}/CLASS/NAME.png. NAME is the name in the original archive, such as
`leptodactylus_pentadactylus_s_000004` (`filenames` in the batches of cifar-10-python.tar.gz). OUT gets three files.
cifar10-10k.npz holds 1,000 training images per class and all test images. cifar10-search.npz holds the same training
images, and 500 other training images per class in place of the test images, so that recipes are chosen without the test
split. cifar10-50k.npz holds all images.
"""

import argparse
import hashlib
import pathlib

import numpy as np
from PIL import Image

PER_CLASS = 1000
HELD_OUT_PER_CLASS = 500


def by_hash(paths: list[pathlib.Path]) -> list[pathlib.Path]:
    """Returns paths in the order of the SHA-256 of their names: a random order that is the same everywhere."""
    return sorted(paths, key=lambda path: hashlib.sha256(path.stem.encode()).digest())


def choose(folder: pathlib.Path, split: str, first: int, last: int | None) -> dict[str, np.ndarray]:
    """Reads the images `first` to `last` of each class of a split; labels follow the order of the class names."""
    rows = []
    for label, name in enumerate(sorted(path for path in (folder / split).iterdir() if path.is_dir())):
        rows += [(path, label) for path in by_hash(list(name.glob("*.png")))[first:last]]
    rows.sort(key=lambda row: (row[0].stem, row[1]))  # an order independent of the file system
    images = np.stack([np.asarray(Image.open(path).convert("RGB")) for path, _ in rows])
    return {"images": images, "labels": np.array([label for _, label in rows], np.int32)}


def main() -> None:
    """Writes the files."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=pathlib.Path)
    parser.add_argument("out", type=pathlib.Path)
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    some, every = choose(args.folder, "train", 0, PER_CLASS), choose(args.folder, "train", 0, None)
    held_out = choose(args.folder, "train", PER_CLASS, PER_CLASS + HELD_OUT_PER_CLASS)
    whole = choose(args.folder, "test", 0, None)
    for name, train, test in (("10k", some, whole), ("search", some, held_out), ("50k", every, whole)):
        arrays = {f"{split}_{k}": v for split, part in (("train", train), ("test", test)) for k, v in part.items()}
        np.savez(args.out / f"cifar10-{name}.npz", **arrays)
        print(
            f"{args.out}/cifar10-{name}.npz: {len(train['images'])} training images, {len(test['images'])} test images"
        )


if __name__ == "__main__":
    main()
