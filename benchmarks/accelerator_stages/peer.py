"""Stage `fast`, second process: PyTorch against sit_jax on the same device, in separate processes and in turns."""

import contextlib
import importlib.util
import types
from typing import Any

from benchmarks.accelerator_stages.fast import Case, open_config
from benchmarks.accelerator_stages.stage import Skip, Stage
from benchmarks.compare import Contender, alternate, summary
from sit_jax.config.saved import to_json

# Most valuable first: model, image size, batches to try until both frameworks fit into memory.
CASES = (("B/16", 224, (256, 128)), ("S/16", 224, (512, 256)))
TINY = (("mu/8", 32, (16,)),)
SETUP_SECONDS = 60.0  # least time for both to compile


def main(stage: Stage) -> None:
    """Compares the models one after the other."""
    for variant, size, batches in TINY if stage.dry_run else CASES:
        for batch in batches:
            name = f"{variant}, {size} px, batch {batch}"
            needs = 0.0 if stage.dry_run else SETUP_SECONDS
            if stage.attempt("peer", name, lambda v=variant, s=size, b=batch: compare(stage, v, s, b), needs):
                break


def compare(stage: Stage, variant: str, size: int, batch: int) -> dict[str, Any]:
    """Returns the rates of both; the tests check on CPUs that their losses are equal."""
    if importlib.util.find_spec("torch") is None:
        raise Skip("PyTorch is not installed")
    config = to_json(open_config(Case(variant, size, batch)))
    with contextlib.ExitStack() as stack:
        ours, theirs = (stack.enter_context(contextlib.closing(Contender(name))) for name in ("ours", "torch"))
        mine = ours.ask("setup", config=config, data="synthetic", exchange="")
        options = {"compile_mode": "none" if stage.dry_run else "default", "workers": 1}
        peer = theirs.ask("setup", config=mine["config"], data="synthetic", exchange="", **options)
        if mine["parameters"] != peer["parameters"]:
            raise AssertionError(f"{mine['parameters']} parameters in sit_jax, {peer['parameters']} in PyTorch")
        rounds, seconds = (2, 0.5) if stage.dry_run else (3, 2.0)
        length = types.SimpleNamespace(rounds=rounds, seconds=seconds, steps=None)
        measured = summary(alternate(ours, theirs, "arrays", length), batch)
    ratio = dict(zip(("ratio", "least", "most"), measured["ratio"], strict=True))
    note = f"{peer['device']}, {options['compile_mode']}; ready after "
    note += f"{mine['setup_seconds']:.0f} and {peer['setup_seconds']:.0f} s"
    return {"ours": measured["ours"][0], "theirs": measured["theirs"][0], **ratio, "note": note, "turns": measured}
