"""The CPU schedule against the nest's own meaning: random programs and shapes, every kind of target."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from graphc.ir.expr import Axis, Call, Index, Literal, affine
from graphc.ir.graph import Graph
from graphc.ir.node import Node, make, parameter
from graphc.ops import convolution, elementwise, linalg, movement, pooling, reduction
from graphc.runtime.cpu.target import TARGETS, Target
from graphc.runtime.loop.interp import run, run_nest
from graphc.runtime.loop.ir import Accumulate, Alloc, Block, Buffer, For, If, Kernel, Let, Load, Offset, Store, Var
from graphc.runtime.loop.lower import lower, lower_node
from graphc.runtime.loop.nest import Fold, Nest, Stage
from graphc.runtime.loop.schedule.choose import cheapest
from graphc.runtime.loop.schedule.collapse import collapse
from graphc.runtime.loop.schedule.columns import skipping, wide_strip
from graphc.runtime.loop.schedule.cost import analyse
from graphc.runtime.loop.schedule.cpu import schedule_cpu
from graphc.runtime.loop.schedule.emit import Region, emit, regions
from graphc.runtime.loop.schedule.split import Split, splittable
from graphc.runtime.loop.storage import Storage, in_order
from graphc.runtime.loop.verify import verify
from graphc.types import DType, Shape, TensorType, bool_, float32, float64, int64
from tests.runtime.loop.reference import arrays_for

TARGET_NAMES = sorted(TARGETS)
EXTENTS = st.sampled_from([1, 2, 3, 4, 5, 7, 8, 15, 16, 17, 31, 33, 40])


def inputs(*shapes: Shape, dtype: DType = float32) -> list[Node]:
    return [parameter(i, TensorType(shape, dtype)) for i, shape in enumerate(shapes)]


def check(nest: Nest, target: Target, rtol: float = 1e-4) -> Kernel:
    """The scheduled kernel verifies and gives what the nest means; sums are reordered, so up to rounding."""
    kernel = schedule_cpu(nest, target)
    compare(nest, kernel, rtol)
    return kernel


def compare(nest: Nest, kernel: Kernel, rtol: float = 1e-4) -> None:
    verify(kernel)
    wanted = arrays_for(nest, len(nest.params))
    got = {name: array.copy() for name, array in wanted.items()}
    assert run(kernel, got) == run_nest(nest, wanted)
    for name, array in wanted.items():
        if array.dtype.kind == "f":
            np.testing.assert_allclose(got[name], array, rtol=rtol, atol=rtol, err_msg=name)
        else:
            np.testing.assert_array_equal(got[name], array, err_msg=name)


def statements(block: Block) -> list[Any]:
    """All statements of a block, those inside included."""
    found: list[Any] = []
    for statement in block:
        found.append(statement)
        if isinstance(statement, For | If):
            found += statements(statement.body)
    return found


def loops(kernel: Kernel, kind: str) -> list[For]:
    return [s for s in statements(kernel.body) if isinstance(s, For) and s.kind == kind]


# ------------------------------------------------------------------------------------------------ columns


@pytest.mark.parametrize("target", TARGET_NAMES)
@pytest.mark.parametrize("columns", [1024, 1000, 2051])
def test_columns_of_far_rows_are_folded_in_wide_strips(target: str, columns: int) -> None:
    x, y = inputs((170, columns), (170, 1))
    scaled = elementwise.multiply(x, y)
    deviation = elementwise.subtract(x, reduction.mean(scaled, 0, keepdims=True))
    outputs = [reduction.sum(elementwise.square(deviation), 0), reduction.max(x, 0)]
    nest = lower(Graph([x, y], outputs), (170, columns), (1,))
    kernel = check(nest, TARGETS[target], rtol=1e-3)
    strips = [loop for loop in loops(kernel, "vector") if loop.axis.extent >= 128]
    assert strips
    sums = [s for s in statements(kernel.body) if isinstance(s, Alloc) and s.buffer.name.endswith("_acc")]
    assert {s.buffer.space for s in sums} == {"scratch"}


def test_operands_of_products_are_no_columns() -> None:
    a, b = inputs((24, 512), (512, 512))
    facts = analyse(collapse(lower_node(make(linalg.MATMUL, (a, b), {}))), TARGETS[TARGET_NAMES[0]])
    assert all(skipping(facts, axis, 16) == 0 and wide_strip(facts, axis) is None for axis in facts.nest.outer)


def test_positions_in_wide_strips() -> None:
    (x,) = inputs((170, 1024))
    kernel = check(lower(Graph([x], [reduction.argmax(x, 0)]), (170, 1024), (1,)), TARGETS[TARGET_NAMES[0]])
    assert any(loop.axis.extent >= 128 for loop in loops(kernel, "vector"))


def test_columns_that_a_cache_holds_are_folded_in_registers() -> None:
    (x,) = inputs((64, 1000))
    kernel = check(lower(Graph([x], [reduction.sum(x, 0)]), (64, 1000), (1,)), TARGETS[TARGET_NAMES[0]])
    sums = [s for s in statements(kernel.body) if isinstance(s, Alloc)]
    assert {s.buffer.space for s in sums} == {"register"}


# ------------------------------------------------------------------------------------------------ products


def product(m: int, n: int, k: int, ta: bool, tb: bool, batch: Shape = (), dtype: DType = float32) -> Nest:
    a, b = inputs((*batch, k, m) if ta else (*batch, m, k), (n, k) if tb else (k, n), dtype=dtype)
    last = len(batch)
    swapped = (*range(last), last + 1, last)
    left = make(movement.PERMUTE_DIMS, (a,), {"axes": swapped}) if ta else a
    right = make(movement.PERMUTE_DIMS, (b,), {"axes": (1, 0)}) if tb else b
    return lower(Graph([a, b], [make(linalg.MATMUL, (left, right), {})]), (*batch, m, n), tuple(range(last + 2)))


@settings(max_examples=35, deadline=None)
@given(
    EXTENTS, EXTENTS, EXTENTS, st.booleans(), st.booleans(), st.sampled_from([(), (2,), (3, 2)]),
    st.sampled_from(TARGET_NAMES), st.sampled_from([float32, float64]),
)  # fmt: skip
def test_products(m: int, n: int, k: int, ta: bool, tb: bool, batch: Shape, target: str, dtype: DType) -> None:
    check(product(m, n, k, ta, tb, batch, dtype), TARGETS[target])


def distances(n: int, m: int, d: int, dtype: DType = float32) -> Nest:
    """Sums of squares of differences: what is squared has a name, so it isn't computed twice."""
    a, b = inputs((n, 1, d), (1, m, d), dtype=dtype)
    apart = elementwise.subtract(a, b)
    return lower(Graph([a, b], [reduction.sum(elementwise.multiply(apart, apart), 2)]), (n, m, d), (0, 1))


