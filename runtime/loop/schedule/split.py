"""Long sums in pieces: some axes of a fold run outside of the tiles, whose running values then lie in memory.

Where each tile would stream operands that no cache holds, it pays to take a piece of the sum that does fit (an image,
a row of it), work on all tiles with it, and go on to the next: the blocking over k of matrix products.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from math import prod

from graphc.ir.expr import Axis

from .cost import FOLD_LANES, Facts, StageFacts
from .memory import Traffic

MOST_PARTIAL = 256 << 10  # bytes of running values, per thread
RELOAD = 1 / 40  # cycles to load and store a byte of them
TILE = 20.0  # cycles to start and end a tile


@dataclass(frozen=True, slots=True)
class Split:
    """axes: of the stage, outermost first. outside: how many of the plan's outer axes stand around them."""

    axes: tuple[Axis, ...]
    outside: int


def splittable(facts: Facts, main: StageFacts) -> bool:
    """Whether the main stage is nothing but sums (or extremes), all that precedes is nothing, and all that follows
    is done point by point."""
    stage = main.stage
    if facts.stages[0] is not main or len(facts.stages) > 2 or facts.stages[-1].stage.axes not in ((), stage.axes):
        return False
    if stage.lets or stage.checks or stage.stores or facts.nest.locals or len(stage.axes) < 2:
        return False
    return len(facts.stages) == 2 and all(fold.reducer not in ("argmax", "argmin") for fold in stage.folds)


def splits(
    facts: Facts,
    main: StageFacts,
    own: Axis | None,
    order: tuple[Axis, ...],
    trips: Mapping[Axis, int],
    tile: Mapping[Axis, int],
) -> Iterator[tuple[float, tuple[Axis, ...], Split]]:
    """Orders of the outer axes with splits, and the cycles that memory costs in each.

    own: the axis of the stage that fills lanes, if it does; its lanes are folded for each piece.
    """
    after = [access for stage in facts.stages if stage is not main for access in stage.accesses]
    strides = {axis: sum(abs(a.at.coefficient(axis)) for a in main.fold_loads) for axis in main.stage.axes}
    stage_axes = sorted((axis for axis in main.stage.axes if axis != own), key=lambda axis: -strides[axis])
    last = Traffic(after, trips, tile)
    itemsize = max(fold.value.dtype.itemsize for fold in main.stage.folds)
    for first in (axis for axis in order if trips[axis] >= 2):
        rest = tuple(axis for axis in order if axis != first)
        points = tile[first] * prod(axis.extent for axis in rest)
        if points * itemsize * len(main.stage.folds) > MOST_PARTIAL:
            continue
        for count in range(1, len(stage_axes) + (own is not None)):
            outside = tuple(stage_axes[:count])
            pieces = prod(axis.extent for axis in outside)
            extents = {axis: axis.extent for axis in outside}
            inside = Traffic(main.fold_loads, {**trips, **extents}, {**tile, **dict.fromkeys(outside, 1)})
            visits = trips[first] * pieces
            again = points * (itemsize * 2 * RELOAD + (0.0 if own is None else FOLD_LANES)) + TILE * prod(
                trips[axis] for axis in rest
            )
            moved = inside.cycles((first, *outside, *rest)) + last.cycles((first, *rest))
            yield moved + visits * again, (first, *rest), Split(outside, 1)
