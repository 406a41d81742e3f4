"""The choices of a schedule, made by least estimated cost. Nothing here depends on the number of threads."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from itertools import permutations
from math import inf, prod

from graphc.frozen import dataclass
from graphc.ir.expr import Axis, affine
from graphc.runtime.cpu.target import Target
from graphc.runtime.loop.ir import Load, Store
from graphc.runtime.loop.nest import Nest, Stage

from .columns import skipping, wide_strip
from .cost import Access, Facts, Rows
from .memory import PAGE_HALF, Traffic
from .registers import MOST_VECTORS, register_tiles
from .split import Split, splits, splittable

WORTH_FORKING = 16_000.0  # cycles of a whole kernel, about 4 us: a fork and join is 1.2
WORTH_A_RANGE = 7_000.0  # cycles of what a thread takes at a time
MOST_RANGES = 128
PERMUTED = 5  # so many loops at most are tried in every order
TILES_TRIED = 6  # of the cheapest by arithmetic, to see which moves less data
# Cycles to copy one element into the order that lanes want; by squares in registers; if neighbours stay such.
PACK, PACK_SQUARES, PACK_RUNS = 2.1, 0.5, 0.2
OFTEN = 512  # uses of each element of an operand, after which a copy where vectors are loaded whole costs little
ACROSS = 0.03  # of the time, lost where they are loaded as they lie: those of an argument may cross lines
MOST_PACKED = 256 << 10  # bytes of a packed operand, per thread
MOST_LOCALS = 512 << 10  # bytes of a tile's own memory
MANY_STREAMS = 4  # arrays that an epilogue reads or writes
SHORT_RUN = 15.0  # cycles to get from one row of an array to the next, if a run is no longer than a tile
MOST_PANEL = 128 << 10  # bytes of results kept for an epilogue
CLEARLY_WORSE = 4.0
TRANSPOSED = 4  # vectors side by side in a transposition
ABREAST = (4, 2)  # vectors side by side in a loop over elements: their chains of operations hide each other's latency
MOST_ABREAST = 900.0  # cycles of arithmetic, over all of these vectors, that are worth their code
OVERLAP = 0.3  # arithmetic and the movement of data go on side by side, but for this share of the shorter


@dataclass(frozen=True, slots=True)
class Plan:
    """lanes: the outer axis that fills vector lanes; where it is None, stage_lanes gives each stage's own.

    block: how many points of `lanes` make a tile (0: all); in stage loops, how many points of a stage's lanes are
    accumulated side by side. rows: outer axes with how many points of each make a tile, written out.
    order: all outer axes, outermost first. grain: iterations of the outermost loop that a thread takes at a time;
    0 for a serial kernel. packed: an operand of a fold that is first copied, for each block of lanes, so that
    what lanes need is contiguous; the axes that it depends on are then the outermost. panel: the last stages run when
    all lanes of a row of tiles are done; the lanes' loop is then the innermost. split: the fold is summed in pieces.
    wide: a tile's lanes are a long run of memory, and its accumulators lie in the first-level cache.
    abreast: so many vectors of a nest without folds are worked on side by side.
    """

    width: int
    lanes: Axis | None
    stage_lanes: tuple[Axis | None, ...]
    block: int
    rows: Rows
    order: tuple[Axis, ...]
    grain: int
    packed: Access | None
    panel: bool
    split: Split | None = None
    abreast: int = 1
    wide: bool = False

    def tile(self, axis: Axis) -> int:
        """Points of an outer axis in a tile: what one iteration of its loop covers."""
        if self.lanes is not None and axis == self.lanes:
            return self.block or axis.extent
        return next((size for row, size in self.rows if row == axis), 1)


@dataclass(slots=True)
class _Least:
    """The cycles of the cheapest plan so far: what costs more before its memory is looked at can't be it."""

    cycles: float = inf


def cheapest(facts: Facts, target: Target) -> tuple[float, Plan]:
    """The first of the cheapest plans for a collapsed nest, and its estimated cycles."""
    least = _Least()
    found = [(cycles, plan) for cycles, plan in _candidates(facts, target, least) if plan is not None]
    return min(found, key=lambda one: one[0])


