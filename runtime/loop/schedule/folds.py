"""A stage with axes, for a tile of outer points: accumulators in registers, loops over the stage's axes, lanes folded.

Where a fold has rows that share operands (a contraction), each operand is loaded once and used by all rows: what
differs from lane to lane is staged in registers, what doesn't is a broadcast number, and the inner statements are
multiply-adds on registers alone.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from itertools import permutations
from math import prod
from typing import Literal as OneOf

from graphc.frozen import dataclass
from graphc.ir.expr import Affine, Axis, Call, Index, Literal
from graphc.runtime.cpu.access import accesses
from graphc.runtime.loop.ir import (
    Accumulate,
    Alloc,
    Block,
    Buffer,
    Expr,
    For,
    If,
    Kind,
    Let,
    Load,
    Offset,
    Space,
    Store,
    Var,
)
from graphc.runtime.loop.naive import FIRST, fold_statements, identity
from graphc.runtime.loop.nest import Fold, Stage
from graphc.types import Scalar, bool_, int64

from .choose import Plan
from .cost import StageFacts
from .fetch import Fetch
from .memory import Traffic
from .rewrite import FALSE, TRUE, Rewriter, affines, conjunction, conjuncts, parts
from .staging import ahead, staged
from .tile import Tile, loops, scope

PERMUTED = 4  # so many axes of a stage at most are tried in every order
MOST_STEPS = 80  # vector operations of a tile's fold that are written out, without loops
TEST = 2.0  # cycles for a condition
ROWS_TURNED = 4  # from so many rows on, lanes are folded by transposing


def emit_stage(
    facts: StageFacts,
    own: Axis | None,
    plan: Plan,
    rewriter: Rewriter,
    tile: Tile,
    partial: Mapping[str, Load],
    fetch: Fetch | None,
) -> tuple[Block, dict[str, Expr]]:
    """The statements, and where later stages find the folds' results.

    own: the stage's axis that fills lanes, if no outer one does; `plan.block` of its points are taken side by side.
    partial: where the folds' values so far lie, if they are summed in pieces; they go on from there, and go back.
    fetch: what later stages need.
    """
    sizes = {axis: plan.tile(axis) for axis in plan.order}
    outside = plan.split.whole if partial and plan.split is not None else ()
    return _Stage(facts, facts.stage, own, plan.block, sizes, rewriter, tile, partial, outside, fetch).emit()


def piece_of(axis: Axis, rewriter: Rewriter) -> Axis:
    """The loop over a stage's axis: of the same name, and shorter where the axis is taken in pieces."""
    return next((a for a, _ in rewriter.affine(Affine() + axis).terms if a.name == axis.name), axis)


