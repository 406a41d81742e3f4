"""The vector mathematics against arbitrary precision, on every instruction set that this machine runs.

References: mpmath for some thousand numbers of each function; NumPy's and SciPy's float64 for float32, and the 80-bit
long double of the C library for float64, where numbers must be many. Both are themselves checked against mpmath.
"""

from __future__ import annotations

import ctypes
import re
from collections.abc import Callable
from functools import cache
from typing import Any

import mpmath
import numpy as np
import numpy.typing as npt
import pytest
import scipy.special

from graphc.runtime.cpu import jit, math
from graphc.runtime.cpu.elf import Code
from graphc.runtime.cpu.target import TARGETS, by_name
from graphc.types import DType, float32, float64, int32

Array = npt.NDArray[Any]
RUNNABLE = [name for name in ("host", "x86-64-v4", "x86-64-v3", "x86-64") if by_name(name).runs_here()]
DTYPES = [float32, float64]
NAN, INF = np.nan, np.inf
WIDE = np.longdouble
needs_long_double = pytest.mark.skipif(np.finfo(WIDE).nmant < 63, reason="long double has no 64 bits here")

# The most units in the last place that a result may be off: (fused multiply-add, without).
# A little more than the worst ever seen: see the table in the module.
BOUNDS: dict[tuple[str, DType], tuple[float, float]] = {
    ("exp", float32): (1.1, 1.1), ("exp", float64): (1.1, 1.1),
    ("expm1", float32): (1.2, 1.3), ("expm1", float64): (1.5, 1.5),
    ("log", float32): (1.2, 1.3), ("log", float64): (0.95, 0.95),
    ("log1p", float32): (1.25, 1.3), ("log1p", float64): (0.95, 0.95),
    ("tanh", float32): (1.4, 1.4), ("tanh", float64): (1.25, 1.25),
    ("erf", float32): (1.4, 1.5), ("erf", float64): (1.65, 1.65),
    ("sin", float32): (1.6, 0.65), ("sin", float64): (1.55, 1.85),
    ("cos", float32): (1.6, 0.65), ("cos", float64): (1.55, 1.85),
    ("pow", float32): (0.55, 0.55), ("pow", float64): (1.0, 1.0),
    ("abs", float32): (0, 0), ("abs", float64): (0, 0),
    ("floor", float32): (0, 0), ("floor", float64): (0, 0),
}  # fmt: skip
UNARY = sorted(math.UNARY)
CASES = [pytest.param(op, dtype, id=f"{op}-{dtype.name}") for op, dtype in BOUNDS]
UNARY_CASES = [pytest.param(op, dtype, id=f"{op}-{dtype.name}") for op, dtype in BOUNDS if op != "pow"]

EXACT: dict[str, Callable[..., Any]] = {
    "exp": mpmath.exp, "expm1": mpmath.expm1, "log": mpmath.log, "log1p": mpmath.log1p, "tanh": mpmath.tanh,
    "erf": mpmath.erf, "sin": mpmath.sin, "cos": mpmath.cos, "pow": mpmath.power,
    "abs": abs, "floor": mpmath.floor,
}  # fmt: skip
WIDER: dict[str, Callable[..., Any]] = {
    "exp": np.exp, "expm1": np.expm1, "log": np.log, "log1p": np.log1p, "tanh": np.tanh, "erf": scipy.special.erf,
    "sin": np.sin, "cos": np.cos, "pow": np.power,
    "abs": np.abs, "floor": np.floor,
}  # fmt: skip
# Where a function is neither constant nor overflowing: plain uniform numbers are drawn from here.
REACH = {"exp": 100.0, "expm1": 100.0, "tanh": 10.0, "erf": 4.5, "sin": 1e5, "cos": 1e5}
REACH64 = {"exp": 750.0, "expm1": 750.0, "tanh": 22.0, "erf": 6.5, "sin": 1e7, "cos": 1e7}
# Where errors were seen to be largest.
HARDEST = {"exp": (-80, 80), "expm1": (0.2, 0.8), "log": (0.6, 1.7), "log1p": (-0.4, 0.7), "tanh": (0.1, 0.7),
           "erf": (0.9, 1.4), "sin": (1.2, 1.9), "cos": (0.02, 0.8)}  # fmt: skip


# ---------------------------------------------------------------------------------------------------- running


