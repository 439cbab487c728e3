"""Times JPEG decoders on one core, from files in memory to square RGB images, in images per second.

python benchmarks/decode.py [--image_size=256] [--height=375 --width=500] [--out=FILE.json]

Compares Pillow with and without draft mode, simplejpeg and OpenCV, each with its own antialiased resizing, with
`sit_jax.data.decode`. The pictures are random but smooth, with the size and the bytes of photographs.
"""

import argparse
import io
import json
import pathlib
import statistics
import sys
import time
from collections.abc import Callable

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))

import cv2
import numpy as np
import simplejpeg
from PIL import Image, ImageOps

from sit_jax.data.decode import decode

Decoder = Callable[[bytes, int], np.ndarray]


def make_files(count: int, height: int, width: int) -> list[bytes]:
    """Returns JPEG files of quality 90: noise of eight octaves, with the energy of photographs at each scale."""
    rng, files = np.random.default_rng(0), []
    for _ in range(count):
        image = np.zeros((height, width, 3), np.float32)
        for octave in range(1, 9):
            noise = rng.normal(size=(2**octave, 2**octave, 3)).astype(np.float32)
            image += cv2.resize(noise, (width, height), interpolation=cv2.INTER_CUBIC) * 2.0**-octave
        image = (image - image.min()) / (image.max() - image.min()) * 255
        buffer = io.BytesIO()
        Image.fromarray(image.astype(np.uint8)).save(buffer, "JPEG", quality=90)
        files.append(buffer.getvalue())
    return files


def pillow(file: bytes, size: int) -> np.ndarray:
    """Decodes with Pillow at full size."""
    return np.asarray(ImageOps.fit(Image.open(io.BytesIO(file)), (size, size), Image.Resampling.BICUBIC))


def pillow_draft(file: bytes, size: int) -> np.ndarray:
    """Decodes with Pillow, scaled down to at least twice the size."""
    image = Image.open(io.BytesIO(file))
    image.draft(None, (2 * size, 2 * size))
    return np.asarray(ImageOps.fit(image, (size, size), Image.Resampling.BICUBIC))


def opencv(file: bytes, size: int) -> np.ndarray:
    """Decodes with OpenCV; INTER_AREA is its antialiased resizing."""
    image = cv2.imdecode(np.frombuffer(file, np.uint8), cv2.IMREAD_COLOR_RGB)
    return cv2.resize(centre(image), (size, size), interpolation=cv2.INTER_AREA)


def simplejpeg_opencv(file: bytes, size: int) -> np.ndarray:
    """Decodes with simplejpeg, scaled down to at least twice the size, and resizes with OpenCV."""
    image = simplejpeg.decode_jpeg(file, "RGB", min_height=2 * size, min_width=2 * size)
    return cv2.resize(centre(image), (size, size), interpolation=cv2.INTER_AREA)


def simplejpeg_pillow(file: bytes, size: int) -> np.ndarray:
    """Decodes with simplejpeg, scaled down to at least twice the size, and resizes with Pillow."""
    image = Image.fromarray(simplejpeg.decode_jpeg(file, "RGB", min_height=2 * size, min_width=2 * size))
    return np.asarray(ImageOps.fit(image, (size, size), Image.Resampling.BICUBIC))


def centre(image: np.ndarray) -> np.ndarray:
    """Returns the central square."""
    side = min(image.shape[:2])
    top, left = (image.shape[0] - side) // 2, (image.shape[1] - side) // 2
    return np.ascontiguousarray(image[top : top + side, left : left + side])


def ours(file: bytes, size: int) -> np.ndarray:
    """Decodes as sit_jax does."""
    return decode(file, size, "a file")


DECODERS: dict[str, Decoder] = {
    "Pillow": pillow,
    "Pillow, draft": pillow_draft,
    "simplejpeg + Pillow": simplejpeg_pillow,
    "simplejpeg + OpenCV": simplejpeg_opencv,
    "OpenCV": opencv,
    "sit_jax": ours,
}


def measure(files: list[bytes], size: int, rounds: int) -> dict[str, list[float]]:
    """Returns images/s of each decoder as [median, least, most]; the decoders run in turns."""
    speeds: dict[str, list[float]] = {name: [] for name in DECODERS}
    for turn in range(rounds + 1):
        for name, decoder in DECODERS.items():
            begin = time.perf_counter()
            for file in files:
                assert decoder(file, size).shape == (size, size, 3)
            if turn:  # the first turn warms up
                speeds[name].append(len(files) / (time.perf_counter() - begin))
    return {name: [statistics.median(values), min(values), max(values)] for name, values in speeds.items()}


def main() -> None:
    """Measures and prints a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--image_size", type=int, default=256)
    parser.add_argument("--height", type=int, default=375)
    parser.add_argument("--width", type=int, default=500)
    parser.add_argument("--count", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--out")
    args = parser.parse_args()
    cv2.setNumThreads(1)
    files = make_files(args.count, args.height, args.width)
    speeds = measure(files, args.image_size, args.rounds)
    size = sum(map(len, files)) / len(files)
    print(f"{args.width} x {args.height} JPEG of {size / 1e3:.0f} kB on average -> {args.image_size} px, one thread")
    print(f"{'images/s':<22}{'median':>9}{'lowest':>9}{'highest':>9}")
    for name, values in speeds.items():
        print(f"{name:<22}" + "".join(f"{value:>9.0f}" for value in values))
    if args.out:
        pathlib.Path(args.out).write_text(json.dumps({"arguments": vars(args), "images_per_second": speeds}) + "\n")


if __name__ == "__main__":
    main()