@dataclass(frozen=True, slots=True)
class _Stage:
    """sizes: points of each outer axis in a tile. outside: axes of the stage whose loops stand outside of the tiles."""

    facts: StageFacts
    stage: Stage
    own: Axis | None
    block: int
    sizes: Mapping[Axis, int]
    rewriter: Rewriter
    tile: Tile
    partial: Mapping[str, Load]
    outside: tuple[Axis, ...]
    fetch: Fetch | None

    def emit(self) -> tuple[Block, dict[str, Expr]]:
        width, rows = self.tile.width, self.tile.rows
        if self.own is None:
            inner = self.tile
        elif self.stage.folds:
            chunks = -(-piece_of(self.own, self.rewriter).extent // width)
            inner = Tile(rows, Axis(f"{self.own.name}_lane", min(self.block, chunks * width)), width)
        else:
            inner = Tile(rows, Axis(f"{self.own.name}_lane", self.own.extent), width)
        accumulators = [_Accumulator(fold, inner, self.tile) for fold in self.stage.folds]
        before = tuple(s for a in accumulators for s in a.start(self.stage.axes, self.so_far(a)))
        body = self.loop(self.order(), self.rewriter, inner, self.hoistable(inner), accumulators)
        found: dict[str, Expr] = {}
        after: Block = ()
        for accumulator in accumulators:
            statements, result = accumulator.finish(self.stage.axes, self.own is not None)
            after += statements
            var = accumulator.fold.var
            if var.name in self.partial:
                home = self.rewriter.expr(self.partial[var.name])
                assert isinstance(home, Load)
                if self.own is None:
                    after += self.tile.over((Store(home.buffer, home.offset, result),))
                else:
                    step = accumulator.accumulate(home.buffer, home.offset, result)
                    after += self.tile.over((step,), "serial")
            elif self.tile.axes:
                found[var.name] = result
            else:
                after += (Let(var, result),)
        return before + body + after, found

    def so_far(self, accumulator: _Accumulator) -> Expr | None:
        """What an accumulator goes on from; where its lanes are folded for each piece, it starts anew."""
        found = self.partial.get(accumulator.fold.var.name)
        return None if found is None or self.own is not None else self.rewriter.expr(found)

    # ------------------------------------------------------------------ loops

    def order(self) -> tuple[Axis, ...]:
        """The stage's axes, outermost first: those that conditions depend on, then by the size of their strides."""
        axes = [axis for axis in self.stage.axes if axis != self.own and axis not in self.outside]
        if any(fold.reducer in ("argmax", "argmin") for fold in self.stage.folds):
            return self.stage.axes  # in row-major order; `own` is the last of them
        forms = list(affines(self.stage))
        strides = {axis: sum(abs(at.coefficient(axis)) for at in forms) for axis in axes}
        ordered = tuple(sorted(axes, key=lambda axis: -strides[axis]))
        if 1 < len(axes) <= PERMUTED and self.stage.folds:
            guards = [_axes(condition) for condition in self.conditions()]
            trips = {axis: axis.extent for axis in axes}
            tile = {**self.sizes, **dict.fromkeys((*axes, *self.outside), 1)}
            accesses = [access for access in self.facts.accesses if not access.store]

            memory = Traffic(accesses, trips, tile)

            def cost(order: tuple[Axis, ...]) -> float:
                tested = [prod(a.extent for a in order[: _last(order, names)]) for names in guards]
                return memory.cycles(order) + TEST * sum(tested)

            ordered = min(permutations(ordered), key=cost)
        return (*ordered, *(() if self.own is None else (self.own,)))

    def written_out(self, inner: Tile) -> bool:
        """Whether a tile takes so few steps that the loops would cost as much, and neighbouring steps read the same
        elements (a window that slides over one channel)."""
        each = inner.size // inner.width * len(self.stage.folds)
        return self.own is None and self.facts.points() * each <= MOST_STEPS

    def conditions(self) -> tuple[Expr, ...]:
        """Conditions, before rewriting, without which the stage does nothing."""
        stage = self.stage
        if stage.stores or stage.checks or not stage.folds:
            return ()
        first, *others = ([*_needed(fold.value, _neutral(fold))] for fold in stage.folds)
        return tuple(c for c in first if all(c in other for other in others))

    def hoistable(self, inner: Tile) -> list[Expr]:
        """The conditions that hold for all points of the tile or for none, rewritten but for the stage's axes."""
        found = []
        mixed = {axis.name for axis in inner.axes} | ({self.own.name} if self.own else set())
        for condition in self.conditions():
            new = self.rewriter.expr(condition)
            if new in (TRUE, FALSE) or any(isinstance(part, Load | Var) for part in parts(new)):
                continue
            if not _axes(new) & mixed:
                found.append(new)
        return found

    def loop(
        self,
        order: tuple[Axis, ...],
        rewriter: Rewriter,
        inner: Tile,
        conditions: list[Expr],
        accumulators: list[_Accumulator],
    ) -> Block:
        pending = {axis.name for axis in order}
        ready = [c for c in conditions if not _axes(c) & pending]
        if ready:
            later = [c for c in conditions if c not in ready]
            guarded = self.loop(order, rewriter.knowing(frozenset(ready)), inner, later, accumulators)
            condition = conjunction(ready)
            assert condition is not None
            return (If(condition, guarded),)
        if not order:
            return self.point(rewriter, inner, accumulators)
        axis, rest_order = order[0], order[1:]
        piece = piece_of(axis, rewriter)
        if axis != self.own:
            kind: Kind = "unroll" if self.stage.folds and self.written_out(inner) else "serial"
            if self.fetch is not None and kind == "serial" and len(order) == len(self.stage.axes):
                start = rewriter.affine(Affine() + axis) - piece

                def repeated(at: Affine) -> Block:
                    inside = rewriter.with_axes({axis.name: start + at})
                    left = [Rewriter({axis.name: at}).expr(c) for c in conditions]
                    return self.loop(rest_order, inside, inner, left, accumulators)

                return self.fetch.along(piece, prod(a.extent for a in rest_order), repeated)
            return (For(piece, kind, self.loop(rest_order, rewriter, inner, conditions, accumulators)),)
        assert inner.lanes is not None
        start = rewriter.affine(Affine() + axis) - piece
        size = inner.lanes.extent
        full, left = divmod(piece.extent, size)
        body: Block = ()
        if full:
            number = Axis(f"{axis.name}_block", full)
            at = start + inner.lanes + (number * size if full > 1 else 0)
            block = self.point(rewriter.with_axes({axis.name: at}), inner, accumulators)
            body = (For(number, "serial", block),) if full > 1 else scope(number, block)
        if left:
            rest = replace(inner, lanes=Axis(inner.lanes.name, left))
            at = start + full * size + Axis(inner.lanes.name, left)
            block = self.point(rewriter.with_axes({axis.name: at}), rest, accumulators)
            body += scope(Axis(f"{axis.name}_rest", 1), block)
        return body

    # ------------------------------------------------------------------ one point of the stage, all of the tile

    def point(self, rewriter: Rewriter, inner: Tile, accumulators: list[_Accumulator]) -> Block:
        stage = self.stage
        values = [rewriter.expr(fold.value) for fold in stage.folds]
        positional = any(accumulator.positional for accumulator in accumulators)
        lets = tuple(rewriter.let(let) for let in stage.lets)
        if inner.rows and stage.folds and not (stage.checks or stage.stores) and not positional:
            steps = [accumulator.step for accumulator in accumulators]
            return staged(lets, values, inner, steps, ahead(self.facts, self.sizes, self.outside, rewriter))
        body: Block = lets
        body += tuple(rewriter.check(check) for check in stage.checks)
        for value, accumulator in zip(values, accumulators, strict=True):
            if accumulator.positional:
                body += accumulator.positions(rewriter, stage.axes, inner)
            else:
                body += (accumulator.step(value, inner),)
        body += tuple(store for s in stage.stores if (store := rewriter.store(s)) is not None)
        return inner.over(body, "serial" if self.in_memory(body, inner) else "unroll")

    def in_memory(self, body: Block, inner: Tile) -> bool:
        """Whether each row is a loop over lanes that needs no registers: written out, rows would only be more code."""
        if inner.lanes is None or inner.lanes.extent <= inner.width or self.stage.folds:
            return False
        return all(access.buffer.space != "register" for access in accesses(body))


@dataclass(frozen=True, slots=True)
class _Accumulator:
    """A fold's running value for each point of `inner`, and its result for each point of `tile`."""

    fold: Fold
    inner: Tile
    tile: Tile

    @property
    def running(self) -> Buffer:
        space: Space = "scratch" if self.inner.wide else "register"
        return Buffer(f"{self.fold.var.name}_acc", self.fold.value.dtype, self.inner.size, space)

    def at(self, inner: Tile) -> Offset:
        """Where the running values stand; inner: this accumulator's tile, perhaps with fewer lanes."""
        if self.inner.lanes is None or inner.lanes is None:
            return Offset(self.inner.offset())
        return Offset(Rewriter({self.inner.lanes.name: Affine(((inner.lanes, 1),))}).affine(self.inner.offset()))

    @property
    def positional(self) -> bool:
        return self.fold.reducer in ("argmax", "argmin")

    def start(self, axes: tuple[Axis, ...], so_far: Expr | None) -> Block:
        if not self.positional:
            value = so_far or identity(self.fold.reducer, self.running.dtype)
            begin = Store(self.running, self.at(self.inner), value)
            return (Alloc(self.running), *self.inner.over((begin,)))
        before, _, _ = fold_statements(self.fold, axes)
        rewriter = self.spread(Rewriter(), axes, self.inner)
        allocs = tuple(Alloc(rewriter.buffers[s.buffer.name][0]) for s in before if isinstance(s, Alloc))
        stores = tuple(rewriter.store(s) for s in before if isinstance(s, Store))
        return allocs + self.inner.over(tuple(s for s in stores if s is not None))

    def spread(self, rewriter: Rewriter, axes: tuple[Axis, ...], inner: Tile) -> Rewriter:
        """The registers of the reference schedule, one for each point."""
        before, _, _ = fold_statements(self.fold, axes)
        size, at = self.inner.size, self.at(inner).affine
        space: Space = "scratch" if self.inner.wide else "register"
        each = {
            s.buffer.name: (replace(s.buffer, size=size, space=space), 1, at) for s in before if isinstance(s, Alloc)
        }
        return replace(rewriter, buffers={**rewriter.buffers, **each})

    def positions(self, rewriter: Rewriter, axes: tuple[Axis, ...], inner: Tile) -> Block:
        """One step of an argmax or argmin."""
        wide = self.spread(rewriter, axes, inner)
        body: list[Let | Store | Accumulate] = []
        for statement in fold_statements(self.fold, axes)[1]:
            if isinstance(statement, Let):
                body.append(wide.let(statement))
            elif isinstance(statement, Store) and (store := wide.store(statement)) is not None:
                body.append(store)
        return tuple(body)

    def step(self, value: Expr, inner: Tile) -> Accumulate:
        """One more value at each point of `inner`."""
        assert self.fold.reducer not in ("argmax", "argmin")
        return Accumulate(self.running, self.at(inner), self.fold.reducer, value)  # type: ignore[arg-type]

    def finish(self, axes: tuple[Axis, ...], own: bool) -> tuple[Block, Expr]:
        """Statements after the last step, and the result at a point of the tile."""
        if self.positional:
            wide = self.spread(Rewriter(), axes, self.inner)
            best, where = (wide.expr(Load(statement.buffer, FIRST)) for statement in self.registers(axes))
            return self.first_of_lanes(best, where) if own else ((), where)
        if not own:
            return (), Load(self.running, self.at(self.inner))
        return self.fold_lanes()

    def registers(self, axes: tuple[Axis, ...]) -> tuple[Alloc, ...]:
        """Of the reference schedule of an argmax or argmin: the extreme so far, and its position."""
        return tuple(s for s in fold_statements(self.fold, axes)[0] if isinstance(s, Alloc))

    def first_of_lanes(self, best: Expr, where: Expr) -> tuple[Block, Expr]:
        """Each lane knows the first extreme of its own; the least position among the lanes that have the extreme.

        A lane that met nothing has position -1. NaN is extreme, and unequal to itself.
        """
        assert self.inner.lanes is not None
        op: OneOf["max", "min"] = "max" if self.fold.reducer == "argmax" else "min"
        name, row, rows = self.fold.var.name, Offset(self.tile.offset()), self.tile.rows
        top = self.tile.buffer(f"{name}_top", self.fold.value.dtype)
        least = self.tile.buffer(f"{name}_first", int64)
        extreme, none = Load(top, row), identity("min", int64)
        hit: Expr = Call("eq", (best, extreme), bool_)
        if best.dtype.kind == "f":
            unordered = Call("ne", (best, best), bool_), Call("ne", (extreme, extreme), bool_)
            hit = Call("or", (hit, Call("and", unordered, bool_)), bool_)
        met = Call("ge", (where, Literal(0, int64)), bool_)
        chosen = Call("select", (Call("and", (met, hit), bool_), where, none), int64)

        def over(statement: Accumulate) -> For:
            assert self.inner.lanes is not None
            return For(self.inner.lanes, "vector", (statement,), self.inner.width)

        body: Block = (Store(top, row, identity(op, top.dtype)), over(Accumulate(top, row, op, best)))
        body += (Store(least, row, none), over(Accumulate(least, row, "min", chosen)))
        return (Alloc(top), Alloc(least), *loops(rows, body, "unroll")), Load(least, row)

    def fold_lanes(self) -> tuple[Block, Expr]:
        tile, width, pitch = self.tile, self.inner.width, self.inner.pitch
        lane, name = Axis(f"{self.fold.var.name}_lane", width), self.fold.var.name
        row = self.tile.offset()
        body: Block = ()
        if pitch > width:
            other = Axis(f"{name}_other", pitch // width - 1)
            first = Offset(row * pitch + lane)
            more = Load(self.running, Offset(row * pitch + lane + other * width + width))
            join: Block = (self.accumulate(self.running, first, more),)
            body += loops(tile.rows, (For(other, "unroll", (For(lane, "vector", join, width),)),), "unroll")
        if tile.points >= ROWS_TURNED:
            return self.fold_squares(body)
        result = tile.buffer(f"{name}_all", self.fold.value.dtype)
        start = Store(result, Offset(row), identity(self.fold.reducer, result.dtype))
        step = self.accumulate(result, Offset(row), Load(self.running, Offset(row * pitch + lane)))
        body += (Alloc(result), *loops(tile.rows, (start, For(lane, "vector", (step,), width)), "unroll"))
        return body, Load(result, Offset(row))

    def fold_squares(self, body: Block) -> tuple[Block, Expr]:
        """The lanes of many rows: squares of registers are transposed, so that each lane stands for a row."""
        width, pitch, name = self.inner.width, self.inner.pitch, self.fold.var.name
        rows, lane = Axis(f"{name}_point", self.tile.points), Axis(f"{name}_lane", width)
        total = Buffer(f"{name}_total", self.running.dtype, -(-rows.extent // width) * width, "register")
        result = Buffer(f"{name}_all", total.dtype, rows.extent, "scratch")
        at = Offset(Affine() + rows)
        begin = Store(total, at, identity(self.fold.reducer, total.dtype))
        step = self.accumulate(total, at, Load(self.running, Offset(Affine() + rows * pitch + lane)))
        end = Store(result, at, Load(total, at))
        body += (Alloc(total), For(rows, "vector", (begin,), width))
        body += (For(lane, "unroll", (For(rows, "vector", (step,), width),)),)
        body += (Alloc(result), For(rows, "vector", (end,), width))
        return body, Load(result, Offset(self.tile.offset()))

    def accumulate(self, buffer: Buffer, at: Offset, value: Expr) -> Accumulate:
        return Accumulate(buffer, at, self.fold.reducer, value)  # type: ignore[arg-type]


# ---------------------------------------------------------------------------------------------- conditions


def _axes(expr: Expr) -> set[str]:
    """Names of the axes in the indices of a condition."""
    return {axis.name for part in parts(expr) if isinstance(part, Index) for axis, _ in part.at.terms}


def _last(order: tuple[Axis, ...], names: set[str]) -> int:
    """How many loops, outermost first, bind all axes of these names."""
    return max((i + 1 for i, axis in enumerate(order) if axis.name in names), default=0)


def _neutral(fold: Fold) -> Scalar | None:
    """What changes nothing when it is folded in."""
    if fold.reducer in ("argmax", "argmin"):
        return None
    return identity(fold.reducer, fold.value.dtype).value


def _needed(value: Expr, neutral: Scalar | None) -> tuple[Expr, ...]:
    """Conditions that hold wherever the value isn't `neutral`.

    A masked element that is multiplied counts as zero whatever the other factor is: padding meets no infinity.
    """
    match value:
        case Load(mask=mask, other=other) if other == neutral:
            return conjuncts(mask)
        case Call("mul", (a, b)) if neutral == 0:
            return (*_needed(a, neutral), *_needed(b, neutral))
        case Call("neg" | "cast", (a,)) if neutral == 0:
            return _needed(a, neutral)
        case Call("select", (condition, x, Literal(value=other))) if other == neutral:
            return (*conjuncts(condition), *_needed(x, neutral))
    return ()
