"""Squares of registers, transposed: what lies in memory along a row of a tile, and not along its lanes.

Lanes would gather or scatter such elements one by one. Read (or written) along the row instead, each register holds
the neighbours of one lane, and one load with the stride of a register puts a lane into each place.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace

from graphc.ir.expr import Axis
from graphc.runtime.cpu.target import APART
from graphc.runtime.loop.ir import Alloc, Block, Buffer, Check, Expr, Let, Load, Offset, Stmt, Store, Var

from .cost import LEAST_TURNED
from .rewrite import loads, parts, replaced
from .tile import Tile


def turned(body: Block, tile: Tile) -> Block | None:
    """The statements of `body`, which are Lets, Checks and Stores for one point, at all points of a tile with rows and
    lanes; None if nothing lies so that transposing it helps."""
    if tile.lanes is None or any(not isinstance(s, Let | Check | Store) for s in body):
        return None
    written = {s.buffer.name for s in body if isinstance(s, Store)}
    reads = {load: None for s in body for e in _values(s) for load in loads(e)}
    if any(load.buffer.name in written for load in reads):
        return None
    before: Block = ()
    instead: dict[Expr, Expr] = {}
    for load in reads:
        row = _row(load, tile)
        if row is not None:
            square = Tile((*(axis for axis in tile.rows if axis != row), tile.lanes), row, tile.width)
            held = Buffer(f"turned{len(instead)}", load.dtype, square.size, "register")
            at = Offset(square.offset())
            before += (Alloc(held), *square.over((Store(held, at, load),)))
            instead[load] = Load(held, at)
    after: Block = ()
    inside: list[Stmt] = []
    for number, statement in enumerate(body):
        row = _row(statement, tile) if isinstance(statement, Store) else None
        if not isinstance(statement, Store) or row is None:
            inside.append(_with(statement, instead))
            continue
        at = Offset(tile.offset())
        value = replaced(statement.value, instead)
        if not (isinstance(value, Load) and value.buffer.space == "register" and value.offset == at):
            kept = Buffer(f"turning{number}", value.dtype, tile.size, "register")
            before += (Alloc(kept),)
            inside.append(Store(kept, at, value))
            value = Load(kept, at)
        square = Tile((*(axis for axis in tile.rows if axis != row), tile.lanes), row, tile.width)
        after += square.over((replace(statement, value=value),))
    if not instead and not after:
        return None
    return before + (tile.over(tuple(inside)) if inside else ()) + after


def _row(access: Load | Store, tile: Tile) -> Axis | None:
    """The row of the tile along which the access walks memory, if the lanes don't."""
    assert tile.lanes is not None
    at = access.offset
    if at.dynamic or access.buffer.space == "register" or at.affine.coefficient(tile.lanes) in (0, 1):
        return None
    if access.mask is not None and any(isinstance(part, Var | Load) for part in parts(access.mask)):
        return None
    rows = (r for r in tile.rows if r.extent >= LEAST_TURNED and 0 < at.affine.coefficient(r) <= APART)
    return next(rows, None)


def _values(statement: Stmt) -> Iterator[Expr]:
    match statement:
        case Let(value=value):
            yield value
        case Check(condition=condition):
            yield condition
        case Store(offset=offset, value=value, mask=mask):
            yield value
            yield from (index for index, _ in offset.dynamic)
            if mask is not None:
                yield mask


def _with(statement: Stmt, instead: Mapping[Expr, Expr]) -> Stmt:
    match statement:
        case Let(var, value):
            return Let(var, replaced(value, instead))
        case Check(condition, code):
            return Check(replaced(condition, instead), code)
        case Store(mask=mask, value=value):
            return replace(statement, value=replaced(value, instead), mask=mask and replaced(mask, instead))
    return statement
