"""Register tiles: how many accumulators, along which axes, so that loads are used often and latency is hidden."""

from __future__ import annotations

from itertools import combinations
from math import prod

from graphc.ir.expr import Axis
from graphc.runtime.cpu.target import Target

from .cost import FOLD_LANES, LANE_LOAD, MASK, SIMPLE, Access, Rows, StageFacts

UNALIGNED_LOAD = 1.0  # most cross a cache line
MASK_REGISTERS = 4  # one of so many registers is for the computation of masks
LATENCY = 4.0  # cycles from one multiply-add to the next on the same register
LOOP, TILE = 0.75, 20.0  # cycles of overhead of an iteration, and of starting and ending a tile
MOST_VECTORS = 4
VARIANT = 0.02  # what another size of tiles may cost, as a share of the time
CODE = 0.25  # cycles to fetch an instruction from beyond the first-level cache: once a call, or more often
FOLD_CODE = 8  # instructions, roughly, to fold the lanes of a register
MOST_CODE = 256  # instructions, roughly, for all points of a tile with rows
SMALLER_SIDE = 8  # of two row axes, the less cut has at most so many points


def register_tiles(
    facts: StageFacts, outer: tuple[Axis, ...], lanes: Axis | None, packed: Access | None, width: int, target: Target
) -> list[tuple[float, int, Rows]]:
    """Tiles for accumulating `facts` with its cycles for the whole nest, cheapest first: (cycles, vectors, rows).

    lanes: an outer axis, or one of the stage's own. packed: a load that will have been made contiguous.
    """
    stage = facts.stage
    if lanes is None:
        return [(facts.cost(outer, None, 1), 1, ())]
    own = lanes in stage.axes
    wide = max((fold.value.dtype.itemsize * width * 8 / target.vector_bits for fold in stage.folds), default=1.0)
    room = target.vector_registers
    if any(lanes.name in load.masked for load in facts.fold_loads):
        room -= room // MASK_REGISTERS
    usable = [axis for axis in outer if axis != lanes and stage.folds and _reusable(facts, axis, lanes, packed)]
    sizes = {axis: [n for n in _even_sizes(axis.extent, room) if n > 1] for axis in usable}
    options: list[Rows] = [()]
    options += [((axis, size),) for axis in usable for size in sizes[axis]]
    for a, b in combinations(usable, 2):
        options += [((a, m), (b, n)) for m in sizes[a] for n in sizes[b] if min(m, n) <= SMALLER_SIDE and m * n < room]
    chunks = -(-lanes.extent // width)
    model = _Model(facts, outer, lanes, packed, own, chunks, width)
    found: list[tuple[float, int, Rows]] = []
    for vectors in range(1, min(MOST_VECTORS, chunks) + 1):
        for rows in options:
            count = prod(size for _, size in rows)
            staged = model.staged(rows, vectors)
            if (vectors * count * max(1, len(stage.folds)) + staged) * wide + 1 > room and (rows or vectors > 1):
                continue
            if rows and vectors * count * facts.arithmetic / SIMPLE > MOST_CODE:
                continue
            kinds = _kinds(lanes, own, width, vectors, rows)
            each = vectors * (len(stage.folds) + facts.arithmetic / SIMPLE) + len(stage.folds) * FOLD_CODE * own
            cycles = model.cost(vectors, rows) * (1 + VARIANT * (kinds - 1)) + CODE * kinds * count * each
            found.append((cycles, vectors, rows))
    return sorted(found, key=lambda option: option[0])


class _Model:
    """Cycles of a stage, tiled. Sizes are averages, since extents are split evenly."""

    def __init__(
        self,
        facts: StageFacts,
        outer: tuple[Axis, ...],
        lanes: Axis,
        packed: Access | None,
        own: bool,
        chunks: int,
        width: int,
    ) -> None:
        self.facts, self.own, self.chunks = facts, own, chunks
        self.extents = {axis: axis.extent for axis in outer if axis != lanes}
        self.points = facts.points() // (lanes.extent if own else 1)
        self.folds = max(1, len(facts.stage.folds))
        self.extra = max(0.0, facts.arithmetic - SIMPLE)
        self.loads: list[tuple[float, bool, frozenset[Axis]]] = []  # cycles, whether it fills lanes, axes
        for load in facts.fold_loads:
            fills = load.depends(lanes)
            gathered = load.at.coefficient(lanes) != 1 and load is not packed
            price = LANE_LOAD * width if fills and gathered else 0.5
            if fills and not gathered and load is not packed and not _aligned(load, lanes, width):
                price = UNALIGNED_LOAD
            if lanes.name in load.masked:
                price += MASK
            self.loads.append((price, fills, frozenset(axis for axis in outer if load.depends(axis))))

    def staged(self, rows: Rows, vectors: int) -> int:
        """Registers that hold what several rows use, and one for what changes from row to row."""
        size = dict(rows)
        counts = [prod(size[a] for a in size if a in axes) for _, fills, axes in self.loads if fills]
        return min(counts, default=0) * vectors + (1 if len(counts) > 1 or len(counts) < len(self.loads) else 0)

    def cost(self, vectors: int, rows: Rows) -> float:
        tiles = prod(self.extents.values())
        mean: dict[Axis, float] = {}
        for axis, size in rows:
            blocks = -(-axis.extent // size)
            mean[axis] = axis.extent / blocks
            tiles = tiles // axis.extent * blocks
        blocks = -(-self.chunks // vectors)
        side = self.chunks / blocks
        loaded = 0.0
        for price, fills, axes in self.loads:
            times = prod(extent for axis, extent in mean.items() if axis in axes)
            loaded += price * times * (side if fills else 1)
        count = prod(mean.values())
        arithmetic = side * count * self.folds * (0.5 + self.extra)
        each = max(arithmetic, loaded, (arithmetic + loaded) * 0.6, LATENCY) + LOOP
        points = self.points
        if self.own:
            points *= blocks
            end = count * self.folds * FOLD_LANES
        else:
            tiles *= blocks
            end = count * side
        return tiles * (points * each + TILE + end)


def _kinds(lanes: Axis, own: bool, width: int, vectors: int, rows: Rows) -> int:
    """How many sizes of tiles there are, each of which is code of its own."""
    chunks = -(-lanes.extent // width)
    uneven = not own and (chunks % vectors != 0 or (lanes.extent % width != 0 and chunks > vectors))
    return prod(1 + (axis.extent % size != 0) for axis, size in rows) * (1 + uneven)


def _aligned(load: Access, lanes: Axis, width: int) -> bool:
    """Whether vectors start at whole registers of their array, as far as strides tell."""
    return all(axis == lanes or step % width == 0 for axis, step in load.at.terms) and load.at.const % width == 0


def _reusable(facts: StageFacts, axis: Axis, lanes: Axis, packed: Access | None) -> bool:
    """Whether several points of an outer axis side by side share a load, and no mask tells them apart.

    A condition that differs from lane to lane is there for every point anyway.
    """
    loads = facts.fold_loads
    shared = any(not load.depends(axis) for load in loads)
    told = any(axis.name in names and lanes.name not in names for load in loads for names in load.guards)
    return shared and not told and not (packed and packed.depends(axis))


def _even_sizes(extent: int, most: int) -> list[int]:
    """The sizes that splitting `extent` into as equal parts as possible can give, up to `most`."""
    return sorted({-(-extent // parts) for parts in range(-(-extent // most), extent + 1)})
