"""Lists the pictures below a folder, and counts what is ignored."""

import os
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np

from sit_jax.common.errors import InputError
from sit_jax.common.text import shown
from sit_jax.data import formats
from sit_jax.data.records import Records

# Folders that systems put next to the user's pictures: thumbnails, copies of attributes, deleted files.
SYSTEM_FOLDERS = ("@eaDir", "__MACOSX", "$RECYCLE.BIN", "#recycle", "lost+found", "System Volume Information")
MOST_PATHS = 64  # to one folder, by links
MOST_KINDS = 12  # of ignored files in a message
LONGEST_EXTENSION = 12  # what follows the last dot may be no extension: `scan.2019-12-24 at home`


class Found(NamedTuple):
    """What lies below a folder."""

    names: list[str]  # of pictures
    ignored: Counter[str]  # numbers of other files by extension, or by what they are


def find(root: Path, folder: str = "") -> Found:
    """Finds the pictures at any depth below `root/folder`, as paths relative to `root`.

    The entries of a folder are in the order of their names. Hidden entries and SYSTEM_FOLDERS are left out, links are
    followed. Raises InputError if a folder cannot be listed, or if links lead to a folder again and again.
    """
    found, visits = Found([], Counter()), Counter[tuple[int, int]]()
    # A stack instead of recursion: folders may be nested deeper than Python's limit.
    stack: list[tuple[str, frozenset]] = [(folder, frozenset())]
    while stack:
        name, parents = stack.pop()
        if parents is _FILE:
            found.names.append(name)
            continue
        # Not pathlib: its joins take as long as the listing.
        entries, identity = _list(os.path.join(root, name))
        if identity in parents:  # a circle of links
            continue
        visits[identity] += 1
        if visits[identity] > MOST_PATHS:
            much = f"more than {MOST_PATHS} paths of links lead to it"
            raise InputError(f"{shown(str(root / name))}: {much}; remove some of these links")
        children = [_child(entry, f"{name}/{entry.name}" if name else entry.name, found.ignored) for entry in entries]
        inner = parents | {identity}
        stack += [(path, inner if is_folder else _FILE) for path, is_folder in filter(None, reversed(children))]
    return found


_FILE: frozenset = frozenset({"file"})  # marks the entries of the stack that are pictures


def _list(folder: str) -> tuple[list[os.DirEntry], tuple[int, int]]:
    try:
        status = os.stat(folder)
        with os.scandir(folder) as entries:
            kept = [entry for entry in entries if not entry.name.startswith(".") and entry.name not in SYSTEM_FOLDERS]
    except OSError as error:
        reason = error.strerror
        raise InputError(f"{shown(folder)}: cannot be listed ({reason}); check its permissions") from error
    return sorted(kept, key=lambda entry: entry.name), (status.st_dev, status.st_ino)


def folders_in(folder: str) -> list[str]:
    """Returns the sorted names of the folders directly in a folder, also of those without images."""
    children = [_child(entry, entry.name, Counter()) for entry in _list(folder)[0]]
    return [name for name, is_folder in filter(None, children) if is_folder]


def _child(entry: os.DirEntry, path: str, ignored: Counter[str]) -> tuple[str, bool] | None:
    """Returns (path, whether it is a folder) of a picture or a folder; counts anything else."""
    try:
        if entry.is_dir():
            return path, True
        is_file, is_broken = entry.is_file(), entry.is_symlink() and not os.path.exists(entry.path)
    except OSError:  # a link to itself, or into a forbidden folder
        is_file, is_broken = False, True
    extension = os.path.splitext(entry.name)[1].lower()
    if is_file and extension in formats.extensions():
        return path, False
    # To read a pipe, a socket or a device may take forever.
    ignored[_kind(extension) if is_file else "broken link" if is_broken else "special file"] += 1
    return None


def _kind(extension: str) -> str:
    if not extension.strip("."):
        return "without extension"
    return extension if len(extension) <= LONGEST_EXTENSION else "of another kind"


def summary(found: Found) -> str:
    """Returns what was found as text: `1,500 images; ignored: 1 .heic (pip install pillow-heif), 1 .mp4, 2 .txt`."""
    ignored = ignored_text(found.ignored)
    images = f"{len(found.names):,} image{'s' * (len(found.names) != 1)}"
    return f"{images}; ignored: {ignored}" if ignored else images


def ignored_text(ignored: Counter[str]) -> str:
    """Returns the numbers of ignored files by extension, with the remedies; empty if there are none."""
    kinds = sorted(ignored)
    if len(kinds) > MOST_KINDS:
        kinds = sorted(sorted(kinds, key=lambda kind: (kind not in formats.REMEDIES, -ignored[kind]))[:MOST_KINDS])
    rest = sum(ignored.values()) - sum(ignored[kind] for kind in kinds)
    texts = list(_counted(kinds, ignored))
    return ", ".join([*texts, f"{rest:,} of {len(ignored) - len(kinds)} other kinds"] if rest else texts)


def _counted(kinds: list[str], ignored: Counter[str]) -> Iterator[str]:
    for kind in kinds:
        remedy = formats.REMEDIES.get(kind)
        yield f"{ignored[kind]:,} {shown(kind)}" + (f" ({remedy})" if remedy else "")


def no_images(folder: Path, found: Found) -> InputError:
    """Returns the error of a folder without pictures."""
    ignored, kinds = ignored_text(found.ignored), " ".join(kind[1:] for kind in formats.extensions())
    inside = f"holds no images, only {ignored}" if ignored else "holds no images"
    return InputError(f"{shown(str(folder))}: {inside}; the files that are read are {kinds}")


def list_images(root: Path, folder: str) -> list[str]:
    """Lists the images at any depth below `root/folder`, as paths relative to `root`; see `find`.

    Raises InputError if there are none.
    """
    found = find(root, folder)
    if not found.names:
        raise no_images(root / folder, found)
    return found.names


def file_records(root: Path, names: list[str], labels: np.ndarray | None = None) -> Records:
    """Returns records of the files `root/name`.

    The stamp is the name, the absolute folder, the size, and the times of the content and of the entry. The second time
    cannot be set, so a file that was exchanged has another stamp, whatever its size and its first time. It is better
    than the number of the inode, which some network file systems choose anew at each mount.
    """
    folder = os.path.realpath(root)

    def stamp(i: int) -> str:
        try:
            status = os.stat(os.path.join(root, names[i]))
        except OSError:  # decoding will report it as unreadable
            return f"{names[i]} {folder} missing"
        return f"{names[i]} {folder} {status.st_size} {status.st_mtime_ns} {status.st_ctime_ns}"

    return Records(names, lambda i: root / names[i], stamp, None if labels is None else labels.__getitem__)