@settings(max_examples=25, deadline=None)
@given(EXTENTS, EXTENTS, EXTENTS, st.sampled_from(TARGET_NAMES), st.sampled_from([float32, float64]))
def test_distances(n: int, m: int, d: int, target: str, dtype: DType) -> None:
    check(distances(n, m, d, dtype), TARGETS[target])


def test_distances_are_tiled_like_products() -> None:
    """Many points side by side use each coordinate, and what lanes would have to gather is packed before."""
    kernel = check(distances(300, 32, 16), TARGETS["x86-64-v4"])
    found = [s for s in statements(kernel.body) if isinstance(s, Accumulate)]
    assert max(s.buffer.size for s in found) >= 8 * 16
    assert any(isinstance(s, Alloc) and s.buffer.name.endswith("_packed") for s in statements(kernel.body))


@pytest.mark.parametrize("name", TARGET_NAMES)
@pytest.mark.parametrize(("ta", "tb"), [(False, False), (False, True), (True, False)])
def test_a_product_keeps_its_sums_in_registers(name: str, ta: bool, tb: bool) -> None:
    """Within the loop over k only registers are accumulated, and no more of them than the target has."""
    target = TARGETS[name]
    kernel = check(product(96, 64, 48, ta, tb), target)
    found = [s for s in statements(kernel.body) if isinstance(s, Accumulate)]
    assert found
    for statement in found:
        if statement.buffer.space == "register":
            assert statement.buffer.size <= target.vector_registers * target.lanes(float32)
            assert statement.buffer.size >= 4 * target.lanes(float32)
        else:
            assert statement.buffer.space == "scratch"


