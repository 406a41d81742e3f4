"""Nest and Plan -> Kernel: loops over blocks, and in each block the stages, tile by tile."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import field, replace
from itertools import groupby

from graphc.frozen import dataclass
from graphc.ir.expr import Affine, Axis, Call, Index, Literal
from graphc.runtime.loop.ir import Alloc, Block, Buffer, Expr, For, If, Kernel, Load, Offset, Store
from graphc.runtime.loop.naive import identity
from graphc.runtime.loop.nest import Nest, Stage
from graphc.types import bool_, int64

from .borders import Pieces, pieces
from .choose import Plan
from .cost import ARITHMETIC, SIMPLE, Access, Facts
from .fetch import fetch
from .folds import emit_stage, piece_of
from .rewrite import Rewriter, expressions, parts, variables
from .split import Split
from .tile import Tile, loops, scope
from .turn import turned

MOST_WRITTEN_OUT = 160  # instructions, roughly, of an epilogue, over all vectors of a tile; more are put into a loop


def emit(facts: Facts, plan: Plan) -> Kernel:
    """The kernel of the collapsed nest that `facts` tells of."""
    nest = facts.nest
    cut = pieces(nest, plan.lanes, plan.width)
    body = _Emitter(nest, facts, plan, _carried(nest), tuple(_groups(nest)), {}, cut).blocks(
        plan.order, Rewriter(), (), None, outermost=True
    )
    return Kernel(nest.name, nest.params, body, nest.inplace)


@dataclass(frozen=True, slots=True)
class Region:
    """`count` blocks of `size` points of an axis, from point `start` on."""

    count: int
    size: int
    start: int


def regions(extent: int, size: int, unit: int = 1, *, equal: bool = True) -> list[Region]:
    """`extent` points in blocks of at most `size`: as equal as whole units allow (the last block may end early), or
    else all of one size but for the last."""
    if size >= extent:
        return [Region(1, extent, 0)]
    units = -(-extent // unit)
    count = -(-units // max(1, size // unit))
    base, more = divmod(units, count)
    if equal:
        sizes = [(base + 1) * unit] * more + [base * unit] * (count - more)
    else:
        most = base + (more > 0)
        count = -(-units // most)
        sizes = [most * unit] * (count - 1) + [(units - most * (count - 1)) * unit]
    sizes[-1] -= units * unit - extent
    found, start = [], 0
    for length, run in groupby(sizes):
        number = len(list(run))
        found.append(Region(number, length, start))
        start += number * length
    return found


@dataclass(frozen=True, slots=True)
class _Emitter:
    """carried: names of variables that later stages need, of one number for each point of a tile. groups: the stages
    to run. cut: axes in pieces (borders.py). partial: where folds that are summed in pieces have got to. panel: where
    carried variables are left in memory for stages that follow when all lanes are done."""

    nest: Nest
    facts: Facts
    plan: Plan
    carried: frozenset[str]
    groups: tuple[tuple[Stage, ...], ...]
    panel: Mapping[str, Buffer]
    cut: Mapping[Axis, Pieces]
    partial: Mapping[str, Load] = field(default_factory=dict)

    def blocks(
        self,
        order: tuple[Axis, ...],
        rewriter: Rewriter,
        rows: tuple[Axis, ...],
        lanes: Axis | None,
        *,
        outermost: bool = False,
    ) -> Block:
        """The loops over the blocks of the axes in `order`; rows and lanes: the tile's axes so far."""
        split = self.plan.split
        if split is not None and not self.partial and len(order) == len(self.plan.order) - split.outside:
            return self.in_pieces(split, order, rewriter, rows, lanes)
        if self.plan.packed is not None and not rewriter.loads and not any(map(self.plan.packed.depends, order)):
            copy, instead = self.pack(self.plan.packed, rewriter, lanes)
            inside = replace(rewriter, loads=instead)
            return copy + self.blocks(order, inside, rows, lanes, outermost=outermost)
        if not order:
            return self.tile(rewriter, rows, lanes)
        if self.plan.panel and not self.panel and order == (self.plan.lanes,):
            return self.paneled(order[0], rewriter, rows)
        axis, rest = order[0], order[1:]
        is_lanes = axis == self.plan.lanes
        # Without folds, rows are the sides of squares that are turned in registers: whole vectors too.
        square = self.plan.tile(axis) > 1 and not any(stage.axes for stage in self.nest.stages)
        unit = self.plan.width if is_lanes or square else 1
        # What is worked on abreast is much code for each size of block.
        abreast = is_lanes and self.plan.abreast > 1
        parts = [
            replace(part, start=part.start + low)
            for low, high in self.cut.get(axis, ((0, axis.extent),))
            for part in regions(
                high - low, self.plan.tile(axis), unit * (self.plan.abreast if abreast else 1), equal=not abreast
            )
        ]
        most = max(part.size for part in parts)
        number = Axis(f"{axis.name}_block", sum(part.count for part in parts))
        parallel = outermost and self.plan.grain > 0 and number.extent > 1
        body: Block = ()
        done = 0
        for part in parts:
            which = number if parallel else Axis(number.name, part.count)
            at = Affine((), part.start - (done * part.size if parallel else 0))
            if parallel or part.count > 1:
                at += which * part.size
            inner_rows, inner_lanes = rows, lanes
            if is_lanes:
                inner_lanes = Axis(f"{axis.name}_lane", part.size)
                at += inner_lanes
            elif part.size > 1:
                inner_rows = (*rows, Axis(f"{axis.name}_row", part.size))
                at += inner_rows[-1]
            still = outermost and number.extent == 1  # no loop so far: the next one may be the parallel one
            inside = rewriter.with_axes({axis.name: at})
            if parallel:
                inside = inside.ranging(number, done, done + part.count)
            few = abreast and part.size < most and part.count == 1
            emitter = replace(self, plan=replace(self.plan, abreast=1)) if few else self
            block = emitter.blocks(rest, inside, inner_rows, inner_lanes, outermost=still)
            if parallel:
                block = _between(number, done, done + part.count, block)
            elif part.count > 1:
                block = (For(which, "serial", block),)
            elif len(parts) > 1:
                block = scope(which, block)
            done += part.count
            body += block
        return (For(number, "parallel", body, self.plan.grain),) if parallel else body

    def in_pieces(
        self,
        split: Split,
        order: tuple[Axis, ...],
        rewriter: Rewriter,
        rows: tuple[Axis, ...],
        lanes: Axis | None,
    ) -> Block:
        """For each piece of a fold all tiles of the axes in `order`, whose running values lie in memory; then the
        last stages for all of these points."""
        (main,), last = self.groups
        whole = lanes or self.plan.lanes or order[-1]
        plain = tuple(axis for axis in order if axis != whole and axis != self.plan.lanes)
        points = Tile((*rows, *plain), whole, self.plan.width)
        at = Offset(points.offset())
        body: Block = ()
        partial = {}
        for fold in main.folds:
            memory = Buffer(f"{fold.var.name}_partial", fold.value.dtype, points.size, "scratch")
            partial[fold.var.name] = Load(memory, at)
            begin = Store(memory, at, identity(fold.reducer, memory.dtype))
            body += (Alloc(memory), *points.over((begin,), "serial"))
        inner = replace(self, groups=((main,),), partial=partial)
        tiles: Block = ()
        if split.chunk:
            axis = split.axes[-1]
            unit = self.plan.block if axis in self.plan.stage_lanes else 1
            for part in regions(axis.extent, split.chunk, unit):
                which = Axis(f"{axis.name}_piece", part.count)
                at_piece = Affine((), part.start) + Axis(axis.name, part.size) + which * part.size
                piece = inner.blocks(order, rewriter.with_axes({axis.name: at_piece}), rows, lanes)
                tiles += (For(which, "serial", piece),)
        else:
            tiles = inner.blocks(order, rewriter, rows, lanes)
        inside = replace(rewriter, variables={**rewriter.variables, **partial})
        return body + loops(split.whole, tiles, "serial") + points.over(_written(last, inside), "serial")

    def paneled(self, axis: Axis, rewriter: Rewriter, rows: tuple[Axis, ...]) -> Block:
        """The tiles along all lanes, their results left in memory; then the last stages, in long runs along the lanes.

        Streams of an epilogue (an optimiser's state) are fetched ahead by the processor in long runs only.
        """
        *first, last = self.groups
        names = {name for stage in last for expr in expressions(stage) for name in variables(expr)} & self.carried
        whole = Tile(self.ordered(rows, rewriter), Axis(f"{axis.name}_lane", axis.extent), self.plan.width)
        types = {fold.var.name: fold.var.dtype for stages in first for stage in stages for fold in stage.folds}
        types |= {let.var.name: let.var.dtype for stages in first for stage in stages for let in stage.lets}
        panel = {name: Buffer(f"{name}_panel", types[name], whole.size, "scratch") for name in sorted(names)}
        tiles = replace(self, groups=tuple(first), panel=panel).blocks((axis,), rewriter, rows, None)
        at = Offset(whole.offset())
        inside = replace(
            rewriter.with_axes({axis.name: Affine() + whole.axes[-1]}),
            variables={**rewriter.variables, **{name: Load(buffer, at) for name, buffer in panel.items()}},
        )
        after = loops(whole.rows, (For(whole.axes[-1], "vector", _written(last, inside), whole.width),), "serial")
        return (*(Alloc(buffer) for buffer in panel.values()), *tiles, *after)

    def pack(self, packed: Access, rewriter: Rewriter, lanes: Axis | None) -> tuple[Block, dict[Load, Load]]:
        """Copy an operand, for a block of lanes, to where its elements for neighbouring lanes are neighbours."""
        assert lanes is not None
        stage = next(facts.stage for facts in self.facts.stages if packed in facts.fold_loads)
        pieces: list[Axis] = []
        to = at = Affine() + lanes
        stride = Tile((), lanes, self.plan.width).pitch
        bound = self.plan.split.whole if self.plan.split is not None and self.partial else ()
        for axis in reversed([axis for axis in stage.axes if packed.at.coefficient(axis) and axis not in bound]):
            piece = piece_of(axis, rewriter)
            to += piece * stride
            at += (
                rewriter.affine(Affine() + axis) * -1 + piece + axis
            ) * stride  # the copy starts where the piece does
            stride *= piece.extent
            pieces.insert(0, piece)
        buffer = Buffer(f"{packed.buffer.name}_packed", packed.buffer.dtype, stride, "scratch")
        load = Load(packed.buffer, Offset(packed.at))
        copy = Store(buffer, Offset(to), rewriter.expr(load))
        instead = {load: Load(buffer, Offset(at))}
        if self.plan.lanes is not None and packed.at.coefficient(self.plan.lanes) == 1:
            rows = Tile((), lanes, self.plan.width).over((copy,))
            return (Alloc(buffer), *loops(tuple(pieces), rows, "serial")), instead
        read = rewriter.affine(packed.at)
        run = next((piece for piece in pieces if read.coefficient(piece) == 1), None)
        if run is not None and run.extent >= self.plan.width:
            return (
                Alloc(buffer),
                *self.squares(copy, run, [piece for piece in pieces if piece != run], lanes),
            ), instead
        # The operand is read in the order in which it lies.
        order = sorted((*pieces, lanes), key=lambda axis: -abs(read.coefficient(axis)))
        return (Alloc(buffer), *loops(tuple(order), (copy,), "serial")), instead

    def squares(self, copy: Store, run: Axis, others: list[Axis], lanes: Axis) -> Block:
        """A copy along lanes of what lies along `run`, in squares that are turned over in registers."""
        width = self.plan.width
        count, left = divmod(run.extent, width)
        block, within, rest = Axis(f"{run.name}_square", count), Axis(f"{run.name}_side", width), Axis(run.name, left)

        def over(axis: Axis, at: Affine) -> Block:
            part = Rewriter({run.name: at}).store(copy)
            assert part is not None
            return (For(lanes, "vector", (For(axis, "unroll", (part,)),), width),)

        body: Block = (For(block, "serial", over(within, block * width + within)),)
        if left:
            body += over(rest, Affine((), count * width) + rest)
        return loops(tuple(others), body, "serial")

    def tile(self, rewriter: Rewriter, rows: tuple[Axis, ...], lanes: Axis | None) -> Block:
        """All stages for one tile of outer points."""
        if self.plan.abreast > 1 and lanes is not None:
            return self.abreast(rewriter, rows, lanes)
        tile = Tile(self.ordered(rows, rewriter), lanes, self.plan.width, self.plan.wide)
        body: Block = ()
        buffers = {}
        for local in self.nest.locals:
            own = Buffer(local.name, local.dtype, local.size * tile.size, "scratch")
            body += (Alloc(own),)
            buffers[local.name] = (own, tile.size, tile.offset())
        rewriter = replace(rewriter, buffers=buffers)
        for place, stages in enumerate(self.groups):
            if stages[0].axes:
                number = self.nest.stages.index(stages[0])
                soon = self.groups[place + 1] if place + 1 < len(self.groups) else ()
                fetched = None if any(s.axes for s in soon) else fetch(self.nest, soon, rewriter, tile)
                own_lanes = self.plan.stage_lanes[number]
                facts = self.facts.stages[number]
                done, found = emit_stage(facts, own_lanes, self.plan, rewriter, tile, self.partial, fetched)
            else:
                done, found = self.points(stages, rewriter, tile)
            body += done
            rewriter = replace(rewriter, variables={**rewriter.variables, **found})
        for name, buffer in self.panel.items():
            assert self.plan.lanes is not None
            assert lanes is not None
            extent = self.plan.lanes.extent
            across = Tile(tile.rows, Axis(lanes.name, extent), tile.width).offset() - Axis(lanes.name, extent)
            kept = Store(buffer, Offset(across + rewriter.axes[self.plan.lanes.name]), rewriter.variables[name])
            body += tile.over((kept,))
        return body

    def abreast(self, rewriter: Rewriter, rows: tuple[Axis, ...], lanes: Axis) -> Block:
        """A tile whose vectors are worked on several at a time, and one by one what is left of them."""
        plan = self.plan
        body: Block = ()
        wide = plan.width * plan.abreast
        whole = lanes.extent - lanes.extent % wide
        for axis, start, width in (
            (Axis(lanes.name, whole), 0, wide),
            (Axis(f"{lanes.name}_rest", lanes.extent - whole), whole, plan.width),
        ):
            if axis.extent:
                moved = Rewriter(axes={lanes.name: Affine((), start) + axis})
                inside = rewriter.with_axes({name: moved.affine(at) for name, at in rewriter.axes.items()})
                narrower = replace(self, plan=replace(plan, width=width, abreast=1))
                body += narrower.tile(inside, rows, axis)
        return body

    def points(self, stages: tuple[Stage, ...], rewriter: Rewriter, tile: Tile) -> tuple[Block, dict[str, Expr]]:
        """Stages without axes, for each point of the tile; and where later stages find the carried variables."""
        body: Block = ()
        before: Block = ()
        found: dict[str, Expr] = {}
        for stage in stages:
            for let in stage.lets:
                bound = rewriter.let(let)
                if isinstance(bound.value, Literal) and let.var.name not in self.carried:
                    rewriter = rewriter.with_variables({let.var.name: bound.value})  # a condition, decided here
                    continue
                body += (bound,)
                if let.var.name in self.carried and tile.axes:
                    kept = tile.buffer(f"{let.var.name}_kept", let.var.dtype)
                    before += (Alloc(kept),)
                    body += (Store(kept, Offset(tile.offset()), let.var),)
                    found[let.var.name] = Load(kept, Offset(tile.offset()))
            body += tuple(rewriter.check(check) for check in stage.checks)
            body += tuple(store for s in stage.stores if (store := rewriter.store(s)) is not None)
        bulky = tile.lanes is not None and tile.rows and not found and self.bulky(stages, tile)
        if not bulky and tile.rows and (squares := turned(body, tile)) is not None:
            return before + squares, found
        if bulky:
            return self.one_by_one(stages, rewriter, tile), {}
        if tile.lanes is not None and len(tile.rows) == 1 and not found and len(self.nest.stages) == 1:
            # Lanes outside, rows inside: what the printer turns over in registers, if it is a copy.
            return (For(tile.lanes, "vector", loops(tile.rows, body, "unroll"), tile.width),), found
        if tile.lanes is not None or not tile.rows:
            return before + tile.over(body), found
        # Rows whose numbers lie in memory: the last row axis fills lanes if its points are neighbours there.
        stores = [s for stage in stages for s in stage.stores]
        last = tile.rows[-1]
        steps = {rewriter.affine(s.offset.affine).coefficient(last) for s in stores}
        if steps == {1} and all(isinstance(s, Store) for s in stores):
            return before + loops(tile.rows[:-1], (For(last, "vector", body, tile.width),), "serial"), found
        return before + loops(tile.rows, body, "serial"), found

    def bulky(self, stages: tuple[Stage, ...], tile: Tile) -> bool:
        """Whether writing out these stages for each row would make much code."""
        found = [p for stage in stages for e in expressions(stage) for p in parts(e)]
        instructions = sum(2 * ARITHMETIC.get(p.op, SIMPLE) for p in found if isinstance(p, Call))
        instructions += sum(1 for p in found if isinstance(p, Load))
        return instructions * tile.size / tile.width > MOST_WRITTEN_OUT

    def one_by_one(self, stages: tuple[Stage, ...], rewriter: Rewriter, tile: Tile) -> Block:
        """The rows in a loop: what they need of the registers is first put into memory."""
        body: Block = ()
        spilled: dict[str, Expr] = {}
        for name in dict.fromkeys(n for stage in stages for e in expressions(stage) for n in variables(e)):
            held = rewriter.variables.get(name)
            if isinstance(held, Load) and held.buffer.space == "register":
                memory = Buffer(f"{name}_rows", held.dtype, tile.size, "scratch")
                body += (Alloc(memory), *tile.over((Store(memory, Offset(tile.offset()), held),)))
                spilled[name] = Load(memory, Offset(tile.offset()))
        inside = replace(rewriter, variables={**rewriter.variables, **spilled})
        return body + tile.over(_written(stages, inside), "serial")

    def ordered(self, rows: tuple[Axis, ...], rewriter: Rewriter) -> tuple[Axis, ...]:
        """Row axes with the one last that steps through the results in the smallest strides."""
        stores = [rewriter.affine(s.offset.affine) for stage in self.nest.stages for s in stage.stores]
        return tuple(sorted(rows, key=lambda axis: -sum(abs(at.coefficient(axis)) for at in stores)))


