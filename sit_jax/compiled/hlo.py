"""Reads the text of a compiled program: its computations, its instructions, and how often each is executed."""

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
ELEMENT_BITS = {"pred": 8, "token": 0, "opaque": 0}  # of the others the name says it: bf16, s32, f8e4m3fn


class Array(NamedTuple):
    """One array in the type of an instruction."""

    dtype: str
    dims: tuple[int, ...]
    space: int  # memory space of a TPU: 0 is HBM, anything else on the chip

    @property
    def elements(self) -> int:
        """Returns how many elements it has."""
        return math.prod(self.dims)

    @property
    def bytes(self) -> int:
        """Returns its size without the padding of tiles."""
        bits = ELEMENT_BITS.get(self.dtype) or int((re.search(r"\d+", self.dtype) or [0])[0])
        return self.elements * bits // 8


class Instruction(NamedTuple):
    """One line of a computation."""

    name: str
    opcode: str
    arrays: tuple[Array, ...]  # of its result, tuples laid out flat
    operands: tuple[str, ...]
    literal: str  # what stands between the parentheses
    attributes: str  # what comes after them

    @property
    def bytes(self) -> int:
        """Returns the size of the result."""
        return sum(array.bytes for array in self.arrays)

    def attribute(self, pattern: str) -> str | None:
        """Returns the first group of a pattern in the attributes, None where it does not occur."""
        found = re.search(pattern, self.attributes)
        return found[1] if found else None


class Computation(NamedTuple):
    """A sequence of instructions by name, and the name of the one that is its result."""

    name: str
    instructions: dict[str, Instruction]
    root: str

    def operands(self, instruction: Instruction) -> list[Instruction]:
        """Returns the instructions that an instruction reads."""
        return [self.instructions[name] for name in instruction.operands if name in self.instructions]


class Executed(NamedTuple):
    """An instruction as a run of the program meets it."""

    instruction: Instruction
    computation: Computation
    times: int  # how often it is executed in one run
    fusion: Instruction | None  # the outermost fusion around it: its result need not reach memory


class Program(NamedTuple):
    """A compiled program."""

    computations: dict[str, Computation]
    entry: str
    stacks: dict[str, list[Frame]]  # by the number of a stack frame, the innermost first

    def executed(self) -> Iterator[Executed]:
        """Walks through all that is executed, the bodies of loops with their trip counts."""
        yield from self._walk(self.entry, 1, None)

    def _walk(self, name: str, times: int, fusion: Instruction | None) -> Iterator[Executed]:
        computation = self.computations[name]
        for instruction in computation.instructions.values():
            yield Executed(instruction, computation, times, fusion)
            if instruction.opcode.endswith(("-done", "-update")):
                continue  # repeats the computation that its start calls
            trips = (trip_count(self, instruction) or 1) if instruction.opcode == "while" else 1
            inner = fusion or (instruction if instruction.opcode in ("fusion", "fusion-start") else None)
            for callee in called(instruction):
                if callee in self.computations:
                    yield from self._walk(callee, times * trips, inner)

    def unknown_loops(self) -> list[str]:
        """Returns the operations whose loops tell no trip count: their bodies are counted once."""
        loops = [e.instruction for e in self.executed() if e.instruction.opcode == "while"]
        return [operation(loop) for loop in loops if trip_count(self, loop) is None]

    def stack(self, instruction: Instruction) -> list[Frame]:
        """Returns the calls that an instruction comes from, the innermost first; empty where the program is silent."""
        return self.stacks.get(instruction.attribute(r"stack_frame_id=(\d+)") or "", [])

    def source(self, instruction: Instruction) -> str:
        """Returns "file:line" of the code that an instruction comes from, of this package where it is on the stack."""
        stack = self.stack(instruction)
        frame = next((frame for frame in stack if frame.here), stack[0] if stack else None)
        return f"{frame.file}:{frame.line}" if frame else ""


def parse(text: str) -> Program:
    """Reads the text of an optimised HLO module, as `compiled.as_text()` gives it."""
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
    """Returns where the parenthesis at `start` closes."""
    depth = 0
    for found in re.finditer(r"[()]", text[start:]):
        depth += 1 if found[0] == "(" else -1
        if not depth:
            return start + found.start()
    return len(text)


def arrays(text: str) -> tuple[Array, ...]:
    """Reads the arrays of a type such as `(f32[4]{0}, bf16[8,2]{1,0:T(8,128)S(1)})`."""
    found = []
    for dtype, dims, layout in ARRAY.findall(text):
        space = re.search(r"S\((\d+)\)", layout)
        sizes = tuple(int(n) for n in dims.replace("<=", "").split(",") if n)
        found.append(Array(dtype, sizes, int(space[1]) if space else 0))
    return tuple(found)


def called(instruction: Instruction) -> list[str]:
    """Returns the computations that an instruction executes, but for the scalar ones of reductions."""
    names = re.findall(
        r"\b(?:calls|body|condition|true_computation|false_computation)=%?([\w.\-]+)", instruction.attributes
    )
    names += re.findall(r"%([\w.\-]+)", instruction.attribute(r"branch_computations=\{([^}]*)\}") or "")
    if instruction.opcode == "call":
        names += re.findall(r"\bto_apply=%?([\w.\-]+)", instruction.attributes)
    return names


def trip_count(program: Program, loop: Instruction) -> int | None:
    """Returns how often the body of a `while` runs, None where neither compiler nor condition tells it."""
    known = loop.attribute(r'known_trip_count":\{"n":"(\d+)"')
    if known:
        return int(known)
    condition = program.computations.get(loop.attribute(r"condition=%?([\w.\-]+)") or "")
    constants = [i.literal for i in condition.instructions.values() if i.opcode == "constant"] if condition else []
    return int(constants[0]) if len(constants) == 1 and constants[0].isdigit() else None


def operation(instruction: Instruction) -> str:
    """Returns the name that JAX gave to an operation, without the name of the program."""
    return (instruction.attribute(r'op_name="([^"]*)"') or instruction.name).partition("/")[2] or instruction.name
