"""Evaluates a run with labels; a report stored in the work directory is not computed again."""

import pathlib

from sit_jax.common.console import say
from sit_jax.common.errors import InputError
from sit_jax.common.files import check_writable, write_json
from sit_jax.common.text import shown
from sit_jax.eval import report as reports
from sit_jax.eval.data import Labelled, load_labelled, same_source, use_source
from sit_jax.eval.protocols import PROTOCOLS
from sit_jax.eval.restore import Restored, restore
from sit_jax.eval.settings import Settings
from sit_jax.eval.stored import read_report, report_path, short_hash
from sit_jax.eval.units import relevant_settings, run_units
from sit_jax.probes.confusion import Confusion
from sit_jax.probes.labels import pick


def check(settings: Settings) -> None:
    """Raises InputError if the settings are invalid on their own."""
    if settings.repeats < 1:
        raise InputError(f"--repeats={settings.repeats} must be at least 1")
    if settings.seed < 0:
        raise InputError(f"--seed={settings.seed} must be 0 or more")
    kinds = PROTOCOLS[settings.protocol].features
    if settings.features not in kinds:
        raise InputError(f"--features={settings.features}: --protocol={settings.protocol} takes {', '.join(kinds)}")


def evaluate(settings: Settings, other: dict | None = None) -> tuple[dict, pathlib.Path] | None:
    """Evaluates and returns (report, path); None if a signal stopped it, after finished results are stored.

    The report is `WORKDIR/eval/<protocol>-<source>-<hash>.json`, with pictures in the same folder. If it exists, it is
    returned. If a picture cannot be drawn, a warning is printed.
    `other` is a report to compare with; it must measure the same. Raises InputError for wrong input, before the first
    computation.
    """
    check(settings)
    overrides = dict(settings.overrides)
    restored = restore(settings.workdir, settings.step, settings.weights, overrides)
    config = restored.config
    data = load_labelled(use_source(config, settings.data, overrides), config, settings.seed)
    for amount in settings.amounts:  # raises now if a class has too few images
        pick(data.train_labels, amount, settings.seed, 0)
    if other:
        labels = settings.amounts[-1].as_json()
        mine = (settings.protocol, data.fingerprint, len(data.test_labels), labels, settings.repeats, settings.seed)
        reports.check_same(reports.what_is_measured(*mine), reports.measured(other))
    what = relevant_settings(restored, data, settings)
    folder = settings.workdir / "eval" / f"{settings.protocol}-{short_hash(what)}"
    amounts = [str(amount) for amount in settings.amounts]
    values = [what, amounts, settings.repeats, settings.baseline]
    path = report_path(settings.workdir, settings.protocol, data.name, values)
    if (finished := read_report(path)) is not None:
        say(f"this evaluation is finished; its result is in {path}")
        return finished, path
    check_writable(path, f"{path.parent}: results cannot be written there ({{}}); copy the work directory elsewhere")
    say(f"results go to {path}")
    results = run_units(restored, data, settings, folder)
    if results is None:
        return None
    report = make_report(restored, data, settings, what, results)
    write_json(path, report)
    reports.draw_or_warn(report, confusion_of(results), path)
    return report, path


def confusion_of(results: reports.Results) -> Confusion:
    """Returns the confusions of the pre-trained encoder in the first repeat with the most labels."""
    return results["pretrained", list(results)[-1][1], 0]["confusion"]


def make_report(restored: Restored, data: Labelled, settings: Settings, what: dict, results: reports.Results) -> dict:
    """Returns the report of finished results, as JSON values; `what` comes from `relevant_settings`."""
    config = restored.config
    summary = reports.summarise(results)
    for row in summary:
        row["comparisons"] = reports.comparisons(row, len(data.test_labels))
    return {
        "protocol": settings.protocol,
        "data": shown(data.name),
        **restored.origin(),
        "step": restored.step,
        "weights": restored.weights,
        "num_train": summary[-1]["num_train"],
        "num_test": len(data.test_labels),
        "labels": summary[-1]["labels"],
        "seed": settings.seed,
        "features": settings.features,
        "test_split": data.test_split,
        "transductive": not data.has_test and same_source(data.name, config.data.source),
        "class_names": [shown(name) for name in data.class_names],
        **reports.headline(results, summary, "pretrained"),
        "baseline": reports.headline(results, summary, "random") if settings.baseline else None,
        "pixels": reports.headline(results, summary, "pixels") if "pixels" in summary[-1] else None,
        "comparisons": summary[-1]["comparisons"],
        "results": summary,
        "settings": what,
    }
