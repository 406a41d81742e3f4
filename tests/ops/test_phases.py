"""phased(): every solution of the windows' equation is visited exactly once, by affine loops where that is possible."""

from __future__ import annotations

import itertools
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from graphc.ir.expr import Affine, Axis, Call, Index, Literal
from graphc.ops.phases import phased

PYTHON: dict[str, Any] = {
    "and": lambda a, b: a and b,
    "eq": lambda a, b: a == b,
    "ge": lambda a, b: a >= b,
    "lt": lambda a, b: a < b,
    "mod": lambda a, b: a % b,
    "floordiv": lambda a, b: a // b,
}


def value(expr: Any, at: dict[Axis, int]) -> Any:
    match expr:
        case None:
            return True
        case Affine(terms, const):
            return const + sum(at[axis] * c for axis, c in terms)
        case Index(inner):
            return value(inner, at)
        case Literal(number, _):
            return number
        case Call(op, args, _):
            return PYTHON[op](*(value(a, at) for a in args))
    raise AssertionError(expr)


small = st.integers(1, 5)


@settings(max_examples=500, deadline=None)
@given(st.integers(1, 9), small, small, small, st.integers(-3, 3).filter(bool), st.integers(-6, 8), small)
def test_visits_each_solution_once(
    positions: int, taps: int, extent: int, step: int, reach: int, start: int, every: int
) -> None:
    found = phased("0", positions, taps, extent, step=step, reach=reach, start=start, every=every)
    axes = (*found.axes, *found.taps)
    visited = []
    for point in itertools.product(*(range(a.extent) for a in axes)):
        at = dict(zip(axes, point, strict=True))
        if value(found.solvable, at) and value(found.inside, at):
            visited.append(tuple(value(v, at) for v in (found.position, found.tap, found.index)))
    wanted = [
        (p, k, (step * p + reach * k - start) // every)
        for p in range(positions)
        for k in range(taps)
        if (step * p + reach * k - start) % every == 0 and 0 <= step * p + reach * k - start < every * extent
    ]
    assert sorted(visited) == sorted(wanted)
    points = itertools.product(*(range(a.extent) for a in found.axes))
    targets = [value(found.position, dict(zip(found.axes, point, strict=True))) for point in points]
    assert sorted(targets) == list(range(positions))


def test_windows_side_by_side_need_no_taps_and_no_conditions() -> None:
    found = phased("0", 10, 2, 5, step=1, reach=-1, start=0, every=2)
    assert found.taps == ()
    assert (found.solvable, found.inside) == (None, None)
    assert isinstance(found.index, Affine)
