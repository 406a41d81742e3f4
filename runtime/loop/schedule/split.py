"""Long sums in pieces: some axes of a fold run outside of the tiles, whose running values then lie in memory.

Where each tile would stream operands that no cache holds, it pays to take a piece of the sum that does fit (an image,
a row of it, some hundred points of the one axis), work on all tiles with it, and go on to the next: the blocking over
k of matrix products.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from math import prod

from graphc.frozen import dataclass
from graphc.ir.expr import Axis

from .cost import FOLD_LANES, Access, Facts, StageFacts
from .memory import FIRST_LEVEL, Traffic
from .registers import TILE

MOST_PARTIAL = 512 << 10  # bytes of running values, per thread
RELOAD = 1 / 40  # cycles to load and store a byte of them
CHUNKED = (FIRST_LEVEL, 512 << 10)  # bytes that a chunk of an axis may touch: in a tile, and in all tiles
LEAST_CHUNK = 256  # points: shorter runs are over before the processor has begun to fetch ahead
LONG, LEAST_OF_LONG = 2048, 128  # but tiles of a sum so long stream operands that no second-level cache holds


@dataclass(frozen=True, slots=True)
class Split:
    """axes: of the stage, outermost first. outside: how many of the plan's outer axes stand around them. chunk: so many
    points of the last of the axes make a piece; 0: each point does."""

    axes: tuple[Axis, ...]
    outside: int
    chunk: int = 0

    @property
    def whole(self) -> tuple[Axis, ...]:
        """The axes that no loop in a tile runs over."""
        return self.axes[:-1] if self.chunk else self.axes


def splittable(facts: Facts, main: StageFacts) -> bool:
    """Whether the main stage is nothing but sums (or extremes), all that precedes is nothing, and all that follows
    is done point by point."""
    stage = main.stage
    if facts.stages[0] is not main or len(facts.stages) > 2 or facts.stages[-1].stage.axes not in ((), stage.axes):
        return False
    if stage.lets or stage.checks or stage.stores or facts.nest.locals:
        return False
    return len(facts.stages) == 2 and all(fold.reducer not in ("argmax", "argmin") for fold in stage.folds)


def splits(
    facts: Facts,
    main: StageFacts,
    own: Axis | None,
    unit: int,
    loads: Sequence[Access],
    order: Sequence[Axis],
    trips: Mapping[Axis, int],
    tile: Mapping[Axis, int],
) -> Iterator[tuple[float, float, tuple[Axis, ...], Split]]:
    """Orders of the outer axes with splits; the cycles that memory costs in each, and those of work that it adds.

    own: the axis of the stage that fills lanes, if it does, `unit` of its points side by side; its lanes are folded for
    each piece. loads: of the folds, as tiles meet them. order: of the outer axes without a split.
    """
    after = [access for stage in facts.stages if stage is not main for access in stage.accesses]
    last = Traffic(after, trips, tile)
    itemsize = max(fold.value.dtype.itemsize for fold in main.stage.folds)
    for first in (axis for axis in order if trips[axis] >= 2):
        rest = tuple(axis for axis in order if axis != first)
        points = tile[first] * prod(axis.extent for axis in rest)
        if points * itemsize * len(main.stage.folds) > MOST_PARTIAL:
            continue
        again = points * (itemsize * 2 * RELOAD + (0.0 if own is None else FOLD_LANES)) + TILE * prod(
            trips[axis] for axis in rest
        )
        for split in _cuts(main, own, unit, loads, {**dict.fromkeys(rest), first: tile[first]}, tile):
            pieces = {axis: axis.extent for axis in split.axes}
            sizes = dict.fromkeys(split.axes, 1)
            if split.chunk:
                pieces[split.axes[-1]] = -(-split.axes[-1].extent // split.chunk)
                sizes[split.axes[-1]] = split.chunk
            inside = Traffic(loads, {**trips, **pieces}, {**tile, **sizes})
            moved = inside.cycles((first, *split.axes, *rest)) + last.cycles((first, *rest))
            yield moved, trips[first] * prod(pieces.values()) * again, (first, *rest), split


def _cuts(
    main: StageFacts,
    own: Axis | None,
    unit: int,
    loads: Sequence[Access],
    visit: Mapping[Axis, int | None],
    tile: Mapping[Axis, int],
) -> Iterator[Split]:
    """Pieces worth looking at: points of the axes with the largest strides, or chunks of the next one.

    visit: how many points of each outer axis the loops inside of the pieces run over (None: all).
    """
    strides = {axis: sum(abs(a.at.coefficient(axis)) for a in main.fold_loads) for axis in main.stage.axes}
    axes = sorted((axis for axis in main.stage.axes if axis != own), key=lambda axis: -strides[axis])
    if own is not None:
        axes.append(own)
    for count, axis in enumerate(axes):
        whole = tuple(axes[:count])
        if whole:
            yield Split(whole, 1)
        for sizes, room in zip((tile, visit), CHUNKED, strict=True):
            taken = 0
            for load in loads:
                if load.depends(axis):
                    others = (a for a, _ in load.at.terms if a != axis and a not in whole)
                    taken += load.buffer.dtype.itemsize * prod(sizes.get(a) or a.extent for a in others)
            step = unit if axis == own else 1
            least = LEAST_CHUNK if axis.extent < LONG else LEAST_OF_LONG
            size = max(least, room // taken) // step * step if taken else axis.extent
            if size * 2 <= axis.extent:
                pieces = -(-axis.extent // size)
                yield Split((*whole, axis), 1, -(-axis.extent // (pieces * step)) * step)
