"""The command `sit-jax COMMAND ...`: each row of COMMANDS is `python -m MODULE ...` by another name."""

import difflib
import itertools
import os
import re
import sys
from typing import NoReturn

from sit_jax import __version__
from sit_jax.common.errors import WRONG_INPUT, InputError
from sit_jax.common.pipes import unbroken
from sit_jax.common.text import STARTED_BY

# By command: its module, and what it does.
COMMANDS = {
    "pretrain": ("sit_jax.main", "trains on a folder of images, or on another SOURCE"),
    "evaluate": ("sit_jax.evaluate", "scores a trained encoder: k-NN, linear, fine-tuning, without labels"),
    "embed": ("sit_jax.embed", "writes the features of images"),
    "report": ("sit_jax.report", "writes a page about a run: curves, neighbours, map, clusters, duplicates"),
    "watch": ("sit_jax.watch", "keeps a page of running trainings up to date"),
    "neighbours": ("sit_jax.neighbours", "draws the most similar images"),
    "clusters": ("sit_jax.clusters", "groups similar images"),
    "duplicates": ("sit_jax.duplicates", "lists images that occur twice"),
    "reconstruct": ("sit_jax.reconstruct", "draws reconstructions or attention maps"),
    "transfer": ("sit_jax.transfer", "scores encoders on the data of each other"),
    "export": ("sit_jax.export", "writes weights for timm, Hugging Face, ONNX, StableHLO"),
    "curves": ("sit_jax.curves", "draws the learning curves of runs"),
    "plan": ("sit_jax.plan", "tells the memory and time of a step on another device"),
    "bench": ("sit_jax.bench", "measures a step on this machine"),
    "prepare": ("sit_jax.data.prepare", "prepares a data set of TensorFlow Datasets"),
}
EXAMPLES = """examples:
  sit-jax pretrain PHOTOS --workdir=runs/mine --hours=2
  sit-jax embed --workdir=runs/mine --images=PHOTOS --out=features.npz
  sit-jax evaluate --workdir=runs/mine --protocol=knn --data=folder:LABELLED
  sit-jax reconstruct --workdir=runs/mine --images=PHOTOS --out=rebuilt.png"""


# Options of `pretrain` whose value may be the next word.
VALUED = r"--?(workdir|hours|log|coordinator|num_processes|process_id|config(\.[\w.]+)?)"


def help_text() -> str:
    """Returns what `sit-jax` prints without a command."""
    rows = [f"  {name:<12} {what}" for name, (_, what) in COMMANDS.items()]
    return "\n".join(
        [
            "Pre-trains a Vision Transformer on your own pictures, without labels.",
            "",
            EXAMPLES,
            "",
            "commands (sit-jax COMMAND --help lists the options):",
            *rows,
        ]
    )


def pretrain_words(words: list[str]) -> list[str]:
    """Returns the options of `sit_jax.main` for `pretrain PHOTOS [options]`; without PHOTOS, they stay as they are.

    PHOTOS may stand anywhere among the options. Raises InputError for two folders, or a folder and another source.
    """
    options: list[list[str]] = []  # each with its value, if that is a word of its own
    photos = ""
    for word in words:
        if word.startswith("-"):
            options.append([word])
        elif options and len(options[-1]) == 1 and re.fullmatch(VALUED, options[-1][0]):
            options[-1].append(word)
        elif not photos:
            photos = word
        else:
            raise InputError(
                f"pretrain takes one SOURCE, and {photos!r} and {word!r} are two; for several folders: folder:A,B"
            )
    if not photos:
        return words
    for option in options:
        if re.match("--?config.data.source(=|$)", option[0]):
            raise InputError(f"{photos!r} and {option[0]} both name the images; keep one of them")
    is_config = [bool(re.fullmatch("--?config(=.*)?", option[0])) for option in options]
    configs = [option for option, found in zip(options, is_config, strict=True) if found] or [["--config=folder"]]
    others = [option for option, found in zip(options, is_config, strict=True) if not found]
    # The configuration comes first: the keys change it.
    return [*itertools.chain(*configs), f"--config.data.source={photos}", *itertools.chain(*others)]


def run(command: str, words: list[str]) -> NoReturn:
    """Replaces this process by `python -m MODULE`, which prepares its process by itself."""
    words = pretrain_words(words) if command == "pretrain" else words
    # Where the package in use lies in this folder, as in a clone, Python finds it only from here.
    flags = [] if os.path.dirname(os.path.dirname(os.path.abspath(__file__))) == os.getcwd() else ["-P"]
    os.environ[STARTED_BY] = "sit-jax"
    os.execv(sys.executable, [sys.executable, *flags, "-m", COMMANDS[command][0], *words])


def main() -> int:
    """Runs the command that the command line names; returns the exit code if there is none."""
    name, *words = sys.argv[1:] or ["--help"]
    if name == "pretrain" and not words:
        print("error: the folder of images is missing; for example sit-jax pretrain PHOTOS", file=sys.stderr)
        return 2
    if name in COMMANDS:
        try:
            run(name, words)
        except InputError as error:
            print(f"error: {error}", file=sys.stderr)
            return WRONG_INPUT
    with unbroken():
        return answer(name)


def answer(name: str) -> int:
    """Prints the help, the version, or that there is no such command; returns the exit code."""
    if name in ("--help", "-h", "help"):
        print(help_text())
        return 0
    if name == "--version":
        print(f"sit_jax {__version__}")
        return 0
    close = difflib.get_close_matches(name, COMMANDS, n=1)
    hint = f"did you mean {close[0]}?" if close else f"the commands are {', '.join(COMMANDS)}"
    print(f"error: sit-jax {name}: there is no such command; {hint}", file=sys.stderr)
    return 2


if __name__ == "__main__":
    sys.exit(main())
