"""Vector mathematics, written as LLVM IR: inlined into the kernels, the same on every lane, no library behind it.

Special values follow C99, annex F (and so NumPy): infinities, NaN, -0, denormal operands and results. Largest errors
seen in units of the last place, by tests/runtime/cpu/test_math.py and denser runs of the same checks: for float32
every 31st of all bit patterns and all of them where it is hard, for float64 2 to 15 million numbers (100,000 of erf),
for pow 6 million pairs. "No FMA" is baseline x86-64, which has no fused multiply-add.

              float32   no FMA    float64   no FMA
    exp         1.05     1.02       1.05     1.02
    expm1       1.14     1.25       1.44     1.36
    log         1.15     1.22       0.92     0.92
    log1p       1.20     1.22       0.91     0.91
    tanh        1.34     1.34       1.17     1.17
    erf         1.33     1.43       1.52     1.49
    sin         1.53     0.64       1.43     1.75
    cos         1.53     0.64       1.45     1.78
    pow         0.53     0.53       0.91     0.91
    abs and floor are exact; sqrt and quotients are the processor's, which rounds them correctly

Polynomials are minimax fits by Remez' exchange at 160 bits; the coefficients were rounded one after the other,
lowest power first, and the rest fitted again after each. The comments beside them name interval and error, which
tests/runtime/cpu/test_math_coefficients.py checks.

builder.py writes formulas, exponents.py takes numbers apart; the others hold the functions.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import cache

from graphc.frozen import dataclass
from graphc.runtime.cpu.math import error_function, exponential, logarithm, power, trigonometric
from graphc.runtime.cpu.math.builder import Builder, Value
from graphc.runtime.cpu.target import Target
from graphc.types import DType, float32, float64

LANES = (1, 2, 4, 8, 16, 32, 64)
UNARY: dict[str, Callable[[Builder, Value], Value]] = {
    "exp": exponential.exp,
    "expm1": exponential.expm1,
    "tanh": exponential.tanh,
    "log": logarithm.log,
    "log1p": logarithm.log1p,
    "sin": trigonometric.sin,
    "cos": trigonometric.cos,
    "erf": error_function.erf,
    "abs": Builder.abs,
    "floor": Builder.floor,
}
SHORT = {float32: "f32", float64: "f64"}


@dataclass(frozen=True, slots=True)
class MathFunction:
    """One function of a module.

    name: without the @. text: its definition. declarations: the `declare` lines of the intrinsics that it
    calls, each to stand once in the module. requires: other functions whose text the module needs.
    """

    name: str
    text: str
    declarations: frozenset[str]
    requires: tuple[MathFunction, ...] = ()


def functions(op: str, dtype: DType, lanes: int, target: Target) -> MathFunction:
    """`<lanes x T> @graphc_<op>_<f32|f64>_v<lanes>(<lanes x T>)` for an op of UNARY, or pow (two operands).

    dtype: float32 or float64. lanes: one of LANES; with one lane, T instead of <1 x T>. A function of several lanes is
    inlined, for hot loops; one of a single number is called: such work is done a few times, and ten copies of a power
    took LLVM longer than a whole kernel. Raises KeyError for another op, ValueError for another dtype or number of
    lanes.
    """
    if dtype not in SHORT or lanes not in LANES:
        raise ValueError(f"no {op} of {lanes} lanes of {dtype!r}; there is float32 and float64, with lanes of {LANES}.")
    return _function(op, dtype, lanes, target)


@cache
def _function(op: str, dtype: DType, lanes: int, target: Target) -> MathFunction:
    b = Builder(target, dtype, lanes)
    if op == "pow":
        b.result(power.pow(b, b.parameter("x"), b.parameter("y")))
    else:
        b.result(UNARY[op](b, b.parameter("x")))
    inlined = "alwaysinline" if lanes > 1 else "noinline"
    return _finish(b, f"graphc_{op}_{SHORT[dtype]}_v{lanes}", f"{inlined} nounwind")


def _finish(b: Builder, name: str, attributes: str, before: str = "") -> MathFunction:
    requires = tuple(_helper(helper, b) for helper in sorted(b.helpers))
    return MathFunction(name, before + b.definition(name, attributes), frozenset(b.declarations), requires)


def _helper(name: str, caller: Builder) -> MathFunction:
    cold = "noinline cold nounwind memory(none)"
    if name == "graphc_reduce_pi":
        return _finish(trigonometric.reduction(caller.target), name, cold, before=trigonometric.table())
    return _finish(trigonometric.reduction_of_lanes(caller.target, caller.dtype, caller.lanes), name, cold)


def assemble(wanted: Iterable[MathFunction]) -> tuple[list[str], list[str]]:
    """(declarations, definitions) of these functions and of all that they require, each once, in a fixed order."""
    found: dict[str, MathFunction] = {}
    stack = list(wanted)
    while stack:
        function = stack.pop()
        if function.name not in found:
            found[function.name] = function
            stack += function.requires
    ordered = [found[name] for name in sorted(found)]
    return sorted(set().union(*(f.declarations for f in ordered))), [f.text for f in ordered]
