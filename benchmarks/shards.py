"""Times many small JPEG files in tar shards and in Parquet, compared with the same files in a folder.

python benchmarks/shards.py [--count=100000] [--side=96] [--batches=40] [--folder=FOLDER] [--out=FILE.json]

Each form is read by a process of its own, always streamed, in the order of a training: the time to open it for the
first time (which makes the index) and once more, to the first batch, images per second of the clock and of a core, and
the peak memory above that after the imports. The bare decoder is Pillow on the same files, one thread.
"""

import argparse
import io
import json
import os
import pathlib
import resource
import subprocess
import sys
import tarfile
import tempfile
import time

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))

import numpy as np
from PIL import Image, ImageOps

POOL = 2000  # different pictures, which repeat
A_SHARD = 10_000
A_GROUP = 1000  # rows of a Parquet row group
BATCH = 256
FORMS = ("folder", "tar", "parquet")


def make_files(count: int, side: int) -> list[bytes]:
    """Returns JPEG files of quality 90 of `side` x `side` pixels: smooth noise with the detail of photographs."""
    rng, files = np.random.default_rng(0), []
    for _ in range(count):
        image = np.zeros((side, side, 3))
        for octave in range(1, 7):
            noise = Image.fromarray((rng.random((2**octave, 2**octave, 3)) * 255).astype(np.uint8))
            image += np.asarray(noise.resize((side, side), Image.Resampling.BICUBIC)) * 2.0**-octave
        file = io.BytesIO()
        Image.fromarray(np.clip(image, 0, 255).astype(np.uint8)).save(file, "JPEG", quality=90)
        files.append(file.getvalue())
    return files


def write(root: pathlib.Path, count: int, side: int) -> None:
    """Writes the same files as a folder of a thousand classes, as tar shards and as Parquet."""
    import pyarrow as pa
    import pyarrow.parquet

    pool = make_files(POOL, side)
    names = [f"{i // 100:05d}/{i:08d}.jpg" for i in range(count)]
    for start in range(0, count, A_SHARD):
        rows = range(start, min(count, start + A_SHARD))
        with tarfile.open(root / f"shard-{start // A_SHARD:03d}.tar", "w") as archive:
            for i in rows:
                info = tarfile.TarInfo(names[i])
                info.size = len(pool[i % POOL])
                archive.addfile(info, io.BytesIO(pool[i % POOL]))
        images = pa.table({"image": pa.array([pool[i % POOL] for i in rows], pa.binary())})
        pa.parquet.write_table(images, root / f"part-{start // A_SHARD:03d}.parquet", row_group_size=A_GROUP)
        for i in rows:
            path = root / "files" / names[i]
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(pool[i % POOL])


def sources(root: pathlib.Path) -> dict[str, str]:
    """Returns the SOURCE of each form."""
    return {"folder": f"folder:{root}/files", "tar": f"tar:{root}/*.tar", "parquet": f"parquet:{root}/*.parquet"}


def peak() -> float:
    """Returns the peak memory of this process in MB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3


def read(source: str, side: int, batches: int) -> dict[str, float]:
    """Opens and reads a source in this process; returns the figures."""
    from sit_jax.data import Batches, load_images, open_source

    before = peak()
    begin = time.perf_counter()
    images = load_images(open_source(source).pretrain, side, memory_limit_gb=0.0)
    opened = time.perf_counter() - begin
    stream = Batches(images, BATCH, seed=0)
    stream.batch_at(0)
    first = time.perf_counter() - begin
    begin, core = time.perf_counter(), time.process_time()
    for step in range(1, batches + 1):
        stream.batch_at(step)
    seconds, core = time.perf_counter() - begin, time.process_time() - core
    return {
        "opened_s": opened,
        "first_batch_s": first,
        "images_per_second": batches * BATCH / seconds,
        "images_per_core_second": batches * BATCH / core,
        "memory_mb": peak() - before,
    }


def bare(root: pathlib.Path, side: int) -> dict[str, float]:
    """Decodes POOL files from memory with Pillow alone, one thread."""
    paths = sorted((root / "files").glob("0000[0-9]/*.jpg")) + sorted((root / "files").glob("0001[0-9]/*.jpg"))
    files = [path.read_bytes() for path in paths]
    begin, core = time.perf_counter(), time.process_time()
    for file in files:
        image = Image.open(io.BytesIO(file))
        image.draft(None, (2 * side, 2 * side))
        np.asarray(ImageOps.fit(image.convert("RGB"), (side, side), Image.Resampling.BICUBIC))
    seconds, core = time.perf_counter() - begin, time.process_time() - core
    return {"images_per_second": len(files) / seconds, "images_per_core_second": len(files) / core}


def measure(root: pathlib.Path, side: int, batches: int) -> dict[str, dict[str, float]]:
    """Reads each form in new processes: with an empty cache, then with its index."""
    results = {"bare decoder": bare(root, side)}
    for form in FORMS:
        with tempfile.TemporaryDirectory(dir=root) as cache:
            command = [
                sys.executable,
                __file__,
                f"--read={sources(root)[form]}",
                f"--side={side}",
                f"--batches={batches}",
            ]
            for turn in (f"{form}, first start", f"{form}, next start"):
                done = subprocess.run(
                    command, env={**os.environ, "XDG_CACHE_HOME": cache}, capture_output=True, text=True, check=True
                )
                results[turn] = json.loads(done.stdout.splitlines()[-1])
    return results


def main() -> None:
    """Measures and prints a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=100_000)
    parser.add_argument("--side", type=int, default=96)
    parser.add_argument("--batches", type=int, default=40)
    parser.add_argument(
        "--folder", help="Where to write the files, about 1 GB; it is kept. Default: a temporary folder."
    )
    parser.add_argument("--read", help=argparse.SUPPRESS)
    parser.add_argument("--out")
    args = parser.parse_args()
    if args.read:
        print(json.dumps(read(args.read, args.side, args.batches)))
        return
    with tempfile.TemporaryDirectory() as temporary:
        root = pathlib.Path(args.folder or temporary)
        root.mkdir(parents=True, exist_ok=True)
        if not (root / "files").exists():
            write(root, args.count, args.side)
        results = measure(root, args.side, args.batches)
    columns = list(results[f"{FORMS[0]}, first start"])
    print(f"{args.count} JPEG files of {args.side} px, batches of {BATCH}")
    print(f"{'':<22}" + "".join(f"{column:>24}" for column in columns))
    for name, values in results.items():
        print(f"{name:<22}" + "".join(f"{values[c]:>24.1f}" if c in values else f"{'':>24}" for c in columns))
    if args.out:
        pathlib.Path(args.out).write_text(json.dumps({"arguments": vars(args), "results": results}) + "\n")


if __name__ == "__main__":
    main()
