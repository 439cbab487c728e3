"""Writes the features of images; `sit-jax embed` is `python -m sit_jax.embed`.

  sit-jax embed --workdir=runs/mine --images=PHOTOS --out=features.npz

--images is a folder, a pattern in quotes ('FOLDER/**/*.jpg'), or a text file of paths. The .npz file holds `features`
(float32, one row per image), `paths` (of a folder: relative to it), `labels` (int32, indices of `class_names`; -1 if no
class folder gives one) and `class_names`. --features=concat (the default) is [n, 2 D]: the rotation token, then the
contrastive token. patch_mean, rotation, contrastive and projection (of the contrastive head) are [n, F]. tokens is
[n, 2, D], and patches is the grid [n, side, side, D]. Images and features are streamed: any number of images will do.
"""

import pathlib
import sys
import zipfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import IO

import numpy as np
from absl import flags

from sit_jax.common import commands
from sit_jax.common.console import say, say_all, with_progress
from sit_jax.common.errors import InputError
from sit_jax.common.files import check_out, replacing
from sit_jax.common.layout import Layout, layout_of
from sit_jax.common.text import shown
from sit_jax.config import cli
from sit_jax.data import Records
from sit_jax.data.channels import decode
from sit_jax.data.given import open_given
from sit_jax.eval.adopted import place
from sit_jax.eval.encoding import KINDS, encode_records
from sit_jax.eval.restore import restore

CHUNK = 1024  # images decoded at a time by the threads


def define_flags(argv: list[str]) -> flags.FlagValues:
    """Returns the flags of the command."""
    values = cli.make_flags(argv)
    cli.add_workdir_flags(values)
    flags.DEFINE_string("images", None, "A folder, a pattern in quotes, or a text file of paths.", flag_values=values)
    flags.DEFINE_string("out", None, "The .npz file to write.", flag_values=values)
    flags.DEFINE_enum("features", "concat", KINDS, "The features to write.", flag_values=values)
    flags.DEFINE_integer("batch_size", 256, "Images per encoded batch.", lower_bound=1, flag_values=values)
    flags.DEFINE_boolean("skip_unreadable", False, "Leave out unreadable images.", flag_values=values)
    return values


def command(argv: list[str]) -> bool:
    """Writes the features and prints their shape."""
    values = define_flags(argv)
    commands.parse(values, argv, ("images", "out"), __doc__ or "")
    out, kind = pathlib.Path(values.out), values.features
    check_out(out, ".npz")
    records, class_names, notes = open_given(values.images)
    say_all(notes)
    workdir, with_heads = place(values.workdir, values.encoder), kind == "projection"
    restored = restore(workdir, values.step, values.weights, cli.overrides(values), with_heads)
    if values.skip_unreadable or restored.config.data.skip_unreadable:
        records = readable(records, restored.config.model.image_size, layout_of(restored.config.data))
    batches = encode_records(restored, records, kind, values.batch_size)
    shape = write_npz(out, batches, records, class_names)
    say(f"{out}: features {' x '.join(map(str, shape))}, from step {restored.step} of {workdir}")
    return True


def readable(records: Records, image_size: int, layout: Layout) -> Records:
    """Returns the readable images and prints how many are left out; raises InputError if none is readable.

    The .npz header needs the number of rows before the first row, so the images are decoded twice.
    """

    def is_readable(row: int) -> bool:
        try:
            decode(records.read(row), image_size, records.names[row], layout)
        except InputError:
            return False
        return True

    def chunks() -> Iterator[list[bool]]:
        with ThreadPoolExecutor() as threads:
            for start in range(0, len(records), CHUNK):
                yield list(threads.map(is_readable, range(start, min(start + CHUNK, len(records)))))

    found = np.concatenate(list(with_progress(chunks(), len, len(records), "checking images")))
    rows, missing = np.flatnonzero(found), np.flatnonzero(~found)
    if not len(rows):
        raise InputError(f"{shown(records.names[0])}: unreadable, as are all other images; check the folder")
    if len(missing):
        first = shown(records.names[missing[0]])
        say(f"left out {len(missing)} of {len(records)} images that cannot be read, the first: {first}")
    return records.take(rows)


def write_npz(
    out: pathlib.Path, batches: Iterator[np.ndarray], records: Records, class_names: tuple[str, ...]
) -> tuple[int, ...]:
    """Writes features batch by batch, then paths, labels and class names; returns the shape of the features.

    The file appears only when it is complete. Raises InputError if it cannot be written.
    """
    others = {
        "paths": np.array(records.names, np.str_),
        "labels": records.labels,
        "class_names": np.array(class_names, np.str_),
    }
    try:
        with replacing(out) as temporary, zipfile.ZipFile(temporary, "w") as file:
            with file.open("features.npy", "w", force_zip64=True) as member:
                shape = write_rows(member, batches, len(records))
            for name, array in others.items():
                with file.open(f"{name}.npy", "w", force_zip64=True) as member:
                    np.lib.format.write_array(member, np.asarray(array), allow_pickle=False)
    except OSError as error:
        raise InputError(f"--out={out}: cannot be written ({error.strerror or error}); choose another file") from error
    return shape


def write_rows(file: IO[bytes], batches: Iterator[np.ndarray], count: int) -> tuple[int, ...]:
    """Writes batches [B, ...], `count` rows in total, as one array in .npy format; returns its shape."""
    shape: tuple[int, ...] = ()
    for batch in batches:
        if not shape:
            shape = (count, *batch.shape[1:])
            descr = np.lib.format.dtype_to_descr(batch.dtype)
            np.lib.format.write_array_header_1_0(file, {"descr": descr, "fortran_order": False, "shape": shape})
        file.write(batch.tobytes())
    return shape


def main(argv: list[str]) -> int:
    """Runs the command and returns its exit code."""
    return commands.run(command, argv, resumes=False)


if __name__ == "__main__":
    commands.end(main(sys.argv))
