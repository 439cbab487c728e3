"""The collectives of a compiled program: their data, mesh axes and counts, and which of them are unwanted."""

import collections
import itertools
import math
import re
from collections.abc import Iterator, Mapping
from typing import NamedTuple

import numpy as np

from sit_jax.compiled.hlo import COLLECTIVES, Array, Computation, Executed, Instruction, Program, operation

Groups = list[tuple[int, ...]]  # each of positions in the flattened mesh


class Collective(NamedTuple):
    """One collective of the program, as one device sees it."""

    kind: str
    axes: str  # mesh axes, such as "data x fsdp"
    group: int  # number of devices that take part
    slices: int  # number of slices or hosts in the group
    times: int  # executions per step
    arrays: tuple[Array, ...]  # of one execution: the gathered arrays, or the arrays to be reduced or moved
    operation: str
    source: str

    @property
    def bytes(self) -> int:
        """Returns the gathered, reduced or moved bytes of one execution."""
        return sum(array.bytes for array in self.arrays)

    @property
    def bytes_per_step(self) -> int:
        """Returns the bytes of all executions in a step."""
        return self.bytes * self.times

    @property
    def sent_in_slice(self) -> float:
        """Returns the least bytes per step that each device sends within its slice or host."""
        return self.times * _sent(self.kind, self.bytes, self.group // self.slices)

    @property
    def sent_across(self) -> float:
        """Returns the least bytes per step that a device sends to other slices; its slice shares the load."""
        return self.times * _sent(self.kind, self.bytes, self.slices) / (self.group // self.slices)


def _sent(kind: str, size: int, group: int) -> float:
    """Returns the bytes that each device of a group must send for a collective on `size` bytes."""
    if group == 1:
        return 0.0
    if kind in ("collective-permute", "collective-broadcast"):
        return float(size)
    return size * (group - 1) / group * (2 if kind == "all-reduce" else 1)


def find_collectives(program: Program, mesh_shape: Mapping[str, int], joined: int) -> list[Collective]:
    """Returns the collectives of one run; a collective that is split into start, parts and end counts once.

    `joined` consecutive devices of the mesh share fast links: a TPU slice or a host of GPUs.
    """
    found, chains = [], set()
    for done in program.executed():
        instruction = done.instruction
        kind = instruction.opcode.removesuffix("-start")
        if instruction.opcode == "send" and "_xla_megascale_transfer_type" in instruction.attributes:
            found.append(_between_slices(program, done, mesh_shape))
        if kind not in COLLECTIVES:
            continue
        # If an asynchronous collective is fused into several computations, its parts repeat it with the same channel.
        if instruction.attribute(r'chain_id="(\d+)"'):
            channel = instruction.attribute(r"channel_id=(\d+)")
            if channel in chains:
                continue
            chains.add(channel)
        found.append(_one_collective(program, done, kind, mesh_shape, joined))
    return sorted((c for c in found if c.group > 1), key=lambda c: -c.bytes_per_step)


def _one_collective(
    program: Program, done: Executed, kind: str, mesh_shape: Mapping[str, int], joined: int
) -> Collective:
    instruction, computation, times, _ = done
    groups = replica_groups(instruction.attributes, math.prod(mesh_shape.values()))
    axes, slices = describe_groups(groups, mesh_shape, joined)
    size = len(groups[0])
    if kind == "all-reduce" and computation.name.startswith("all-reduce-scatter"):
        kind = "reduce-scatter"  # the notation of TPUs: each device keeps its part of the sum
    arrays = tuple(
        array for operand in computation.operands(instruction) for array in _parts(program, computation, operand)
    )
    if kind == "all-gather":
        axis = int(instruction.attribute(r"dimensions=\{(\d+)") or 0)
        arrays = tuple(
            array._replace(dims=(*array.dims[:axis], array.dims[axis] * size, *array.dims[axis + 1 :]))
            for array in arrays
        )
    if kind == "collective-permute":
        axes = axes.removeprefix("part of ")  # pairs never fill an axis
    told = _with_name(program, done)
    return Collective(kind, axes, size, slices, times, arrays, operation(told), program.source(told))


def _parts(program: Program, computation: Computation, operand: Instruction) -> tuple[Array, ...]:
    """Returns the arrays of an operand, or the arrays that it concatenates, as GPUs do to reduce gradients."""
    fused = program.computations.get(operand.attribute(r"calls=%?([\w.\-]+)") or "")
    root = fused.instructions[fused.root] if fused and operand.opcode == "fusion" else operand
    if root.opcode != "concatenate":
        return operand.arrays
    parts = [array for part in computation.operands(operand) for array in part.arrays]
    whole = operand.arrays[0]
    if sum(part.elements for part in parts) != whole.elements:
        return operand.arrays
    return tuple(part._replace(dtype=whole.dtype) for part in parts)


def _between_slices(program: Program, done: Executed, mesh_shape: Mapping[str, int]) -> Collective:
    """Returns a collective that a TPU delegates to its host, to run over the data-centre network."""
    instruction, slices, told = done.instruction, mesh_shape["slice"], _with_name(program, done)
    kind = (instruction.attribute(r'_xla_megascale_transfer_type="(\w+)"') or "").lower().replace("_", "-")
    sent = done.computation.operands(instruction)[0].arrays
    if kind == "all-gather":
        sent = tuple(array._replace(dims=(slices, *array.dims)) for array in sent)
    return Collective(kind, "slice", slices, slices, done.times, sent, operation(told), program.source(told))


def _with_name(program: Program, done: Executed) -> Instruction:
    """Returns the instruction that names a collective's origin: itself, its fusion or one of their operands."""
    outer = done.fusion or done.instruction
    home = next(one for one in program.computations.values() if one.instructions.get(outer.name) is outer)
    near = [done.instruction, outer]
    while near and not any("op_name" in one.attributes for one in near):
        near = [operand for one in near for operand in home.operands(one)][:100]
    return next((one for one in near if "op_name" in one.attributes), outer)


def replica_groups(attributes: str, num_devices: int) -> Groups:
    """Reads the device groups of a collective, in any notation of XLA.

    The notations are lists `{{0,1},{2,3}}`, a reshaped range `[2,2]<=[2,2]T(1,0)`, axes of a mesh `mesh['a'=2,'b'=2]
    {'b'}` with or without an order of devices, and pairs of source and target.
    """
    if found := re.search(r"source_target_pairs=\{(\{.*?\})\}", attributes):
        pairs = [tuple(map(int, pair.split(","))) for pair in re.findall(r"\{([\d,]+)\}", found[1])]
        return [pair for pair in pairs if pair[0] != pair[1]] or [(0,)]
    if found := re.search(r"replica_groups=\{(\{.*?\})\}", attributes):
        return [tuple(map(int, group.split(","))) for group in re.findall(r"\{([\d,]+)\}", found[1])]
    if found := re.search(r"replica_groups=\[([\d,]+)\]<=(\[[\d,]+\](?:T\([\d,]+\))?)", attributes):
        return [tuple(row) for row in _reshaped_range(found[2]).reshape(_numbers(found[1])).tolist()]
    if found := re.search(r"replica_groups=mesh\[([^\]]*)\](?:, device_ids=\((\S+)\))? \{([^}]*)\}", attributes):
        return _mesh_groups(found[1], found[2], found[3])
    return [tuple(range(num_devices))]


def _mesh_groups(mesh: str, order: str | None, axes: str) -> Groups:
    sizes = {name: int(size) for name, size in re.findall(r"'(\w+)'=(\d+)", mesh)}
    parts = {name: (int(before), int(size)) for name, before, size in re.findall(r"'(\w+)':\((\d+)\)(\d+)", axes)}
    names = re.findall(r"'(\w+)'", axes)
    ids = _reshaped_range(order) if order else np.arange(math.prod(sizes.values()))
    shape: list[int] = []
    chosen: list[int] = []
    for name, size in sizes.items():  # a part of an axis splits the axis into (before, part, after)
        before, part = parts.get(name, (1, size))
        if name in names:
            chosen.append(len(shape) + 1)
        shape += [before, part, size // before // part]
    rest = [axis for axis in range(len(shape)) if axis not in chosen]
    moved = ids.reshape(shape).transpose(rest + chosen)
    return [tuple(row) for row in moved.reshape(-1, math.prod(shape[axis] for axis in chosen)).tolist()]


def _reshaped_range(text: str) -> np.ndarray:
    """Reads `[4,2]T(1,0)` as the numbers from 0, reshaped and transposed."""
    shape, _, order = text.partition("T")
    ids = np.arange(math.prod(_numbers(shape))).reshape(_numbers(shape))
    return ids.transpose(_numbers(order)) if order else ids


def _numbers(text: str) -> list[int]:
    return [int(number) for number in re.findall(r"\d+", text)]


def describe_groups(groups: Groups, mesh_shape: Mapping[str, int], joined: int) -> tuple[str, int]:
    """Returns (mesh axes of the groups, number of slices or hosts in a group of `joined` devices per slice or host).

    If the groups do not fill the axes, "part of " precedes the axes. If the device numbers cover one slice only, they
    hold for each slice.
    """
    shape = dict(mesh_shape)
    if max(map(max, groups)) < math.prod(shape.values()) // shape.get("slice", 1):
        shape["slice"] = 1
    ids = np.arange(math.prod(shape.values())).reshape(tuple(shape.values()))
    slices = max(len({member // joined for member in group}) for group in groups)
    wanted = {frozenset(group) for group in groups}
    for axes in _subsets(tuple(name for name, size in shape.items() if size > 1)):
        order = [name for name in shape if name not in axes] + list(axes)
        size = math.prod(shape[name] for name in axes)
        lines = ids.transpose([list(shape).index(name) for name in order]).reshape(-1, size).tolist()
        line_of = {member: i for i, line in enumerate(lines) for member in line}
        if wanted == {frozenset(line) for line in lines}:
            return " x ".join(axes), slices
        if all(len({line_of[member] for member in group}) == 1 for group in groups):
            return f"part of {' x '.join(axes)}", slices
    return "one device", slices


def _subsets(names: tuple[str, ...]) -> Iterator[tuple[str, ...]]:
    return itertools.chain.from_iterable(itertools.combinations(names, n) for n in range(1, len(names) + 1))


def merge(found: list[Collective]) -> list[Collective]:
    """Sums the executions of collectives that differ only in operation, source and times."""
    merged: dict[tuple, list[Collective]] = collections.defaultdict(list)
    for one in found:
        merged[one.kind, one.axes, one.group, one.slices, one.arrays].append(one)
    return [same[0]._replace(times=sum(one.times for one in same)) for same in merged.values()]


def suspicions(one: Collective, image_bytes: int, image_shapes: set[tuple[int, ...]], expected: set[int]) -> list[str]:
    """Returns the problems of a collective; none for parameters, gradients and embeddings.

    `image_bytes` is the size of one device's stored images, `image_shapes` holds the (height, width, channels) of
    images and views, and `expected` holds the element counts of parameters and embeddings, whole or in parts.
    """
    found = ["all-to-all"] if "all-to-all" in one.kind else []
    for array in one.arrays:
        shapes = {tuple(n for n in array.dims[i : i + 3]) for i in range(len(array.dims) - 2)}
        if (array.dtype in ("u8", "u16") and array.elements > 1) or shapes & image_shapes:
            found.append("moves images")
        elif array.bytes >= image_bytes and array.elements not in expected:
            found.append("moves as much as the images of one device, and neither parameters nor embeddings")
    return sorted(set(found))
