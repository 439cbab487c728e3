"""Checkpoints damaged on disk: the run resumes from an intact checkpoint, never from wrong numbers."""

import functools
import pathlib
import shutil
from collections.abc import Callable

import numpy as np

from faults.lab import EVAL_EVERY, SAVE_EVERY, STEPS, TEMPORARY, Failed, Lab, Trial, kept

# The newest checkpoint, which is damaged, has metrics from an evaluation. PREVIOUS is the checkpoint before it.
NEWEST = STEPS - EVAL_EVERY
PREVIOUS = NEWEST - SAVE_EVERY
MUST, MAY = "must be noticed", "may be harmless"

Damage = Callable[[pathlib.Path, np.random.Generator], None]


def damage_trials(lab: Lab, count: int) -> list[Trial]:
    """Returns `count` kinds of damage, first a checkpoint with one flipped bit."""
    return [
        Trial("damage", name, functools.partial(damaged, lab, harm, notice), 1.2)
        for name, notice, harm in DAMAGES[:count]
    ]


def damaged(lab: Lab, harm: Damage, notice: str, rng: np.random.Generator) -> str:
    """Damages the newest checkpoint of an unfinished run and lets the run finish."""
    workdir = lab.new_workdir("damage")
    shutil.copytree(lab.reference_dir, workdir)
    # Imitates a kill after NEWEST: no later checkpoints, and metrics that will be repeated.
    for step in kept(workdir):
        if step not in (NEWEST, PREVIOUS):
            shutil.rmtree(workdir / "checkpoints" / str(step))
    if kept(workdir) != [PREVIOUS, NEWEST]:
        raise Failed(f"the undisturbed run kept {kept(lab.reference_dir)}, without {PREVIOUS} and {NEWEST}")
    harm(workdir / "checkpoints" / str(NEWEST), rng)
    run = lab.finish(workdir)
    resumed, said = run.resumed_from(), "damaged" in run.err()
    if resumed not in (NEWEST, PREVIOUS):
        raise Failed(f"it resumed from {resumed}, not from {NEWEST} or {PREVIOUS}")
    if resumed == PREVIOUS and f"checkpoint {NEWEST} is damaged" not in run.err():
        raise Failed(f"it does not report that the checkpoint of step {NEWEST} is damaged: {run.err()[-200:]}")
    if notice == MUST and resumed != PREVIOUS:
        raise Failed(f"the damage was not noticed: it resumed from {resumed}")
    return f"{'reported' if said else 'not reported'}, resumed from {resumed}"


def pick(pattern: str, change: Callable[[pathlib.Path, np.random.Generator], None]) -> Damage:
    """Returns a damage to the largest file, or the folder, that matches a pattern."""

    def harm(path: pathlib.Path, rng: np.random.Generator) -> None:
        found = sorted(path.glob(pattern), key=lambda file: file.stat().st_size)
        if not found:
            raise Failed(f"a checkpoint has no {pattern}; update this script")
        change(found[-1], rng)

    return harm


def cut(path: pathlib.Path, rng: np.random.Generator) -> None:
    """Truncates a file to its first half."""
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def delete(path: pathlib.Path, rng: np.random.Generator) -> None:
    """Deletes a file or a folder."""
    shutil.rmtree(path) if path.is_dir() else path.unlink()


def zero(path: pathlib.Path, rng: np.random.Generator) -> None:
    """Overwrites the middle half of a file with zeros, like a block that was never written."""
    data = bytearray(path.read_bytes())
    quarter = len(data) // 4
    data[quarter : 3 * quarter] = bytes(2 * quarter)
    path.write_bytes(data)


def change_byte(path: pathlib.Path, rng: np.random.Generator) -> None:
    """Changes one byte."""
    data = bytearray(path.read_bytes())
    data[rng.integers(len(data))] ^= 0xFF
    path.write_bytes(data)


def flip_bit(path: pathlib.Path, rng: np.random.Generator) -> None:
    """Flips one bit."""
    data = bytearray(path.read_bytes())
    data[rng.integers(len(data))] ^= 1 << int(rng.integers(8))
    path.write_bytes(data)


def wrong_key(path: pathlib.Path, rng: np.random.Generator) -> None:
    """Replaces a file by valid JSON with the wrong key."""
    path.write_text('{"eval/lost": 1.0}')


def delete_all(pattern: str) -> Damage:
    """Returns a damage that deletes all files matching a pattern, if any."""

    def harm(path: pathlib.Path, rng: np.random.Generator) -> None:
        for file in path.rglob(pattern):
            file.unlink()

    return harm


def empty_newer(path: pathlib.Path, rng: np.random.Generator) -> None:
    """Makes an empty folder that looks like a newer checkpoint."""
    (path.parent / str(NEWEST + 3)).mkdir()


def unfinished_newer(path: pathlib.Path, rng: np.random.Generator) -> None:
    """Leaves half of a newer checkpoint, like a run killed while saving."""
    leftover = path.parent / f"{NEWEST + SAVE_EVERY}{TEMPORARY}"
    shutil.copytree(path, leftover)
    pick("state/ocdbt.process_0/d/*", cut)(leftover, rng)


ARRAYS, TREE = "state/ocdbt.process_0/d/*", "state/d/*"
DAMAGES: list[tuple[str, str, Damage]] = [
    ("one bit flipped in an array file", MAY, pick(ARRAYS, flip_bit)),
    ("array file cut", MUST, pick(ARRAYS, cut)),
    ("ocdbt data file cut", MUST, pick(TREE, cut)),
    ("ocdbt data file deleted", MUST, pick(TREE, delete)),
    ("manifest.ocdbt deleted", MUST, pick("state/manifest.ocdbt", delete)),
    ("byte changed in a b-tree node", MUST, pick(TREE, change_byte)),
    ("array file deleted", MUST, pick(ARRAYS, delete)),
    ("array file half zeros", MUST, pick(ARRAYS, zero)),
    ("another bit flipped", MAY, pick(ARRAYS, flip_bit)),
    ("a third bit flipped", MAY, pick(ARRAYS, flip_bit)),
    ("_METADATA cut", MUST, pick("state/_METADATA", cut)),
    ("_METADATA deleted", MAY, pick("state/_METADATA", delete)),
    ("_sharding cut", MAY, pick("state/_sharding", cut)),
    ("array_metadatas cut", MAY, pick("state/array_metadatas/*", cut)),
    ("_CHECKPOINT_METADATA deleted", MAY, pick("_CHECKPOINT_METADATA", delete)),
    ("_CHECKPOINT_METADATA cut", MAY, pick("_CHECKPOINT_METADATA", cut)),
    ("commit_success.txt deleted", MAY, delete_all("commit_success.txt")),
    ("state/ deleted", MUST, pick("state", delete)),
    ("metrics/ deleted", MAY, pick("metrics", delete)),
    ("metrics cut", MAY, pick("metrics/metrics", cut)),
    ("metrics of a wrong key", MAY, pick("metrics/metrics", wrong_key)),
    ("checksums deleted", MUST, pick("checksums", delete)),
    ("checksums cut", MUST, pick("checksums/metadata", cut)),
    ("empty folder of a newer step", MAY, empty_newer),
    ("unfinished checkpoint of a newer step", MAY, unfinished_newer),
]
