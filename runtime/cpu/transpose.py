"""Squares turned over in registers: rows are read whole, columns are written whole.

Where lanes walk across the rows of an array and an unrolled loop inside of them walks along those, storing each number
where lanes are neighbours, the lanes' gathers touch each row again and again. As many rows as a register has lanes,
each loaded once, become columns in log2(lanes) rounds of shuffles: in round d, rows i and i + d exchange a square.
"""

from __future__ import annotations

from dataclasses import replace

from graphc.ir.expr import Axis
from graphc.runtime.loop.ir import For, Load, Store
from graphc.types import bool_

from . import memory
from .emitter import Emitter, Value
from .memory import Address, Lanes, Memory


def turned(loop: For) -> tuple[Axis, Store, Load] | None:
    """What a vector loop copies, and the loop inside along the rows, if the copy is such a square."""
    match loop.body:
        case (For(axis=along, kind="unroll", body=(Store(mask=None, value=Load(mask=None) as load) as store,)),):
            read, written = load.offset.affine, store.offset.affine
            if load.offset.dynamic or store.offset.dynamic or load.buffer == store.buffer or load.dtype is bool_:
                return None
            square = along.extent == loop.width > 1 and not loop.width & (loop.width - 1)
            if square and read.coefficient(along) == 1 == written.coefficient(loop.axis):
                return along, store, load
    return None


def apart(source: Memory, target: Memory) -> bool:
    """Whether no number that is written may be one that is yet to be read."""
    return source.copies == target.copies == 1 and set(source.overlapping).isdisjoint(target.overlapping)


def copy_square(
    e: Emitter, source: Memory, read: Address, target: Memory, write: Address, step: int, lanes: Lanes
) -> None:
    """Print the copy: row l starts at read's lane l; column k is written `step` * k elements after `write`."""
    first = replace(read, stride=1)
    places = [memory.beside(e, source, first, lane * read.stride) for lane in range(lanes.count)]
    rows = [memory.load(e, source, place, None, 0, lanes) for place in places]
    for number, column in enumerate(transpose(e, rows)):
        memory.store(e, target, memory.beside(e, target, write, number * step), column, None, lanes)


def transpose(e: Emitter, rows: list[Value]) -> list[Value]:
    """The columns of a square, a power of two rows of as many lanes."""
    count, rows = len(rows), list(rows)
    distance = count // 2
    while distance:
        low = [j if not j & distance else j - distance + count for j in range(count)]
        high = [j + distance if not j & distance else j + count for j in range(count)]
        picked = [low, high]
        for i in range(count):
            if not i & distance:
                a, b = rows[i], rows[i + distance]
                rows[i], rows[i + distance] = (e.merge(a, b, lanes) for lanes in picked)
        distance //= 2
    return rows