@pytest.mark.parametrize(("name", "rows", "columns"), [("x86-64-v4", 14, 32), ("x86-64-v3", 6, 16)])
def test_a_tile_fills_the_registers(name: str, rows: int, columns: int) -> None:
    """All but those of one row of vectors, a broadcast number and one to spare."""
    _, plan = cheapest(analyse(collapse(product(28, 512, 256, False, False)), TARGETS[name]), TARGETS[name])
    assert ([size for _, size in plan.rows], plan.block) == ([rows], columns)


def update(m: int, n: int, k: int, ta: bool) -> Nest:
    """A product that is a gradient, and the optimiser's update of two arrays with it."""
    a, b, moment, weight = inputs((k, m) if ta else (m, k), (k, n), (m, n), (m, n))
    left = make(movement.PERMUTE_DIMS, (a,), {"axes": (1, 0)}) if ta else a
    gradient = make(linalg.MATMUL, (left, b), {})
    new = make(elementwise.ADD, (make(elementwise.MULTIPLY, (moment, moment), {}), gradient), {})
    step = make(elementwise.SUBTRACT, (weight, make(elementwise.MULTIPLY, (new, weight), {})), {})
    return lower(Graph([a, b, moment, weight], [gradient, new, step]), (m, n), (0, 1))


@settings(max_examples=25, deadline=None)
@given(
    st.sampled_from([3, 16, 29, 40]),
    st.sampled_from([5, 16, 33, 70]),
    EXTENTS,
    st.booleans(),
    st.sampled_from(TARGET_NAMES),
)
def test_epilogues_of_many_arrays(m: int, n: int, k: int, ta: bool, name: str) -> None:
    check(update(m, n, k, ta), TARGETS[name], rtol=1e-3)


def test_an_epilogue_of_many_arrays_runs_along_whole_rows() -> None:
    kernel = check(update(40, 112, 24, True), TARGETS["x86-64-v4"])
    assert any("panel" in s.buffer.name for s in statements(kernel.body) if isinstance(s, Store))
    stores = [s for loop in loops(kernel, "vector") for s in loop.body if isinstance(s, Store)]
    assert {s.buffer.name for s in stores if s.buffer.space == "global"} == {"o0", "o1", "o2"}
    assert max(loop.axis.extent for loop in loops(kernel, "vector")) == 112


@pytest.mark.parametrize(("m", "n", "k"), [(0, 3, 4), (3, 0, 4), (3, 4, 0)])
def test_empty_products(m: int, n: int, k: int) -> None:
    check(product(m, n, k, False, False), TARGETS["x86-64-v4"])


def test_an_operand_that_lanes_would_gather_is_packed() -> None:
    kernel = check(product(200, 64, 32, False, True), TARGETS["x86-64-v4"])
    assert any("packed" in s.buffer.name for s in statements(kernel.body) if isinstance(s, Store))


# -------------------------------------------------------------------------------------------- convolutions


def batch_innermost(*shape: int) -> Storage:
    return in_order(shape, (*range(1, len(shape)), 0))


