"""Evaluates an encoder; `sit-jax evaluate` is `python -m sit_jax.evaluate`.

  sit-jax evaluate --workdir=runs/mine --protocol=knn
  sit-jax evaluate --workdir=runs/mine --protocol=linear --data=folder:LABELLED

Compares the encoder of a checkpoint with random weights and with pixels, on the data set of the run or another.
Prints a table and writes JSON and pictures to WORKDIR/eval. --protocol=unlabelled needs no labels: it reports
contrastive progress and collapse of the features.

  --labels=0.01,0.1,1 or --labels_per_class=1,5,10 for few labels;
  --repeats=3 for mean and standard deviation;
  --against=OTHER.json for a paired test against another run on the same images;
  --config.linear.epochs=50 for linear classifiers on augmented images;
  --config.finetune.epochs=100 for the length of fine-tuning.
"""

import json
import pathlib
import sys

from absl import flags

from sit_jax.common import commands
from sit_jax.common.console import say
from sit_jax.common.errors import InputError
from sit_jax.common.files import check_out
from sit_jax.config import cli
from sit_jax.eval import unlabelled
from sit_jax.eval.adopted import place
from sit_jax.eval.evaluation import evaluate
from sit_jax.eval.protocols import PROTOCOLS
from sit_jax.eval.report import against, comparison_lines, copy_to, table, title
from sit_jax.eval.settings import Settings
from sit_jax.probes.intervals import line
from sit_jax.probes.labels import parse_amounts

MOST_REPEATS = 1000


def define_flags(argv: list[str]) -> flags.FlagValues:
    """Returns the flags of the command."""
    values = cli.make_flags(argv)
    cli.add_workdir_flags(values)
    summaries = "; ".join(f"{name}: {protocol.summary}" for name, protocol in PROTOCOLS.items())
    kinds = list(dict.fromkeys(kind for protocol in PROTOCOLS.values() for kind in protocol.features))
    flags.DEFINE_enum("protocol", None, list(PROTOCOLS), summaries, flag_values=values)
    flags.DEFINE_string(
        "data", None, "A SOURCE such as tfds:cifar100. Default: the data set of the run.", flag_values=values
    )
    flags.DEFINE_enum("features", "tokens", kinds, "The features to score.", flag_values=values)
    flags.DEFINE_list("labels", [], "Shares of the labels to learn from. Default: all.", flag_values=values)
    flags.DEFINE_list("labels_per_class", [], "Numbers of labels per class to learn from.", flag_values=values)
    flags.DEFINE_integer(
        "repeats", 1, "Number of label draws.", lower_bound=1, upper_bound=MOST_REPEATS, flag_values=values
    )
    cli.add_seed_flag(values, "Seed of the splits, label draws and classifiers.")
    flags.DEFINE_boolean("baseline", True, "Also evaluate random weights.", flag_values=values)
    flags.DEFINE_string("against", None, "The .json report of another run to compare with.", flag_values=values)
    flags.DEFINE_string("out", None, "A .json file to copy the result to.", flag_values=values)
    return values


def command(argv: list[str]) -> bool:
    """Evaluates and prints the table; returns False if a signal stopped it."""
    values = define_flags(argv)
    commands.parse(values, argv, ("protocol",), __doc__ or "")
    settings = Settings(
        workdir=place(values.workdir, values.encoder),
        protocol=values.protocol,
        data=values.data,
        step=values.step,
        weights=values.weights,
        features=values.features,
        amounts=tuple(parse_amounts(values.labels, values.labels_per_class)),
        repeats=values.repeats,
        seed=values.seed,
        baseline=values.baseline,
        overrides=cli.overrides(values),
    )
    out = pathlib.Path(values.out) if values.out else None
    if out:
        check_out(out, ".json")
    if PROTOCOLS[settings.protocol].labels:
        done = with_labels(settings, values.against)
    else:
        check_without_labels(values)
        done = without_labels(settings)
    if done and out:
        copy_to(done, out)
    return done is not None


def with_labels(settings: Settings, other_path: str | None) -> pathlib.Path | None:
    """Evaluates with labels, prints the report and returns its path; None if a signal stopped it."""
    other = read_report(pathlib.Path(other_path)) if other_path else None
    done = evaluate(settings, other)
    if done is None:
        return None
    report, path = done
    say(f"\n{title(report)}\n\n{table(report)}\n\n{comparison_lines(report)}")
    if other:
        say(line(f"this run - {other_path}", against(report, other)))
    say(f"\n{path}")
    return path


def without_labels(settings: Settings) -> pathlib.Path:
    """Evaluates without labels, prints the report and returns its path."""
    report, path = unlabelled.evaluate(settings)
    say(f"\n{unlabelled.title(report)}\n\n{unlabelled.table(report)}\n\n{path}")
    return path


def check_without_labels(values: flags.FlagValues) -> None:
    """Raises InputError if a flag needs a protocol with labels."""
    for name in ("labels", "labels_per_class", "against", "repeats", "features"):
        if values[name].value != values[name].default:
            raise InputError(f"--{name} is for protocols with labels; leave it out, or use --protocol=linear")


def read_report(path: pathlib.Path) -> dict:
    """Reads the report of another run; raises InputError if the file is not a current report."""
    try:
        report = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise InputError(
            f"--against={path}: cannot be read as JSON ({error}); give a report of sit_jax.evaluate"
        ) from error
    if not isinstance(report, dict) or "comparisons" not in report:
        raise InputError(
            f"--against={path}: is not a report of sit_jax.evaluate, or an old one; evaluate that run again"
        )
    return report


def main(argv: list[str]) -> int:
    """Runs the command and returns its exit code."""
    # Without labels, there are no stored parts of a result.
    return commands.run(command, argv, resumes=not any(word.endswith("unlabelled") for word in argv[1:]))


if __name__ == "__main__":
    commands.end(main(sys.argv))
