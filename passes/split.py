"""Reductions of much to little, in two steps: sum(x) of a million elements is the sum of 64 sums.

A kernel runs its outer points in parallel and folds for each of them; a loss has one point, so one thread would read
everything. The first step folds parts of the array, the second folds the parts. Float sums are rounded in another
order by that, with a smaller bound on the error.

Sums down the columns of a large array have points enough, but a thread that took some columns would read a piece of
every row. So here, too, each part is a run of rows, read from its start to its end. Columns that are fewer than a
vector has lanes are folded several rows at a time.
"""

from __future__ import annotations

import math
from functools import partial

from graphc.dispatch import apply
from graphc.ir.graph import Graph
from graphc.ir.node import Node
from graphc.ir.rewrite import Rule, rewrite
from graphc.ops.movement import reshape
from graphc.ops.reduction import MAX, MIN, SUM
from graphc.primitive import Primitive
from graphc.types import Shape

from .access import Accesses
from .groups import FEW_POINTS

MUCH = 1 << 15  # elements from which on one thread is too few
PARTS = 4  # times few_points: how many results the first step has at least, so that threads end together
LEAST_PART = 256  # elements that one of them folds
LINE = 16  # elements: a cache line or two

LARGE = 1 << 22  # bytes of an array whose columns are folded in parts: more than second-level caches hold
RUNS = (32, 64)  # at least and at most so many parts
LEAST_ROWS = 16  # that one of them folds
ABREAST = 64  # elements of neighbouring rows that are folded side by side where rows are short
SHORT = 16  # elements of a row

_FOLDS: dict[str, Primitive] = {"sum": SUM, "max": MAX, "min": MIN}


def split_rule(few_points: int = FEW_POINTS) -> Rule:
    """The rule for one graph: it remembers how that graph's nodes read their operands."""
    return Rule(
        "split reduction",
        partial(_split, access=Accesses(), few_points=few_points),
        "parts of a large reduction run in parallel; a float sum is rounded in another order",
        exact=False,
    )


def split_reductions(graph: Graph, few_points: int = FEW_POINTS) -> Graph:
    """The graph with every large reduction to fewer than few_points results, or of columns, done in two steps."""
    return rewrite(graph, (split_rule(few_points),))


def _split(node: Node, access: Accesses, few_points: int) -> Node | None:
    if node.op.body is None or sum(x.type.size for x in node.inputs) < MUCH:
        return None
    own = access(node)
    if own.regular is None or own.compute.reducer not in _FOLDS:
        return None
    (operand,) = node.inputs
    shape, kept = own.regular
    rows = _rows(shape, kept)
    if rows is not None and operand.type.nbytes >= LARGE:
        return _columns(operand, _FOLDS[own.compute.reducer], *rows, node.shape)
    if node.type.size >= few_points:
        return None
    found = _cut([(d, n) for d, n in enumerate(shape) if d not in kept], node.type.size, few_points)
    if found is None:
        return None
    axis, parts = found
    fold = _FOLDS[own.compute.reducer]
    x = reshape(operand, (*shape[:axis], parts, shape[axis] // parts, *shape[axis + 1 :]))
    inner = tuple(d + (d > axis) for d in range(len(shape)) if d not in kept and d != axis)
    some = apply(fold, x, axes=tuple(sorted((*inner, axis + 1))), keepdims=False)
    at = sum(d < axis for d in kept)
    result: Node = reshape(apply(fold, some, axes=(at,), keepdims=False), node.shape)
    return result


def _rows(shape: Shape, kept: tuple[int, ...]) -> tuple[int, int] | None:
    """(rows, columns) of an operand whose first dimensions are folded and whose last ones are kept; else None."""
    folded = len(shape) - len(kept)
    if not 0 < folded < len(shape) or kept != tuple(range(folded, len(shape))):
        return None
    return math.prod(shape[:folded]), math.prod(shape[folded:])


def _columns(operand: Node, fold: Primitive, rows: int, columns: int, shape: Shape) -> Node | None:
    """The fold of each column: of runs of rows, then of these."""
    abreast = 1
    while columns * abreast * 2 <= ABREAST and columns < SHORT and rows % (abreast * 2) == 0:
        abreast *= 2
    least, most = RUNS
    whole = rows // abreast
    parts = next((n for n in range(least, most + 1) if whole % n == 0 and whole // n >= LEAST_ROWS), None)
    if parts is None:
        return None
    x = reshape(operand, (parts, whole // parts, abreast * columns))
    some = apply(fold, x, axes=(1,), keepdims=False)
    together = reshape(some, (parts * abreast, columns))
    result: Node = reshape(apply(fold, together, axes=(0,), keepdims=False), shape)
    return result


def _cut(reduced: list[tuple[int, int]], results: int, few_points: int) -> tuple[int, int] | None:
    """(dimension, number of parts): the fewest parts that make enough results, of the outermost dimension that can.

    Up to twice as many are taken to have parts of whole cache lines: the vectors of each lie on their boundaries then.
    """
    size = math.prod(n for _, n in reduced)
    for axis, extent in reduced:
        least = 0
        for parts in range(-(-PARTS * few_points // results), extent + 1):
            if size // parts < LEAST_PART or (least and parts > 2 * least):
                break
            if extent % parts == 0:
                least = least or parts
                if size // parts % LINE == 0:
                    return axis, parts
        if least:
            return axis, least
    return None
