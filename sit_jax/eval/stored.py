"""Names of stored reports: `WORKDIR/eval/<protocol>-<source>-<hash>.json`."""

import hashlib
import json
import pathlib
import re

from sit_jax.common.console import warn
from sit_jax.eval.data import resolved_source
from sit_jax.eval.report import short_name

LONGEST = 40  # characters of a source in a file name


def short_hash(values: object) -> str:
    """Returns a hash of JSON values, for a file name."""
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()[:10]


def readable_source(source: str) -> str:
    """Returns a SOURCE string for a file name: its form and the last part of its path, in plain letters."""
    return re.sub(r"[^A-Za-z0-9._=-]+", "-", short_name(source))[:LONGEST].strip("-.") or "data"


def report_path(workdir: pathlib.Path, protocol: str, source: str, values: object) -> pathlib.Path:
    """Returns the file of a report on a SOURCE; `values` are all other values that the report depends on, as JSON.

    Two sources never share a report, because it states the source. One source has one report, by any path to it.
    """
    key = short_hash([values, resolved_source(source)])
    return workdir / "eval" / f"{protocol}-{readable_source(source)}-{key}.json"


def read_report(path: pathlib.Path) -> dict | None:
    """Returns a stored report; None if there is none, or, with a warning, if it cannot be read."""
    if not path.exists():
        return None
    try:
        report = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        warn(f"{path}: is damaged ({error}); the evaluation is done again")
        return None
    return report if isinstance(report, dict) else None
