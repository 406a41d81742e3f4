"""Products of matrices whose depth is taken in pieces, and operands packed by squares."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from graphc.ir.expr import Axis, Call, affine
from graphc.runtime.cpu.target import TARGETS
from graphc.runtime.cpu.transpose import turned
from graphc.runtime.loop.ir import Buffer, For, Kernel, Load, Offset, Store, Var
from graphc.runtime.loop.nest import Fold, Nest, Stage
from graphc.runtime.loop.schedule.choose import Plan, candidates, cheapest
from graphc.runtime.loop.schedule.collapse import collapse
from graphc.runtime.loop.schedule.cost import analyse
from graphc.runtime.loop.schedule.cpu import schedule_cpu
from graphc.runtime.loop.schedule.emit import emit
from graphc.runtime.loop.schedule.registers import register_tiles
from graphc.runtime.loop.schedule.split import Split
from graphc.types import DType, float32, float64

from .test_schedule import TARGET_NAMES, compare, loops, product

V4 = TARGETS["x86-64-v4"]


@settings(max_examples=40, deadline=None)
@given(st.data())
def test_depth_in_pieces(data: st.DataObject) -> None:
    """Whatever the size of the pieces, with operands packed piece by piece or not, and lanes along rows or depth."""
    m, n = (data.draw(st.sampled_from([2, 5, 16, 19, 33])) for _ in "mn")
    k = data.draw(st.sampled_from([6, 16, 31, 50, 67]))
    dtype = data.draw(st.sampled_from([float32, float64]))
    target = TARGETS[data.draw(st.sampled_from(TARGET_NAMES))]
    nest = product(m, n, k, data.draw(st.booleans()), data.draw(st.booleans()), dtype=dtype)
    facts = analyse(collapse(nest), target)
    _, plan = cheapest(facts, target)
    depth = facts.stages[0].stage.axes[0]
    if data.draw(st.booleans()):  # lanes along the depth
        block = data.draw(st.sampled_from([1, 2])) * facts.width
        plan = replace(plan, lanes=None, stage_lanes=(depth, None), block=block, rows=(), packed=None, panel=False)
    chunk = data.draw(st.integers(1, k - 1))
    if plan.lanes is None and chunk >= facts.width:
        chunk = chunk // facts.width * facts.width
    order = tuple(sorted(plan.order, key=lambda axis: axis != (plan.lanes or plan.order[0])))
    split = Split((depth,), 1, max(chunk, plan.block if plan.lanes is None else 1))
    compare(nest, emit(facts, replace(plan, order=order, panel=False, split=split)))


def chosen(m: int, n: int, k: int, ta: bool, tb: bool) -> Plan:
    return cheapest(analyse(collapse(product(m, n, k, ta, tb)), V4), V4)[1]


def test_a_deep_product_is_taken_in_pieces_and_a_shallow_one_is_not() -> None:
    deep = chosen(128, 128, 5000, False, False)
    assert deep.split is not None
    assert 128 <= deep.split.chunk < 5000
    assert chosen(128, 128, 128, False, False).split is None


def test_a_very_deep_one_is_taken_in_short_pieces_by_wide_tiles() -> None:
    plan = chosen(1024, 256, 4096, False, False)
    assert plan.split is not None
    assert plan.split.chunk < 256
    assert plan.block >= 4 * V4.lanes(float32)


def test_an_operand_of_very_many_rows_is_copied_to_where_vectors_start() -> None:
    """An argument of a call starts anywhere, so its vectors cross lines; for few rows that costs less than a copy."""
    many, few = chosen(1024, 256, 2048, False, False), chosen(32, 256, 2048, False, False)
    assert few.packed is None
    assert many.packed is not None
    assert many.lanes is not None
    assert many.packed.at.coefficient(many.lanes) == 1


@settings(max_examples=25, deadline=None)
@given(st.data())
def test_rows_that_lie_in_order_may_be_packed_too(data: st.DataObject) -> None:
    m, n, k = (data.draw(st.sampled_from([5, 16, 19, 33])) for _ in "mnk")
    target = TARGETS[data.draw(st.sampled_from(TARGET_NAMES))]
    nest = product(m, n, k, False, False)
    facts = analyse(collapse(nest), target)
    rows, lanes = facts.nest.outer
    right = next(load for load in facts.stages[0].fold_loads if load.at.coefficient(lanes) == 1)
    depth = facts.stages[0].stage.axes[0]
    split = Split((depth,), 1, data.draw(st.integers(1, k - 1))) if data.draw(st.booleans()) else None
    _, plan = cheapest(facts, target)
    block = data.draw(st.sampled_from([1, 2])) * facts.width
    plan = replace(plan, lanes=lanes, stage_lanes=(None, None), block=block, rows=((rows, 3),), order=(lanes, rows))
    compare(nest, emit(facts, replace(plan, packed=right, panel=False, split=split)))


def squares(kernel: Kernel) -> list[For]:
    return [loop for loop in loops(kernel, "vector") if turned(loop) is not None]


@pytest.mark.parametrize("name", TARGET_NAMES)
@pytest.mark.parametrize("k", [35, 64])
def test_an_operand_is_packed_by_squares(name: str, k: int) -> None:
    nest = product(96, 64, k, False, True)
    kernel = schedule_cpu(nest, TARGETS[name])
    compare(nest, kernel)
    assert squares(kernel)


@pytest.mark.parametrize("name", TARGET_NAMES)
@pytest.mark.parametrize("dtype", [float32, float64])
def test_lanes_of_many_rows_are_folded(name: str, dtype: DType) -> None:
    """Lanes along the depth, a remainder among them, for more rows than fill a register."""
    nest = product(10, 10, 45, False, True, dtype=dtype)
    facts = analyse(collapse(nest), TARGETS[name])
    depth = facts.stages[0].stage.axes[0]
    rows = tuple((axis, 5) for axis in facts.nest.outer)
    _, plan = cheapest(facts, TARGETS[name])
    plan = replace(plan, lanes=None, stage_lanes=(depth, None), block=facts.width, rows=rows, packed=None, panel=False)
    compare(nest, emit(facts, replace(plan, split=None)))


@settings(max_examples=40, deadline=None)
@given(
    st.integers(1, 300), st.integers(1, 300), st.integers(1, 300), st.booleans(), st.booleans(),
    st.sampled_from(TARGET_NAMES),
)  # fmt: skip
def test_the_cheapest_plan_is_that_of_all(m: int, n: int, k: int, ta: bool, tb: bool, name: str) -> None:
    """Plans that are passed over, for what they cost without memory, are none that would have been chosen."""
    facts = analyse(collapse(product(m, n, k, ta, tb)), TARGETS[name])
    assert cheapest(facts, TARGETS[name]) == min(candidates(facts, TARGETS[name]), key=lambda found: found[0])


def test_little_work_is_one_size_of_tiles() -> None:
    """Where a kernel is soon over, the time to fetch its code counts: rows are cut evenly. Of much work they aren't."""

    def uneven(rows: int, points: int) -> bool:
        i, j = Axis("i", rows), Axis("j", points)
        x, b = Buffer("x", float32, rows * points), Buffer("b", float32, points)
        value = Call("add", (Load(x, Offset(i * points + j)), Load(b, Offset(affine(j)))), float32)
        fold, most = Fold(Var("f0", float32), "max", value), Buffer("o0", float32, rows)
        stages = (Stage((j,), folds=(fold,)), Stage(stores=(Store(most, Offset(affine(i)), fold.var),)))
        nest = Nest("extremes", (x, b, most), (i,), stages)
        first = analyse(collapse(nest), V4).stages[0]
        _, _, chosen = register_tiles(first, (i,), j, None, 16, V4)[0]
        return any(axis.extent % size for axis, size in chosen)

    assert not uneven(64, 10)
    assert uneven(64, 100_000)
