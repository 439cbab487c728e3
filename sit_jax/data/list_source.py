"""Images that a text file lists, or that a glob finds."""

import os
from pathlib import Path

from sit_jax.common.errors import InputError
from sit_jax.data import layout, paths, remote
from sit_jax.data.assemble import Classes, assemble
from sit_jax.data.listing import file_records
from sit_jax.data.ranges import Names
from sit_jax.data.records import Records, Source
from sit_jax.data.stored import Files
from sit_jax.data.whole import whole_files


def open_list(path: str) -> Source:
    r"""Opens the images that a text file lists, one path a line, relative to the file; in its order.

    A label may follow each path, after a tab: a number, or a name. Empty lines are ignored. List and images may lie
    in a remote store. Raises InputError if the list is missing or empty, lacks some of the labels, or names files that
    are missing.
    """
    name = f"list:{path}"
    lines = [line for line in _read(path).split("\n") if line.strip()]
    pairs = [line.rstrip("\r").partition("\t") for line in lines]
    if not pairs:
        raise InputError(f"{path}: lists no images; write one path a line")
    names, labels = [pair[0].strip() for pair in pairs], [pair[2].strip() or None for pair in pairs]
    if None in labels and any(labels):
        raise InputError(f"{path}: {names[labels.index(None)]} has no label, and others have; give each one or none")
    base = path.rpartition("/")[0]
    if remote.is_remote(path) or any(map(remote.is_remote, names)):
        urls = [one if remote.is_remote(one) else f"{base}/{one}" for one in names]
        records = whole_files(Files(urls), Names.of(urls))
    else:
        records = _on_disk(path, Path(path).expanduser().parent, names)
    return assemble(name, {"train": (records, Classes.of(labels) if any(labels) else None)})


def open_glob(pattern: str) -> Source:
    """Opens the images that a glob finds (`paths.expand`), in the order of a folder; `**` is any depth.

    Other files are left out.
    Splits and labels follow the folders below the fixed part of the pattern by the rules of `folder.open_folder`.
    Raises InputError if the pattern finds no image.
    """
    name = f"glob:{pattern}"
    found = sorted(set(filter(layout.is_image, paths.expand(pattern))), key=lambda path: path.split("/"))
    base = paths.fixed_part(os.path.expanduser(pattern))
    below = [one.removeprefix(f"{base}/") if base else one for one in found]
    if found and remote.is_remote(found[0]):
        files = Files(found)
        return layout.open_names(name, below, lambda rows: whole_files(files, Names.of(found)).take(rows))
    root = Path(base or ".")
    return layout.open_names(name, below, lambda rows: file_records(root, [below[int(row)] for row in rows]))


def _on_disk(path: str, root: Path, names: list[str]) -> Records:
    names = [os.path.expanduser(name) for name in names]
    if missing := [name for name in names if not (root / name).is_file()]:
        raise InputError(
            f"{path}: {len(missing)} of its {len(names)} files are missing: {paths.shown(missing)}; paths are relative "
            "to the list"
        )
    return file_records(root, names)


def _read(path: str) -> str:
    try:
        if remote.is_remote(path):
            files = Files([path], keep=False)
            content = files.read(0, 0, files.sizes[0])
        else:
            content = Path(path).expanduser().read_bytes()
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror or error}); give a text file of paths") from error
    if b"\0" in content:
        raise InputError(f"{path}: is no text file; give one path a line")
    return content.decode("utf-8-sig", errors="surrogateescape")
