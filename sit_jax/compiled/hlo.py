"""Parses the text of a compiled program: computations, instructions, and how often each instruction is executed."""

import math
import re
from collections.abc import Iterator
from typing import NamedTuple

from sit_jax.compiled.stacks import Frame, read_stacks

ARRAY = re.compile(r"\b([a-z]+\d*[a-z0-9]*)\[([\d,<=]*)\](\{[^}]*\})?")
COLLECTIVES = (
    *("all-reduce", "all-gather", "reduce-scatter", "all-to-all", "ragged-all-to-all", "collective-permute"),
    "collective-broadcast",
)
ELEMENT_BITS = {"pred": 8, "token": 0, "opaque": 0}  # other names contain the bits: bf16, s32, f8e4m3fn


class Array(NamedTuple):
    """One array in the type of an instruction."""

    dtype: str
    dims: tuple[int, ...]
    space: int  # memory space of a TPU: 0 is HBM, other numbers are on the chip

    @property
    def elements(self) -> int:
        """Returns the number of elements."""
        return math.prod(self.dims)

    @property
    def bytes(self) -> int:
        """Returns the size in bytes without the padding of tiles."""
        bits = ELEMENT_BITS.get(self.dtype) or int((re.search(r"\d+", self.dtype) or [0])[0])
        return self.elements * bits // 8


class Instruction(NamedTuple):
    """One line of a computation."""

    name: str
    opcode: str
    arrays: tuple[Array, ...]  # of the result, tuples flattened
    operands: tuple[str, ...]
    literal: str  # the text between the parentheses
    attributes: str  # the text after the parentheses

    @property
    def bytes(self) -> int:
        """Returns the size of the result in bytes."""
        return sum(array.bytes for array in self.arrays)

    def attribute(self, pattern: str) -> str | None:
        """Returns the first group of a pattern's first match in the attributes, None without a match."""
        found = re.search(pattern, self.attributes)
        return found[1] if found else None


class Computation(NamedTuple):
    """A sequence of instructions by name, and the name of its result."""

    name: str
    instructions: dict[str, Instruction]
    root: str

    def operands(self, instruction: Instruction) -> list[Instruction]:
        """Returns the instructions whose results an instruction reads."""
        return [self.instructions[name] for name in instruction.operands if name in self.instructions]


class Executed(NamedTuple):
    """An instruction as executed by a run of the program."""

    instruction: Instruction
    computation: Computation
    times: int  # executions in one run
    fusion: Instruction | None  # the outermost fusion that contains it: its result may never reach memory


class Program(NamedTuple):
    """A compiled program."""

    computations: dict[str, Computation]
    entry: str
    stacks: dict[str, list[Frame]]  # by stack frame number, innermost call first

    def executed(self) -> Iterator[Executed]:
        """Yields all executed instructions, with loop bodies counted by their trip counts."""
        yield from self._walk(self.entry, 1, None)

    def _walk(self, name: str, times: int, fusion: Instruction | None) -> Iterator[Executed]:
        computation = self.computations[name]
        for instruction in computation.instructions.values():
            yield Executed(instruction, computation, times, fusion)
            if instruction.opcode.endswith(("-done", "-update")):
                continue  # repeats the computation called by its start
            trips = (trip_count(self, instruction) or 1) if instruction.opcode == "while" else 1
            inner = fusion or (instruction if instruction.opcode in ("fusion", "fusion-start") else None)
            for callee in called(instruction):
                if callee in self.computations:
                    yield from self._walk(callee, times * trips, inner)

    def unknown_loops(self) -> list[str]:
        """Returns the operations of loops without a known trip count; their bodies count once."""
        loops = [e.instruction for e in self.executed() if e.instruction.opcode == "while"]
        return [operation(loop) for loop in loops if trip_count(self, loop) is None]

    def stack(self, instruction: Instruction) -> list[Frame]:
        """Returns the calls that made an instruction, the innermost first; empty if the program records none."""
        return self.stacks.get(instruction.attribute(r"stack_frame_id=(\d+)") or "", [])

    def source(self, instruction: Instruction) -> str:
        """Returns "file:line" of the code that made an instruction, preferably in this package."""
        stack = self.stack(instruction)
        frame = next((frame for frame in stack if frame.here), stack[0] if stack else None)
        return f"{frame.file}:{frame.line}" if frame else ""