def module(function: math.MathFunction, operands: int, dtype: DType, lanes: int) -> str:
    """A kernel that maps the function over n elements, n a multiple of the lanes."""
    element = {float32: "float", float64: "double"}[dtype]
    vector = element if lanes == 1 else f"<{lanes} x {element}>"
    declarations, definitions = math.assemble([function])
    reads = "\n".join(
        f"  %p{i} = getelementptr {element}, ptr %x{i}, i64 %i\n"
        f"  %v{i} = load {vector}, ptr %p{i}, align {dtype.itemsize}"
        for i in range(operands)
    )
    kernel = f"""define void @kernel(ptr %y, {", ".join(f"ptr %x{i}" for i in range(operands))}, i64 %n) {{
entry:
  %some = icmp sgt i64 %n, 0
  br i1 %some, label %loop, label %done
loop:
  %i = phi i64 [ 0, %entry ], [ %next, %loop ]
{reads}
  %r = call {vector} @{function.name}({", ".join(f"{vector} %v{i}" for i in range(operands))})
  %q = getelementptr {element}, ptr %y, i64 %i
  store {vector} %r, ptr %q, align {dtype.itemsize}
  %next = add i64 %i, {lanes}
  %more = icmp slt i64 %next, %n
  br i1 %more, label %loop, label %done
done:
  ret void
}}
"""
    return "\n".join([*declarations, *definitions, kernel])


@cache
def loaded(op: str, dtype: DType, lanes: int, target: str) -> Code:
    chosen = by_name(target)
    operands = 2 if op == "pow" else 1
    text = module(math.functions(op, dtype, lanes, chosen), operands, dtype, lanes)
    return Code(jit.compile_text(text, chosen), {})


def run(op: str, dtype: DType, *operands: Array, target: str = "host", lanes: int | None = None) -> Array:
    """The function over arrays of one dimension; padded to whole vectors by repeating the first element."""
    lanes = lanes or by_name(target).lanes(dtype)
    size = operands[0].size
    padded = [np.resize(np.append(x, np.repeat(x[:1], -size % lanes)), size + -size % lanes) for x in operands]
    assert all(x.dtype == dtype.numpy for x in padded)
    out = np.empty_like(padded[0])
    kernel = ctypes.CFUNCTYPE(None, *[ctypes.c_void_p] * (1 + len(padded)), ctypes.c_int64)(
        loaded(op, dtype, lanes, target).address("kernel")
    )
    kernel(out.ctypes.data, *(x.ctypes.data for x in padded), out.size)
    return out[:size]


# ------------------------------------------------------------------------------------------------ measuring


def errors(found: Array, wanted: Array) -> Array:
    """Distances in units of the last place of `found`'s dtype; wanted: the same numbers to more bits.

    Infinite where one is NaN or infinite and the other isn't (a wanted number that rounds to infinity is infinite).
    """
    info = np.finfo(found.dtype)
    with np.errstate(all="ignore"):
        _, exponent = np.frexp(wanted)
        unit = np.ldexp(wanted.dtype.type(1), np.maximum(exponent - 1, info.minexp) - info.nmant)
        distance = np.abs(found.astype(wanted.dtype) - wanted) / unit
        rounded = wanted.astype(found.dtype)
        # Between the largest number and half a unit beyond it, either is within an error of one unit.
        edge = np.isinf(found) & (np.abs(wanted) >= info.max) & (np.sign(wanted) == np.sign(found))
    same = (found == rounded) & ~np.isfinite(rounded) | np.isnan(found) & np.isnan(wanted) | edge
    return np.where(same, 0, np.where(np.isfinite(distance), distance, INF))


def draw(op: str, dtype: DType, size: int, seed: int) -> Array:
    """Operands: all bit patterns alike, where the function changes, around 0, 1 and -1, where it is hard, denormals."""
    rng = np.random.default_rng(seed)
    real, n = dtype.numpy.type, size // 7
    unsigned = {4: np.uint32, 8: np.uint64}[dtype.itemsize]
    bits = rng.integers(0, 2 ** (8 * dtype.itemsize), n, dtype=unsigned).view(real)
    reach = (REACH if dtype is float32 else REACH64).get(op, 4.0)
    middle = rng.uniform(-reach, reach, n).astype(real)
    small = rng.uniform(-2, 2, n).astype(real)
    one = (1 + rng.uniform(-1, 1, n) * 2.0 ** -rng.integers(1, 50, n)).astype(real)
    denormal = (rng.integers(1, 2**22, n).astype(unsigned)).view(real)
    hard = rng.uniform(*HARDEST.get(op, (0.5, 2)), n).astype(real)
    return np.concatenate([bits, middle, small, one, -one, hard, denormal])


