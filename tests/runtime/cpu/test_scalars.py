"""Every scalar function, on every dtype that it takes, over special values, in full chunks, remainders and alone."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from graphc.ir.expr import SCALAR_OPS, Affine, Axis, Index, Literal, affine, call
from graphc.runtime.cpu.llvm import print_kernel
from graphc.runtime.cpu.target import by_name
from graphc.runtime.loop.ir import Buffer, For, Kernel, Load, Offset, Store
from graphc.types import DType, bool_, float32, float64, int32, int64
from tests.runtime.cpu.harness import RUNNABLE, expect, run_native

FLOATS, INTEGERS, ALL = (float32, float64), (int32, int64), (bool_, int32, int64, float32, float64)
# Compared bit for bit (any NaN is a NaN).
EXACT: dict[str, tuple[DType, ...]] = {
    **dict.fromkeys(("add", "sub", "mul", "neg", "floordiv", "mod", "abs", "sign"), INTEGERS + FLOATS),
    **dict.fromkeys(("div", "sqrt", "rsqrt", "floor"), FLOATS),
    "pow": INTEGERS,
    **dict.fromkeys(("eq", "ne", "lt", "le", "gt", "ge"), ALL),
    **dict.fromkeys(("maximum", "minimum"), (bool_, *INTEGERS)),
    **dict.fromkeys(("and", "or", "not"), (bool_,)),
}
ELEMENTARY = ("exp", "expm1", "log", "log1p", "tanh", "erf", "sin", "cos", "pow")
SPECIAL: dict[str, list[Any]] = {
    "f": [0.0, -0.0, 1.0, -1.0, 0.5, -2.5, 3.0, 1e-40, -1e-40, 88.0, -104.0, 1e30, np.inf, -np.inf, np.nan, 2.0, 7.25,
          1e-45, 3.4e38, -8388609.0, 8388608.5, 0.99999994, 123456.78],
    "i": [0, 1, -1, 2, -2, 3, -3, 5, 7, -7, 10, 31, 100, 2**31 - 1, -(2**31), 12345, -99],
    "b": [False, True],
}  # fmt: skip
EXTREMES: dict[DType, list[Any]] = {
    float64: [5e-324, -2.2e-308, 1.7e308, 4503599627370497.5, 9007199254740993.0],
    int64: [2**63 - 1, -(2**63), 2**53 + 1],
}


def at(axis: Axis) -> Offset:
    return Offset(affine(axis))


def operands(dtype: DType, arity: int) -> tuple[Any, Any]:
    """All pairs of special values (all single ones if arity is 1), then random ones."""
    with np.errstate(over="ignore"):
        special = np.array([*SPECIAL[dtype.kind], *EXTREMES.get(dtype, [])]).astype(dtype.numpy)
    rng = np.random.default_rng(1)
    noise = (rng.standard_normal(61) * 40 if dtype.kind == "f" else rng.integers(-9, 9, 61)).astype(dtype.numpy)
    if arity == 2:
        x, y = np.repeat(special, len(special)), np.tile(special, len(special))
    else:
        x = y = special
    return np.concatenate([x, noise]), np.concatenate([y, noise[::-1]])


def elementwise(op: str, x: Any, y: Any, width: int, target: DType | None = None) -> tuple[Kernel, dict[str, Any]]:
    """A kernel that maps `op` over arrays, in a vector loop or (width 1) a serial one."""
    n, dtypes = len(x), {d.numpy: d for d in ALL}
    i, dtype = Axis("i", n), dtypes[x.dtype]
    a, b = Buffer("a", dtype, n), Buffer("b", dtype, n)
    value = call(op, *(Load(a, at(i)), Load(b, at(i)))[: SCALAR_OPS[op]], dtype=target)
    out = Buffer("out", value.dtype, n)
    body = (Store(out, at(i), value),)
    loop = For(i, "serial", body) if width == 1 else For(i, "vector", body, width)
    return Kernel(f"{op}_{dtype.name}", (a, b, out), (loop,)), {"a": x, "b": y, "out": np.zeros(n, value.dtype.numpy)}


@pytest.mark.parametrize("width", [1, 4, 16])
@pytest.mark.parametrize(("op", "dtype"), [(op, d) for op, ds in EXACT.items() for d in ds], ids=str)
def test_exact_functions(op: str, dtype: DType, width: int) -> None:
    expect(*elementwise(op, *operands(dtype, SCALAR_OPS[op]), width))


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("op", ["maximum", "minimum"])
def test_extremes_of_floats(op: str, dtype: DType) -> None:
    """NaN wins; the sign of a zero chosen between 0.0 and -0.0 is open."""
    x, y = operands(dtype, 2)
    kernel, arrays = elementwise(op, x, y, 8)
    wanted = getattr(np, op)(x, y)
    for target in RUNNABLE:
        found = run_native(kernel, arrays, target)[1]["out"]
        np.testing.assert_array_equal(found, wanted)
    i, a, out = Axis("i", len(x)), Buffer("a", dtype, len(x)), Buffer("out", dtype, len(x))
    for literal in (0.0, np.nan, -1.0):
        for pair in ((Load(a, at(i)), Literal(literal, dtype)), (Literal(literal, dtype), Load(a, at(i)))):
            kernel = Kernel("k", (a, out), (For(i, "vector", (Store(out, at(i), call(op, *pair)),), 8),))
            found = run_native(kernel, {"a": x, "out": np.zeros_like(x)})[1]["out"]
            np.testing.assert_array_equal(found, getattr(np, op)(x, dtype.numpy.type(literal)))


@pytest.mark.parametrize("width", [1, 8, 32])
@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("op", ELEMENTARY)
def test_elementary_functions(op: str, dtype: DType, width: int) -> None:
    x, y = operands(dtype, SCALAR_OPS[op])
    if op == "pow":
        keep = (x != -np.inf) | (y != 0.5)  # inf, but NumPy takes a square root: NaN
        x, y = x[keep], y[keep]
    expect(*elementwise(op, x, y, width), ulps=6)  # ours within 2, NumPy's float32 within 4


@pytest.mark.parametrize("source", ALL)
@pytest.mark.parametrize("target", ALL)
def test_casts(source: DType, target: DType) -> None:
    x, y = operands(source, 1)
    if source.kind == "f" and target.kind == "i":
        keep = np.isfinite(x) & (np.abs(x) < 2.0 ** (8 * target.itemsize - 2))
        x, y = x[keep], y[keep]
    for width in (1, 16):
        expect(*elementwise("cast", x, y, width, target))


@pytest.mark.parametrize("target", INTEGERS)
@pytest.mark.parametrize("source", FLOATS)
def test_floats_out_of_range_saturate(source: DType, target: DType) -> None:
    x = np.array([np.nan, np.inf, -np.inf, 3e30, -3e30, 2.0**31, -(2.0**31), 1.9, -1.9], source.numpy)
    limits = np.iinfo(target.numpy)
    wanted = [0, limits.max, limits.min, limits.max, limits.min, min(2**31, limits.max), -(2**31), 1, -1]
    for width in (1, 4):
        kernel, arrays = elementwise("cast", x, x, width, target)
        for name in RUNNABLE:
            np.testing.assert_array_equal(run_native(kernel, arrays, name)[1]["out"], wanted)


@pytest.mark.parametrize("dtype", ALL)
def test_select(dtype: DType) -> None:
    n = 37
    i, c, a, out = Axis("i", n), Buffer("c", bool_, n), Buffer("a", dtype, n), Buffer("out", dtype, n)
    x = operands(dtype, 2)[0][:n]
    arrays = {"c": np.arange(n) % 3 == 0, "a": np.resize(x, n), "out": np.zeros(n, dtype.numpy)}
    literal = Literal({"b": True, "i": -5, "f": float("-inf")}[dtype.kind], dtype)
    for x_value in (Load(a, at(i)), literal):
        value = call("select", Load(c, at(i)), x_value, literal)
        expect(Kernel("select", (c, a, out), (For(i, "vector", (Store(out, at(i), value),), 8),)), arrays)


@pytest.mark.parametrize("width", [1, 4, 16])
@pytest.mark.parametrize(("op", "dtype"), [("philox32", float32), ("philox64", float64)])
def test_random_numbers(op: str, dtype: DType, width: int) -> None:
    i, state, out = Axis("i", 100), Buffer("state", int64, 2), Buffer("out", dtype, 100)
    seed, draw = Load(state, Offset(affine(0))), Load(state, Offset(affine(1)))
    arrays = {"state": np.array([-(2**62) + 12345, 2**40 + 7]), "out": np.zeros(100, dtype.numpy)}
    far = Index(affine(i) * 65537 * 65537)
    for draws in (draw, call("add", draw, Index(affine(i)))):
        store = Store(out, at(i), call(op, seed, draws, far, dtype=dtype))
        expect(Kernel("random", (state, out), (For(i, "vector", (store,), width),)), arrays)


@pytest.mark.parametrize("dtype", FLOATS)
def test_remainders_of_random_floats(dtype: DType) -> None:
    """fmod is exact for any two numbers: bit patterns drawn at random cover all exponents."""
    rng = np.random.default_rng(7)
    kind, n = np.dtype(f"i{dtype.itemsize}"), 3000
    x, y = (rng.integers(np.iinfo(kind).min, np.iinfo(kind).max, n, kind).view(dtype.numpy) for _ in range(2))
    with np.errstate(invalid="ignore"):
        close = x * rng.uniform(1e-6, 1, n).astype(dtype.numpy)
    for op in ("mod", "floordiv"):
        expect(*elementwise(op, x, close, 16))
        expect(*elementwise(op, x[:500], y[:500], 8))


@pytest.mark.parametrize("dtype", INTEGERS)
def test_division_of_random_integers(dtype: DType) -> None:
    rng = np.random.default_rng(8)
    limits = np.iinfo(dtype.numpy)
    x = rng.integers(limits.min, limits.max, 999, dtype.numpy)
    y = rng.integers(limits.min, limits.max, 999, dtype.numpy) >> rng.integers(0, 8 * dtype.itemsize, 999, dtype.numpy)
    for op in ("mod", "floordiv", "pow"):
        expect(*elementwise(op, x, y, 16))


def test_uniform_operands_stay_scalar() -> None:
    """What all lanes share is computed once, as a scalar, before the loop."""
    n = 64
    i, a, out = Axis("i", n), Buffer("a", float32, 1), Buffer("out", float32, n)
    shared = call("sqrt", call("add", Load(a, Offset(Affine())), Literal(1.0, float32)))
    kernel = Kernel("shared", (a, out), (For(i, "vector", (Store(out, at(i), shared),), 16),))
    expect(kernel, {"a": np.array([3.0], np.float32), "out": np.zeros(n, np.float32)})
    before, loop = print_kernel(kernel, by_name("x86-64-v4")).split("phi", 1)
    assert "fadd float" in before
    assert "llvm.sqrt.f32(float" in before
    assert "fadd" not in loop
    assert "load" not in loop
