"""What executing a nest costs, in cycles, counted from its accesses and arithmetic. Rough: it ranks choices.

The figures are throughputs of recent x86 cores with the data in the first-level cache: two loads, two
multiply-adds and one store of a full vector each cycle; lanes that aren't adjacent are moved one by one.
"""

from __future__ import annotations

from collections.abc import Iterable
from math import prod
from typing import TypeAlias

from graphc.frozen import dataclass
from graphc.ir.expr import Affine, Axis, Call, Index
from graphc.runtime.cpu.target import APART, Target
from graphc.runtime.loop.ir import Accumulate, Buffer, Expr, Load, Var
from graphc.runtime.loop.nest import Nest, Stage
from graphc.types import DType, float32

from .rewrite import conjuncts, expressions, parts

Rows: TypeAlias = tuple[tuple[Axis, int], ...]  # outer axes, with how many points of each make a tile

SIMPLE = 0.5
ARITHMETIC: dict[str, float] = {
    "div": 4, "sqrt": 5, "rsqrt": 8, "exp": 10, "expm1": 14, "log": 12, "log1p": 16, "tanh": 16, "erf": 20,
    "sin": 16, "cos": 16, "pow": 40, "floordiv": 8, "mod": 8, "philox32": 60, "philox64": 70,
}  # fmt: skip
CONTIGUOUS_LOAD, BROADCAST_LOAD, CONTIGUOUS_STORE = 0.5, 0.25, 1.0
LANE_LOAD, LANE_STORE = 1.4, 5.0  # for each lane of a gather or scatter; each is in a cache line of its own
MASK = 0.5
SCALAR_LOOP = 1.0  # of each point that isn't done in lanes
TURN = 5.0  # transposing one register in a square of registers
LEAST_TURNED = 4  # rows of a square that is worth transposing
FOLD_LANES = 5.0  # folding the lanes of one register into a number
SERIAL_SCATTER = 4.0  # an accumulation through memory waits for the one before