def _written(stages: tuple[Stage, ...], rewriter: Rewriter) -> Block:
    """The statements of stages without axes, at one point."""
    body: Block = ()
    for stage in stages:
        body += tuple(rewriter.let(let) for let in stage.lets)
        body += tuple(rewriter.check(check) for check in stage.checks)
        body += tuple(store for s in stage.stores if (store := rewriter.store(s)) is not None)
    return body


def _between(axis: Axis, low: int, high: int, body: Block) -> Block:
    """`body` where low <= axis < high."""
    conditions: list[Expr] = []
    if low > 0:
        conditions.append(Call("ge", (Index(Affine() + axis), Literal(low, int64)), bool_))
    if high < axis.extent:
        conditions.append(Call("lt", (Index(Affine() + axis), Literal(high, int64)), bool_))
    for condition in conditions:
        body = (If(condition, body),)
    return body


def _groups(nest: Nest) -> Iterator[tuple[Stage, ...]]:
    """The stages, with runs of those without axes together."""
    for has_axes, run in groupby(nest.stages, key=lambda stage: bool(stage.axes)):
        stages = tuple(run)
        if has_axes:
            yield from ((stage,) for stage in stages)
        else:
            yield stages


def _carried(nest: Nest) -> frozenset[str]:
    """Variables bound in one group of stages and used in a later one."""
    carried: set[str] = set()
    bound: set[str] = set()
    for stages in _groups(nest):
        used = {name for stage in stages for expr in expressions(stage) for name in variables(expr)}
        carried |= bound & used
        bound |= {fold.var.name for stage in stages for fold in stage.folds}
        bound |= {let.var.name for stage in stages if not stage.axes for let in stage.lets}
    return frozenset(carried)
