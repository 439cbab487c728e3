"""The output of a plan: the text for the screen, and the JSON of a collective."""

import collections
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from sit_jax.compiled.chips import GIB
from sit_jax.compiled.collectives import Collective
from sit_jax.compiled.memory import FAR

MEMORY = {
    "parameters": "parameters",
    "optimizer": "optimizer",
    "other_state": "rest of the state",
    "batch": "batch of images",
    "padding": "padding of these",
    "temporaries": "temporaries",
    "output": "output without the state",
    "program": "program",
    "total": "total",
}
GPU_PRODUCTS = "matrix products are calls of cuBLASLt here; on a GPU, XLA tries Triton kernels too and takes the faster"
SMALL_SHARE = 0.002  # collectives below this share of all bytes share one line on the screen


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


def text(plan: Mapping[str, Any]) -> str:
    """Returns the plan for the screen."""
    axes = ", ".join(f"{name}={size}" for name, size in plan["mesh"].items())
    versions = ", ".join(f"{name} {version}" for name, version in plan["versions"].items())
    unit = plan["unit"]
    parts = [
        f"ViT-{plan['model']}, {plan['batch_size']} images a step in {plan['microbatches']} part(s), {plan['dtype']}, "
        f"{'with' if plan['remat'] else 'without'} remat, {plan['attention']} attention, layers "
        f"{'unrolled' if plan['unroll'] else 'in a loop'}",
        f"{plan['chips']} x {plan['chip']} ({plan['topology']}), mesh {axes}",
        f"compiled in {plan['compile_seconds']:.0f} s by {versions}",
        *([GPU_PRODUCTS] if unit == "GPU" else []),
        "",
        *_memory(plan["memory"], unit),
    ]
    if "work" in plan:
        found = _collectives(plan["collectives"], unit, plan["groups"])
        parts += ["", *_work(plan), "", *found, "", *_roofline(plan["roofline"]), *_bound(plan["bound"])]
    return "\n".join([*parts, "", *_verdict(plan)])


def _memory(memory: Mapping[str, int], unit: str) -> list[str]:
    lines = [f"  {label:28}{memory[name] / GIB:10.3f}" for name, label in MEMORY.items() if name in memory]
    lines.append(f"  {'it has':28}{memory['whole'] / GIB:10.3f}")
    if memory["capacity"] != memory["whole"]:
        lines.append(f"  {'JAX takes of it':28}{memory['capacity'] / GIB:10.3f}")
    return [f"memory of a {unit} (GiB)", *lines]


def _work(plan: Mapping[str, Any]) -> list[str]:
    work, chips, unit = plan["work"], plan["chips"], plan["unit"]
    needed = work["model_flops"]
    ratio = work["compiled_flops_per_chip"] * chips / needed
    lines = [
        "work of a step",
        f"  model, forward and backward   {_si(needed)}FLOP, {_si(needed / chips)}FLOP a {unit}",
        f"  compiled matrix products      {_si(work['compiled_flops_per_chip'])}FLOP a {unit}, {ratio:.2f} x the "
        "model's (views and recomputation are in it)",
        f"  memory traffic, at least      {_si(work['memory_bytes_per_chip'])}B a {unit}",
    ]
    loops = work["loops_counted_once"]
    return lines + ([f"  counted once, as their trip count is not known: {', '.join(loops)}"] if loops else [])


