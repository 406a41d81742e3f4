"""The choices of a schedule, made by least estimated cost. Nothing here depends on the number of threads."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import combinations, permutations
from math import prod

from graphc.ir.expr import Axis
from graphc.runtime.cpu.target import Target

from .cost import FOLD_LANES, SIMPLE, Facts, StageFacts
from .memory import traffic

WORTH_FORKING = 30_000.0  # cycles of a whole kernel, about 8 us
WORTH_A_RANGE = 12_000.0  # cycles of what a thread takes at a time
MOST_RANGES = 128
LATENCY = 4.0  # cycles from one multiply-add to the next on the same register
LOOP, TILE = 0.75, 20.0  # cycles of overhead of an iteration, and of starting and ending a tile
PERMUTED = 5  # so many loops at most are tried in every order
MOST_VECTORS = 4


@dataclass(frozen=True, slots=True)
class Plan:
    """lanes: the outer axis that fills vector lanes; where it is None, stage_lanes gives each stage's own.

    block: how many points of `lanes` make a tile (0: all); in stage loops, how many points of a stage's lanes are
    accumulated side by side. rows: outer axes with how many points of each make a tile, written out.
    order: all outer axes, outermost first. grain: iterations of the outermost loop that a thread takes at a time;
    0 for a serial kernel.
    """

    width: int
    lanes: Axis | None
    stage_lanes: tuple[Axis | None, ...]
    block: int
    rows: tuple[tuple[Axis, int], ...]
    order: tuple[Axis, ...]
    grain: int

    def tile(self, axis: Axis) -> int:
        """Points of an outer axis in a tile: what one iteration of its loop covers."""
        if self.lanes is not None and axis == self.lanes:
            return self.block or axis.extent
        return next((size for row, size in self.rows if row == axis), 1)


def choose(facts: Facts, target: Target) -> Plan:
    """The plan for a collapsed nest."""
    nest, width = facts.nest, facts.width
    lanes = min((None, *nest.outer), key=facts.cost)
    cycles = facts.cost(lanes)
    stage_lanes = tuple(None if lanes else facts.stage_lanes(stage) for stage in facts.stages)
    rows: tuple[tuple[Axis, int], ...] = ()
    block = 0
    inner = [stage for stage in facts.stages if stage.stage.axes]
    if inner:
        most = max(inner, key=lambda s: (bool(s.stage.folds), s.points() * s.unit(None, 1)))
        own = lanes or stage_lanes[facts.stages.index(most)]
        block, rows = register_tile(most, nest.outer, own, width, target)
    trips = {axis: -(-axis.extent // dict(rows).get(axis, 1)) for axis in nest.outer}
    if lanes is not None:
        if not block:
            block = _flat_block(facts, lanes, cycles)
        trips[lanes] = -(-lanes.extent // block) if block else 1
    parallel = cycles >= WORTH_FORKING
    order = _order(facts, lanes, block, dict(rows), trips, cycles if parallel else 0.0)
    grain = 0
    if parallel and order:
        each = cycles / max(1, trips[order[0]])
        grain = max(1, round(WORTH_A_RANGE / each), trips[order[0]] // MOST_RANGES)
    return Plan(width, lanes, stage_lanes, block, rows, order, grain)


def _flat_block(facts: Facts, lanes: Axis, cycles: float) -> int:
    """Where nothing is accumulated in registers, cut the lanes only to have parallel pieces, or for a transposition."""
    width = facts.width
    others = [axis for axis in facts.nest.outer if axis != lanes]
    crossed = [
        access
        for stage in facts.stages
        for access in stage.accesses
        if access.at.coefficient(lanes) not in (0, 1) and any(access.at.coefficient(axis) == 1 for axis in others)
    ]
    if crossed:
        return min(2 * width, lanes.extent)
    if cycles < WORTH_FORKING or any(axis.extent >= 8 for axis in others):
        return 0
    pieces = min(MOST_RANGES, max(1, round(cycles / prod(a.extent for a in others) / WORTH_A_RANGE)))
    step = 4 * width
    return -(-lanes.extent // (pieces * step)) * step if pieces > 1 else 0


# ---------------------------------------------------------------------------------------------- tiles


def register_tile(
    facts: StageFacts, outer: tuple[Axis, ...], lanes: Axis | None, width: int, target: Target
) -> tuple[int, tuple[tuple[Axis, int], ...]]:
    """The block of `lanes` and the rows that make accumulating `facts` cheapest within the register file."""
    stage = facts.stage
    if lanes is None:
        return 1, ()
    own = lanes in stage.axes
    wide = max((fold.value.dtype.itemsize * width * 8 / target.vector_bits for fold in stage.folds), default=1.0)
    others = [axis for axis in outer if axis != lanes]
    usable = [axis for axis in others if _reusable(facts, axis)] if stage.folds else []
    sizes = {axis: _even_sizes(axis.extent, target.vector_registers) for axis in usable}
    chunks = -(-lanes.extent // width)
    best: tuple[float, int, tuple[tuple[Axis, int], ...]] = (float("inf"), 1, ())
    candidates: list[tuple[tuple[Axis, int], ...]] = [()]
    candidates += [((axis, size),) for axis in usable for size in sizes[axis] if size > 1]
    for a, b in combinations(usable, 2):
        candidates += [((a, m), (b, n)) for m in sizes[a] for n in sizes[b] if m > 1 and n > 1 and min(m, n) <= 8]
    for vectors in range(1, min(MOST_VECTORS, chunks) + 1):
        for rows in candidates:
            count = prod(size for _, size in rows)
            if vectors * count * max(1, len(stage.folds)) * wide + 2 + vectors > target.vector_registers and (
                rows or vectors > 1
            ):
                continue
            cost = _tile_cost(facts, outer, lanes, own, chunks, vectors, rows)
            if cost < best[0] * 0.999:
                best = (cost, vectors, rows)
    return best[1] * width, best[2]


def _tile_cost(
    facts: StageFacts,
    outer: tuple[Axis, ...],
    lanes: Axis,
    own: bool,
    chunks: int,
    vectors: int,
    rows: tuple[tuple[Axis, int], ...],
) -> float:
    """Cycles for the whole nest. Sizes are averages: an extent is split evenly."""
    size = dict(rows)
    mean = {axis: axis.extent / -(-axis.extent // n) for axis, n in rows}
    side = chunks / -(-chunks // vectors)
    needed = vectors  # registers beside the accumulators: what is loaded once and used by all rows
    traffic = 0.0
    for load in facts.fold_loads:
        times = prod(mean[axis] for axis in size if load.depends(axis))
        if load.depends(lanes):
            traffic += times * side * load.cost(lanes, 1) * (1 if load.at.coefficient(lanes) == 1 else 16)
        else:
            traffic += times * 0.5
    work = side * prod(mean.values()) * max(1, len(facts.stage.folds))
    arithmetic = work * (0.5 + max(0.0, facts.arithmetic - SIMPLE))
    each = max(arithmetic, traffic, (arithmetic + traffic) * 0.6, LATENCY) + LOOP + 0.1 * needed
    tiles = prod(-(-axis.extent // size.get(axis, 1)) for axis in outer if axis != lanes)
    points = facts.points()
    blocks = -(-chunks // vectors)
    if own:
        points = points // lanes.extent * blocks
        end = prod(mean.values()) * FOLD_LANES
    else:
        tiles *= blocks
        end = prod(mean.values()) * side
    return tiles * (points * each + TILE + end)


def _reusable(facts: StageFacts, axis: Axis) -> bool:
    """Whether several points of an outer axis side by side share a load, and no mask tells them apart."""
    shared = any(not load.depends(axis) for load in facts.fold_loads)
    return shared and axis.extent > 1 and not any(axis.name in load.masked for load in facts.fold_loads)


def _even_sizes(extent: int, most: int) -> list[int]:
    """The sizes that splitting `extent` into as equal parts as possible can give, up to `most`."""
    return sorted({-(-extent // parts) for parts in range(-(-extent // most), extent + 1)}) if extent > 1 else [1]


# ---------------------------------------------------------------------------------------------- order


def _order(
    facts: Facts, lanes: Axis | None, block: int, rows: dict[Axis, int], trips: dict[Axis, int], cycles: float
) -> tuple[Axis, ...]:
    """Outer axes, outermost first: least memory traffic, and enough iterations outermost to share among threads."""
    outer = facts.nest.outer
    stores = [a for stage in facts.stages for a in stage.accesses if a.store]
    by_stride = sorted(outer, key=lambda axis: -sum(abs(a.at.coefficient(axis)) for a in stores))
    if lanes is not None and trips[lanes] == 1:
        by_stride = [*(axis for axis in by_stride if axis != lanes), lanes]
    looping = [axis for axis in by_stride if trips[axis] > 1]
    still = [axis for axis in by_stride if trips[axis] == 1]
    if len(looping) > PERMUTED or len(looping) < 2:
        if cycles and looping:  # the most iterations outermost
            first = max(looping, key=lambda axis: min(trips[axis], 16))
            looping = [first, *(axis for axis in looping if axis != first)]
        return (*looping, *still)
    accesses = tuple({a: None for stage in facts.stages for a in stage.accesses})
    tile = {axis: rows.get(axis, 1) for axis in outer}
    if lanes is not None:
        tile[lanes] = block or lanes.extent

    def cost(order: tuple[Axis, ...]) -> float:
        return traffic(accesses, order, trips, tile) + cycles * _imbalance(trips[order[0]])

    return (*min(permutations(looping), key=cost), *still)


def _imbalance(trips: int) -> float:
    """Time lost, as a share of all work, when so many equal pieces meet 2, 4 or 8 threads."""

    def lost(threads: int) -> float:
        return -(-trips // threads) * threads / trips - 1

    return 0.6 * lost(2) + 0.25 * lost(4) + 0.15 * lost(8)