@settings(max_examples=40, deadline=None)
@given(st.data())
def test_convolutions(data: st.DataObject) -> None:
    """Forward, with respect to the input, with respect to the kernel; batch outermost or innermost."""
    n = data.draw(st.sampled_from([1, 2, 16, 17, 32]))
    groups = data.draw(st.sampled_from([1, 1, 2]))
    c, o = groups * data.draw(st.integers(1, 3)), groups * data.draw(st.integers(1, 5))
    kernel = (data.draw(st.integers(1, 3)), data.draw(st.integers(1, 3)))
    size = (data.draw(st.integers(3, 8)), data.draw(st.integers(3, 8)))
    step, low = data.draw(st.integers(1, 2)), data.draw(st.integers(0, 2))
    attrs = {
        "stride": (step, 1), "padding": ((low, 1), (0, low)),
        "lhs_dilation": (1, data.draw(st.integers(1, 2))), "rhs_dilation": (1, 1), "groups": groups,
    }  # fmt: skip
    x, w = inputs((n, c, *size), (o, c // groups, *kernel))
    y = make(convolution.CONV, (x, w), attrs)
    target = TARGETS[data.draw(st.sampled_from(TARGET_NAMES))]
    inner = data.draw(st.booleans())
    storage = [batch_innermost(*x.shape), None, batch_innermost(*y.shape)] if inner else None
    check(lower_node(y, storage=storage), target)


@pytest.mark.parametrize("n", [16, 24])
def test_conditions_stand_outside_of_lanes(n: int) -> None:
    """With the batch in the lanes, padding is decided for a whole tile: no masked load is left."""
    x, w = inputs((n, 3, 6, 6), (4, 3, 3, 3))
    attrs = {"stride": (1, 1), "padding": ((1, 1), (1, 1)), "lhs_dilation": (1, 1), "rhs_dilation": (1, 1), "groups": 1}
    nest = lower_node(
        make(convolution.CONV, (x, w), attrs), storage=[batch_innermost(n, 3, 6, 6), None, batch_innermost(n, 4, 6, 6)]
    )
    kernel = check(nest, TARGETS["x86-64-v4"])
    assert any(isinstance(s, If) for s in statements(kernel.body))
    values = [s.value for s in statements(kernel.body) if isinstance(s, Store | Accumulate)]
    assert all(v.mask is None for v in values if isinstance(v, Load))


@settings(max_examples=30, deadline=None)
@given(st.data())
def test_sums_in_pieces(data: st.DataObject) -> None:
    """A kernel's gradient, summed image by image or row by row, whatever axis stands outside of the pieces."""
    n, c, o = data.draw(st.integers(1, 3)), data.draw(st.integers(2, 5)), data.draw(st.sampled_from([3, 16, 21, 40]))
    size, k = data.draw(st.integers(3, 6)), data.draw(st.integers(1, 3))
    attrs = {"stride": (1, 1), "padding": ((1, 0), (0, 1)), "lhs_dilation": (1, 1), "rhs_dilation": (1, 1), "groups": 1}
    (x,) = inputs((c, n, size, size))
    y = parameter(1, TensorType((o, n, size + 2 - k, size + 2 - k), float32))
    gradient = make(convolution.CONV, (x, y), attrs)
    doubled = make(elementwise.ADD, (gradient, gradient), {})
    storage = [None, batch_innermost(*y.shape), None] if data.draw(st.booleans()) else None
    nest = lower(Graph([x, y], [doubled]), gradient.shape, (0, 1, 2, 3), storage=storage)
    target = TARGETS[data.draw(st.sampled_from(TARGET_NAMES))]
    facts = analyse(collapse(nest), target)
    _, plan = cheapest(facts, target)
    main = facts.stages[0]
    if not splittable(facts, main):
        return
    order = tuple(data.draw(st.permutations(plan.order)))
    axes = [axis for axis in main.stage.axes if axis != plan.stage_lanes[0]]
    pieces = tuple(axes[: data.draw(st.integers(1, len(axes)))])
    outside = data.draw(st.integers(0, len(order) - 1))
    kernel = emit(facts, replace(plan, order=order, packed=None, panel=False, split=Split(pieces, outside)))
    compare(nest, kernel)


@settings(max_examples=25, deadline=None)
@given(
    st.sampled_from([1, 3, 16, 17]), st.integers(1, 3), st.integers(2, 9), st.integers(1, 3), st.integers(1, 3),
    st.booleans(), st.sampled_from(TARGET_NAMES),
)  # fmt: skip
def test_pooling(n: int, c: int, size: int, window: int, stride: int, inner: bool, name: str) -> None:
    window = min(window, size)
    attrs = {
        "window": (window, window), "stride": (stride, stride), "padding": ((0, window // 2), (window // 2, 0)),
        "dilation": (1, 1),
    }  # fmt: skip
    (x,) = inputs((n, c, size, size))
    y = make(pooling.MAX_POOL, (x,), attrs)
    layout = [batch_innermost(*x.shape), batch_innermost(*y.shape)] if inner else None
    check(lower_node(y, storage=layout), TARGETS[name])
    g = parameter(0, y.type)
    x = parameter(1, x.type)
    back = [batch_innermost(*y.shape), *[batch_innermost(*x.shape)] * 2] if inner else None
    check(lower_node(make(pooling.MAX_POOL_SCATTER, (g, x), attrs), storage=back), TARGETS[name])


# ------------------------------------------------------------------------------ elementwise and reductions


@settings(max_examples=30, deadline=None)
@given(
    st.lists(EXTENTS, min_size=0, max_size=3), st.permutations(range(3)), st.sampled_from(TARGET_NAMES),
    st.booleans(),
)  # fmt: skip
def test_elementwise(shape: list[int], axes: list[int], name: str, broadcast: bool) -> None:
    """A transposed operand, and one broadcast along the first axis."""
    axes = [axis for axis in axes if axis < len(shape)]
    turned = tuple(shape[axes.index(i)] for i in range(len(shape)))
    a, b = inputs(tuple(shape), tuple(shape[1:]) if broadcast and shape else tuple(turned))
    if broadcast and shape:
        other = make(movement.BROADCAST_TO, (b,), {"shape": tuple(shape)})
    else:
        inverse = tuple(axes)
        other = make(movement.PERMUTE_DIMS, (b,), {"axes": inverse})
    y = make(elementwise.ADD, (make(elementwise.EXP, (a,), {}), other), {})
    check(lower(Graph([a, b], [y]), tuple(shape), tuple(range(len(shape)))), TARGETS[name])


@settings(max_examples=35, deadline=None)
@given(
    st.lists(EXTENTS, min_size=1, max_size=3), st.data(), st.sampled_from(TARGET_NAMES),
    st.sampled_from(["sum", "max", "argmax", "argmin"]), st.sampled_from([float32, float64, int64]),
)  # fmt: skip
def test_reductions(shape: list[int], data: st.DataObject, name: str, kind: str, dtype: DType) -> None:
    axes = tuple(sorted(data.draw(st.sets(st.integers(0, len(shape) - 1), min_size=1))))
    (x,) = inputs(tuple(shape), dtype=dtype)
    primitive = {p.name: p for p in reduction.PRIMITIVES}[kind]
    check(lower_node(make(primitive, (x,), {"axes": axes, "keepdims": False})), TARGETS[name])


@pytest.mark.parametrize("kind", ["argmax", "argmin"])
@pytest.mark.parametrize("special", [0.0, np.nan, np.inf, -np.inf])
def test_first_of_equal_extremes(kind: str, special: float) -> None:
    """Lanes along the row: the first extreme wins wherever it lies, NaN is extreme, all may be infinite."""
    (x,) = inputs((6, 75))
    nest = lower_node(make({p.name: p for p in reduction.PRIMITIVES}[kind], (x,), {"axes": (1,), "keepdims": False}))
    values = np.zeros((6, 75), np.float32)
    for row, columns in enumerate(([70, 74], [3, 19, 35], [], list(range(75)), [0], [33, 1])):
        values[row, columns] = special
    values[1, 40] = np.inf if kind == "argmax" else -np.inf
    for target in TARGETS.values():
        kernel = schedule_cpu(nest, target)
        assert loops(kernel, "vector")
        found = np.zeros(6, np.int64)
        run(kernel, {"p0": values, "o0": found})
        np.testing.assert_array_equal(found, getattr(np, kind)(values, axis=1))


def row_nest(rows: int, columns: int, transposed: bool) -> Nest:
    """Softmax of each row, with the exponentials kept in a local; the columns of an array if `transposed`."""
    x = Buffer("x", float32, rows * columns)
    y = Buffer("y", float32, rows * columns)
    kept = Buffer("kept", float32, columns, "scratch")
    i, j = Axis("i", rows), Axis("j", columns)
    at = Offset(i + j * rows if transposed else i * columns + j)
    largest, total, scale = Var("largest", float32), Var("total", float32), Var("scale", float32)
    power = Var("power", float32)
    shifted = Call("sub", (Load(x, at), largest), float32)
    return Nest(
        "softmax",
        (x, y),
        (i,),
        (
            Stage((j,), folds=(Fold(largest, "max", Load(x, at)),)),
            Stage(
                (j,),
                lets=(Let(power, Call("exp", (shifted,), float32)),),
                folds=(Fold(total, "sum", power),),
                stores=(Store(kept, Offset(affine(j)), power),),
            ),
            Stage(lets=(Let(scale, Call("div", (Literal(1.0, float32), total), float32)),)),
            Stage((j,), stores=(Store(y, at, Call("mul", (Load(kept, Offset(affine(j))), scale), float32)),)),
        ),
        locals=(kept,),
    )


@settings(max_examples=40, deadline=None)
@given(EXTENTS, EXTENTS, st.booleans(), st.sampled_from(TARGET_NAMES))
def test_rows_of_several_stages(rows: int, columns: int, transposed: bool, name: str) -> None:
    check(row_nest(rows, columns, transposed), TARGETS[name])


def test_rows_that_are_loops_themselves_are_not_written_out() -> None:
    """Of each the largest element is subtracted. Rows are folded side by side, since they share a bias."""
    i, j = Axis("i", 64), Axis("j", 128)
    x, b, y = Buffer("x", float32, 64 * 128), Buffer("b", float32, 128), Buffer("y", float32, 64 * 128)
    at, largest = Offset(i * 128 + j), Var("largest", float32)
    value = Call("add", (Load(x, at), Load(b, Offset(affine(j)))), float32)
    stages = (
        Stage((j,), folds=(Fold(largest, "max", value),)),
        Stage((j,), stores=(Store(y, at, Call("sub", (value, largest), float32)),)),
    )
    nest = Nest("centred", (x, b, y), (i,), stages)
    kernel = schedule_cpu(nest, TARGETS["x86-64-v4"])
    rows = [s for s in statements(kernel.body) if isinstance(s, For) and s.axis.extent > 1 and _stores(s.body, y)]
    assert [loop.kind for loop in rows][-2:] == ["serial", "vector"]
    check(nest, TARGETS["x86-64-v4"])


def _stores(block: Block, buffer: Buffer) -> bool:
    return any(isinstance(s, Store) and s.buffer == buffer for s in statements(block))


@pytest.mark.parametrize("columns", [5000, 20000])
def test_locals_of_a_tile_are_bounded(columns: int) -> None:
    """Each lane has a row of its own in memory: where rows are long, fewer points are worked on at a time."""
    kernel = schedule_cpu(row_nest(64, columns, True), TARGETS["x86-64-v4"])
    verify(kernel)
    kept = [s.buffer for s in statements(kernel.body) if isinstance(s, Alloc) and s.buffer.space == "scratch"]
    assert kept
    assert sum(buffer.size for buffer in kept) * 4 <= 600_000


def test_gather_and_scatter() -> None:
    """Rows picked and rows added to, by numbers in memory: lanes run along the rows."""
    table, index, out = Buffer("table", float32, 5 * 33), Buffer("index", int64, 7), Buffer("out", float32, 7 * 33)
    i, j = Axis("i", 7), Axis("j", 33)
    number = Load(index, Offset(affine(i)))
    gather = Nest(
        "gather", (table, index, out), (i, j),
        (Stage(stores=(Store(out, Offset(i * 33 + j), Load(table, Offset(affine(j), ((number, 33),)))),)),),
    )  # fmt: skip
    clear = Axis("r", 5)
    scatter = Nest(
        "scatter", (table, index, out), (j,),
        (
            Stage((clear,), stores=(Store(table, Offset(clear * 33 + j), Literal(0.0, float32)),)),
            Stage((i,), stores=(
                Accumulate(table, Offset(affine(j), ((number, 33),)), "sum", Load(out, Offset(i * 33 + j))),
            )),
        ),
    )  # fmt: skip
    for target in TARGETS.values():
        assert loops(check(gather, target), "vector")
        assert loops(check(scatter, target), "vector")


# ------------------------------------------------------------------------------------------------- details


@given(st.integers(1, 300), st.integers(1, 40), st.sampled_from([1, 4, 16]), st.booleans())
def test_regions_cover_each_point_once(extent: int, size: int, unit: int, equal: bool) -> None:
    split = regions(extent, size, unit, equal=equal)
    found = [
        point
        for region in split
        for block in range(region.count)
        for point in range(region.start + block * region.size, region.start + (block + 1) * region.size)
    ]
    assert found == list(range(extent))
    assert all(region.size <= max(size, unit) for region in split)
    if not equal:
        first, *last = split
        assert [region.count for region in last] in ([], [1])
        assert all(region.size < first.size for region in last)
        assert first.size % unit == 0 or not last


@pytest.mark.parametrize("extent", [100_000, 65_536])
def test_work_abreast_is_written_out_once(extent: int) -> None:
    """Blocks of one size; a shorter one at the end goes vector by vector."""
    (x,) = inputs((extent,))
    y: Any = x
    for _ in range(3):
        y = elementwise.exp(elementwise.sin(y))
    kernel = check(lower_node(y), TARGETS["x86-64-v4"])
    widths = [loop.width for loop in loops(kernel, "vector")]
    assert widths[0] > 16
    assert widths[1:] == ([] if extent == 65_536 else [16])


def test_large_work_is_shared_and_small_is_not() -> None:
    for shape, shared in (((8,), False), ((1000, 1000), True), ((1_000_000,), True)):
        (x,) = inputs(shape)
        kernel = schedule_cpu(lower_node(make(elementwise.EXP, (x,), {})), TARGETS["x86-64-v3"])
        verify(kernel)
        parallel = loops(kernel, "parallel")
        assert bool(parallel) == shared
        assert all(loop.axis.extent >= 8 for loop in parallel)


def test_masks_of_single_lanes_stay() -> None:
    """A mask that differs from lane to lane is kept; one that always holds is dropped."""
    i, j = Axis("i", 3), Axis("j", 40)
    x, y = Buffer("x", float32, 120), Buffer("y", float32, 120)
    some = Call("lt", (Index(affine(j)), Literal(33, int64)), bool_)
    always = Call("ge", (Index(affine(j)), Literal(0, int64)), bool_)
    at = Offset(i * 40 + j)
    nest = Nest(
        "masks", (x, y), (i, j), (Stage(stores=(Store(y, at, Load(x, at, some, 7.0), always),)),)
    )  # fmt: skip
    kernel = check(nest, TARGETS["x86-64-v3"])
    stores = [s for s in statements(kernel.body) if isinstance(s, Store)]
    assert all(store.mask is None and isinstance(store.value, Load) for store in stores)
    # of four vectors side by side, where it always holds, and of the one that is left
    assert [store.value.mask is None for store in stores] == [True, False]


@given(st.integers(1, 300), st.sampled_from(TARGET_NAMES))
@settings(max_examples=40, deadline=None)
def test_vectors_of_elements_are_worked_on_abreast(extent: int, name: str) -> None:
    """Four at a time, or two, then one by one: each point once, whatever is left over."""
    (x,) = inputs((extent,))
    kernel = check(lower_node(make(elementwise.EXP, (x,), {})), TARGETS[name])
    lanes = TARGETS[name].lanes(float32)
    abreast = next((n for n in (4, 2) if n * lanes <= extent), 1)
    widths = [abreast * lanes, *[lanes] * (abreast > 1 and extent % (abreast * lanes) > 0)]
    assert [loop.width for loop in loops(kernel, "vector")] == (widths if extent > 1 else [])


def test_an_axis_taken_whole_is_one_region() -> None:
    assert regions(1037, 1037, 16) == [Region(1, 1037, 0)]


def test_only_what_lies_side_by_side_is_worked_on_abreast() -> None:
    """Gathered lanes, and code too long to be repeated, go one vector at a time."""
    x, y = inputs((64, 64), (64, 64))
    transposed = lower_node(make(movement.PERMUTE_DIMS, (x,), {"axes": (1, 0)}))
    long = x
    for _ in range(30):
        long = elementwise.power(elementwise.abs(long), y)
    for nest in (transposed, lower(Graph([x, y], [long]), (64, 64), (0, 1), "long")):
        widths = {loop.width for loop in loops(check(nest, TARGETS["x86-64-v3"]), "vector")}
        assert widths == {8}


def test_pieces_of_equal_size_need_one_piece_of_code() -> None:
    (x,) = inputs((1_000_000,))
    kernel = schedule_cpu(lower_node(make(elementwise.EXP, (x,), {})), TARGETS["x86-64-v4"])
    assert not any(isinstance(s, If) for s in statements(kernel.body))
