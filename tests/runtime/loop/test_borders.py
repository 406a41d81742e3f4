"""Axes are cut where conditions change, by whole vectors along the lanes; folds and bulky code are left whole."""

from __future__ import annotations

import pytest

from graphc.ir.expr import Axis, Index, Literal, affine, call
from graphc.runtime.loop.ir import Buffer, Expr, Load, Offset, Store, Var
from graphc.runtime.loop.nest import Fold, Nest, Stage
from graphc.runtime.loop.schedule.borders import MOST_CODE, pieces
from graphc.types import float32, int64

ROW, LANE = Axis("i", 100), Axis("j", 130)
FROM, TO = Buffer("p0", float32, 13_000), Buffer("o0", float32, 13_000)
AT = Offset(ROW * 130 + LANE)


def condition(op: str, at: object, bound: int) -> Expr:
    return call(op, Index(affine(at)), Literal(bound, int64))  # type: ignore[arg-type]


def nest(*conditions: Expr, size: int = 1) -> Nest:
    value: Expr = Load(FROM, AT)
    for mask in conditions:
        value = call("select", mask, value, Literal(0.0, float32))
    for _ in range(size - 1):
        value = call("neg", value)
    return Nest("k", (FROM, TO), (ROW, LANE), (Stage(stores=(Store(TO, AT, value),)),))


@pytest.mark.parametrize(
    ("op", "at", "bound", "border"),
    [
        ("ge", ROW - 3, 0, 3),
        ("lt", ROW - 3, 0, 3),
        ("gt", ROW - 3, 0, 4),
        ("le", ROW - 3, 0, 4),
        ("lt", ROW, 97, 97),
        ("ge", ROW * 3 - 7, 0, 3),
        ("ge", affine(95) - ROW, 0, 96),
        ("lt", affine(4) - ROW * 2, 0, 3),
    ],
)
def test_a_border_is_where_the_condition_changes(op: str, at: object, bound: int, border: int) -> None:
    assert pieces(nest(condition(op, at, bound)), LANE, 16) == {ROW: ((0, border), (border, 100))}


def test_lanes_are_cut_by_whole_vectors() -> None:
    found = pieces(
        nest(condition("ge", LANE - 1, 0), condition("lt", LANE - 1, 127), condition("ge", LANE - 16, 0)), LANE, 16
    )
    assert found == {LANE: ((0, 16), (16, 128), (128, 130))}


def test_conditions_that_are_no_border_cut_nothing() -> None:
    assert pieces(nest(condition("ge", ROW, 0)), LANE, 16) == {}  # always
    assert pieces(nest(condition("ge", ROW + LANE, 1)), LANE, 16) == {}  # two axes
    assert pieces(nest(condition("eq", ROW, 1)), LANE, 16) == {}


def test_long_parts_are_cut_apart_and_short_ones_are_not() -> None:
    halves = nest(condition("ge", ROW, 50), condition("lt", LANE, 64))
    assert pieces(halves, LANE, 16) == {ROW: ((0, 50), (50, 100)), LANE: ((0, 64), (64, 130))}
    thirds = nest(condition("ge", ROW, 30), condition("ge", ROW, 70))
    assert pieces(thirds, LANE, 16) == {ROW: ((0, 30), (30, 70), (70, 100))}
    short = nest(*(condition("ge", ROW, bound) for bound in (10, 20, 50)))
    assert pieces(short, LANE, 16) == {ROW: ((0, 10), (10, 20), (20, 50), (50, 100))}  # 80 points in long ones
    shorter = nest(*(condition("ge", ROW, bound) for bound in (12, 24, 36)))
    assert pieces(shorter, LANE, 16) == {}  # 64
    crossed = nest(condition("ge", LANE, 40), condition("ge", LANE, 90))
    assert pieces(crossed, LANE, 16) == {LANE: ((0, 32), (32, 48), (48, 80), (80, 96), (96, 130))}
    assert pieces(crossed, LANE, 64) == {}  # a border goes through most of it
    many = nest(*(condition("ge", ROW, bound) for bound in range(1, 8)))
    assert pieces(many, LANE, 16) == {}  # 93 points in a row, but eight pieces


def test_lanes_first_and_never_much_code() -> None:
    both = (condition("ge", ROW - 1, 0), condition("lt", ROW, 99), condition("ge", LANE - 1, 0))
    assert set(pieces(nest(*both), LANE, 16)) == {ROW, LANE}
    assert set(pieces(nest(*both, size=MOST_CODE // 4), LANE, 16)) == {LANE}
    assert pieces(nest(*both, size=MOST_CODE), LANE, 16) == {}


def test_folds_are_left_whole() -> None:
    fold = Fold(Var("f0", float32), "sum", Load(FROM, AT, condition("ge", ROW - 1, 0)))
    rows = Nest("k", (FROM, TO), (ROW,), (Stage((LANE,), folds=(fold,)),))
    assert pieces(rows, None, 16) == {}
