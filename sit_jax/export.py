"""Exports weights; `sit-jax export` is `python -m sit_jax.export`.

  sit-jax export --workdir=runs/mine --format=timm --out=exported

  --format=timm for timm, hf for Hugging Face transformers, onnx, stablehlo;
  --format=authors for the authors' SiT;
  --format=safetensors for weights in our names;
  --classifier=WORKDIR/eval/finetune-....json exports a fine-tuned classifier.

Runs the export on 16 images, compares it with the model, and writes a model card (README.md) beside it.
"""

import pathlib
import sys

from absl import flags

from sit_jax.common import commands
from sit_jax.common.console import say
from sit_jax.common.errors import InputError
from sit_jax.common.files import check_writable, new_folder
from sit_jax.config import cli
from sit_jax.eval.adopted import place
from sit_jax.eval.restore import has_heads, restore
from sit_jax.exports.card import card
from sit_jax.exports.check import check
from sit_jax.exports.formats import FORMATS, Format
from sit_jax.exports.programs import image_shape
from sit_jax.exports.weights import Weights, collect

WITH_HEADS = ("safetensors", "authors")  # formats that also hold the heads of the tasks


def define_flags(argv: list[str]) -> flags.FlagValues:
    """Returns the flags of the command."""
    values = cli.make_flags(argv)
    cli.add_workdir_flags(values)
    summaries = "; ".join(f"{name}: {row.summary}" for name, row in FORMATS.items())
    flags.DEFINE_enum("format", None, list(FORMATS), summaries, flag_values=values)
    flags.DEFINE_string("classifier", None, "The .json report of a fine-tuning.", flag_values=values)
    flags.DEFINE_string("out", None, "The folder to write.", flag_values=values)
    return values


def command(argv: list[str]) -> bool:
    """Writes the folder, verifies it, and prints the lines that load it."""
    values = define_flags(argv)
    commands.parse(values, argv, ("format", "out"), __doc__ or "")
    workdir, row, out = place(values.workdir, values.encoder), FORMATS[values.format], pathlib.Path(values.out)
    check_new(out)
    # Exact values: the device may compute the training in a shorter type.
    overrides = {"dtype": "float32"} | cli.overrides(values)
    heads = values.format in WITH_HEADS and has_heads(workdir, values.step, values.weights)
    restored = restore(workdir, values.step, values.weights, overrides, heads)
    weights = collect(restored, pathlib.Path(values.classifier) if values.classifier else None)
    check_fits(weights, row, values.format)
    loading = loading_lines(weights, row, out)
    with new_folder(out) as temporary:
        row.write(weights, temporary)
        verified = check(weights, row, temporary)
        (temporary / "README.md").write_text(card(weights, row, restored, workdir, loading, verified))
    say(f"{verified}\n\nto load it:\n{loading}\n\n{out}: {size(out)}, of step {restored.step}")
    return True


def check_new(out: pathlib.Path) -> None:
    """Raises InputError unless `out` is new or an empty folder, and can be written."""
    if out.exists() and not out.is_dir():
        raise InputError(f"--out={out} is a file; give the name of a folder")
    if out.is_dir() and any(out.iterdir()):
        raise InputError(f"--out={out} holds files already; give the name of a new folder")
    check_writable(out.absolute().parent / f".{out.name}.try", f"--out={out}: cannot be written ({{}}); choose another")


def check_fits(weights: Weights, row: Format, name: str) -> None:
    """Raises InputError if the format cannot hold the weights."""
    if row.needs_names and not weights.arrays:
        raise InputError(f"--format={name} cannot hold a model with model.stem=convolutions; use --format=safetensors")
    if weights.class_names and not row.takes_classifier:
        raise InputError(f"--format={name} holds no classifier; use --format=timm, hf, onnx or stablehlo")


def loading_lines(weights: Weights, row: Format, out: pathlib.Path) -> str:
    """Returns the lines of Python that load the export."""
    side, _, channels = image_shape(weights)
    lines = [row.loading, *([row.classifying] if weights.class_names else [])]
    return "\n".join(lines).format(folder=out, side=side, c=channels)


def size(folder: pathlib.Path) -> str:
    """Returns the size of the files of a folder as text."""
    return f"{sum(path.stat().st_size for path in folder.iterdir() if path.is_file()) / 1e6:.1f} MB"


def main(argv: list[str]) -> int:
    """Runs the command and returns its exit code."""
    return commands.run(command, argv, resumes=False)


if __name__ == "__main__":
    commands.end(main(sys.argv))