def draw_powers(dtype: DType, size: int, seed: int) -> tuple[Array, Array]:
    """Bases and exponents, most with a power that is neither 0 nor inf."""
    rng = np.random.default_rng(seed)
    real, n = dtype.numpy.type, size // 6
    top = 127 if dtype is float32 else 1023
    anywhere = draw("pow", dtype, 7 * n, seed)
    x = np.abs(rng.permutation(anywhere)[:n])
    near = (1 + rng.uniform(-1, 1, n) * 2.0 ** -rng.integers(1, 30, n)).astype(real)
    two = rng.uniform(0.5, 2, n).astype(real)  # with large exponents: the hardest
    plain = rng.uniform(0, 10, n).astype(real)
    whole = np.rint(rng.uniform(-40, 40, n)).astype(real)

    def exponents(base: Array) -> Array:
        with np.errstate(all="ignore"):
            logs = np.log2(base.astype(np.float64))
            y = rng.uniform(-1.1, 1.1, n) * top / np.where((logs == 0) | ~np.isfinite(logs), 1, logs)
        return y.astype(real)

    bases = [rng.permutation(anywhere)[:n], x, near, two, plain, rng.uniform(-10, 10, n).astype(real)]
    plain_exponents = rng.uniform(-5, 5, n).astype(real)
    powers = [rng.permutation(anywhere)[:n], exponents(x), exponents(near), exponents(two), plain_exponents, whole]
    return np.concatenate(bases), np.concatenate(powers)


def precisely(op: str, *operands: Array) -> Array:
    """mpmath's values, as long doubles (or float64 for float32). Only of operands that C99 doesn't treat specially."""
    wide = np.float64 if operands[0].dtype == np.float32 else WIDE
    out = np.empty(operands[0].size, wide)
    for i, numbers in enumerate(zip(*(x.tolist() for x in operands), strict=True)):
        # mpmath reduces large angles with as many bits as it takes, but loses bits of powers of numbers near 1.
        with mpmath.workprec(200):
            value = EXACT[op](*(mpmath.mpf(x) for x in numbers))
            high = float(value)
            out[i] = wide(high)
            if np.isfinite(high):
                out[i] += wide(float(value - high))
            elif wide is WIDE and value:
                out[i] = np.ldexp(wide(float(value * mpmath.mpf(2) ** -1000)), 1000)
            if wide is WIDE and abs(high) < 1e-290 and value:
                out[i] = np.ldexp(wide(float(value * mpmath.mpf(2) ** 1000)), -1000)
    return out


def ordinary(op: str, *operands: Array) -> Array:
    """A mask of the operands whose result is a number by arithmetic, not by convention."""
    x = operands[0]
    fine = np.isfinite(x)
    if op == "log":
        fine &= x > 0
    if op == "log1p":
        fine &= x > -1
    if op in ("exp", "expm1"):
        fine &= np.abs(x) < 2000  # mpmath would compute all digits of e^(10^300)
    if op == "pow":
        y = operands[1]
        with np.errstate(all="ignore"):
            exponent = y * np.log2(np.abs(x, dtype=np.float64))
            fine &= np.isfinite(y) & (x != 0) & ((x > 0) | (np.floor(y) == y)) & (np.abs(exponent) < 2000)
    return fine


@cache
def sample(op: str, dtype: DType, size: int) -> tuple[tuple[Array, ...], Array]:
    """Operands and mpmath's results."""
    drawn = draw_powers(dtype, size, 5) if op == "pow" else (draw(op, dtype, size, 5),)
    fine = ordinary(op, *drawn)
    operands = tuple(x[fine] for x in drawn)
    return operands, precisely(op, *operands)


def bound(op: str, dtype: DType, target: str) -> float:
    return BOUNDS[op, dtype][0 if by_name(target).fma else 1]


def assert_close(op: str, dtype: DType, operands: tuple[Array, ...], wanted: Array, target: str, slack: float) -> None:
    found = run(op, dtype, *operands, target=target)
    off = errors(found, wanted)
    at = int(np.argmax(off))
    arguments = ", ".join(repr(x[at]) for x in operands)
    said = f"{op}({arguments}) = {found[at]!r} on {target}, {off[at]:.3f} ULP from {wanted[at]!r}"
    assert off[at] <= bound(op, dtype, target) + slack, said


