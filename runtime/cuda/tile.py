"""Register tiles: a thread that computes several results of a contraction loads each factor once for a row of them.

The results of a tile lie a fraction of the axis apart, not side by side: result i of an axis of extent n cut in t is
number i * (n / t) + position. So neighbouring threads still touch neighbouring elements.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import product
from typing import Any

from graphc.frozen import dataclass
from graphc.ir.expr import Affine, Axis, Call, Index, Literal, call
from graphc.runtime.loop.ir import Accumulate, Alloc, Block, Buffer, For, Kernel, Let, Load, Offset, Stmt, Store, Var
from graphc.runtime.loop.naive import identity
from graphc.runtime.loop.nest import Fold, Nest, Stage, contraction
from graphc.runtime.loop.schedule.rewrite import Rewriter

SIDES = (1, 2, 3, 4, 5, 8)
RESULTS = 32  # of a thread, at most: each is a register


@dataclass(frozen=True, slots=True)
class Tile:
    """rows: the outer axis that only the first factor depends on, cut in `row_count`; columns: that of the second."""

    rows: Axis | None
    row_count: int
    columns: Axis | None
    column_count: int

    @property
    def results(self) -> int:
        return self.row_count * self.column_count


def tiles(nest: Nest) -> Iterator[Tile]:
    """Every tile that `nest` can be cut into; none if it isn't one contraction with stages around it."""
    found = single_contraction(nest)
    if found is None:
        return
    _, a, b = found
    first = [axis for axis in nest.outer if _mentions(a, axis) and not _mentions(b, axis)]
    second = [axis for axis in nest.outer if _mentions(b, axis) and not _mentions(a, axis)]
    for rows, columns in product(_cuts(first), _cuts(second)):
        tile = Tile(*rows, *columns)
        if 1 < tile.results <= RESULTS:
            yield tile


def _cuts(axes: list[Axis]) -> list[tuple[Axis | None, int]]:
    return [(None, 1), *((axis, n) for axis in axes for n in SIDES if n > 1 and axis.extent % n == 0)]


def single_contraction(nest: Nest) -> tuple[Fold, Load, Load] | None:
    """The contraction of a nest whose only loop it is; what surrounds it is done once for each outer point."""
    looping = [stage for stage in nest.stages if stage.axes]
    if len(looping) != 1 or nest.locals or any(stage.folds for stage in nest.stages if stage is not looping[0]):
        return None
    if any(isinstance(store, Accumulate) for stage in nest.stages for store in stage.stores):
        return None
    return contraction(looping[0])


def _mentions(value: Any, axis: Axis) -> bool:
    match value:
        case Index(at):
            return bool(at.coefficient(axis))
        case Load(_, Offset(at, dynamic), mask, _):
            parts = [e for e, _ in dynamic] + ([mask] if mask is not None else [])
            return bool(at.coefficient(axis)) or any(_mentions(e, axis) for e in parts)
        case Call(_, args, _):
            return any(_mentions(e, axis) for e in args)
        case Var():
            return True  # it may be bound to anything
        case _:
            return False


def tiled(nest: Nest, tile: Tile) -> Kernel:
    """`nest` by threads that compute a tile each."""
    cut = {axis: n for axis, n in ((tile.rows, tile.row_count), (tile.columns, tile.column_count)) if axis is not None}
    outer = tuple(Axis(axis.name, axis.extent // cut.get(axis, 1)) for axis in nest.outer)
    points = [_Point(tile, i, j) for i in range(tile.row_count) for j in range(tile.column_count)]
    body: Block = ()
    for stage in nest.stages:
        found = contraction(stage)
        if found is None:
            body += tuple(statement for point in points for statement in point.statements(stage))
        else:
            body += _contraction(stage, *found, points)
    for axis in reversed(outer):
        body = (For(axis, "parallel", body),)
    return Kernel(nest.name, nest.params, body, nest.inplace)


class _Point:
    """One result of the tile: what its axes are, and the names of its own variables."""

    def __init__(self, tile: Tile, i: int, j: int) -> None:
        self.suffix = f"_{i}_{j}"
        self.row, self.column = f"_{i}", f"_{j}"
        self.number = i * tile.column_count + j
        axes = {}
        for axis, count, k in ((tile.rows, tile.row_count, i), (tile.columns, tile.column_count, j)):
            if axis is not None:
                part = Axis(axis.name, axis.extent // count)
                axes[axis.name] = Affine(((part, 1),), k * part.extent)
        self.rewriter = Rewriter(axes=axes, variables={})

    def bind(self, var: Var) -> Var:
        """The point's own version of a variable."""
        own = Var(var.name + self.suffix, var.dtype)
        self.rewriter = Rewriter(self.rewriter.axes, {**self.rewriter.variables, var.name: own})
        return own

    def statements(self, stage: Stage) -> Iterator[Stmt]:
        """A stage without axes, at this point."""
        for let in stage.lets:
            value = self.rewriter.expr(let.value)
            yield Let(self.bind(let.var), value)
        yield from (self.rewriter.check(check) for check in stage.checks)
        for store in stage.stores:
            new = self.rewriter.store(store)
            if new is not None:
                yield new


def _contraction(stage: Stage, fold: Fold, a: Load, b: Load, points: list[_Point]) -> Block:
    sums = Buffer(f"{fold.var.name}_sums", fold.value.dtype, len(points), "register")
    zero = identity("sum", fold.value.dtype)
    assert isinstance(zero, Literal)
    before: Block = (Alloc(sums), *(Store(sums, Offset(Affine((), p.number)), zero) for p in points))
    inside: list[Stmt] = []
    factors: dict[str, Var] = {}
    for point in points:
        operands = []
        for load, side in ((a, "a" + point.row), (b, "b" + point.column)):
            if side not in factors:
                factors[side] = Var(f"{fold.var.name}_{side}", load.dtype)
                inside.append(Let(factors[side], point.rewriter.expr(load)))
            operands.append(factors[side])
        inside.append(Accumulate(sums, Offset(Affine((), point.number)), "sum", call("mul", *operands)))
    body: Block = tuple(inside)
    for axis in reversed(stage.axes):
        body = (For(axis, "serial", body),)
    after = tuple(Let(p.bind(fold.var), Load(sums, Offset(Affine((), p.number)))) for p in points)
    return before + body + after
