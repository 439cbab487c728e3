"""What a plan says: the text for the screen, the JSON of a collective, the advice where it does not fit."""

import collections
from collections.abc import Iterable, Mapping
from typing import Any

import ml_collections

from sit_jax import checks
from sit_jax.compiled.chips import CHIPS, GIB
from sit_jax.compiled.collectives import Collective
from sit_jax.errors import InputError

MEMORY = {
    "parameters": "parameters",
    "optimizer": "optimizer",
    "other_state": "rest of the state",
    "batch": "batch of images",
    "padding": "padding of these",
    "temporaries": "temporaries",
    "output": "output beside the state",
    "program": "program",
    "total": "total",
}
SMALL_SHARE = 0.002  # collectives below this share of all bytes are summed up on the screen


def collective_json(one: Collective, suspicions: list[str]) -> dict[str, Any]:
    """Returns a collective as plain JSON values."""
    return {
        "kind": one.kind,
        "axes": one.axes,
        "devices": one.group,
        "slices": one.slices,
        "times": one.times,
        "bytes": one.bytes,
        "bytes_per_step": one.bytes_per_step,
        "sent_in_slice": round(one.sent_in_slice),
        "sent_across_slices": round(one.sent_across),
        "arrays": [f"{array.dtype}[{','.join(map(str, array.dims))}]" for array in one.arrays],
        "operation": one.operation,
        "source": one.source,
        "unwanted": suspicions,
    }


def advice(
    config: ml_collections.ConfigDict, mesh_shape: Mapping[str, int], memory: Mapping[str, int], topology: str
) -> list[str]:
    """Returns what to change where a step does not fit, the cheapest first: flags, each for itself."""
    chips = mesh_shape["slice"] * mesh_shape["data"] * mesh_shape["fsdp"]
    activations = [] if config.model.remat else ["--config.model.remat"]
    activations += [f"--config.microbatches={n}" for n in _more_microbatches(config, chips)[:1]]
    if config.batch_size // 2 % chips == 0 and config.batch_size > chips:
        activations.append(f"--config.batch_size={config.batch_size // 2}")
    shard = _more_shards(mesh_shape, memory)
    kind, _, shape = topology.partition(":")
    known = CHIPS[kind].topologies if kind in CHIPS else ()
    larger = [f"--topology={kind}:{other}" for other in known[known.index(shape) + 1 :][:1]] if known else []
    state_first = _state(memory) > memory["capacity"] / 4
    return (shard + activations if state_first else activations + shard) + larger


def _state(memory: Mapping[str, int]) -> int:
    return memory["parameters"] + memory["optimizer"] + memory["other_state"]


def _more_shards(mesh_shape: Mapping[str, int], memory: Mapping[str, int]) -> list[str]:
    """Returns the flag that shards the state as far as a slice allows, if that can save what is missing."""
    ways = mesh_shape["data"]
    missing = memory.get("total", memory.get("needed", 0)) - memory.get("available", memory["capacity"])
    if ways == 1 or _state(memory) * (1 - 1 / ways) < missing:
        return []
    return [f"--config.mesh.fsdp={mesh_shape['fsdp'] * ways}"]


def _more_microbatches(config: ml_collections.ConfigDict, chips: int) -> list[int]:
    possible = []
    for n in (config.microbatches * 2**i for i in range(1, 8)):
        try:
            checks.check_microbatches(n, config.batch_size, chips)
            possible.append(n)
        except InputError:
            continue
    return possible


def text(plan: Mapping[str, Any]) -> str:
    """Returns the plan for the screen."""
    axes = ", ".join(f"{name}={size}" for name, size in plan["mesh"].items())
    versions = ", ".join(f"{name} {version}" for name, version in plan["versions"].items())
    parts = [
        f"ViT-{plan['model']}, {plan['batch_size']} images a step in {plan['microbatches']} part(s), {plan['dtype']}, "
        f"{'with' if plan['remat'] else 'without'} remat",
        f"{plan['chips']} x {plan['chip']} ({plan['topology']}), mesh {axes}",
        f"compiled in {plan['compile_seconds']:.0f} s by {versions}",
        "",
        *_memory(plan["memory"]),
    ]
    if "work" in plan:
        parts += ["", *_work(plan), "", *_collectives(plan["collectives"]), "", *_bound(plan["bound"])]
    return "\n".join([*parts, "", *_verdict(plan)])


def _memory(memory: Mapping[str, int]) -> list[str]:
    lines = [f"  {label:28}{memory[name] / GIB:10.3f}" for name, label in MEMORY.items() if name in memory]
    return ["memory of a chip (GiB)", *lines, f"  {'it has':28}{memory['capacity'] / GIB:10.3f}"]


