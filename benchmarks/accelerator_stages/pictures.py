"""Images to read: the array file of CIFAR-10, and JPEG files of the size of photographs."""

import io
import pathlib

import numpy as np
from PIL import Image

from benchmarks.accelerator_stages.stage import Skip

WIDTH, HEIGHT = 500, 375
DIFFERENT = 32  # different pictures; further files are copies


def cifar10(path: pathlib.Path, dry_run: bool) -> str:
    """Returns the SOURCE of CIFAR-10, or digits in a dry run; raises Skip if the file is missing."""
    if dry_run:
        return "digits"
    if not path.exists():
        raise Skip(f"{path} is missing; give an array file with --data")
    return f"npz:{path}"


def jpegs(folder: pathlib.Path, count: int) -> pathlib.Path:
    """Returns a folder with at least `count` JPEG files; writes the missing files."""
    folder.mkdir(parents=True, exist_ok=True)
    missing = range(len(list(folder.glob("*.jpg"))), count)
    if missing:
        rng = np.random.default_rng(0)
        files = [encode(draw(rng)) for _ in range(min(DIFFERENT, count))]
        for index in missing:
            (folder / f"{index}.jpg").write_bytes(files[index % len(files)])
    return folder


def draw(rng: np.random.Generator) -> Image.Image:
    """Draws noise of eight octaves, with the energy of photographs at each scale."""
    image = np.zeros((HEIGHT, WIDTH, 3), np.float32)
    for octave in range(1, 9):
        noise = rng.normal(size=(3, 2**octave, 2**octave)).astype(np.float32)
        layers = [Image.fromarray(layer).resize((WIDTH, HEIGHT), Image.Resampling.BICUBIC) for layer in noise]
        image += np.stack([np.asarray(layer) for layer in layers], axis=-1) * 2.0**-octave
    image = (image - image.min()) / (image.max() - image.min())
    return Image.fromarray(np.round(255 * image).astype(np.uint8))


def encode(image: Image.Image) -> bytes:
    """Returns the bytes of a JPEG file of quality 90."""
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=90)
    return buffer.getvalue()