# --------------------------------------------------------------------------------------------------- accuracy


@pytest.mark.parametrize(("op", "dtype"), CASES)
def test_against_mpmath(op: str, dtype: DType) -> None:
    operands, wanted = sample(op, dtype, 2400)
    assert wanted.size > 800
    for target in RUNNABLE:
        assert_close(op, dtype, operands, wanted, target, slack=1e-6)


@needs_long_double
@pytest.mark.parametrize(("op", "dtype"), CASES)
def test_many_numbers(op: str, dtype: DType) -> None:
    """Specials among them: NumPy follows C99 too."""
    if (op, dtype) == ("erf", float64):
        operands: tuple[Array, ...] = (draw(op, dtype, 12000, 7),)
        operands = tuple(x[ordinary(op, *operands)] for x in operands)
        wanted = precisely(op, *operands)
    else:
        size = 600_000 if dtype is float32 else 240_000
        operands = draw_powers(dtype, size // 2, 7) if op == "pow" else (draw(op, dtype, size, 7),)
        wide = WIDE if dtype is float64 or op == "pow" else np.float64
        with np.errstate(all="ignore"):
            wanted = WIDER[op](*(x.astype(wide) for x in operands))
    for target in RUNNABLE:
        assert_close(op, dtype, operands, wanted, target, slack=0.01)


@pytest.mark.slow
@pytest.mark.parametrize("op", UNARY)
def test_float32_everywhere(op: str) -> None:
    """Every 29th of all bit patterns."""
    step, stride = 1 << 20, 29
    for start in range(0, 1 << 32, step * stride):
        stop = min(start + step * stride, 1 << 32)
        x = np.arange(start, stop, stride, dtype=np.uint64).astype(np.uint32).view(np.float32)
        with np.errstate(all="ignore"):
            wanted = WIDER[op](x.astype(np.float64))
        for target in RUNNABLE:
            assert_close(op, float32, (x,), wanted, target, slack=0.01)


@pytest.mark.slow
@needs_long_double
@pytest.mark.parametrize("op", sorted({*UNARY, "pow"} - {"erf"}))
def test_float64_densely(op: str) -> None:
    for seed in range(10):
        operands = draw_powers(float64, 600_000, seed) if op == "pow" else (draw(op, float64, 600_000, seed),)
        with np.errstate(all="ignore"):
            wanted = WIDER[op](*(x.astype(WIDE) for x in operands))
        for target in RUNNABLE:
            assert_close(op, float64, operands, wanted, target, slack=0.01)


def near_multiples(dtype: DType) -> Array:
    """For every exponent e the number q 2^e that comes nearest to a multiple of pi / 2: q is the denominator of a
    convergent of 2^e / (pi / 2). (Muller et al., Handbook of Floating-Point Arithmetic, section 11.1)"""
    info = np.finfo(dtype.name)
    numbers = []
    for exponent in range(-info.nmant, info.maxexp - info.nmant):
        with mpmath.workprec(1300):
            rest = mpmath.mpf(2) ** exponent * 2 / mpmath.pi
            before, q = 0, 1
            while True:
                rest = 1 / (rest - mpmath.floor(rest))
                following = int(mpmath.floor(rest)) * q + before
                if following >= 2 ** (info.nmant + 1):
                    break
                before, q = q, following
        numbers.append(q * 2.0**exponent)
    return np.array(numbers, dtype.numpy)


@pytest.mark.parametrize("op", ["sin", "cos"])
@pytest.mark.parametrize("dtype", DTYPES, ids=lambda d: d.name)
def test_close_to_multiples_of_half_pi(op: str, dtype: DType) -> None:
    x = near_multiples(dtype)
    x = np.concatenate([x, -x])
    wanted = precisely(op, x)
    assert np.abs(wanted).min() < (2.0**-28 if dtype is float32 else 2.0**-59)
    for target in RUNNABLE:
        assert_close(op, dtype, (x,), wanted, target, slack=1e-6)


@pytest.mark.parametrize("op", ["sin", "cos"])
def test_huge_lanes_leave_the_others_alone(op: str) -> None:
    rng = np.random.default_rng(3)
    for dtype in DTYPES:
        small = rng.uniform(-100, 100, 1024).astype(dtype.numpy.type)
        huge = np.where(rng.uniform(size=1024) < 0.1, dtype.numpy.type(1e30), small)
        for target in RUNNABLE:
            alone, among = (run(op, dtype, x, target=target) for x in (small, huge))
            np.testing.assert_array_equal(alone[small == huge], among[small == huge])
            assert len(set(among[small != huge])) == 1


# ---------------------------------------------------------------------------------------------- special values

SPECIAL: dict[str, list[tuple[float, float]]] = {
    "exp": [(0.0, 1), (-0.0, 1), (INF, INF), (-INF, 0.0), (NAN, NAN), (1e30, INF), (-1e30, 0.0)],
    "expm1": [(0.0, 0.0), (-0.0, -0.0), (INF, INF), (-INF, -1), (NAN, NAN), (1e30, INF), (-1e30, -1)],
    "log": [(0.0, -INF), (-0.0, -INF), (1, 0.0), (INF, INF), (-INF, NAN), (-1, NAN), (-1e-44, NAN), (NAN, NAN)],
    "log1p": [(0.0, 0.0), (-0.0, -0.0), (-1, -INF), (INF, INF), (-INF, NAN), (-1.5, NAN), (NAN, NAN)],
    "tanh": [(0.0, 0.0), (-0.0, -0.0), (INF, 1), (-INF, -1), (NAN, NAN), (1e30, 1), (-1e30, -1)],
    "erf": [(0.0, 0.0), (-0.0, -0.0), (INF, 1), (-INF, -1), (NAN, NAN), (1e30, 1), (-1e30, -1)],
    "sin": [(0.0, 0.0), (-0.0, -0.0), (INF, NAN), (-INF, NAN), (NAN, NAN)],
    "cos": [(0.0, 1), (-0.0, 1), (INF, NAN), (-INF, NAN), (NAN, NAN)],
    "abs": [(0.0, 0.0), (-0.0, 0.0), (-3, 3), (INF, INF), (-INF, INF), (NAN, NAN)],
    "floor": [(0.0, 0.0), (-0.0, -0.0), (0.5, 0.0), (-0.5, -1), (2.5, 2), (-3, -3), (1e30, 1e30), (INF, INF),
              (-INF, -INF), (NAN, NAN), (8388609.0, 8388609.0), (-8388607.5, -8388608.0)],
}  # fmt: skip


def assert_identical(found: Array, wanted: Array, operands: tuple[Array, ...], what: str) -> None:
    """The same numbers, with the same sign of zero; NaNs are alike."""
    same = (found == wanted) & (np.signbit(found) == np.signbit(wanted)) | np.isnan(found) & np.isnan(wanted)
    wrong = [(*(x[i] for x in operands), found[i], wanted[i]) for i in np.flatnonzero(~same)]
    assert not wrong, f"{what}: (operands, found, wanted) {wrong[:5]}"


@pytest.mark.parametrize("target", RUNNABLE)
@pytest.mark.parametrize("op", UNARY)
def test_special_values(op: str, target: str) -> None:
    for dtype in DTYPES:
        x, wanted = (np.array(column, dtype.numpy.type) for column in zip(*SPECIAL[op], strict=True))
        for lanes in math.LANES:
            found = run(op, dtype, x, target=target, lanes=lanes)
            assert_identical(found, wanted, (x,), f"{op} of {lanes} lanes of {dtype.name}")


@pytest.mark.parametrize("target", RUNNABLE)
def test_special_values_of_pow(target: str) -> None:
    """Every pair of the numbers that annex F of C99 tells apart: as exact as NumPy's where the result is exact."""
    numbers = [
        0.0,
        0.5,
        1,
        1.5,
        2,
        3,
        4,
        INF,
        1e-45,
        1 - 2.0**-24,
        1 + 2.0**-23,
        2.0**24 + 1,
        2.0**24,
        2.0**53 - 1,
        1e30,
    ]
    signed = [*numbers, *(-x for x in numbers), NAN, -(2.0**23) - 0.5]
    for dtype in DTYPES:
        x, y = (a.ravel() for a in np.meshgrid(np.array(signed, dtype.numpy.type), np.array(signed, dtype.numpy.type)))
        with np.errstate(all="ignore"):
            wanted = np.power(x.astype(WIDE), y.astype(WIDE))
            exact = ~np.isfinite(wanted) | (wanted == 0) | (np.abs(wanted) == 1)
            wanted = wanted.astype(dtype.numpy.type)
        found = run("pow", dtype, x, y, target=target)
        kept = (x[exact], y[exact])
        assert exact.sum() > 600
        assert_identical(found[exact], wanted[exact], kept, f"pow of {dtype.name} on {target}")


@pytest.mark.parametrize(("op", "dtype"), UNARY_CASES)
def test_denormals_pass(op: str, dtype: DType) -> None:
    """Odd functions leave the smallest numbers as they are; exp reaches them gradually."""
    tiny = np.finfo(dtype.name).smallest_subnormal
    x = tiny * np.array([1, 2, 3, 5, 1023, 65537], dtype.numpy)
    for target in RUNNABLE:
        found = run(op, dtype, x, target=target)
        if op in ("expm1", "log1p", "tanh", "sin", "abs"):
            assert_identical(found, x, (x,), op)
            assert_identical(run(op, dtype, -x, target=target), abs(x) if op == "abs" else -x, (-x,), op)
        if op == "exp":
            logs = np.log(x.astype(WIDE)).astype(dtype.numpy)
            assert errors(run(op, dtype, logs, target=target), np.exp(logs.astype(WIDE))).max() <= 1


# -------------------------------------------------------------------------------------------------- the code


@pytest.mark.parametrize("target", RUNNABLE)
@pytest.mark.parametrize(("op", "dtype"), CASES)
def test_lanes_do_not_change_results(op: str, dtype: DType, target: str) -> None:
    operands = draw_powers(dtype, 300, 9) if op == "pow" else (draw(op, dtype, 300, 9),)
    one, *others = (run(op, dtype, *operands, target=target, lanes=lanes) for lanes in math.LANES)
    for other in others:
        assert_identical(other, one, operands, op)


@pytest.mark.parametrize("target", ["host", *TARGETS])
def test_no_library_is_called(target: str) -> None:
    """Each call and tail call of the assembly goes to a function of the module."""
    for op, dtype in BOUNDS:
        for lanes in (1, 16):
            function = math.functions(op, dtype, lanes, by_name(target))
            listing = jit.assembly(module(function, 2 if op == "pow" else 1, dtype, lanes), by_name(target))
            called = re.findall(r"^\s+(?:callq?|jmpq?|bl|b|blr)\s+(\S+)", listing, re.MULTILINE)
            foreign = {name for name in called if not name.startswith((".L", "graphc_"))}
            assert not foreign, f"{op} of {lanes} lanes of {dtype.name} on {target} calls {foreign}"
            assert ".globl\tgraphc" not in listing


def test_assemble_gives_each_text_once() -> None:
    target = by_name("x86-64-v3")
    wanted = [math.functions(op, float32, 8, target) for op in ("sin", "cos", "sin")]
    declarations, definitions = math.assemble(wanted)
    assert len(declarations) == len(set(declarations))
    names = [re.findall(r"^define .*@(\w+)\(", text, re.MULTILINE) for text in definitions]
    reductions = [["graphc_reduce_pi"], ["graphc_reduce_pi_v8f32"]]
    assert names == [["graphc_cos_f32_v8"], *reductions, ["graphc_sin_f32_v8"]]


def test_what_there_is_not() -> None:
    target = by_name("host")
    with pytest.raises(ValueError, match="no exp of 3 lanes"):
        math.functions("exp", float32, 3, target)
    with pytest.raises(ValueError, match="float32 and float64"):
        math.functions("exp", int32, 4, target)
    with pytest.raises(KeyError):
        math.functions("gamma", float32, 4, target)


def test_a_function_of_single_numbers_is_compiled_once() -> None:
    """However often it is called; functions of vectors are inlined."""

    def size(lanes: int, calls: int) -> int:
        power = math.functions("pow", float64, lanes, by_name("host"))
        declared, defined = math.assemble([power])
        kind = "double" if lanes == 1 else f"<{lanes} x double>"
        lines = [f"  %t{i + 1} = call {kind} @{power.name}({kind} %t{i}, {kind} %y)" for i in range(calls)]
        own = [f"define {kind} @f({kind} %t0, {kind} %y) {{", *lines, f"  ret {kind} %t{calls}", "}"]
        return len(jit.compile_text("\n".join([*declared, *defined, *own])))

    assert size(1, 6) < 1.2 * size(1, 2)
    assert size(2, 6) > 1.5 * size(2, 2)
