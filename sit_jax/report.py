"""Writes one page about a run, or about several; `sit-jax report` is `python -m sit_jax.report`.

  sit-jax report --workdir=runs/mine
  sit-jax report --workdir=runs/mine --images=PHOTOS --out=photos.html
  sit-jax report --workdir=runs/mine,runs/other --out=compared.html

The page is one HTML file that needs no network: what the run is, learning curves, reconstructions over time,
evaluations, nearest neighbours, a map, clusters, near-duplicates, outliers, attention maps. --images is a folder, a
pattern in quotes, or a text file of paths; without it, the page shows the images of the run. A training writes the
page at its end, with 2,000 images at most. Of several runs, the page compares curves, configurations and results.
"""

import pathlib
import sys

from absl import flags

from sit_jax.common import commands
from sit_jax.common.console import say
from sit_jax.common.errors import InputError
from sit_jax.common.files import check_out
from sit_jax.config import cli
from sit_jax.look.page import NAME
from sit_jax.look.report import write_comparison, write_report
from sit_jax.probes.projection import METHODS, load_umap


def define_flags() -> flags.FlagValues:
    """Returns the flags of the command."""
    values = commands.new_flags()
    flags.DEFINE_list("workdir", [], "The work directory of a run, or of several runs.", flag_values=values)
    flags.DEFINE_string("images", None, "A folder, a pattern in quotes, or a text file of paths.", flag_values=values)
    flags.DEFINE_string("out", None, "The .html file to write. Default: WORKDIR/report.html.", flag_values=values)
    flags.DEFINE_integer("step", None, "Step of the checkpoint. Default: the newest.", flag_values=values)
    flags.DEFINE_integer("limit", None, "Images to encode, at most. Default: all.", lower_bound=1, flag_values=values)
    flags.DEFINE_enum("map", "tsne", list(METHODS), "How to arrange the map.", flag_values=values)
    cli.add_seed_flag(values, "Seed of the images that are drawn.")
    return values


def command(argv: list[str]) -> bool:
    """Writes the page and prints its name."""
    values = define_flags()
    commands.parse(values, argv, ("workdir",), __doc__ or "")
    workdirs = [pathlib.Path(workdir) for workdir in values.workdir]
    if len(workdirs) > 1 and not values.out:
        raise InputError("--out is missing: name the .html file that compares the runs")
    out = pathlib.Path(values.out) if values.out else workdirs[0] / NAME
    if len(workdirs) > 1:
        for name in ("images", "step", "limit", "map"):
            if values[name].present:
                raise InputError(f"--{name} is for the page of one run; a page of several runs shows no images")
    if values.map == "umap":
        load_umap()
    if values.out:
        check_out(out, ".html")
    if len(workdirs) > 1:
        write_comparison(workdirs, out)
    else:
        write_report(workdirs[0], out, values.images, values.step, values.limit, values.map, values.seed)
    say(f"{out}: {out.stat().st_size / 1e6:.1f} MB")
    return True


def main(argv: list[str]) -> int:
    """Runs the command and returns its exit code."""
    return commands.run(command, argv, resumes=False)


if __name__ == "__main__":
    commands.end(main(sys.argv))
