"""Writes the same images as a folder, as tar shards, as Parquet, as `datasets` saves them, and as ArrayRecord."""

import io
import json
import tarfile
import zlib

import numpy as np
import pyarrow as pa
import pyarrow.parquet
from PIL import Image


def picture(name, size=12):
    """The bytes of a JPEG or PNG that only `name` has."""
    pixels = np.random.default_rng(zlib.crc32(name.encode())).integers(0, 256, (size, size + 3, 3), np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG" if name.endswith(".png") else "JPEG")
    return file.getvalue()


def write_folder(root, names):
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(picture(name))


def write_tar(path, members, **options):
    """`members` is (name, bytes) pairs."""
    with tarfile.open(path, "w", **options) as archive:
        for name, content in members:
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))


def table(names, labels=None, class_names=None):
    images = pa.array(
        [{"bytes": picture(name), "path": name} for name in names],
        pa.struct([("bytes", pa.binary()), ("path", pa.string())]),
    )
    columns = {"image": images} if labels is None else {"image": images, "label": labels}
    found = pa.table(columns)
    if class_names:
        features = {"image": {"_type": "Image"}, "label": {"names": class_names, "_type": "ClassLabel"}}
        found = found.replace_schema_metadata({"huggingface": json.dumps({"info": {"features": features}})})
    return found


def write_parquet(path, *args, rows=3, **kwargs):
    pa.parquet.write_table(table(*args, **kwargs), path, row_group_size=rows)


def write_hf(folder, *args, **kwargs):
    """As `Dataset.save_to_disk` of datasets 4 does."""
    folder.mkdir(parents=True)
    found = table(*args, **kwargs)
    with (
        pa.OSFile(str(folder / "data-00000-of-00001.arrow"), "wb") as file,
        pa.ipc.new_stream(file, found.schema) as writer,
    ):
        writer.write_table(found, max_chunksize=4)
    state = {"_data_files": [{"filename": "data-00000-of-00001.arrow"}], "_split": None}
    (folder / "state.json").write_text(json.dumps(state))


def write_array_record(path, names):
    from array_record.python.array_record_module import ArrayRecordWriter

    writer = ArrayRecordWriter(str(path), "group_size:1")
    for name in names:
        writer.write(picture(name))
    writer.close()
