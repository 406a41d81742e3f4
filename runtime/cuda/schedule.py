"""The schedule for a GPU: how the points of a Nest are spread over groups of threads.

Four ways, and a rough estimate of their times to choose by:
- a thread takes one outer point and runs its stages in loops (elementwise; folds with many outer points);
- a thread takes several outer points of a contraction, so that it loads each factor once for many of them (tile.py);
- a group of threads, a warp or a block, takes one outer point, and its lanes share the points of each stage
  (softmax, sums over long rows, weight gradients of convolutions);
- where the stages don't depend on each other but through memory (a scatter clears, then adds), each stage is a
  launch of its own, with a thread for each point of it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from math import ceil, log2, prod
from typing import Literal as OneOf
from typing import TypeAlias

from graphc.ir.expr import Axis, Call, Index, Literal, call
from graphc.runtime.loop.ir import (
    Accumulate,
    Alloc,
    Block,
    Buffer,
    Expr,
    For,
    Kernel,
    Kind,
    Let,
    Load,
    Stmt,
    Store,
    Var,
)
from graphc.runtime.loop.naive import FIRST, collapsed, identity, row_major, serial_stage
from graphc.runtime.loop.nest import Fold, Nest, Stage
from graphc.runtime.loop.schedule.collapse import collapse
from graphc.types import bool_, int64

from .access import Access, accesses
from .tile import Tile, single_contraction, tiled, tiles

Extreme: TypeAlias = OneOf["max", "min"]

WIDTHS = (32, 128, 512, 1024)
MULTIPROCESSORS = 132  # of an H100
RESIDENT = 2048  # threads of a multiprocessor
SERIAL_SCATTER = 64  # up to so many additions in a row keep their order, so their last bits; beyond, atomics

# Cycles, from published microbenchmarks of Hopper and coarse: they only rank the ways against each other.
CYCLES_PER_LINE = 2.0  # what one multiprocessor takes to fetch 128 bytes through its first-level cache
CYCLES_PER_ITERATION = 40.0  # of a loop whose loads are pipelined
CYCLES_PER_SHUFFLE = 30.0
CYCLES_PER_PRODUCT = 1.0


def schedule(nest: Nest, width: int | None = None) -> Kernel:
    """`nest` as a kernel that the CUDA printer takes.

    width: threads for each outer point, 1 or one of groups.GROUP_WIDTHS; None: what the estimate says is best.
    """
    if all(axis.extent for axes in (nest.outer, *(stage.axes for stage in nest.stages)) for axis in axes):
        nest = collapse(nest)
    if width is None and _separable(nest):
        return _by_stage(nest)
    if width is None:
        tile = min(tiles(nest), key=lambda t: _tile_cycles(nest, t), default=None)
        width = min(_candidates(nest), key=lambda w: _cycles(nest, w))
        if tile is not None and _tile_cycles(nest, tile) < _cycles(nest, width):
            return tiled(nest, tile)
    return collapsed(nest) if width == 1 else _by_group(nest, width)


def _candidates(nest: Nest) -> list[int]:
    if not any(stage.axes for stage in nest.stages):
        return [1]
    # The scratch memory of a single thread would be local memory: off the chip, and slow.
    return [*WIDTHS] if nest.locals else [1, *WIDTHS]


# ---------------------------------------------------------------- a launch for each stage


def _separable(nest: Nest) -> bool:
    """Whether a stage hands nothing to the next but through global memory."""
    bound = {let.var for stage in nest.stages if not stage.axes for let in stage.lets}
    return (
        any(stage.axes for stage in nest.stages)
        and not nest.locals
        and not any(stage.folds for stage in nest.stages)
        and not (bound and len(nest.stages) > 1)
    )


def _by_stage(nest: Nest) -> Kernel:
    body: list[Stmt] = []
    for stage in nest.stages:
        adds = [store for store in stage.stores if isinstance(store, Accumulate)]
        points = prod(axis.extent for axis in stage.axes)
        ordered = adds and (points <= SERIAL_SCATTER or any(a.buffer.dtype is bool_ for a in adds))
        stores = tuple(
            replace(s, atomic=True) if isinstance(s, Accumulate) and not ordered else s for s in stage.stores
        )
        inside: Block = (*stage.lets, *stage.checks, *stores)
        if ordered:
            inside = _loops(stage.axes, "serial", inside)
            body += _loops(nest.outer, "parallel", inside)
        else:
            body += _loops((*nest.outer, *stage.axes), "parallel", inside)
    return Kernel(nest.name, nest.params, tuple(body), nest.inplace)


def _loops(axes: tuple[Axis, ...], kind: Kind, body: Block, width: int = 1) -> Block:
    for axis in reversed(axes):
        body = (For(axis, kind, body, width),)
    return body


# ---------------------------------------------------------------- a group for each outer point


def _by_group(nest: Nest, width: int) -> Kernel:
    body: Block = tuple(Alloc(buffer) for buffer in nest.locals)
    for stage in nest.stages:
        body += _group_stage(stage, width)
    return Kernel(nest.name, nest.params, _loops(nest.outer, "parallel", body), nest.inplace)


def _group_stage(stage: Stage, width: int) -> Block:
    """The points of a stage, shared by the lanes. Additions that may meet are left to one thread, in order."""
    if not stage.axes or any(isinstance(store, Accumulate) for store in stage.stores):
        return serial_stage(stage)
    before: Block = ()
    inside: Block = ()
    after: Block = ()
    axes = _lane_order(stage)
    for fold in stage.folds:
        best = Buffer(f"{fold.var.name}_acc", fold.value.dtype, 1, "register")
        match fold.reducer:
            case "argmax" | "argmin":
                op: Extreme = "max" if fold.reducer == "argmax" else "min"
                before += (Alloc(best), Store(best, FIRST, identity(op, best.dtype)))
                inside += (Accumulate(best, FIRST, op, fold.value),)
                after += _position(fold, best, stage, axes, width)
            case "sum" | "max" | "min":
                before += (Alloc(best), Store(best, FIRST, identity(fold.reducer, best.dtype)))
                inside += (Accumulate(best, FIRST, fold.reducer, fold.value),)
                after += (Let(fold.var, Load(best, FIRST)),)
    points = _loops(axes, "vector", (*stage.lets, *stage.checks, *inside, *stage.stores), width)
    return before + points + after


def _position(fold: Fold, best: Buffer, stage: Stage, axes: tuple[Axis, ...], width: int) -> Block:
    """A second round, for argmax and argmin: the first position whose value is the extreme one, or NaN if that is."""
    where = Buffer(f"{fold.var.name}_at", int64, 1, "register")
    extreme = Var(f"{fold.var.name}_best", best.dtype)
    value = Var(f"{fold.var.name}_new", best.dtype)
    found: Expr = call("eq", value, extreme)
    if best.dtype.kind == "f":
        found = call("or", found, call("and", call("ne", value, value), call("ne", extreme, extreme)))
    none = identity("min", int64)
    assert isinstance(none, Literal)
    position = call("select", found, Index(row_major(stage.axes)), none)
    inside: Block = (*stage.lets, Let(value, fold.value), Accumulate(where, FIRST, "min", position))
    return (
        Let(extreme, Load(best, FIRST)),
        Alloc(where),
        Store(where, FIRST, none),
        *_loops(axes, "vector", inside, width),
        Let(fold.var, Load(where, FIRST)),
    )


def _lane_order(stage: Stage) -> tuple[Axis, ...]:
    """The axes of a stage with that innermost which walks through memory in the smallest steps."""
    found = list(_touched(stage))
    best = min(reversed(stage.axes), key=lambda axis: (axis.extent < 2, _lines(found, axis)))
    return (*(axis for axis in stage.axes if axis is not best), best)


# ---------------------------------------------------------------- the estimate


def _cycles(nest: Nest, width: int) -> float:
    """Roughly the time of a launch with `width` threads for each outer point."""
    points = prod(axis.extent for axis in nest.outer)
    neighbour = next((axis for axis in reversed(nest.outer) if axis.extent > 1), None)
    lines = latency = 0.0
    for stage in nest.stages:
        found = list(_touched(stage))
        shared = width > 1 and bool(stage.axes)
        lane = _lane_order(stage)[-1] if shared else neighbour if width == 1 else None
        steps = ceil(prod(axis.extent for axis in stage.axes) / (width if shared else 1))
        latency += steps * CYCLES_PER_ITERATION
        lines += steps * _lines(found, lane)
        if width > 1:
            latency += len(stage.folds) * CYCLES_PER_SHUFFLE * log2(width)
    return _time(points * width, latency, lines)


def _tile_cycles(nest: Nest, tile: Tile) -> float:
    """Roughly the time of a launch whose threads compute a tile of results each."""
    found = single_contraction(nest)
    assert found is not None
    _, a, b = found
    neighbour = next((axis for axis in reversed(nest.outer) if axis.extent > 1), None)
    steps = prod(axis.extent for stage in nest.stages for axis in stage.axes)
    lines = tile.row_count * _line(Access(a.buffer, a.offset, False), neighbour)
    lines += tile.column_count * _line(Access(b.buffer, b.offset, False), neighbour)
    latency = steps * (CYCLES_PER_ITERATION + CYCLES_PER_PRODUCT * tile.results)
    return _time(prod(axis.extent for axis in nest.outer) / tile.results, latency, steps * lines)


def _time(threads: float, latency: float, lines: float) -> float:
    """Cycles until all threads are done. latency: of one thread, alone; lines: fetched by each warp."""
    warps = max(1.0, threads / 32)
    waves = max(1.0, threads / (MULTIPROCESSORS * RESIDENT))
    busy = min(MULTIPROCESSORS, ceil(warps / 8))
    return max(latency * waves, warps * lines * CYCLES_PER_LINE / busy)


def _lines(found: list[Access], lane: Axis | None) -> float:
    """How many lines of 128 bytes the lanes of a warp touch, over all accesses. lane: what tells the lanes apart."""
    return sum(_line(access, lane) for access in found)


def _line(access: Access, lane: Axis | None) -> float:
    if access.buffer.space != "global":
        return 0.5
    if lane is None:
        return 1.0
    step = abs(access.offset.affine.coefficient(lane)) * access.buffer.dtype.itemsize
    if access.offset.dynamic and not step:
        return 16.0 if any(_depends(index, lane) for index, _ in access.offset.dynamic) else 1.0
    return min(32.0, max(1.0, step / 4))


def _depends(expr: Expr, lane: Axis) -> bool:
    """Whether the lanes may see different values. A Var may: where it is bound isn't looked up."""
    match expr:
        case Index(at):
            return bool(at.coefficient(lane))
        case Load(_, offset, _, _):
            return bool(offset.affine.coefficient(lane)) or any(_depends(e, lane) for e, _ in offset.dynamic)
        case Call(_, args, _):
            return any(_depends(a, lane) for a in args)
        case Var():
            return True
        case _:
            return False


def _touched(stage: Stage) -> Iterator[Access]:
    yield from accesses((*stage.lets, *stage.stores, *(Let(fold.var, fold.value) for fold in stage.folds)))