def _collectives(found: list[dict[str, Any]], unit: str, groups: str) -> list[str]:
    if not found:
        return ["collectives: none"]
    total = sum(one["bytes_per_step"] for one in found)
    shown = [one for one in found if one["unwanted"] or one["bytes_per_step"] >= SMALL_SHARE * total]
    rest = [one for one in found if one not in shown]
    header = ("collective", "over", "devices", groups, "times", "each", "a step", "what")
    rows = [(*_row(one), f"{_arrays(one)}  {one['source']}") for one in shown]
    if rest:
        size = sum(one["bytes_per_step"] for one in rest)
        rows.append(
            (f"{len(rest)} smaller", "", "", "", str(sum(one["times"] for one in rest)), "", _si(size) + "B", "")
        )
    lines = [f"collectives of a {unit}, by bytes", *_table([header, *rows]), "", "by kind", *_by_kind(found, groups)]
    unwanted = [one for one in found if one["unwanted"]]
    if not unwanted:
        return [
            *lines,
            "",
            f"no all-to-all, no images; all arrays as large as a {unit}'s images are parameters, gradients or "
            "embeddings",
        ]
    return [*lines, "", "unwanted:"] + [
        f"  {one['kind']} of {_arrays(one)} ({'; '.join(one['unwanted'])}) near {one['source'] or one['operation']}"
        for one in unwanted
    ]


def _by_kind(found: Iterable[dict[str, Any]], across_what: str) -> list[str]:
    groups = collections.defaultdict(list)
    for one in found:
        groups[one["kind"], "yes" if one["slices"] > 1 else "no"].append(one)
    rows: list[tuple[str, ...]] = [("kind", f"across {across_what}", "times", "a step", "sent")]
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


def _table(rows: Sequence[tuple[str, ...]]) -> list[str]:
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    return [
        "  " + "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows
    ]


def _roofline(found: Mapping[str, Any]) -> list[str]:
    if not found:
        return ["no roofline: the speed of these devices is not known"]
    causes = [(one["cause"], f"{one['seconds'] * 1e3:.1f} ms", f"{one['share']:.0%}") for one in found["causes"][:3]]
    return [
        f"roofline: {found['kernels']} kernels one after another, each at the full speed of products or memory, take "
        f"{found['seconds'] * 1e3:.1f} ms;",
        f"at most {found['images_per_second']:,.0f} images/s and {found['mfu']:.1%} MFU if collectives overlap with "
        "them; the three largest causes:",
        *_table(causes),
    ]


def _bound(bound: Mapping[str, Any]) -> list[str]:
    if not bound:
        return []
    parts = ", ".join(f"{name} {seconds * 1e3:.1f}" for name, seconds in bound["seconds"].items())
    return [
        f"if all of it overlapped, {bound['by']} would set the time; each alone at full speed: {parts} ms",
        "best cases, not predictions: real steps are slower",
    ]


def _verdict(plan: Mapping[str, Any]) -> list[str]:
    memory, unit = plan["memory"], plan["unit"]
    has = f"the {memory['capacity'] / GIB:.2f} GiB of a {unit}"
    if memory["capacity"] != memory["whole"]:
        has = f"the {memory['capacity'] / GIB:.2f} GiB that JAX takes of a {unit}"
    if plan["fits"]:
        return [f"fits: {memory['total'] / GIB:.2f} of {has}", *_largest(plan)]
    if "total" in memory:
        reason = f"{memory['total'] / GIB:.2f} GiB are more than {has}"
    elif "available" in memory:
        needed, available = memory["needed"] / GIB, memory["available"] / GIB
        reason = f"the compiler needs {needed:.2f} GiB and has {available:.2f} of {has}"
    else:
        reason = f"the compiler ran out of {has}"
    advice = f"try one of: {', '.join(plan['advice']) or 'a smaller model'}"
    return [f"does not fit: {reason}", *_largest(plan), advice]


def _largest(plan: Mapping[str, Any]) -> list[str]:
    if "largest_batch" not in plan:
        return []
    largest = plan["largest_batch"] or "none"
    further = plan["largest_batch"] > (FAR - 1) * plan["batch_size"]
    more = " or more; compile that one to see further" if further else ""
    return [f"largest batch that fits: {largest}, estimated from the memory of this one{more}"]


def _si(number: float) -> str:
    """Formats 12345678 as "12.35 M"."""
    for unit in ("", "k", "M", "G", "T", "P"):
        if number < 1000 or unit == "P":
            break
        number /= 1000
    return f"{number:.4g} {unit}"