def _work(plan: Mapping[str, Any]) -> list[str]:
    work, chips = plan["work"], plan["chips"]
    needed = work["model_flops"]
    ratio = work["compiled_flops_per_chip"] * chips / needed
    lines = [
        "work of a step",
        f"  model, forward and backward   {_si(needed)}FLOP, {_si(needed / chips)}FLOP a chip",
        f"  compiled matrix products      {_si(work['compiled_flops_per_chip'])}FLOP a chip, {ratio:.2f} x the model's "
        "(views and recomputation are in it)",
        f"  memory traffic, at least      {_si(work['memory_bytes_per_chip'])}B a chip",
    ]
    loops = work["loops_counted_once"]
    return lines + ([f"  counted once, as their trip count is not known: {', '.join(loops)}"] if loops else [])


def _collectives(found: list[dict[str, Any]]) -> list[str]:
    if not found:
        return ["collectives: none"]
    total = sum(one["bytes_per_step"] for one in found)
    shown = [one for one in found if one["unwanted"] or one["bytes_per_step"] >= SMALL_SHARE * total]
    rest = [one for one in found if one not in shown]
    header = ("collective", "over", "devices", "slices", "times", "each", "a step", "what")
    rows = [(*_row(one), f"{_arrays(one)}  {one['source']}") for one in shown]
    if rest:
        size = sum(one["bytes_per_step"] for one in rest)
        rows.append(
            (f"{len(rest)} smaller", "", "", "", str(sum(one["times"] for one in rest)), "", _si(size) + "B", "")
        )
    lines = ["collectives of a chip, by bytes", *_table([header, *rows]), "", "by kind", *_by_kind(found)]
    unwanted = [one for one in found if one["unwanted"]]
    if not unwanted:
        return [
            *lines,
            "",
            "no all-to-all, no images; all that is as large as a chip's images are parameters, gradients or embeddings",
        ]
    return [*lines, "", "unwanted:"] + [
        f"  {one['kind']} of {_arrays(one)} ({'; '.join(one['unwanted'])}) near {one['source'] or one['operation']}"
        for one in unwanted
    ]


def _by_kind(found: Iterable[dict[str, Any]]) -> list[str]:
    groups = collections.defaultdict(list)
    for one in found:
        groups[one["kind"], "yes" if one["slices"] > 1 else "no"].append(one)
    rows: list[tuple[str, ...]] = [("kind", "across slices", "times", "a step", "sent")]
    for (kind, across), same in groups.items():
        sent = sum(one["sent_in_slice"] + one["sent_across_slices"] for one in same)
        size = sum(one["bytes_per_step"] for one in same)
        rows.append((kind, across, str(sum(one["times"] for one in same)), _si(size) + "B", _si(sent) + "B"))
    return _table(rows)


def _row(one: Mapping[str, Any]) -> tuple[str, ...]:
    sizes = (_si(one["bytes"]) + "B", _si(one["bytes_per_step"]) + "B")
    return (one["kind"], one["axes"], str(one["devices"]), str(one["slices"]), str(one["times"]), *sizes)


def _arrays(one: Mapping[str, Any]) -> str:
    arrays = one["arrays"]
    return ", ".join(arrays[:2]) + (f" and {len(arrays) - 2} more" if len(arrays) > 2 else "")


def _table(rows: list[tuple[str, ...]]) -> list[str]:
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    return [
        "  " + "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows
    ]


def _bound(bound: Mapping[str, Any]) -> list[str]:
    if not bound:
        return ["no bound on the time of a step: the speed of this chip is not known"]
    parts = ", ".join(f"{name} {seconds * 1e3:.1f}" for name, seconds in bound["seconds"].items())
    return [
        f"a step takes at least {bound['step_seconds'] * 1e3:.1f} ms, bound by {bound['by']} (full speed: {parts} ms);",
        f"at most {bound['images_per_second']:,.0f} images/s. A bound, not a prediction: real steps are slower.",
    ]


def _verdict(plan: Mapping[str, Any]) -> list[str]:
    memory = plan["memory"]
    has = f"the {memory['capacity'] / GIB:.2f} GiB of a chip"
    if plan["fits"]:
        return [f"fits: {memory['total'] / GIB:.2f} of {has}"]
    if "total" in memory:
        reason = f"{memory['total'] / GIB:.2f} GiB are more than {has}"
    elif "available" in memory:
        needed, available = memory["needed"] / GIB, memory["available"] / GIB
        reason = f"the compiler needs {needed:.2f} GiB and has {available:.2f} of {has}"
    else:
        reason = f"the compiler ran out of {has}"
    return [f"does not fit: {reason}", f"try one of: {', '.join(plan['advice']) or 'a smaller model'}"]


def _si(number: float) -> str:
    """Writes 12345678 as "12.35 M"."""
    for unit in ("", "k", "M", "G", "T", "P"):
        if number < 1000 or unit == "P":
            break
        number /= 1000
    return f"{number:.4g} {unit}"
