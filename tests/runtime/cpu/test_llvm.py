"""Every statement of the loop IR, printed, compiled for each target that runs here, compared with the interpreter."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from graphc.errors import CompileError
from graphc.ir.expr import Affine, Axis, Index, Literal, affine, call
from graphc.runtime.cpu import jit
from graphc.runtime.cpu.llvm import print_kernel
from graphc.runtime.cpu.target import by_name
from graphc.runtime.loop.ir import (
    Accumulate,
    Alloc,
    Block,
    Buffer,
    Check,
    Expr,
    For,
    If,
    Kernel,
    Kind,
    Let,
    Load,
    Offset,
    Store,
    Var,
)
from graphc.types import DType, Scalar, bool_, float32, float64, int32, int64
from tests.runtime.cpu.harness import expect, run_native
from tests.runtime.loop.shorthand import at, number, parallel

ALL = (bool_, int32, int64, float32, float64)
ZERO = Offset(Affine())
EXTENTS = [0, 1, 15, 16, 50]


def vector(axis: Axis, *body: Any, width: int = 16) -> For:
    return For(axis, "vector", body, width)


def serial(axis: Axis, *body: Any) -> For:
    return For(axis, "serial", body)


def unroll(axis: Axis, *body: Any) -> For:
    return For(axis, "unroll", body)


def numbers(size: int, dtype: DType = float32, seed: int = 0) -> Any:
    rng = np.random.default_rng([seed, size])
    if dtype.kind == "f":
        return rng.standard_normal(size).astype(dtype.numpy)
    if dtype.kind == "b":
        return rng.random(size) < 0.5
    return rng.integers(-99, 99, size).astype(dtype.numpy)


# ------------------------------------------------------------------------------------------- loads and stores


@pytest.mark.parametrize("dtype", ALL, ids=str)
@pytest.mark.parametrize("stride", [0, 1, -1, 2, 3, 4, 5, 7, 8, 15, -3])
@pytest.mark.parametrize("extent", EXTENTS)
def test_strides(extent: int, stride: int, dtype: DType) -> None:
    """Loads and stores with every way for lanes to lie in memory."""
    i, size = Axis("i", extent), max(1, abs(stride) * extent)
    start = 0 if stride >= 0 else size - 1
    x, out, back = Buffer("x", dtype, size), Buffer("out", dtype, max(1, extent)), Buffer("back", dtype, size)
    body: list[Any] = [Store(out, at(i), Load(x, at((i, stride), start)))]
    if stride:
        body.append(Store(back, at((i, stride), start), Load(out, at(i))))
    kernel = Kernel("strides", (x, out, back), (vector(i, *body, width=8),))
    arrays = {"x": numbers(size, dtype), "out": np.zeros(out.size, dtype.numpy), "back": np.zeros(size, dtype.numpy)}
    expect(kernel, arrays)


@pytest.mark.parametrize("dtype", ALL, ids=str)
@pytest.mark.parametrize("width", [1, 2, 16])
def test_masks(width: int, dtype: DType) -> None:
    """Masked loads and stores: by lane, by a uniform condition, shared elements; what is masked out is out of range."""
    n = 37
    i, j = Axis("i", n), Axis("j", 5)
    x = Buffer("x", dtype, n)
    other: Scalar = {"b": True, "i": 7, "f": -0.5}[dtype.kind]
    inside = call(
        "and", call("ge", Index(affine(i) - 3), number(0, int64)), call("lt", Index(affine(i)), number(30, int64))
    )
    some = call("ne", Index(affine(j)), number(2, int64))
    middle = call(
        "and", call("gt", Index(affine(i)), number(9, int64)), call("lt", Index(affine(i)), number(23, int64))
    )
    loads = (
        Load(x, at(i, -3), inside, other),
        Load(x, at((i, -1), 32), call("le", Index(affine(i)), number(32, int64)), other),
        Load(x, at((i, 2), -9), call("and", some, middle), other),
        Load(x, at(i), some, other),
        Load(x, at(j, 1), some, other),
        Load(x, at((j, 100), -200), call("eq", Index(affine(j)), number(2, int64)), other),
        Load(x, at(j), inside, other),
    )
    stores, size = [], 0
    for load in loads:
        for mask in (None, some, inside, call("or", middle, some)):
            stores.append((load, mask, size))
            size += 5 * n
    out = Buffer("out", dtype, size)
    body = tuple(Store(out, at((j, n), i, start), load, mask) for load, mask, start in stores)
    arrays = {"x": numbers(n, dtype), "out": numbers(size, dtype, 1)}
    expect(Kernel("masks", (x, out), (serial(j, vector(i, *body, width=width)),)), arrays)


@pytest.mark.parametrize("width", [1, 4, 16])
def test_gather_and_scatter(width: int) -> None:
    n = 41
    i, j = Axis("i", n), Axis("j", 3)
    places = np.random.default_rng(3).permutation(n)
    for kind in (int32, int64):
        where, x = Buffer("where", kind, n), Buffer("x", float32, 4 * n)
        out, far = Buffer("out", float32, n), Buffer("far", float32, 4 * n)
        index = Load(where, at(i))
        body: Block = (
            Store(out, at(i), Load(x, Offset(affine(i) + 1, ((index, 3),)))),
            Store(far, Offset(affine(j), ((index, 4),)), call("neg", Load(out, at(i)))),
            Accumulate(
                far, Offset(affine(3), ((index, 4),)), "max", Load(out, at(i)), call("gt", index, number(5, kind))
            ),
        )
        arrays = {
            "where": places.astype(kind.numpy),
            "x": numbers(4 * n),
            "out": numbers(n),
            "far": numbers(4 * n, seed=2),
        }
        lanes = For(i, "vector", body[:2], width) if width > 1 else serial(i, *body)
        expect(Kernel("scatter", (where, x, out, far), (serial(j, lanes),)), arrays)
        # one index for all lanes
        row = vector(j, Accumulate(far, Offset(affine(j), ((index, 4),)), "sum", Load(x, at((i, 4), j))), width=width)
        expect(Kernel("rows", (where, x, far), (serial(i, row),)), {k: v for k, v in arrays.items() if k != "out"})


def test_atomic_sums() -> None:
    i = Axis("i", 45)
    for dtype in ALL[1:]:
        where, x, total = Buffer("where", int64, 45), Buffer("x", dtype, 45), Buffer("total", dtype, 3)
        add = Accumulate(total, Offset(Affine(), ((Load(where, at(i)), 1),)), "sum", Load(x, at(i)), atomic=True)
        arrays = {"where": np.arange(45) % 3, "x": np.round(numbers(45, dtype) * 8), "total": np.zeros(3, dtype.numpy)}
        expect(Kernel("atomic", (where, x, total), (vector(i, add),)), {k: np.asarray(v) for k, v in arrays.items()})


# ------------------------------------------------------------------------------------------- registers and folds


def product(m: int, n: int, k: int, dtype: DType, width: int) -> tuple[Kernel, dict[str, Any]]:
    """C = A @ B as one register tile."""
    a, b, c = Buffer("a", dtype, max(1, m * k)), Buffer("b", dtype, max(1, k * n)), Buffer("c", dtype, m * n)
    tile = Buffer("tile", dtype, m * n, "register")
    i, j, l = Axis("i", m), Axis("j", n), Axis("l", k)  # noqa: E741
    step = call("mul", Load(a, at((i, k), l)), Load(b, at((l, n), j)))
    body: Block = (
        Alloc(tile),
        unroll(i, vector(j, Store(tile, at((i, n), j), number(0, dtype)), width=width)),
        serial(l, unroll(i, vector(j, Accumulate(tile, at((i, n), j), "sum", step), width=width))),
        unroll(i, vector(j, Store(c, at((i, n), j), Load(tile, at((i, n), j))), width=width)),
    )
    arrays = {"a": numbers(a.size, dtype), "b": numbers(b.size, dtype), "c": numbers(m * n, dtype)}
    return Kernel("tile", (a, b, c), body), arrays


@pytest.mark.parametrize("dtype", [float32, float64, int64])
@pytest.mark.parametrize(("m", "n", "k"), [(3, 32, 5), (2, 20, 7), (4, 7, 1), (1, 1, 3), (5, 48, 0)])
def test_product_tile(m: int, n: int, k: int, dtype: DType) -> None:
    """A register tile of a matrix product, with remainders."""
    expect(*product(m, n, k, dtype, 16), ulps=0 if dtype.kind == "i" else 4000)


def test_tiles_stay_in_registers() -> None:
    """A tile of 28 accumulators with AVX-512, of 12 with AVX2: nothing goes to the stack, nothing else is moved."""
    for name, m, n, width in (("x86-64-v4", 14, 32, 16), ("x86-64-v3", 6, 16, 8)):
        k, target = 300, by_name(name)
        kernel, _ = product(m, n, k, float32, width)
        listing = jit.assembly(print_kernel(kernel, target), target)
        assert "rsp" not in listing
        loop = max(re.split(r"^\.LBB\S+:$", listing, flags=re.MULTILINE), key=lambda block: block.count("vfmadd"))
        loop = loop[: loop.index("\tj")]
        assert loop.count("vfmadd") == m * n // width
        assert len(re.findall(r"^\tv", loop, re.MULTILINE)) <= (m + m * n // width + n // width)
        assert len(re.findall(r"^\t[a-uw-z]", loop, re.MULTILINE)) <= 6, loop


@pytest.mark.parametrize("op", ["sum", "max", "min"])
@pytest.mark.parametrize("dtype", ALL, ids=str)
@pytest.mark.parametrize("extent", EXTENTS)
def test_folds(extent: int, dtype: DType, op: Any) -> None:
    """Lanes folded into a register, into memory, under a mask, in a nest, of a uniform value, and of a product."""
    if dtype is bool_ and op == "sum":
        pytest.skip("bools have no sum")
    r = Axis("r", 3)
    i, n = Axis("i", extent), max(1, 3 * extent)
    x, out = Buffer("x", dtype, n), Buffer("out", dtype, 3 * 8)
    acc = Buffer("acc", dtype, 3, "register")
    start = number({"sum": 0, "max": -50, "min": 50}[op] if dtype.kind != "b" else op == "min", dtype)
    here = Load(x, at((r, extent), i))
    odd = call("ne", call("mod", Index(affine(i)), number(3, int64)), number(1, int64))
    body: list[Any] = [
        serial(r, *(Store(out, at((r, 8), s), start) for s in range(8))),
        Alloc(acc),
        unroll(r, Store(acc, at(r), start)),
        unroll(r, vector(i, Accumulate(acc, at(r), op, here))),
        unroll(r, Store(out, at((r, 8)), Load(acc, at(r)))),
        unroll(r, vector(i, Accumulate(acc, at(0), op, here, odd), width=4)),
        serial(r, vector(i, Accumulate(acc, at(1), op, here))),
        unroll(r, Store(out, at((r, 8), 1), Load(acc, at(r)))),
        serial(r, vector(i, Accumulate(out, at((r, 8), 2), op, here))),
        serial(r, vector(i, Accumulate(out, at(3), op, here, odd))),
        serial(r, vector(i, Accumulate(out, at((r, 8), 4), op, start))),
        vector(i, serial(r, Accumulate(out, at((r, 8), 5), op, here))),
        serial(r, vector(i, Accumulate(out, at((r, 8), 6), op, call("select", odd, here, start)))),
    ]
    if dtype is not bool_:
        body.append(serial(r, vector(i, Accumulate(out, at((r, 8), 7), op, call("mul", here, here)))))
    arrays = {"x": numbers(n, dtype), "out": np.zeros(24, dtype.numpy)}
    expect(Kernel("folds", (x, out), tuple(body)), arrays, ulps=4000 if dtype.kind == "f" and op == "sum" else 0)


@pytest.mark.parametrize("op", ["max", "min"])
def test_folds_propagate_nan(op: Any) -> None:
    i, x, out = Axis("i", 40), Buffer("x", float32, 40), Buffer("out", float32, 1)
    kernel = Kernel("nan", (x, out), (vector(i, Accumulate(out, ZERO, op, Load(x, at(i)))),))
    for position in (0, 5, 15, 31, 39):
        values = numbers(40)
        values[position] = np.nan
        assert np.isnan(expect(kernel, {"x": values, "out": np.zeros(1, np.float32)})["out"][0])
    for value in (np.inf, -np.inf):
        values = np.full(40, value, np.float32)
        expect(kernel, {"x": values, "out": values[:1].copy()})


def test_sums_keep_negative_zero() -> None:
    i, x, out = Axis("i", 21), Buffer("x", float32, 21), Buffer("out", float32, 1)
    kernel = Kernel("zeros", (x, out), (vector(i, Accumulate(out, ZERO, "sum", Load(x, at(i)))),))
    minus = {"x": np.full(21, -0.0, np.float32), "out": np.full(1, -0.0, np.float32)}
    assert np.signbit(run_native(kernel, minus)[1]["out"][0])


@pytest.mark.parametrize("extent", [1, 16, 23])
def test_registers_of_each_lane(extent: int) -> None:
    """A register allocated in a vector loop is one number for each lane; argmax over a serial loop needs two."""
    i, k, u = Axis("i", extent), Axis("k", 9), Axis("u", 2)
    x, out = Buffer("x", float32, 9 * extent), Buffer("out", int64, extent)
    best, where = Buffer("best", float32, 2, "register"), Buffer("where", int64, 1, "register")
    wins = Var("wins", bool_)
    body: Block = (
        Alloc(best),
        Alloc(where),
        unroll(u, Store(best, at(u), number(float("-inf")))),
        Store(where, ZERO, number(-1, int64)),
        serial(
            k,
            Let(wins, call("gt", Load(x, at((k, extent), i)), Load(best, at(1)))),
            Accumulate(best, at(0), "sum", Load(x, at((k, extent), i))),
            Store(best, at(1), Load(x, at((k, extent), i)), wins),
            Store(where, ZERO, Index(affine(k)), wins),
        ),
        Store(out, at(i), Load(where, ZERO)),
    )
    arrays = {"x": numbers(9 * extent), "out": np.zeros(extent, np.int64)}
    found = expect(Kernel("argmax", (x, out), (vector(i, *body, width=8),)), arrays)
    np.testing.assert_array_equal(found["out"], arrays["x"].reshape(9, extent).argmax(0))


def test_registers_read_in_other_pieces_than_written() -> None:
    """Written by lanes of 16, read one by one and by lanes of 8: the buffer must have addresses."""
    i, u, h = Axis("i", 20), Axis("u", 20), Axis("h", 20)
    x, out, kept = Buffer("x", float32, 20), Buffer("out", float32, 40), Buffer("kept", float32, 20, "register")
    body: Block = (
        Alloc(kept),
        vector(i, Store(kept, at(i), Load(x, at(i)))),
        unroll(u, Accumulate(kept, at(u), "sum", number(1.0))),
        vector(h, Store(out, at(h), Load(kept, at(h))), width=8),
        unroll(u, Store(out, at((u, -1), 39), Load(kept, at(u)))),
    )
    expect(Kernel("pieces", (x, out), body), {"x": numbers(20), "out": np.zeros(40, np.float32)})


def test_scratch_memory() -> None:
    r, i, j = Axis("r", 4), Axis("i", 30), Axis("j", 30)
    x, out, row = Buffer("x", float32, 120), Buffer("out", float32, 120), Buffer("row", float32, 30, "scratch")
    body = parallel(
        r,
        Alloc(row),
        vector(i, Store(row, at(i), call("mul", Load(x, at((r, 30), i)), number(2.0)))),
        serial(j, Accumulate(row, at((j, -1), 29), "max", number(0.5))),
        vector(i, Store(out, at((r, 30), i), Load(row, at((i, -1), 29)))),
    )
    expect(Kernel("scratch", (x, out), (body,)), {"x": numbers(120), "out": np.zeros(120, np.float32)})
    huge = Buffer("huge", float32, 1 << 20, "scratch")
    with pytest.raises(CompileError, match="huge"):
        print_kernel(Kernel("huge", (x,), (Alloc(huge),)), by_name("x86-64"))


# ------------------------------------------------------------------------------------------- control


def test_checks_record_the_first_failure() -> None:
    i, x = Axis("i", 50), Buffer("x", float32, 50)
    good = call("lt", Load(x, at(i)), number(10.0))
    fine = call("gt", Load(x, at(i)), number(-10.0))
    for loop in (vector(i, Check(good, 3), Check(fine, 4)), serial(i, Check(good, 3), Check(fine, 4))):
        for position, value, code in ((None, 0.0, 0), (0, 11.0, 3), (49, -12.0, 4), (31, np.nan, 3)):
            values = numbers(50)
            if position is not None:
                values[position] = value
            kernel = Kernel("check", (x,), (loop,))
            expect(kernel, {"x": values})
            assert run_native(kernel, {"x": values})[0] == code
    always = (Check(Literal(True, bool_), 1), Check(call("lt", number(2, int64), number(1, int64)), 2))
    assert run_native(Kernel("always", (x,), always), {"x": numbers(50)})[0] == 2


def test_conditions() -> None:
    i, j = Axis("i", 4), Axis("j", 18)
    x, out = Buffer("x", float32, 72), Buffer("out", float32, 72)
    row = at((i, 18), j)
    total = Buffer("total", float32, 1, "register")
    body = serial(
        i,
        Alloc(total),
        Store(total, ZERO, number(0.0)),
        If(
            call("gt", Load(x, at((i, 18))), number(0.0)),
            (
                Let(Var("first", float32), Load(x, at((i, 18)))),
                vector(j, Store(out, row, call("add", Load(x, row), Var("first", float32)))),
                vector(j, Accumulate(total, ZERO, "max", Load(out, row))),
            ),
        ),
        If(call("eq", Index(affine(i)), number(2, int64)), (vector(j, Store(out, row, number(-1.0))),)),
        If(Literal(False, bool_), (vector(j, Store(out, row, number(9.0))),)),
        If(Literal(True, bool_), (Store(out, at((i, 18), 3), Load(total, ZERO)),)),
    )
    expect(Kernel("conditions", (x, out), (body,)), {"x": numbers(72), "out": np.zeros(72, np.float32)})


def test_parallel_loops_see_what_stands_before_them() -> None:
    """Numbers and scratch memory bound before a parallel loop reach its tasks; two loops run in order."""
    i, j, u = Axis("i", 23), Axis("j", 5), Axis("u", 6)
    x, out, table = Buffer("x", float32, 115), Buffer("out", float32, 115), Buffer("table", float32, 6, "scratch")
    first, flag = Var("first", float32), Var("flag", bool_)
    step, whole = Var("step", int64), Var("whole", float32)
    body: Block = (
        Alloc(table),
        serial(u, Store(table, at(u), call("cast", Index(affine(u)), dtype=float32))),
        Let(first, Load(x, ZERO)),
        Let(flag, call("gt", first, number(0.0))),
        Let(step, number(2, int64)),
        Let(whole, Load(table, at(3))),
        parallel(
            i,
            serial(
                j,
                Store(
                    out,
                    at((i, 5), j),
                    call("add", call("select", flag, first, whole), Load(table, Offset(affine(j), ((step, 0),)))),
                ),
            ),
        ),
        parallel(i, serial(j, Accumulate(out, at((i, 5), j), "sum", first))),
    )
    expect(Kernel("captures", (x, out), body), {"x": numbers(115), "out": np.zeros(115, np.float32)})


def test_nests_of_parallel_loops() -> None:
    i, j, k = Axis("i", 3), Axis("j", 4), Axis("k", 5)
    out = Buffer("out", int64, 60)
    value = Index(affine(i) * 100 + affine(j) * 10 + k)
    nest = parallel(i, parallel(j, parallel(k, Store(out, at((i, 20), (j, 5), k), value))))
    expect(Kernel("nest", (out,), (nest,)), {"out": np.zeros(60, np.int64)})
    none = parallel(i, parallel(Axis("z", 0), Store(out, at(i), number(1, int64))))
    expect(Kernel("none", (out,), (none,)), {"out": np.zeros(60, np.int64)})


def test_loads_follow_stores() -> None:
    """A value that was loaded is read again once its memory changes, in place and through a loop."""
    i, k = Axis("i", 20), Axis("k", 4)
    x, y, out = Buffer("x", float32, 20), Buffer("y", float32, 20), Buffer("out", float32, 20)
    body: Block = (
        vector(i, Store(y, at(i), call("add", Load(x, at(i)), number(1.0)))),
        serial(
            k,
            Let(Var("head", float32), Load(y, at(3))),
            vector(i, Store(y, at(i), call("add", Load(y, at(i)), Var("head", float32)))),
            Store(out, at(k), Load(y, at(3))),
            If(call("lt", Index(affine(k)), number(2, int64)), (Store(y, at(3), number(0.25)),)),
            Store(out, at(k, 4), Load(y, at(3))),
        ),
    )
    expect(Kernel("order", (x, y, out), body), {"x": numbers(20), "y": numbers(20), "out": np.zeros(20, np.float32)})


def test_update_in_place() -> None:
    """Params that may be the same memory aren't promised to be apart, and see each other's stores."""
    i, x, out = Axis("i", 20), Buffer("x", float32, 20), Buffer("out", float32, 20)
    body = vector(i, Store(out, at(i), call("mul", Load(x, at(i)), Load(x, at(i)))), width=8)
    again = vector(i, Store(out, at(i), call("add", Load(x, at(i)), number(1.0))), width=8)
    kernel = Kernel("inplace", (x, out), (body, again), inplace=(("x", "out"),))
    text = print_kernel(kernel, by_name("x86-64"))
    assert "noalias align 4 %p" not in text
    assert text.count("load <8 x float>, ptr") == 2
    assert text.count("call <8 x float> @llvm.masked.load") == 2


@pytest.mark.parametrize("kind", ["serial", "unroll", "vector"])
@pytest.mark.parametrize("extent", [0, 1, 2, 9])
def test_index_values(kind: Kind, extent: int) -> None:
    """The number of an index, small and beyond 32 bits, compared, converted and stored."""
    i, o = Axis("i", extent), Axis("o", 3)
    out, real, flags = (Buffer(n, d, 27) for n, d in (("out", int64), ("real", float32), ("flags", bool_)))
    here, big = at((o, 9), i), affine(i) * (2**33) + affine(o) * 5 - 7
    body: Block = (
        Store(out, here, Index(big)),
        Store(real, here, call("cast", Index(affine(i) * -3 + o), dtype=float32)),
        Store(flags, here, call("lt", Index(big), number(2**34, int64))),
        Store(
            flags,
            here,
            call("ge", Index(affine(i) * 2 - o), Index(affine(o) + 1)),
            call("ne", Index(affine(i)), number(4, int64)),
        ),
    )
    loop = For(i, kind, body, 4 if kind == "vector" else 1)
    arrays = {"out": np.zeros(27, np.int64), "real": np.zeros(27, np.float32), "flags": np.zeros(27, bool)}
    expect(Kernel("index", (out, real, flags), (serial(o, loop),)), arrays)


# ------------------------------------------------------------------------------------------- random kernels

_FLOAT_OPS = ("add", "sub", "mul", "div", "maximum", "minimum", "neg", "abs", "sqrt", "floor", "sign", "mod")
_INT_OPS = ("add", "sub", "mul", "maximum", "minimum", "neg", "abs", "floordiv", "mod", "sign")


@st.composite
def expressions(draw: st.DrawFn, leaves: list[Expr], dtype: DType, depth: int = 3) -> Expr:
    """A random expression of `dtype` over leaves of several dtypes."""
    own = [leaf for leaf in leaves if leaf.dtype is dtype]
    if depth == 0 or draw(st.integers(0, 4)) == 0:
        literal = {"b": st.booleans(), "i": st.integers(-5, 5), "f": st.sampled_from([0.0, -1.5, 2.0, float("inf")])}
        return draw(st.sampled_from(own)) if own and draw(st.booleans()) else Literal(draw(literal[dtype.kind]), dtype)
    deeper = {d: expressions(leaves, d, depth - 1) for d in ALL}
    choice = draw(st.integers(0, 5))
    if choice == 0:
        return call("select", draw(deeper[bool_]), draw(deeper[dtype]), draw(deeper[dtype]))
    if choice == 1:
        source = draw(st.sampled_from([d for d in ALL if d.kind != "f" or dtype.kind != "i"]))
        return call("cast", draw(deeper[source]), dtype=dtype)
    if dtype is bool_:
        if choice < 4:
            other = draw(st.sampled_from(ALL))
            op = draw(st.sampled_from(["eq", "ne", "lt", "le", "gt", "ge"]))
            return call(op, draw(deeper[other]), draw(deeper[other]))
        op = draw(st.sampled_from(["and", "or", "not"]))
    else:
        op = draw(st.sampled_from(_FLOAT_OPS if dtype.kind == "f" else _INT_OPS))
    arity = 1 if op in ("neg", "abs", "sqrt", "floor", "sign", "not") else 2
    return call(op, *(draw(deeper[dtype]) for _ in range(arity)))


@st.composite
def kernels(draw: st.DrawFn) -> tuple[Kernel, dict[str, Any]]:
    """A nest of one to three loops of random kinds over an elementwise body with lets, masks and an accumulation."""
    extents = [draw(st.integers(0, 20)) for _ in range(draw(st.integers(1, 3)))]
    axes = [Axis(f"a{k}", n) for k, n in enumerate(extents)]
    size = max(1, int(np.prod(extents)))
    dense, stride = Affine(), 1
    for axis in reversed(axes):
        dense, stride = dense + axis * stride, stride * max(1, axis.extent)
    inputs = [Buffer(f"x_{d.name}", d, size) for d in ALL]
    lets: list[Let] = []
    leaves: list[Expr] = [Load(b, Offset(dense)) for b in inputs]
    leaves += [Index(affine(axis)) for axis in axes]
    leaves += [Load(b, Offset(affine(axes[0]))) for b in inputs[2:4] if extents[0] <= size]
    outputs, stores = [], []
    for k in range(draw(st.integers(1, 2))):
        dtype = draw(st.sampled_from(ALL))
        var = Var(f"v{k}", dtype)
        lets.append(Let(var, draw(expressions(leaves, dtype))))
        leaves.append(var)
        out = Buffer(f"out{k}", dtype, size)
        mask = draw(st.none() | expressions(leaves, bool_, 2))
        outputs.append(out)
        stores.append(Store(out, Offset(dense), draw(expressions(leaves, dtype, 2)), mask))
    total = Buffer("total", int64, 1)
    fold = Accumulate(
        total, ZERO, "sum", draw(expressions(leaves, int64, 1)), draw(st.none() | expressions(leaves, bool_, 1))
    )
    body: Block = (*lets, *stores, fold)
    for depth, axis in reversed(list(enumerate(axes))):
        inner = depth == len(axes) - 1
        kind = draw(st.sampled_from(["serial", "unroll", "vector"] if inner else ["serial", "unroll"]))
        body = (For(axis, kind, body, draw(st.sampled_from([2, 4, 8, 16])) if kind == "vector" else 1),)
    arrays = {b.name: numbers(size, b.dtype, seed=extents[0]) for b in inputs}
    arrays |= {b.name: np.zeros(size, b.dtype.numpy) for b in outputs}
    arrays["total"] = np.zeros(1, np.int64)
    return Kernel("random", (*inputs, *outputs, total), body), arrays


@settings(max_examples=40, deadline=None)
@given(kernels(), st.sampled_from(["host", "x86-64"]))
def test_random_kernels(case: tuple[Kernel, dict[str, Any]], target: str) -> None:
    kernel, arrays = case
    expect(kernel, arrays, targets=[target])


@pytest.mark.parametrize("name", ["x86-64", "x86-64-v3", "x86-64-v4", "aarch64"])
def test_every_target_is_compiled(name: str) -> None:
    """LLVM accepts the text and makes code for each target, run here or not; and the text is the same each time."""
    target = by_name(name)
    i, x, out = Axis("i", 50), Buffer("x", float32, 50), Buffer("out", float32, 50)
    value = call("tanh", call("add", Load(x, at((i, -1), 49)), call("mod", Load(x, at(i)), number(0.3))))
    kernel = Kernel(
        "all", (x, out), (vector(i, Store(out, at(i), value), Accumulate(out, at(0), "max", Load(x, at(i))), width=4),)
    )
    text = print_kernel(kernel, target)
    assert text == print_kernel(kernel, target)
    assert len(jit.compile_text(text, target)) > 500
