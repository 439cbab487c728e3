"""The purpose of each kernel of a step, from the call stacks that the compiler records."""

import collections
import re
from collections.abc import Callable, Iterable, Iterator

from sit_jax.compiled.hlo import Computation, Instruction, Program, operation
from sit_jax.compiled.kernels import FUSIONS, Kernel
from sit_jax.compiled.stacks import PACKAGE

UNNAMED = "not named by the compiler"
# (start of "file:function" in this package, regular expression for JAX's operation, cause). The calls of a kernel are
# matched from the innermost, each against the rows from the first; the first match gives the cause.
CAUSES = (
    ("model/fast/attention.py:", "", "attention"),
    ("model/vit.py:Attention.", "", "attention"),
    ("model/fast/norm.py:", "", "layer norm"),
    ("model/fast/dense.py:", "reduce_sum", "bias gradients"),
    ("model/fast/dense.py:", "", "dense layers"),
    ("model/fast/gelu.py:", "", "GELU, residual sums and drop path"),
    ("model/vit.py:drop_path", "", "GELU, residual sums and drop path"),
    ("model/vit.py:Block.", "", "GELU, residual sums and drop path"),
    ("model/fast/layers.py:", "while|broadcast", "layer loop: saving and loading residuals"),
    ("model/fast/layers.py:", "", "weights of layers: cutting and joining"),
    ("model/vit.py:Encoder.", "", "patch embedding"),
    ("model/patches.py:patchify", "", "patch embedding"),
    ("model/stem.py:", "", "patch embedding"),
    ("model/", "", "losses and heads"),
    ("views/", "", "views"),
    ("parallel/microbatches.py:", "while", "microbatches: sums of gradients"),
    ("train/step.py:forward", "", "losses and heads"),
    ("train/step.py:combine", "", "losses and heads"),
    ("train/", "", "optimizer"),
)
FAR = 50  # the most instructions searched for one with a call stack


def seconds_by_cause(
    program: Program, kernels: Iterable[Kernel], seconds: Callable[[Kernel], float]
) -> list[tuple[str, float]]:
    """Returns (cause, seconds per step) over all kernels, the longest first."""
    total: dict[str, float] = collections.defaultdict(float)
    for kernel in kernels:
        total[cause(program, kernel)] += kernel.times * seconds(kernel)
    return sorted(total.items(), key=lambda item: -item[1])


def cause(program: Program, kernel: Kernel) -> str:
    """Returns the purpose of a kernel, as in CAUSES."""
    named = next((one for one in _candidates(program, kernel) if program.stack(one)), None)
    if named is None:
        return UNNAMED
    calls = [f"{frame.file}:{frame.function}".removeprefix(f"{PACKAGE}/") for frame in program.stack(named)]
    fitting = (
        words
        for call in calls
        for start, pattern, words in CAUSES
        if call.startswith(start) and re.search(pattern, operation(named))
    )
    return next(fitting, UNNAMED)


def _candidates(program: Program, kernel: Kernel) -> Iterator[Instruction]:
    """Yields the instructions that may explain a kernel: itself, its fused instructions from the end, its readers."""
    instruction = kernel.instruction
    yield instruction
    fused = program.computations.get(instruction.attribute(r"calls=%?([\w.\-]+)") or "")
    if fused and instruction.opcode in FUSIONS:
        yield from reversed(fused.instructions.values())
    yield from _readers(kernel.computation, instruction)


def _readers(computation: Computation, instruction: Instruction) -> list[Instruction]:
    """Returns the direct and indirect readers of an instruction, the nearest first."""
    found, looked = [instruction], 0
    while looked < min(len(found), FAR):
        name = found[looked].name
        found += [one for one in computation.instructions.values() if name in one.operands and one not in found]
        looked += 1
    return found[1:]
