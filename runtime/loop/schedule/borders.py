"""Where an axis is cut so that conditions on it are decided: a stencil's interior has none, its border has few points.

What pads, joins or overwrites a part of an array is written with conditions on indices. Each holds on one side of a
point of its axis; between such points it needn't be asked. The code for a kernel's elements is written out for each
piece, so only small code is, and only where most of an axis lies in pieces that are rid of their conditions: one
interior, or some long parts, as those of arrays that are joined, each of which is then read without being chosen.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator
from itertools import pairwise
from math import prod
from typing import TypeAlias

from graphc.ir.expr import Axis, Call, Index, Literal
from graphc.runtime.loop.ir import Load
from graphc.runtime.loop.nest import Nest

from .rewrite import TRUE, decided, expressions, parts

Pieces: TypeAlias = tuple[tuple[int, int], ...]

MOST_CODE = 1200  # calls and loads over all pieces
MOST_PIECES = 5  # that no border goes through
SHARE = 0.75  # of an axis that must be rid of conditions, in one piece or in long ones
LONG = 16  # points of a piece


def pieces(nest: Nest, lanes: Axis | None, width: int) -> dict[Axis, Pieces]:
    """The axes to cut, each with its pieces (first, past last), in order. lanes: the axis of vectors of `width`."""
    if any(stage.axes for stage in nest.stages):
        return {}  # folds choose their tiles by conditions of their own
    every = [part for stage in nest.stages for expr in expressions(stage) for part in parts(expr)]
    code = sum(isinstance(part, Call | Load) for part in every)
    conditions = [part for part in every if isinstance(part, Call) and part.op in ("ge", "gt", "le", "lt")]
    found: dict[Axis, Pieces] = {}
    for axis in sorted(nest.outer, key=lambda a: (a != lanes, -a.extent)):
        cut = _cut(axis, set(_borders(axis, conditions)), width if axis == lanes else 1)
        if len(cut) > 1 and code * len(cut) * prod(map(len, found.values())) <= MOST_CODE:
            found[axis] = cut
    return found


def _borders(axis: Axis, conditions: list[Call]) -> Iterator[int]:
    """The points of an axis from which on a comparison with a number comes out differently."""
    for condition in conditions:
        match condition:
            case Call(op, (Index(at), Literal(value=int(bound)))) if len(at.terms) == 1 and at.terms[0][0] == axis:
                (_, step), const = at.terms[0], at.const

                def holds(i: int, op: str = op, step: int = step, const: int = const, bound: int = bound) -> bool:
                    value = step * i + const
                    return decided(op, value, value, bound) == TRUE

                first = holds(0)
                border = bisect_left(range(axis.extent), True, key=lambda i: holds(i) != first)
                if 0 < border < axis.extent:
                    yield border


def _cut(axis: Axis, borders: set[int], unit: int) -> Pieces:
    """The axis in pieces of whole vectors: those that a border goes through stand alone. One piece if it isn't
    worth while."""
    edges = {0, axis.extent}
    for border in borders:
        edges |= {border // unit * unit, min(-(-border // unit) * unit, axis.extent)}
    cut = tuple(pairwise(sorted(edges)))
    free = [high - low for low, high in cut if not any(low < border < high for border in borders)]
    long = max((sum(size for size in free if size >= LONG), *free))
    return cut if len(free) <= MOST_PIECES and long >= SHARE * axis.extent else ((0, axis.extent),)