def candidates(facts: Facts, target: Target) -> list[tuple[float, Plan]]:
    """The plans that come into question for a collapsed nest, at least one, and their estimated cycles."""
    return [(cycles, plan) for cycles, plan in _candidates(facts, target, None) if plan is not None]


def _candidates(facts: Facts, target: Target, least: _Least | None) -> list[tuple[float, Plan | None]]:
    """least: where only the cheapest is asked for; None stands for plans that can't be it."""
    packable = {lanes: _packable(facts, lanes) for lanes in (None, *facts.nest.outer)}
    rough = {lanes: facts.cost(lanes, packed) for lanes, packed in packable.items()}
    limit = CLEARLY_WORSE * min(rough.values())
    plans: dict[Axis | None, list[tuple[float, Plan | None]]] = {lanes: [] for lanes in rough}
    for lanes, cost in sorted(rough.items(), key=lambda one: one[1]):
        if cost <= limit:
            found, packed = plans[lanes], packable[lanes]
            found += list(_plans(facts, lanes, packed, target, least)) or _plans(facts, lanes, None, target, least)
            if packed is None and (loose := _loose(facts, lanes)) is not None:
                found += _plans(facts, lanes, loose, target, least)
    every = [plan for found in plans.values() for plan in found]
    if not every:  # one outer point at a time, whatever memory it needs
        stage_lanes = tuple(map(facts.stage_lanes, facts.stages))
        return [(0.0, Plan(facts.width, None, stage_lanes, facts.width, (), facts.nest.outer, 1, None, False))]
    return every


