"""From what a nest must produce (expressions that share) to its stages (Lets in order).

Three decisions are taken here, none of which changes a number:
- what is computed where: folds go into the first stage in which everything they need is known, stores likewise;
  folds and stores over the same axes share one stage; what is the same for a whole outer point is a Let before.
- neighbouring axes that every offset runs through as one are merged, axes of extent 1 vanish.
- a costly value (exp, tanh, random numbers) needed by two stages over the same axes is kept in a local row.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import field, replace
from typing import TypeAlias

from graphc.errors import VerifyError
from graphc.frozen import dataclass
from graphc.ir.digits import row_major
from graphc.ir.expr import Affine, Axis, Call, Index, Reducer, affine

from .exprs import Builder
from .ir import Accumulate, Buffer, Check, Expr, Let, Load, Offset, Store, Var
from .nest import Fold, Nest, Stage

Axes: TypeAlias = tuple[Axis, ...]

COSTLY = frozenset({"exp", "expm1", "log", "log1p", "tanh", "erf", "sin", "cos", "pow", "philox32", "philox64"})
MAX_LOCAL = 1 << 14  # elements of a local row: more than a core's second cache holds is better computed again
MAX_DEPTH = 8  # of an expression; what is deeper is cut by a Let


@dataclass(frozen=True, slots=True, eq=False)
class FoldTarget:
    axes: Axes
    var: Var
    reducer: Reducer
    value: Expr


@dataclass(frozen=True, slots=True, eq=False)
class StoreTarget:
    """adds: an Accumulate of sums, after the other stores."""

    axes: Axes
    buffer: Buffer
    offset: Offset
    value: Expr
    adds: bool = False


@dataclass(frozen=True, slots=True, eq=False)
class CheckTarget:
    condition: Expr
    message: str


Target: TypeAlias = FoldTarget | StoreTarget | CheckTarget


def arrange(name: str, params: tuple[Buffer, ...], points: Axes, targets: Sequence[Target], build: Builder) -> Nest:
    """The nest whose outer points are `points` and which does all of `targets`."""
    return _Arrangement(name, params, points, list(targets), build).nest()


def roots(target: Target) -> tuple[Expr, ...]:
    """The expressions that a target evaluates."""
    match target:
        case FoldTarget(value=value):
            return (value,)
        case StoreTarget(offset=offset, value=value):
            return (value, *(e for e, _ in offset.dynamic))
        case CheckTarget(condition=condition):
            return (condition,)


def children(expr: Expr) -> tuple[Expr, ...]:
    match expr:
        case Call(args=args):
            return args
        case Load(offset=offset, mask=mask):
            inner = tuple(e for e, _ in offset.dynamic)
            return inner if mask is None else (*inner, mask)
    return ()


def postorder(starts: Iterable[Expr], stop: dict[int, Expr] | None = None) -> list[Expr]:
    """Every expression that `starts` reach, arguments first, each once; those in `stop` are not entered."""
    order: list[Expr] = []
    seen: set[int] = set()
    stack: list[tuple[Expr, bool]] = [(e, False) for e in reversed(list(starts))]
    while stack:
        expr, done = stack.pop()
        if done:
            order.append(expr)
        elif id(expr) not in seen:
            seen.add(id(expr))
            stack.append((expr, True))
            if stop is None or id(expr) not in stop:
                stack.extend((c, False) for c in reversed(children(expr)))
    return order


@dataclass(slots=True)
class _Arrangement:
    name: str
    params: tuple[Buffer, ...]
    points: Axes
    targets: list[Target]
    build: Builder
    axes: dict[int, frozenset[Axis]] = field(default_factory=dict)  # by id: the axes an expression depends on
    level: dict[int, int] = field(default_factory=dict)  # by id: the number of fold stages that must come before
    uses: dict[int, int] = field(default_factory=dict)
    bound: dict[int, Expr] = field(default_factory=dict)  # by id: Lets of the outer point
    kept: dict[Axes, dict[int, Expr]] = field(default_factory=dict)  # by axes, id: loads from local rows
    locals: list[Buffer] = field(default_factory=list)
    stages: list[Stage] = field(default_factory=list)
    names: int = 0

    def nest(self) -> Nest:
        self.measure()
        merged = _Merging(self.points, self.stage_axes(), self.targets)
        messages = tuple(dict.fromkeys(t.message for t in self.targets if isinstance(t, CheckTarget)))
        placed = [(self.target_level(t), self.target_axes(t), t) for t in self.targets]
        share = self.shared(placed)
        for level in range(max((k for k, _, _ in placed), default=-1) + 1):
            here = [(axes, t) for k, axes, t in placed if k == level]
            loops = list(dict.fromkeys(axes for axes, _ in here if axes))
            inside = {axes: [t for a, t in here if a == axes] for axes in loops}
            hoisted = [e for axes in loops for e in self.invariant(axes, inside[axes])]
            self.stage((), [t for a, t in here if not a], merged, messages, hoisted, [])
            for axes in loops:
                keep = [e for e in share.get((level, axes), []) if id(e) not in self.kept.get(axes, {})]
                self.stage(axes, inside[axes], merged, messages, [], keep)
        nest = Nest(self.name, self.params, merged.points, tuple(self.stages), tuple(self.locals), (), messages)
        return replace(nest, inplace=tuple(inplace_pairs(nest)))

    # ------------------------------------------------------------------ what depends on what

    def measure(self) -> None:
        levels: dict[str, int] = {}  # of fold vars; a fold target stands after the targets of folds that it uses
        for target in self.targets:
            for expr in postorder(roots(target)):
                if id(expr) in self.axes:
                    continue
                own: frozenset[Axis] = frozenset()
                level = 0
                match expr:
                    case Index(at) | Load(offset=Offset(affine=at)):
                        own = frozenset(a for a, _ in at.terms)
                    case Var(name):
                        level = levels[name]
                for child in children(expr):
                    own |= self.axes[id(child)]
                    level = max(level, self.level[id(child)])
                    self.uses[id(child)] = self.uses.get(id(child), 0) + 1
                self.axes[id(expr)], self.level[id(expr)] = own, level
            for root in roots(target):
                self.uses[id(root)] = self.uses.get(id(root), 0) + 1
            if isinstance(target, FoldTarget):
                levels[target.var.name] = self.target_level(target) + 1
                if self.depends(target) - set(self.points) - set(target.axes):
                    raise VerifyError(f"{self.name}: the reduction {target.var.name} isn't one number an outer point")

    def depends(self, target: Target) -> frozenset[Axis]:
        return frozenset().union(*(self.axes[id(e)] for e in roots(target)))

    def target_level(self, target: Target) -> int:
        level = max(self.level[id(e)] for e in roots(target))
        return max(level, 1) if isinstance(target, StoreTarget) and target.adds else level

    def stage_axes(self) -> list[Axes]:
        return list(dict.fromkeys(t.axes for t in self.targets if not isinstance(t, CheckTarget) and t.axes))

    def target_axes(self, target: Target) -> Axes:
        """The axes of the stage that a target goes to; a check goes where all that it needs is looped over."""
        if not isinstance(target, CheckTarget):
            return target.axes
        needed = self.depends(target) - set(self.points)
        if not needed:
            return ()
        for axes in self.stage_axes():
            if needed <= set(axes):
                return axes
        raise VerifyError(f"{self.name}: no stage loops over all axes of the check {target.message!r}")

    def invariant(self, axes: Axes, targets: list[Target]) -> list[Expr]:
        """The largest expressions in a stage that are the same at all of its points."""
        found: dict[int, Expr] = {}
        seen: set[int] = set()
        stack = [e for t in targets for e in roots(t)]
        while stack:
            expr = stack.pop()
            if id(expr) in seen:
                continue
            seen.add(id(expr))
            if self.axes[id(expr)].isdisjoint(axes):
                if isinstance(expr, (Call, Load)):
                    found[id(expr)] = expr
            else:
                stack.extend(reversed(children(expr)))
        return list(found.values())

    def shared(self, placed: list[tuple[int, Axes, Target]]) -> dict[tuple[int, Axes], list[Expr]]:
        """For each stage the costly values that a later stage over the same axes needs as well."""
        reached: dict[Axes, dict[int, list[int]]] = {}
        exprs: dict[int, Expr] = {}
        for level, axes, target in sorted(placed, key=lambda p: p[0]):
            if not axes or math.prod(a.extent for a in axes) > MAX_LOCAL:
                continue
            for expr in self.frontier(axes, target, set(reached.get(axes, ()))):
                exprs[id(expr)] = expr
                levels = reached.setdefault(axes, {}).setdefault(id(expr), [])
                if level not in levels:
                    levels.append(level)
        result: dict[tuple[int, Axes], list[Expr]] = {}
        for axes, found in reached.items():
            for key, levels in found.items():
                if len(levels) > 1:
                    result.setdefault((levels[0], axes), []).append(exprs[key])
        return result

    def frontier(self, axes: Axes, target: Target, known: set[int]) -> list[Expr]:
        """Costly values that vary in the stage, from the top; below one that is known already nothing is looked at."""
        found: list[Expr] = []
        seen: set[int] = set()
        stack = list(roots(target))
        while stack:
            expr = stack.pop()
            if id(expr) in seen:
                continue
            seen.add(id(expr))
            if isinstance(expr, Call) and expr.op in COSTLY and not self.axes[id(expr)].isdisjoint(axes):
                found.append(expr)
                if id(expr) in known:
                    continue
            stack.extend(children(expr))
        return found

    # ------------------------------------------------------------------ stages

    def stage(
        self,
        axes: Axes,
        targets: list[Target],
        merged: _Merging,
        messages: tuple[str, ...],
        hoisted: list[Expr],
        keep: list[Expr],
    ) -> None:
        """Append the stage over `axes` that does `targets`, binds `hoisted` and stores `keep` to local rows."""
        if not targets and not hoisted:
            return
        stop = self.bound | self.kept.get(axes, {})
        starts = [e for t in targets for e in roots(t)] + hoisted + keep
        order = postorder(starts, stop)
        uses: dict[int, int] = {}
        for expr in order:
            if id(expr) not in stop:
                for child in children(expr):
                    uses[id(child)] = uses.get(id(child), 0) + 1
        for expr in starts:
            uses[id(expr)] = uses.get(id(expr), 0) + 1
        wanted = {id(e) for e in (*hoisted, *keep)}
        done: dict[int, Expr] = {}
        depth: dict[int, int] = {}
        lets: list[Let] = []
        for expr in order:
            if id(expr) in stop:
                done[id(expr)], depth[id(expr)] = stop[id(expr)], 1
                continue
            made = _rebuilt(expr, done, merged)
            height = 1 + max((depth[id(c)] for c in children(expr)), default=0)
            often = uses[id(expr)] if axes else max(uses[id(expr)], self.uses[id(expr)])
            if isinstance(expr, (Call, Load)) and (often > 1 or height > MAX_DEPTH or id(expr) in wanted):
                var = Var(f"v{self.names}", expr.dtype)
                self.names += 1
                lets.append(Let(var, made))
                made, height = var, 1
                if not axes:
                    self.bound[id(expr)] = var
            done[id(expr)], depth[id(expr)] = made, height
        folds, stores, checks = [], [], []
        for target in targets:
            match target:
                case FoldTarget(_, var, reducer, value):
                    folds.append(Fold(var, reducer, done[id(value)]))
                case StoreTarget(_, buffer, offset, value, adds):
                    at = merged.offset(offset, done)
                    made = done[id(value)]
                    stores.append(Accumulate(buffer, at, "sum", made) if adds else Store(buffer, at, made))
                case CheckTarget(condition, message):
                    checks.append(Check(done[id(condition)], messages.index(message) + 1))
        looped = merged.stages[axes] if axes else ()
        for expr in keep:
            buffer = Buffer(f"l{len(self.locals)}", expr.dtype, math.prod(a.extent for a in axes), "scratch")
            self.locals.append(buffer)
            at = Offset(row_major(looped))
            stores.append(Store(buffer, at, done[id(expr)]))
            self.kept.setdefault(axes, {})[id(expr)] = Load(buffer, at)
        self.stages.append(Stage(looped, tuple(lets), tuple(folds), tuple(stores), tuple(checks)))


def _rebuilt(expr: Expr, done: dict[int, Expr], merged: _Merging) -> Expr:
    """The expression with its arguments replaced by what they became, over the merged axes."""
    match expr:
        case Call(op, args, dtype):
            return Call(op, tuple(done[id(a)] for a in args), dtype)
        case Index(at):
            return Index(merged.affine(at))
        case Load(buffer, offset, mask, other):
            return Load(buffer, merged.offset(offset, done), None if mask is None else done[id(mask)], other)
    return expr


class _Merging:
    """Neighbouring axes that all affine forms run through as one become one; names become i0.. and j0..

    points: the outer axes after merging. stages: for each tuple of stage axes the merged tuple.
    """

    def __init__(self, points: Axes, stages: list[Axes], targets: list[Target]) -> None:
        self._forms = list(dict.fromkeys(_affine_forms(targets)))
        self._base: dict[Axis, Axis] = {}  # innermost axis of a run -> the merged axis
        self.points = self._merge(points, "i", 0)
        self.stages: dict[Axes, Axes] = {}
        for axes in stages:
            self.stages[axes] = self._merge(axes, "j", sum(map(len, self.stages.values())))

    def _merge(self, axes: Axes, prefix: str, first: int) -> Axes:
        runs: list[list[Axis]] = []
        for axis in axes:
            if axis.extent == 1:
                continue
            if runs and all(f.coefficient(runs[-1][-1]) == f.coefficient(axis) * axis.extent for f in self._forms):
                runs[-1].append(axis)
            else:
                runs.append([axis])
        made = []
        for number, run in enumerate(runs, first):
            merged = Axis(f"{prefix}{number}", math.prod(a.extent for a in run))
            self._base[run[-1]] = merged
            made.append(merged)
        return tuple(made)

    def affine(self, at: Affine) -> Affine:
        total = affine(at.const)
        for axis, coefficient in at.terms:
            if axis in self._base:  # the others of a run are implied by its innermost
                total = total + self._base[axis] * coefficient
        return total

    def offset(self, offset: Offset, done: dict[int, Expr]) -> Offset:
        return Offset(self.affine(offset.affine), tuple((done[id(e)], c) for e, c in offset.dynamic))


def _affine_forms(targets: list[Target]) -> Iterator[Affine]:
    for target in targets:
        if isinstance(target, StoreTarget):
            yield target.offset.affine
    for expr in postorder(e for t in targets for e in roots(t)):
        match expr:
            case Index(at) | Load(offset=Offset(affine=at)):
                yield at


def inplace_pairs(nest: Nest) -> Iterator[tuple[str, str]]:
    """(read, written) params that may be the same memory: all loads stand where the store is, or before it.

    A place is (stage, 0) for lets, checks and folds and (stage, k) for the k-th store.
    """
    stores: dict[str, list[tuple[tuple[int, int], Store | Accumulate]]] = {}
    loads: dict[str, list[tuple[tuple[int, int], Load]]] = {}
    for number, stage in enumerate(nest.stages):
        values: list[tuple[int, Expr]] = [(0, let.value) for let in stage.lets]
        values += [(0, fold.value) for fold in stage.folds] + [(0, check.condition) for check in stage.checks]
        for k, store in enumerate(stage.stores, 1):
            stores.setdefault(store.buffer.name, []).append(((number, k), store))
            values += [(k, e) for e in (store.value, *(d for d, _ in store.offset.dynamic))]
        for k, value in values:
            for expr in postorder([value]):
                if isinstance(expr, Load):
                    loads.setdefault(expr.buffer.name, []).append(((number, k), expr))
    for written in nest.params:
        here = stores.get(written.name, [])
        if len(here) != 1 or not isinstance(here[0][1], Store):
            continue
        place, store = here[0]
        for read in nest.params:
            if read.name in stores or (read.size, read.dtype) != (written.size, written.dtype):
                continue
            if all(at <= place and load.offset == store.offset for at, load in loads.get(read.name, [])):
                yield read.name, written.name