@dataclass(frozen=True, slots=True)
class Access:
    """One load or store.

    varies: names of axes that its data-dependent offset depends on. guards: those that each condition of its mask does.
    """

    buffer: Buffer
    at: Affine
    varies: frozenset[str]
    guards: tuple[frozenset[str], ...]
    store: bool

    @property
    def masked(self) -> frozenset[str]:
        return frozenset().union(*self.guards)

    def depends(self, axis: Axis) -> bool:
        return bool(self.at.coefficient(axis)) or axis.name in self.varies

    def turned(self, lanes: Axis, rows: Rows) -> tuple[Axis, int] | None:
        """A row of a tile along which elements lie side by side, or nearly so, where they don't along the lanes: a
        square of registers can be transposed between memory and the lanes."""
        if lanes.name in self.varies or self.at.coefficient(lanes) in (0, 1):
            return None
        found = [
            (axis, size)
            for axis, size in rows
            if 0 < self.at.coefficient(axis) <= APART and axis.name not in self.varies
        ]
        return next(((axis, size) for axis, size in found if size >= LEAST_TURNED), None)

    def cost(self, lanes: Axis | None, width: int, rows: Rows = ()) -> float:
        """rows: outer axes with how many points of each stand side by side, where no fold uses the access."""
        if lanes is None:
            return CONTIGUOUS_STORE if self.store else CONTIGUOUS_LOAD
        mask = MASK if lanes.name in self.masked else 0.0
        stride = self.at.coefficient(lanes)
        turned = self.turned(lanes, rows)
        if turned is not None:
            whole = width * -(-turned[1] // width) / turned[1]
            moved = CONTIGUOUS_STORE if self.store else CONTIGUOUS_LOAD
            return mask + whole * (TURN + moved * self.at.coefficient(turned[0]))
        if lanes.name in self.varies or stride not in (0, 1):
            return mask + width * (LANE_STORE if self.store else LANE_LOAD)
        if stride == 1:
            return mask + (CONTIGUOUS_STORE if self.store else CONTIGUOUS_LOAD)
        return mask + (CONTIGUOUS_STORE if self.store else BROADCAST_LOAD)


@dataclass(frozen=True, slots=True)
class StageFacts:
    """loads of folds' values stand in `fold_loads` too: they are what a register tile can use again."""

    stage: Stage
    accesses: tuple[Access, ...]
    fold_loads: tuple[Access, ...]
    arithmetic: float

    def points(self) -> int:
        return prod(axis.extent for axis in self.stage.axes)

    def size(self) -> float:
        """How much work a point of the outer axes is."""
        return self.points() * self.unit(None, 1)

    def unit(self, lanes: Axis | None, width: int, packed: Access | None = None, rows: Rows = ()) -> float:
        """Cycles for one iteration: of `width` lanes along `lanes`, or a single point. packed: made contiguous."""
        rows = () if self.stage.axes else rows
        scatter = SERIAL_SCATTER * sum(isinstance(s, Accumulate) for s in self.stage.stores)
        moved = sum(CONTIGUOUS_LOAD if a is packed else a.cost(lanes, width, rows) for a in self.accesses)
        return moved + self.arithmetic + scatter + SIMPLE * len(self.stage.folds)

    def cost(
        self, outer: Iterable[Axis], lanes: Axis | None, width: int, packed: Access | None = None, rows: Rows = ()
    ) -> float:
        """Cycles for all points, vectorised along `lanes` (one of outer or of the stage's axes)."""
        points = prod(axis.extent for axis in outer) * self.points()
        if lanes is None:
            return points * (self.unit(None, 1) + SCALAR_LOOP)
        return points / lanes.extent * -(-lanes.extent // width) * self.unit(lanes, width, packed, rows)


@dataclass(frozen=True, slots=True)
class Facts:
    nest: Nest
    stages: tuple[StageFacts, ...]
    width: int

    def cost(self, lanes: Axis | None, packed: Access | None, leave_out: int = -1, rows: Rows = ()) -> float:
        """Cycles with all stages vectorised along the outer axis `lanes`; None: each along its own best axis.

        leave_out: number of a stage not to count. rows: outer axes of which so many points stand side by side.
        """
        stages = [stage for number, stage in enumerate(self.stages) if number != leave_out]
        if lanes is not None:
            return sum(stage.cost(self.nest.outer, lanes, self.width, packed, rows) for stage in stages)
        points = prod(axis.extent for axis in self.nest.outer)
        total = 0.0
        for stage in stages:
            own = self.stage_lanes(stage)
            total += stage.cost(self.nest.outer, own, self.width)
            if own is not None:
                total += points * len(stage.stage.folds) * FOLD_LANES
        return total

    def stage_lanes(self, facts: StageFacts) -> Axis | None:
        """The best axis of a stage to vectorise, if any is better than none and allowed."""
        best, least = None, facts.cost((), None, 1)
        axes = facts.stage.axes
        if any(fold.reducer in ("argmax", "argmin") for fold in facts.stage.folds):
            axes = axes[-1:]  # each lane must meet its points in row-major order, to know the first of equals
        for axis in axes:
            cost = facts.cost((), axis, self.width)
            if cost < least and not _hits_twice(facts.stage, axis):
                best, least = axis, cost
        return best


def _hits_twice(stage: Stage, axis: Axis) -> bool:
    """Whether lanes along a stage axis might accumulate to one element."""
    return any(
        isinstance(store, Accumulate) and (store.offset.dynamic or not store.offset.affine.coefficient(axis))
        for store in stage.stores
    )


def analyse(nest: Nest, target: Target) -> Facts:
    """The facts of a collapsed nest."""
    depends: dict[str, frozenset[str]] = {}
    return Facts(nest, tuple(_stage(stage, depends) for stage in nest.stages), lane_count(nest, target))


def lane_count(nest: Nest, target: Target) -> int:
    """Lanes for the nest's vector loops: those of the widest float that it works with, or else the widest number.

    What is the same for all points (an optimiser's rate) doesn't count. A narrower count for the integers that
    accompany floats (indices, labels) would waste float lanes; LLVM splits what is wider than a register.
    """
    floats: list[DType] = []
    others: list[DType] = []
    for stage in nest.stages:
        floats += [fold.value.dtype for fold in stage.folds if fold.value.dtype.kind == "f"]
        for expr in (*expressions(stage), *(Load(s.buffer, s.offset) for s in stage.stores)):
            for part in parts(expr):
                if isinstance(part, Load) and (part.offset.affine.terms or part.offset.dynamic):
                    (floats if part.dtype.kind == "f" else others).append(part.dtype)
    found = floats or [d for d in others if d.kind == "i"] or [float32]
    return target.lanes(max(found, key=lambda d: d.itemsize))


def dependence(expr: Expr, depends: dict[str, frozenset[str]]) -> frozenset[str]:
    """Names of the axes that the value of an expression depends on."""
    names: set[str] = set()
    for part in parts(expr):
        match part:
            case Var(name):
                names |= depends.get(name, frozenset())
            case Index(at):
                names.update(axis.name for axis, _ in at.terms)
            case Load(offset=offset):
                names.update(axis.name for axis, _ in offset.affine.terms)
    return frozenset(names)


def _stage(stage: Stage, depends: dict[str, frozenset[str]]) -> StageFacts:
    for let in stage.lets:
        depends[let.var.name] = dependence(let.value, depends)
    accesses: dict[Access, None] = {}
    arithmetic = 0.0
    for expr in expressions(stage):
        arithmetic += _arithmetic(expr)
        accesses.update((_load(p, depends), None) for p in parts(expr) if isinstance(p, Load))
    for store in stage.stores:
        varies = frozenset().union(*(dependence(index, depends) for index, _ in store.offset.dynamic))
        guards = tuple(dependence(condition, depends) for condition in conjuncts(store.mask))
        accesses[Access(store.buffer, store.offset.affine, varies, guards, True)] = None
    fold_loads: dict[Access, None] = {}
    for fold in stage.folds:
        depends[fold.var.name] = dependence(fold.value, depends) - {axis.name for axis in stage.axes}
        fold_loads.update((_load(p, depends), None) for p in parts(fold.value) if isinstance(p, Load))
    if stage.folds:  # what is used more than once on the way to a fold was given a name
        for let in stage.lets:
            fold_loads.update((_load(p, depends), None) for p in parts(let.value) if isinstance(p, Load))
    accesses = {**fold_loads, **accesses}
    return StageFacts(stage, tuple(accesses), tuple(a for a in accesses if a in fold_loads), arithmetic)


def _arithmetic(expr: Expr) -> float:
    """Cycles for the functions that stand in an expression, but for masks: an Access counts its own."""
    if not isinstance(expr, Call):
        return 0.0
    return ARITHMETIC.get(expr.op, SIMPLE) + sum(_arithmetic(arg) for arg in expr.args)


def _load(load: Load, depends: dict[str, frozenset[str]]) -> Access:
    varies = frozenset().union(*(dependence(index, depends) for index, _ in load.offset.dynamic))
    guards = tuple(dependence(condition, depends) for condition in conjuncts(load.mask))
    return Access(load.buffer, load.offset.affine, varies, guards, False)
