"""Kernels that are tested on every device: hand-written ones for each kind of statement and expression, and nests."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from graphc.ir.expr import SCALAR_OPS, Affine, Axis, Index, affine, call
from graphc.runtime.loop.ir import (
    Accumulate,
    Alloc,
    Block,
    Buffer,
    Check,
    For,
    If,
    Kernel,
    Let,
    Load,
    Offset,
    Store,
    Var,
)
from graphc.types import DType, bool_, float32, float64, int32, int64
from tests.cuda.harness import Case
from tests.runtime.loop.shorthand import at, number, parallel

FLOATS, INTEGERS, ALL = (float32, float64), (int32, int64), (bool_, int32, int64, float32, float64)
# What each scalar function takes; the comparisons and select take everything.
DOMAINS: dict[str, tuple[DType, ...]] = {
    **dict.fromkeys(("add", "sub", "mul", "neg", "pow", "floordiv", "mod", "abs", "sign"), INTEGERS + FLOATS),
    **dict.fromkeys(("div", "exp", "expm1", "log", "log1p", "sqrt", "rsqrt", "tanh", "erf", "sin", "cos"), FLOATS),
    "floor": FLOATS,
    **dict.fromkeys(("maximum", "minimum", "eq", "ne", "lt", "le", "gt", "ge"), ALL),
    **dict.fromkeys(("and", "or", "not"), (bool_,)),
}
SPECIAL = {
    "f": [0.0, -0.0, 1.0, -1.0, 0.5, -2.5, 3.0, 1e-40, -1e-40, 88.0, -104.0, 1e30, np.inf, -np.inf, np.nan, 2.0, 7.25],
    "i": [0, 1, -1, 2, -2, 3, -3, 5, 7, -7, 10, 31, 100, 2**31 - 1, -(2**31), 12345, -99],
    "b": [False, True],
}


def vector(axis: Axis, width: int, *body: Any) -> For:
    return For(axis, "vector", body, width)


def normal(size: int, seed: int = 0) -> Any:
    return np.random.default_rng(seed).standard_normal(size).astype(np.float32)


# ---------------------------------------------------------------- scalar functions


def scalar_cases() -> Iterator[Case]:
    """Each scalar function on each dtype that it takes, over all pairs of special values and random ones."""
    for op, dtypes in DOMAINS.items():
        for dtype in dtypes:
            x, y = _operands(dtype, SCALAR_OPS[op])
            yield _elementwise(f"{op}_{dtype.name}", op, dtype, x, y)
    for source in ALL:
        for target in ALL:
            x, _ = _operands(source, 1)
            if source.kind == "f" and target.kind == "i":
                x = x[np.isfinite(x) & (np.abs(x) < 2**30)]  # beyond, the result is undefined in C and in NumPy
            yield _elementwise(f"cast_{source.name}_{target.name}", "cast", source, x, x, target)
    for bits, dtype in ((32, float32), (64, float64)):
        yield _philox(f"philox{bits}", dtype)
    yield _select()


def _operands(dtype: DType, arity: int) -> tuple[Any, Any]:
    special = np.array(SPECIAL[dtype.kind]).astype(dtype.numpy)
    rng = np.random.default_rng(1)
    noise = rng.standard_normal(40) * 4 if dtype.kind == "f" else rng.integers(-9, 9, 40)
    x = np.concatenate([np.repeat(special, len(special)) if arity == 2 else special, noise.astype(dtype.numpy)])
    y = np.concatenate([np.tile(special, len(special)) if arity == 2 else special, noise[::-1].astype(dtype.numpy)])
    return x, y


def _elementwise(name: str, op: str, dtype: DType, x: Any, y: Any, target: DType | None = None) -> Case:
    if op in ("floordiv", "mod") and dtype.kind == "i":
        keep = ~((y == -1) & (x == np.iinfo(x.dtype).min))  # NumPy itself overflows
        x, y = x[keep], y[keep]
    i = Axis("i", len(x))
    a, b = Buffer("a", dtype, len(x)), Buffer("b", dtype, len(x))
    operands = (Load(a, at(i)), Load(b, at(i)))[: SCALAR_OPS[op]]
    value = call(op, *operands, dtype=target)
    out = Buffer("out", value.dtype, len(x))
    kernel = Kernel(name, (a, b, out), (parallel(i, Store(out, at(i), value)),))
    return Case(name, kernel, {"a": x, "b": y}, ulps=0, relative=4)


def _philox(name: str, dtype: DType) -> Case:
    i, state, out = Axis("i", 100), Buffer("state", int64, 2), Buffer("out", dtype, 100)
    seed, draw = Load(state, at(0)), Load(state, at(1))
    body = parallel(i, Store(out, at(i), call(name, seed, draw, Index(affine(i) * 65537 * 65537), dtype=dtype)))
    return Case(name, Kernel(name, (state, out), (body,)), {"state": np.array([-(2**62) + 12345, 2**40 + 7])}, ulps=0)


def _select() -> Case:
    i, c, a, out = Axis("i", 50), Buffer("c", bool_, 50), Buffer("a", float32, 50), Buffer("out", float32, 50)
    value = call("select", Load(c, at(i)), Load(a, at(i)), number(float("-inf")))
    kernel = Kernel("select", (c, a, out), (parallel(i, Store(out, at(i), value)),))
    return Case("select", kernel, {"c": np.arange(50) % 3 == 0, "a": normal(50)}, ulps=0)


# ---------------------------------------------------------------- statements


def statement_cases() -> Iterator[Case]:
    """Each kind of statement, for groups of one thread, of a warp and of a block."""
    yield from _loops()
    yield from _memory()
    for width in (32, 64, 128, 256, 512, 1024):
        yield _row_statistics(width)
    for width in (32, 128):
        yield from _groups(width)


def _loops() -> Iterator[Case]:
    i, j, k = Axis("i", 5), Axis("j", 7), Axis("k", 3)
    x, out = Buffer("x", float32, 105), Buffer("out", float32, 35)
    acc = Buffer("acc", float32, 3, "register")
    nest: Block = (
        Alloc(acc),
        For(k, "unroll", (Store(acc, at(k), number(0.5)),)),
        For(k, "unroll", (Accumulate(acc, at(k), "sum", call("mul", Load(x, at((i, 21), (j, 3), k)), number(2.0))),)),
        Store(out, at((i, 7), j), number(0.0)),
        For(k, "serial", (Accumulate(out, at((i, 7), j), "sum", Load(x, at((i, 21), (j, 3), k))),)),
        Accumulate(out, at((i, 7), j), "max", Load(acc, at(1)), call("lt", Index(affine(j)), number(3, int64))),
        Accumulate(out, at((i, 7), j), "min", Load(acc, at(2))),
    )
    arrays = {"x": normal(105)}
    yield Case("nest_of_parallel", Kernel("nest", (x, out), (parallel(i, parallel(j, *nest)),)), arrays)
    yield Case("serial_in_parallel", Kernel("inner", (x, out), (parallel(i, For(j, "serial", nest)),)), arrays)
    yield Case("no_parallel", Kernel("alone", (x, out), (For(i, "serial", (For(j, "serial", nest),)),)), arrays)
    empty = Axis("e", 0)
    parts = (parallel(i, parallel(j, *nest)), parallel(empty, Store(out, at(empty), number(1.0))))
    yield Case("empty_parallel", Kernel("empty", (x, out), parts), arrays)
    second = parallel(i, For(j, "serial", (Accumulate(out, at((i, 7), j), "sum", number(1.0)),)))
    yield Case("two_launches", Kernel("two", (x, out), (parallel(i, parallel(j, *nest)), second)), arrays)
    wide, y = Axis("w", 70_000), Buffer("y", int64, 70_000)
    square = call("mul", Index(affine(wide)), Index(affine(wide) * 40_000))
    yield Case("wide_index", Kernel("wide", (y,), (parallel(wide, Store(y, at(wide), square)),)), {}, ulps=0)


def _memory() -> Iterator[Case]:
    i, j = Axis("i", 40), Axis("j", 6)
    x, out = Buffer("x", float32, 40), Buffer("out", float32, 40)
    condition = call("lt", Index(affine(i)), number(30, int64))
    masked = Load(x, at((i, 1), -3), call("ge", Index(affine(i)), number(3, int64)), -1.5)
    body = parallel(i, Store(out, at(i), number(7.0)), Store(out, at(i), masked, condition))
    yield Case("masked", Kernel("masked", (x, out), (body,)), {"x": normal(40)}, ulps=0)

    last = If(call("eq", Index(affine(i)), number(39, int64)), (Store(out, at(i), number(1.0)),))
    yield Case("if", Kernel("if", (x, out), (parallel(i, Store(out, at(i), Load(x, at(i))), last),)), {"x": normal(40)})

    places = Buffer("places", int64, 40)
    gather = Load(x, Offset(Affine(), ((Load(places, at(i)), 1),)))
    kernel = Kernel("gather", (x, places, out), (parallel(i, Store(out, at(i), gather)),))
    chosen = np.random.default_rng(3).integers(0, 40, 40)
    yield Case("gather", kernel, {"x": normal(40), "places": chosen}, ulps=0)

    good = call("lt", Load(places, at(i)), number(39, int64))
    parts = (parallel(i, Check(good, 2), Store(out, at(i), number(1.0))),)
    clipped = np.minimum(chosen, 38)
    yield Case("check_holds", Kernel("check", (places, out), parts), {"places": clipped})
    yield Case(
        "check_fails", Kernel("check", (places, out), parts), {"places": clipped + (np.arange(40) == 7) * 39}, error=2
    )

    for dtype in (float32, float64, int32, int64):
        values, totals = Buffer("values", dtype, 240), Buffer("totals", dtype, 6)
        index = call("mod", Load(places, at(i)), number(6, int64))
        add = Accumulate(totals, Offset(Affine(), ((index, 1),)), "sum", Load(values, at((i, 6), j)), atomic=True)
        clear = parallel(j, Store(totals, at(j), number(0 if dtype.kind == "i" else 0.0, dtype)))
        kernel = Kernel("scatter", (values, places, totals), (clear, parallel(i, parallel(j, add))))
        numbers = (normal(240) * 9).astype(dtype.numpy)
        yield Case(f"atomic_{dtype.name}", kernel, {"values": numbers, "places": chosen}, ulps=16)

    row = Buffer("row", float32, 6, "scratch")
    rows, result = Buffer("rows", float32, 240), Buffer("result", float32, 240)
    fill = For(j, "serial", (Store(row, at(j), call("exp", Load(rows, at((i, 6), j)))),))
    use = For(j, "serial", (Store(result, at((i, 6), (j, -1), 5), Load(row, at(j))),))
    kernel = Kernel("scratch", (rows, result), (parallel(i, Alloc(row), fill, use),))
    yield Case("scratch_of_a_thread", kernel, {"rows": normal(240)})

    inplace = Kernel(
        "inplace",
        (x, out),
        (parallel(i, Store(out, at(i), call("add", Load(x, at(i)), number(1.0)))),),
        inplace=(("x", "out"),),
    )
    yield Case("inplace", inplace, {"x": normal(40)}, ulps=0)


def _row_statistics(width: int) -> Case:
    """Softmax with all that a group can do: folds of three kinds, a shared row, a row in registers, uniform values."""
    i, j = Axis("i", 37), Axis("j", 300)
    x, out = Buffer("x", float32, 37 * 300), Buffer("out", float32, 37 * 300)
    low, sums = Buffer("low", float32, 37), Buffer("sums", float32, 37)
    lanes = -(-300 // width) * width
    row, kept = Buffer("row", float32, 300, "scratch"), Buffer("kept", float32, lanes, "register")
    top, least, total = (Buffer(n, float32, 1, "register") for n in ("top", "least", "total"))
    here = at((i, 300), j)
    high = Var("high", float32)
    shifted = call("exp", call("sub", Load(kept, at(j)), high))
    body: Block = (
        *(Alloc(b) for b in (row, kept, top, least, total)),
        Store(top, at(0), number(float("-inf"))),
        Store(least, at(0), number(float("inf"))),
        Store(total, at(0), number(0.0)),
        vector(j, width, Store(kept, at(j), Load(x, here)), Accumulate(top, at(0), "max", Load(kept, at(j)))),
        vector(j, width, Accumulate(least, at(0), "min", Load(x, here))),
        Let(high, Load(top, at(0))),
        vector(j, width, Store(row, at(j), shifted), Accumulate(total, at(0), "sum", Load(row, at(j)))),
        Store(low, at(i), Load(least, at(0))),
        Store(sums, at(i), Load(total, at(0))),
        vector(j, width, Store(out, here, call("div", Load(row, at((j, -1), 299)), Load(total, at(0))))),
    )
    kernel = Kernel(f"rows{width}", (x, out, low, sums), (parallel(i, *body),))
    return Case(f"rows_{width}", kernel, {"x": normal(37 * 300) * 3}, ulps=8)


def _groups(width: int) -> Iterator[Case]:
    i, a, b, c = Axis("i", 20), Axis("a", 9), Axis("b", 11), Axis("c", 4)
    x, out = Buffer("x", float32, 20 * 99), Buffer("out", float32, 20 * 4)
    acc = Buffer("acc", float32, 4, "register")
    here = Load(x, at((i, 99), (a, 11), b))
    weight = call("cast", Index(affine(b) + affine(c)), dtype=float32)
    nest = vector(
        a, width, vector(b, width, For(c, "unroll", (Accumulate(acc, at(c), "sum", call("mul", here, weight)),)))
    )
    zero = For(c, "unroll", (Store(acc, at(c), number(0.0)),))
    store = For(c, "unroll", (Store(out, at((i, 4), c), Load(acc, at(c))),))
    arrays = {"x": normal(20 * 99)}
    kernel = Kernel("nested_lanes", (x, out), (parallel(i, Alloc(acc), zero, nest, store),))
    yield Case(f"nested_lanes_{width}", kernel, arrays, ulps=64)

    # an accumulator in each lane, fed through shared memory in rounds: how a tiled product works
    row = Buffer("row", float32, 11, "scratch")
    own = Buffer("own", float32, 2 * width, "register")
    t, r, lane = Axis("t", 9), Axis("r", 11), Axis("lane", width)
    lanes = Buffer("lanes", float32, 20 * 2 * width)
    grow = call("mul", Load(row, at(r)), call("cast", Index(affine(lane)), dtype=float32))
    body: Block = (
        Alloc(own),
        Alloc(row),
        vector(lane, width, *(Store(own, at(lane, k * width), number(float(k))) for k in range(2))),
        For(
            t,
            "serial",
            (
                vector(r, width, Store(row, at(r), Load(x, at((i, 99), (t, 11), r)))),
                vector(
                    lane,
                    width,
                    For(r, "serial", tuple(Accumulate(own, at(lane, k * width), "sum", grow) for k in range(2))),
                ),
            ),
        ),
        vector(
            lane,
            width,
            *(Store(lanes, at((i, 2 * width), lane, k * width), Load(own, at(lane, k * width))) for k in range(2)),
        ),
    )
    yield Case(f"rounds_{width}", Kernel("rounds", (x, lanes), (parallel(i, *body),)), arrays, ulps=64)

    # sums over the lanes straight into memory, a uniform read of it, and a serial loop of the whole group
    total = Buffer("total", float32, 20)
    good = call("lt", here, number(100.0))
    direct: Block = (
        Store(total, at(i), number(1.0)),
        vector(a, width, vector(b, width, Accumulate(total, at(i), "sum", here), Check(good, 1))),
        Let(Var("seen", float32), Load(total, at(i))),
        Check(call("eq", Var("seen", float32), Var("seen", float32)), 2),
        For(c, "serial", (Store(out, at((i, 4), c), call("mul", Var("seen", float32), number(0.5))),)),
        If(
            call("gt", Index(affine(i)), number(9, int64)),
            (vector(c, width, Accumulate(out, at((i, 4), c), "sum", number(1.0))),),
        ),
        Accumulate(out, at((i, 4)), "max", number(0.25)),
    )
    kernel = Kernel("direct", (x, total, out), (parallel(i, *direct),))
    yield Case(f"direct_{width}", kernel, arrays, ulps=64)

    # more scratch memory than a block can share: a slice of the workspace for each group, used again by the next
    n = 15_000
    many, long, big = Axis("many", 3), Axis("long", n), Buffer("big", float32, n, "scratch")
    source, target = Buffer("source", float32, 3 * n), Buffer("target", float32, 3 * n)
    body = (
        Alloc(big),
        vector(long, width, Store(big, at(long), Load(source, at((many, n), long)))),
        vector(long, width, Store(target, at((many, n), long), Load(big, at((long, -1), n - 1)))),
    )
    kernel = Kernel("workspace", (source, target), (parallel(many, *body),))
    yield Case(f"workspace_{width}", kernel, {"source": normal(3 * n)}, ulps=0)
