"""Options that the commands on a collection share, and the collection that they name."""

import pathlib

from absl import flags

from sit_jax.common.console import say
from sit_jax.common.files import check_out
from sit_jax.config import cli
from sit_jax.draw import gallery
from sit_jax.draw.gallery import Line
from sit_jax.eval.adopted import place
from sit_jax.eval.restore import Restored, restore
from sit_jax.look.collection import TOKENS, Collection, encode_collection, open_records

IMAGES = "A folder, a pattern in quotes, or a text file of paths. Default: the images of the run."


def define_flags(argv: list[str]) -> flags.FlagValues:
    """Returns the flags of a command on a collection."""
    values = cli.make_flags(argv)
    cli.add_workdir_flags(values)
    flags.DEFINE_string("images", None, IMAGES, flag_values=values)
    flags.DEFINE_integer("limit", None, "Images, at most, drawn at random. Default: all.", 1, flag_values=values)
    flags.DEFINE_enum("token", "both", TOKENS, "What is compared: both tokens, or one.", flag_values=values)
    flags.DEFINE_string("out", None, "The .png file; a .csv file of the same name has all.", flag_values=values)
    cli.add_seed_flag(values, "Seed of random choices.")
    return values


def open_collection(values: flags.FlagValues) -> tuple[Restored, Collection]:
    """Returns the encoder and the collection that the options name; checks --out first."""
    check_out(pathlib.Path(values.out), ".png")
    workdir = place(values.workdir, values.encoder)
    restored = restore(workdir, values.step, values.weights, cli.overrides(values))
    return restored, encode_collection(*open_records(values.images, restored), restored, values.limit, values.seed)


def write(out: str, title: str, lines: list[Line], head: list[str], rows: list[list]) -> None:
    """Writes the sheets of a gallery to `out` and a table beside it, and prints their names."""
    path = pathlib.Path(out)
    for sheet in gallery.save(path, gallery.draw(title, lines)):
        say(f"{sheet}: picture")
    table = path.with_suffix(".csv")
    gallery.save_csv(table, head, rows)
    say(f"{table}: {len(rows)} rows")
