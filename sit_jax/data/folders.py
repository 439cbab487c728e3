"""One folder of images or several, on disk or in a remote store."""

import dataclasses
import functools
import operator
from collections.abc import Sequence
from pathlib import Path

from sit_jax.common.errors import InputError
from sit_jax.common.text import shown
from sit_jax.data import remote
from sit_jax.data.folder import open_folder
from sit_jax.data.records import Records, Source
from sit_jax.data.whole import open_remote_folder


def open_folders(path: str) -> Source:
    """Opens a folder (`folder.open_folder`), or several with commas between them, one after the other.

    With several, the folder comes before each name, splits of the same kind are joined, and labels stay if all folders
    have the same classes. Raises InputError as for one folder, and if a folder is given twice or lies in another.
    """
    folders = [one.strip() for one in path.split(",") if one.strip()]
    if len(folders) < 2 or Path(path).expanduser().is_dir():
        return _open(path)
    _check_apart(folders)
    return _join(f"folder:{path}", folders, [_open(folder) for folder in folders])


def _open(folder: str) -> Source:
    return open_remote_folder(folder) if remote.is_remote(folder) else open_folder(folder)


def _check_apart(folders: list[str]) -> None:
    whole = [folder if remote.is_remote(folder) else str(Path(folder).expanduser().resolve()) for folder in folders]
    for i, one in enumerate(whole):
        for j, other in enumerate(whole):
            if i != j and f"{one.rstrip('/')}/".startswith(f"{other.rstrip('/')}/"):
                raise InputError(f"{folders[i]}: lies in {folders[j]}, which is given too; leave one of them out")


def _join(name: str, folders: Sequence[str], sources: Sequence[Source]) -> Source:
    class_names = sources[0].class_names
    notes = tuple(
        f"{shown(folder)}: {note}" for folder, source in zip(folders, sources, strict=True) for note in source.notes
    )
    if any(source.class_names != class_names for source in sources):
        notes += ("no image has a label, because the folders have different classes",)
        class_names = None

    def joined(split: str) -> Records | None:
        found = [(folder, getattr(source, split)) for folder, source in zip(folders, sources, strict=True)]
        named = [_named(folder, records, class_names is not None) for folder, records in found if records is not None]
        return functools.reduce(operator.add, named) if named else None

    train, pretrain = joined("train"), joined("pretrain")
    assert train is not None and pretrain is not None
    same = all(source.pretrain is source.train for source in sources)
    return Source(name, train if same else pretrain, train, joined("test"), class_names, notes)


def _named(folder: str, records: Records, keep_labels: bool) -> Records:
    names = [f"{folder.rstrip('/')}/{name}" for name in records.names]
    stamp = records.stamp
    stamped = None if stamp is None else lambda i: f"{folder} {stamp(i)}"
    return dataclasses.replace(records, names=names, stamp=stamped, label=records.label if keep_labels else None)