def parse(text: str) -> Program:
    """Parses the text of an optimised HLO module, as `compiled.as_text()` returns it."""
    computations: dict[str, Computation] = {}
    entry, name, root = "", "", ""
    instructions: dict[str, Instruction] = {}
    for line in text.splitlines():
        if line.endswith("{") and (found := re.match(r"(ENTRY )?%?([\w.\-]+) .*->", line)):
            name, instructions = found[2], {}
            entry = name if found[1] else entry
        elif line.startswith("}") and name:
            computations[name] = Computation(name, instructions, root)
            name = ""
        elif name and (instruction := _parse_instruction(line)):
            instructions[instruction.name] = instruction
            root = instruction.name if line.lstrip().startswith("ROOT") else root
    return Program(computations, entry, read_stacks(text))


def _parse_instruction(line: str) -> Instruction | None:
    found = re.match(r"\s+(?:ROOT )?%?([\w.\-]+) = (.*)", line)
    if not found:
        return None
    rest = found[2]
    end = _closing(rest, 0) + 1 if rest.startswith("(") else rest.index(" ")
    opening = rest.index("(", end)
    closing = _closing(rest, opening)
    literal = rest[opening + 1 : closing]
    operands = tuple(re.findall(r"%([\w.\-]+)", literal))
    return Instruction(
        found[1], rest[end:opening].strip(), arrays(rest[:end]), operands, literal, rest[closing + 1 :].lstrip(", ")
    )


def _closing(text: str, start: int) -> int:
    """Returns the position that closes the parenthesis at `start`."""
    depth = 0
    for found in re.finditer(r"[()]", text[start:]):
        depth += 1 if found[0] == "(" else -1
        if not depth:
            return start + found.start()
    return len(text)


def arrays(text: str) -> tuple[Array, ...]:
    """Parses the arrays of a type such as `(f32[4]{0}, bf16[8,2]{1,0:T(8,128)S(1)})`."""
    found = []
    for dtype, dims, layout in ARRAY.findall(text):
        space = re.search(r"S\((\d+)\)", layout)
        sizes = tuple(int(n) for n in dims.replace("<=", "").split(",") if n)
        found.append(Array(dtype, sizes, int(space[1]) if space else 0))
    return tuple(found)


def called(instruction: Instruction) -> list[str]:
    """Returns the computations that an instruction executes, except the scalar computations of reductions."""
    names = re.findall(
        r"\b(?:calls|body|condition|true_computation|false_computation)=%?([\w.\-]+)", instruction.attributes
    )
    names += re.findall(r"%([\w.\-]+)", instruction.attribute(r"branch_computations=\{([^}]*)\}") or "")
    if instruction.opcode == "call":
        names += re.findall(r"\bto_apply=%?([\w.\-]+)", instruction.attributes)
    return names


def trip_count(program: Program, loop: Instruction) -> int | None:
    """Returns the trip count of a `while`, None if neither the compiler nor the condition states it."""
    known = loop.attribute(r'known_trip_count":\{"n":"(\d+)"')
    if known:
        return int(known)
    condition = program.computations.get(loop.attribute(r"condition=%?([\w.\-]+)") or "")
    constants = [i.literal for i in condition.instructions.values() if i.opcode == "constant"] if condition else []
    return int(constants[0]) if len(constants) == 1 and constants[0].isdigit() else None


def operation(instruction: Instruction) -> str:
    """Returns JAX's name of an operation, without the name of the program."""
    return (instruction.attribute(r'op_name="([^"]*)"') or instruction.name).partition("/")[2] or instruction.name
