"""One step of folds at all points of a tile: what is loaded where, so that a load stands for as many points as it can.

What differs from lane to lane is staged in registers, what doesn't is a broadcast number. Rows of a large array that
lie far apart are asked for a tile ahead: the processor fetches ahead by itself only along a page.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import permutations
from math import prod

from graphc.ir.expr import Affine, Axis, Call, Index
from graphc.runtime.loop.ir import Alloc, Block, Buffer, Expr, For, Let, Load, Offset, Prefetch, Stmt, Store, Var

from .columns import FAR
from .cost import StageFacts
from .memory import LAST_LEVEL
from .rewrite import Rewriter, parts, replaced
from .tile import Tile, loops

HOLES = 0.75  # share of a run from which on it is read as if whole
SHORT = 64 << 10  # bytes of a run of a few pages: a processor fetches ahead within pages, and some way into it
Step = Callable[[Expr, Tile], Stmt]  # folds a value in, at one point of a tile


def staged(
    lets: tuple[Let, ...], values: Sequence[Expr], inner: Tile, steps: Sequence[Step], ahead: Mapping[Load, int]
) -> Block:
    """Fold `values` in at all points of a tile with rows, each load as far outside of the rows as it can stand.

    ahead: loads of which also the element so much further on is asked for.
    """
    found = {load: None for value in (*(let.value for let in lets), *values) for load in _top_loads(value)}
    depends = {load: frozenset(axis for axis in inner.rows if _depends(load, axis)) for load in found}
    laned = {load: inner.lanes is not None and _depends(load, inner.lanes) for load in found}
    # Broadcast numbers count too: what row loops repeat, the code generator reads once and keeps.
    rows = min(permutations(inner.rows), key=lambda order: staged_registers(order, [depends[load] for load in found]))
    stands: dict[Expr, Expr] = {}
    levels: list[Block] = [() for _ in range(len(rows) + 1)]  # what stands inside so many of the row loops
    for number, load in enumerate(found):
        name = f"x{number}"
        level = next((i for i, axis in enumerate(rows) if axis not in depends[load]), len(rows))
        if any(axis in depends[load] for axis in rows[level:]) and not laned[load]:
            level = len(rows)
        held = tuple(axis for axis in rows[level:] if axis in depends[load])
        if laned[load]:
            if level == len(rows):  # differs at each point
                if load in ahead:
                    first = Rewriter({axis.name: Affine() for axis in rows}).affine(load.offset.affine)
                    alone = Tile((), inner.lanes, inner.width)
                    levels[0] += _asked_for(Load(load.buffer, Offset(first)), ahead[load], alone)
                continue
            tile = Tile(held, inner.lanes, inner.width)
            staged = Buffer(name, load.dtype, tile.size, "register")
            at = Offset(tile.offset())
            levels[level] += (Alloc(staged), *tile.over((Store(staged, at, load),)))
            if load in ahead:
                levels[level] += _asked_for(load, ahead[load], tile)
            stands[load] = Load(staged, at)
        else:
            levels[level] += (Let(Var(name, load.dtype), load),)
            stands[load] = Var(name, load.dtype)
    folded = [step(replaced(value, stands), inner) for step, value in zip(steps, values, strict=True)]
    body: Block = (*(Let(let.var, replaced(let.value, stands)) for let in lets), *folded)
    if inner.lanes is not None:
        body = (For(inner.lanes, "vector", body, inner.width),)
    body = levels[-1] + body
    for axis, before in zip(reversed(rows), reversed(levels[:-1]), strict=True):
        body = (*before, For(axis, "unroll", body))
    return body


def staged_registers(order: Sequence[Axis], depends: Sequence[frozenset[Axis]]) -> int:
    """Vectors held across row loops, when they run in this order; depends: the row axes of each load."""
    total = 0
    for axes in depends:
        level = next((i for i, axis in enumerate(order) if axis not in axes), len(order))
        if level < len(order):
            total += prod(axis.extent for axis in order[level:] if axis in axes)
    return total


def ahead(
    facts: StageFacts, sizes: Mapping[Axis, int], outside: tuple[Axis, ...], rewriter: Rewriter
) -> dict[Load, int]:
    """The loads of arrays beyond the caches that the processor doesn't fetch ahead by itself, rewritten; with the
    distance to what the next tile, or the next piece of a sum, needs of them.

    sizes: points of each outer axis in a tile, outermost first. outside: axes of the stage that run around the tiles,
    but inside of the outermost one.
    """
    around = list(sizes)
    loops = [*around[:1], *outside, *around[1:]] if outside else around
    inner = [axis for axis in facts.stage.axes if axis not in outside]
    found: dict[Load, int] = {}
    for load in {p: None for fold in facts.stage.folds for p in parts(fold.value) if isinstance(p, Load)}:
        itemsize, at = load.dtype.itemsize, load.offset.affine
        if load.offset.dynamic or load.buffer.size * itemsize <= LAST_LEVEL:
            continue
        extents = {axis: axis.extent for axis in inner}  # of what runs inside of the loop that is looked at
        for axis in reversed(loops):
            size = sizes.get(axis, 1)
            moved = at.coefficient(axis) * size
            if size < axis.extent and moved and not _slides(moved, at, inner):
                break
            extents[axis] = axis.extent
        else:
            continue
        steps = [abs(at.coefficient(axis)) for axis in inner if at.coefficient(axis)]
        points = {axis: extents.get(axis, sizes.get(axis, 1)) for axis, _ in at.terms}
        run = 1 + sum(abs(step) * (points[axis] - 1) for axis, step in at.terms)
        scattered = min(steps, default=0) * itemsize >= FAR
        jumps = run * itemsize <= SHORT and (abs(moved) >= 2 * run or prod(points.values()) <= HOLES * run)
        new = rewriter.expr(load)
        if (scattered or jumps) and isinstance(new, Load) and new.buffer.space == "global":
            found[new] = moved
    return found


def _slides(move: int, at: Affine, inner: Sequence[Axis]) -> bool:
    """Whether most of what is needed after a move was needed before: a window slides."""
    return any(
        step and move % step == 0 and abs(move) < abs(step) * axis.extent
        for axis, step in ((axis, at.coefficient(axis)) for axis in inner)
    )


def _asked_for(load: Load, distance: int, tile: Tile) -> Block:
    """Prefetches of what stands so far behind a load's elements: the last of each vector, for its first lies in a line
    that this tile has met, if vectors and lines aren't aligned."""
    assert tile.lanes is not None
    last = [Affine((), min(first + tile.width, tile.lanes.extent) - 1) for first in range(0, tile.pitch, tile.width)]
    places = [Rewriter({tile.lanes.name: lane}).affine(load.offset.affine) + distance for lane in last]
    return loops(tile.rows, tuple(Prefetch(load.buffer, at) for at in places), "unroll")


def _top_loads(expr: Expr) -> Iterator[Load]:
    """The outermost loads of an expression."""
    match expr:
        case Load():
            yield expr
        case Call(args=args):
            for arg in args:
                yield from _top_loads(arg)


def _depends(load: Load, axis: Axis) -> bool:
    """Whether a load's element differs along an axis."""
    for part in parts(load):
        match part:
            case Load(offset=Offset(affine=at)) | Index(at):
                if at.coefficient(axis):
                    return True
    return False