def _plans(
    facts: Facts, lanes: Axis | None, packed: Access | None, target: Target, least: _Least | None
) -> Iterator[tuple[float, Plan | None]]:
    """Plans with these lanes, and what they cost. None if the packed operand would take too much memory."""
    nest, width = facts.nest, facts.width
    stage_lanes = tuple(None if lanes else facts.stage_lanes(stage) for stage in facts.stages)
    inner = [number for number, stage in enumerate(facts.stages) if stage.stage.axes]
    if inner:
        main = max(inner, key=lambda n: (bool(facts.stages[n].stage.folds), facts.stages[n].size()))
        stage = facts.stages[main]
        own = lanes or stage_lanes[main]
        each_point = sum(local.size * local.dtype.itemsize for local in nest.locals)
        tiles = register_tiles(stage, nest.outer, own, packed, width, target)
        rests = {rows: facts.cost(lanes, None, main, rows) for rows in {rows for _, _, rows in tiles}}
        options = [
            (cost + rests[rows] + skipping(facts, lanes, vectors * width), vectors * width, rows)
            for cost, vectors, rows in tiles
            if each_point * prod(size for _, size in rows) * (vectors * width if lanes else 1) <= MOST_LOCALS
        ]
        options = sorted(options, key=lambda option: option[0])[:TILES_TRIED]
        strip = wide_strip(facts, lanes) if packed is None else None
        if strip is not None:
            options.append((*strip, ()))
    else:
        cost = facts.cost(lanes, None)
        square = None if lanes is None else _square(facts, lanes)
        sides: Rows = () if square is None else ((square, width),)
        options = [(cost, 0 if lanes is None else _flat_block(facts, lanes, cost), sides)]
        if lanes is not None and square is None:
            options += _squares(facts, lanes)
    for cycles, block, rows in options:
        if packed is not None:
            each = _packing(packed, lanes, nest, width)
            cycles += each * prod(axis.extent for axis, _ in packed.at.terms)
        elif lanes is not None and any(load.at.coefficient(lanes) == 1 for _, load in _used_again(facts, OFTEN)):
            cycles *= 1 + ACROSS
        if least is not None and cycles > least.cycles:
            yield cycles, None
            continue
        size = dict(rows)
        if lanes is not None:
            size[lanes] = block or lanes.extent
        trips = {axis: -(-axis.extent // size.get(axis, 1)) for axis in nest.outer}
        parallel = cycles >= WORTH_FORKING
        wide = bool(inner) and lanes is not None and block > MOST_VECTORS * width
        short = 0.0 if packed is not None or wide else _short_runs(facts, lanes, size, trips)
        for panel in (True, False) if short else (False,):  # the plan without one last: it may be cut in pieces below
            moved, idle, order = _order(facts, lanes, packed, panel, size, trips, cycles if parallel else 0.0)
            moved += 0.0 if panel else short
            grain = 0
            if parallel and order:
                shared = next((trips[axis] for axis in order if trips[axis] > 1), 1)
                grain = max(1, round(WORTH_A_RANGE * shared / cycles), shared // MOST_RANGES)
            if not inner:
                moved = idle = 0.0  # nothing is used again, so no order moves much less; how lanes meet memory decides
            abreast = 1 if inner else _abreast(facts, lanes, block)
            plan = Plan(width, lanes, stage_lanes, block, rows, order, grain, packed, panel, None, abreast, wide)
            if packed is None or _packed_bytes(packed, nest, block) <= MOST_PACKED:
                total = _total(cycles, moved, idle)
                if least is not None:
                    least.cycles = min(least.cycles, total)
                yield total, plan
        if inner and own is not None and not wide and moved + idle > cycles / 4 and splittable(facts, stage):
            tile = {axis: size.get(axis, 1) for axis in nest.outer}
            loads = [_packed(access, packed, lanes, size) for access in stage.fold_loads]
            stage_own = None if lanes else own
            for apart, again, turned, split in splits(facts, stage, stage_own, block, loads, order, trips, tile):
                if packed is not None and (
                    any(packed.depends(axis) for axis in turned[1:])
                    or _packed_bytes(packed, nest, block, split) > MOST_PACKED
                ):
                    continue
                idle = cycles * _imbalance(trips[turned[0]]) if parallel else 0.0
                apart += short if turned[0] == lanes else 0.0
                pieces = replace(plan, order=turned, panel=False, split=split)
                yield _total(cycles + again, apart, idle), pieces


def _total(work: float, moved: float, idle: float) -> float:
    """Cycles of a plan. work: of arithmetic. moved: of bringing data. idle: for which threads wait for the last one.

    Idle time is counted beside arithmetic, as the movement of data is: for how many threads there will be is a guess,
    one alone never waits, and where arithmetic takes longest an even share isn't worth tiles that load more often.
    """
    beside = moved + idle
    return max(work, beside) + OVERLAP * min(work, beside)


def _packing(packed: Access, lanes: Axis | None, nest: Nest, width: int) -> float:
    """Cycles to copy one element of a packed operand."""
    if lanes is not None and packed.at.coefficient(lanes) == 1:
        return PACK_RUNS
    runs = (axis for axis, step in packed.at.terms if step == 1 and axis not in nest.outer and axis.extent >= width)
    if lanes is None or not any(runs):
        return PACK
    gathered = lanes.extent % width / lanes.extent  # lanes that fill no square
    return PACK_SQUARES + gathered * (PACK - PACK_SQUARES)


def _packed_bytes(packed: Access, nest: Nest, block: int, split: Split | None = None) -> int:
    """What a packed operand takes, for a block of lanes, and in a piece of the fold."""
    size = block * packed.buffer.dtype.itemsize
    for axis, _ in packed.at.terms:
        if split is not None and axis in split.axes:
            size *= split.chunk if split.chunk and axis == split.axes[-1] else 1
        elif axis not in nest.outer:
            size *= axis.extent
    return size


def _packable(facts: Facts, lanes: Axis | None) -> Access | None:
    """An operand of a fold that lanes would have to gather, used often enough to be copied first."""
    if lanes is None:
        return None
    return next((load for _, load in _used_again(facts, 8) if load.at.coefficient(lanes) not in (0, 1)), None)


def _loose(facts: Facts, lanes: Axis | None) -> Access | None:
    """An operand of a fold whose rows lie so far apart that they keep each other out of the cache; or one that is read
    so often that it should lie where vectors are loaded whole: an argument of a call starts anywhere."""
    if lanes is None:
        return None
    often = [load for _, load in _used_again(facts, OFTEN)]
    for stage, load in _used_again(facts, 32):
        apart = max((abs(load.at.coefficient(axis)) for axis in stage.axes), default=0) * load.buffer.dtype.itemsize
        conflicting = apart > 0 and apart % PAGE_HALF == 0
        if load.at.coefficient(lanes) == 1 and (conflicting or load in often):
            return load
    return None


def _used_again(facts: Facts, times: int) -> Iterator[tuple[Stage, Access]]:
    """The operands of folds that could be copied, of which each element is used at least so often, and their stages."""
    for stage in facts.stages:
        for load in stage.fold_loads:
            again = prod(axis.extent for axis in facts.nest.outer if not load.depends(axis))
            if again >= times and not load.varies and not load.masked:
                yield stage.stage, load


def _short_runs(facts: Facts, lanes: Axis | None, size: dict[Axis, int], trips: dict[Axis, int]) -> float:
    """Cycles lost if the last stages, after folds, work on many arrays in runs as short as a tile; 0 where they could
    not do so in long ones."""
    last = facts.stages[-1]
    if lanes is None or trips[lanes] < 2 or last.stage.axes or facts.nest.locals or len(facts.stages) < 2:
        return 0.0
    runs = [access for access in last.accesses if access.at.coefficient(lanes) == 1]
    points = prod(n for axis, n in size.items() if axis != lanes) * lanes.extent
    others = [axis for axis in trips if axis != lanes and trips[axis] > 1]
    small = points * runs[0].buffer.dtype.itemsize <= MOST_PANEL if runs else False
    if len(runs) < MANY_STREAMS or not small or not 0 < len(others) < PERMUTED:
        return 0.0
    return SHORT_RUN * len(runs) * trips[lanes] * prod(axis.extent for axis in facts.nest.outer if axis != lanes)


def _abreast(facts: Facts, lanes: Axis | None, block: int) -> int:
    """Vectors to work on side by side. A processor looks ahead by some hundred operations, most of which wait in one
    long chain; written out abreast, as many chains stand in its window. Numbers that don't fit into registers are
    read from the first-level cache meanwhile."""
    if lanes is None or facts.nest.locals or _crossed(facts, lanes):
        return 1
    accesses = [access for stage in facts.stages for access in stage.accesses]
    if any(lanes.name in a.varies or a.at.coefficient(lanes) not in (0, 1) for a in accesses):
        return 1
    arithmetic = sum(stage.arithmetic for stage in facts.stages)
    points = block or lanes.extent
    fitting = (n for n in ABREAST if n * arithmetic <= MOST_ABREAST and n * facts.width <= points)
    return next(fitting, 1)


def _flat_block(facts: Facts, lanes: Axis, cycles: float) -> int:
    """Where nothing is accumulated in registers, cut the lanes only to have parallel pieces, or for a transposition."""
    width = facts.width
    others = [axis for axis in facts.nest.outer if axis != lanes]
    if _crossed(facts, lanes):
        return min(TRANSPOSED * width, lanes.extent)
    if cycles < WORTH_FORKING or any(axis.extent >= 8 for axis in others):
        return 0
    pieces = min(MOST_RANGES, max(1, round(cycles / prod(a.extent for a in others) / WORTH_A_RANGE)))
    if pieces == 1:
        return 0
    # Equal pieces need one piece of code; of others, all but the last are a whole number of steps.
    near = sorted(range(2 * pieces // 3, 3 * pieces // 2 + 1), key=lambda n: abs(n - pieces))
    for step in (4 * width, width):
        equal = next((n for n in near if n > 1 and lanes.extent % (n * step) == 0), 0)
        if equal:
            return lanes.extent // equal
    step = 4 * width
    return -(-lanes.extent // (pieces * step)) * step


def _squares(facts: Facts, lanes: Axis) -> Iterator[tuple[float, int, Rows]]:
    """Tiles, as wide as high, of which what lanes would gather or scatter is transposed in registers."""
    for axis in facts.nest.outer:
        rows = ((axis, min(axis.extent, facts.width)),)
        if axis != lanes and any(access.turned(lanes, rows) for stage in facts.stages for access in stage.accesses):
            yield facts.cost(lanes, None, rows=rows), facts.width, rows


def _square(facts: Facts, lanes: Axis) -> Axis | None:
    """The axis along the rows of a plain copy that lanes walk across: with them it makes squares, which the printer
    turns over in registers."""
    if len(facts.stages) != 1 or facts.nest.locals:
        return None
    match facts.stages[0].stage:
        case Stage(axes=(), lets=(), folds=(), checks=(), stores=(Store(mask=None, value=Load() as load) as store,)):
            if load.mask is not None or load.offset.dynamic or store.offset.dynamic:
                return None
            read, written = load.offset.affine, store.offset.affine
            along = next((axis for axis, step in read.terms if step == 1 and axis in facts.nest.outer), None)
            across = read.coefficient(lanes) not in (0, 1) and written.coefficient(lanes) == 1
            large = along is not None and min(along.extent, lanes.extent) >= facts.width
            return along if across and large else None
    return None


def _crossed(facts: Facts, lanes: Axis) -> bool:
    """Whether lanes skip through an array that another axis walks along: lines must be used again before they go."""
    others = [axis for axis in facts.nest.outer if axis != lanes]
    return any(
        access.at.coefficient(lanes) not in (0, 1) and any(access.at.coefficient(axis) == 1 for axis in others)
        for stage in facts.stages
        for access in stage.accesses
    )


def _order(
    facts: Facts,
    lanes: Axis | None,
    packed: Access | None,
    panel: bool,
    size: dict[Axis, int],
    trips: dict[Axis, int],
    cycles: float,
) -> tuple[float, float, tuple[Axis, ...]]:
    """Outer axes, outermost first: least traffic, and enough iterations outermost to share among threads.

    Before them the cycles that moving data takes, and those for which threads wait. cycles: of all work, 0 if it isn't
    shared.
    """
    outer = facts.nest.outer
    stores = [a for stage in facts.stages for a in stage.accesses if a.store]
    by_stride = sorted(outer, key=lambda axis: -sum(abs(a.at.coefficient(axis)) for a in stores))
    if lanes is not None and trips[lanes] == 1:
        by_stride = [*(axis for axis in by_stride if axis != lanes), lanes]
    looping = [axis for axis in by_stride if trips[axis] > 1]
    still = [axis for axis in by_stride if trips[axis] == 1]
    accesses = tuple(dict.fromkeys(_packed(a, packed, lanes, size) for s in facts.stages for a in s.accesses))
    tile = {axis: size.get(axis, 1) for axis in outer}
    first = [axis for axis in looping if packed is not None and packed.depends(axis)]

    memory = Traffic(accesses, trips, tile)

    def idle(order: tuple[Axis, ...]) -> float:
        return cycles * _imbalance(trips[order[0]] if order else 1)

    flat = not any(stage.stage.axes for stage in facts.stages)
    if lanes in looping and flat and len(size) == 1 and _crossed(facts, lanes):
        orders = [(lanes, *(axis for axis in looping if axis != lanes))]
    elif len(looping) > PERMUTED and not panel:
        if cycles:  # the most iterations outermost
            most = max(looping, key=lambda axis: min(trips[axis], 16))
            looping = [most, *(axis for axis in looping if axis != most)]
        orders = [tuple(looping)]
    else:
        orders = [order for order in permutations(looping) if set(order[: len(first)]) == set(first)]
        if panel:
            orders = [order for order in orders if order[-1] == lanes]
    found = ((memory.cycles(order), idle(order), order) for order in orders)
    moved, waited, best = min(found, key=lambda one: one[0] + one[1])
    return (
        moved,
        waited,
        (
            *(axis for axis in still if packed is not None and packed.depends(axis)),
            *best,
            *(axis for axis in still if packed is None or not packed.depends(axis)),
        ),
    )


def _packed(access: Access, packed: Access | None, lanes: Axis | None, size: dict[Axis, int]) -> Access:
    """An access as it is once its operand is packed: rows of a block of lanes, one after the other."""
    if packed is None or lanes is None or access is not packed:
        return access
    at, stride = affine(lanes), size[lanes]
    for axis, _ in sorted(packed.at.terms, key=lambda term: abs(term[1])):
        if axis != lanes:
            at, stride = at + axis * stride, stride * axis.extent
    return replace(access, at=at, buffer=replace(access.buffer, name=f"{access.buffer.name}_packed"))


def _imbalance(trips: int) -> float:
    """Time lost, as a share of all work, when so many equal pieces meet 2, 4 or 8 threads, the fewer the likelier."""

    def lost(threads: int) -> float:
        return -(-trips // threads) * threads / trips - 1

    return 0.8 * lost(2) + 0.15 * lost(4) + 0.05 * lost(8)
