"""One fused group of primitives -> one Nest.

The values of a group are pulled from its outputs towards its inputs: "the element of this node at this position"
becomes an expression of elements of its operands, at positions that follow from the node's Compute. Movement thus
costs nothing but index arithmetic, broadcasting is a coefficient 0, padding a mask. A reduction met on the way
becomes a fold of its own, and its value a Var. No primitive is known by name here.

Positions stay affine: where a reshape needs a digit of an index that is no affine form (axis 24 seen as 6 x 4),
lowering starts again with that axis split in two. Where no split helps, the digit is computed (floordiv, mod).

What the pulled expressions are then made into, stages with Lets, is stages.py.
"""

from __future__ import annotations

import math
from collections.abc import Generator, Sequence
from dataclasses import field
from typing import Any, TypeAlias

from graphc.errors import VerifyError
from graphc.frozen import dataclass
from graphc.ir.digits import SplitAxis, mixed_radix, row_major_strides
from graphc.ir.expr import Affine, Axis, Call, Compute, Index, Literal, Read, affine
from graphc.ir.graph import Graph
from graphc.ir.node import CONSTANT, FUSED, INPUT, Node, constant_value, parameter
from graphc.types import Shape, bool_, int64

from .exprs import Builder, combine, substitute
from .ir import Buffer, Expr, Load, Offset, Var
from .nest import Nest
from .stages import CheckTarget, FoldTarget, StoreTarget, Target, arrange
from .storage import Rim, Storage

Position: TypeAlias = tuple[Offset, ...]
Pull: TypeAlias = Generator[Any, Expr, Expr]


def lower(
    graph: Graph,
    full: Shape,
    outer: tuple[int, ...],
    name: str = "kernel",
    storage: Sequence[Storage | None] | None = None,
) -> Nest:
    """The Nest of one group.

    graph: its inner Graph; inputs are placeholders. full: the shape looped over; outer: the dimensions of it
    that are independent (the group's regular reductions fold the others). Every output has either the elements
    of `full`, in row-major order, or those of its outer dimensions; a scatter stands alone.
    storage: how each input, then each output lies in memory; None: in C order.
    Raises VerifyError if the group can't be one nest: a reduction that isn't one number for each outer point.
    """
    splits: dict[str, int] = {}
    while True:
        try:
            return _Lowering(graph, full, outer, name, tuple(storage or ()), splits).nest()
        except SplitAxis as split:
            splits[split.name] = split.inner


def rims(graph: Graph, full: Shape, outer: tuple[int, ...]) -> list[Rim]:
    """How far beyond each input, at both ends of each dimension, the group's loops reach where a mask keeps them from
    reading: what a rim of zeros would have to cover. Empty for an input that is read without masks."""
    splits: dict[str, int] = {}
    while True:
        lowering = _Lowering(graph, full, outer, "kernel", (), splits)
        try:
            lowering.nest()
        except SplitAxis as split:
            splits[split.name] = split.inner
            continue
        return [tuple(map(tuple, lowering.reach.get(node, ()))) for node in graph.inputs]


def lower_node(node: Node, name: str = "kernel", storage: Sequence[Storage | None] | None = None) -> Nest:
    """The Nest of a `fused` node, or of any single node with a body."""
    if node.op is FUSED:
        return lower(node.attrs["graph"], node.attrs["full"], node.attrs["outer"], name, storage)
    graph, full, outer = alone(node)
    return lower(graph, full, outer, name, storage)


def alone(node: Node) -> tuple[Graph, Shape, tuple[int, ...]]:
    """The group of a single node: its inner Graph, its full shape and the outer dimensions."""
    inner = [parameter(i, operand.type) for i, operand in enumerate(node.inputs)]
    return Graph(inner, [node.replace(tuple(inner))]), node.shape, tuple(range(node.ndim))


@dataclass(slots=True)
class _Lowering:
    graph: Graph
    full: Shape
    outer: tuple[int, ...]
    name: str
    storage: tuple[Storage | None, ...]
    splits: dict[str, int]
    build: Builder = field(default_factory=Builder)
    leaves: dict[str, tuple[Axis, ...]] = field(default_factory=dict)  # axis name -> what it was split into
    computes: dict[Node, Compute] = field(default_factory=dict)
    pulled: dict[tuple[Any, ...], Expr] = field(default_factory=dict)
    folded: dict[tuple[Any, ...], Var] = field(default_factory=dict)
    targets: list[Target] = field(default_factory=list)
    params: dict[Node, tuple[Buffer, Storage]] = field(default_factory=dict)
    reach: dict[Node, list[list[int]]] = field(default_factory=dict)
    covered: dict[int, frozenset[int]] = field(default_factory=dict)  # load -> conditions that a rim makes needless
    points: tuple[Axis, ...] = ()  # leaf axes of the outer dimensions
    row: tuple[Affine, ...] = ()  # positions along the folded dimensions of `full`
    row_axes: tuple[Axis, ...] = ()  # their leaf axes

    def nest(self) -> Nest:
        outputs = self.declare()
        roots = self.graph.outputs
        if len(roots) == 1 and roots[0].op.body is not None and self.compute(roots[0]).scatter:
            self.scatter(roots[0], *outputs[0])
        else:
            self.gather(outputs)
        buffers = tuple(b for b, _ in self.params.values()) + tuple(b for b, _ in outputs)
        return arrange(self.name, buffers, self.points, self.targets, self.build)

    def declare(self) -> list[tuple[Buffer, Storage]]:
        """Name the buffers: inputs p0, p1, ..., outputs o0, o1, ..."""
        inputs, outputs = self.graph.inputs, self.graph.outputs
        layouts = self.storage or (None,) * (len(inputs) + len(outputs))
        found = []
        for i, (node, layout) in enumerate(zip((*inputs, *outputs), layouts, strict=True)):
            name = f"p{i}" if i < len(inputs) else f"o{i - len(inputs)}"
            lies = layout or Storage(row_major_strides(node.shape))
            found.append((Buffer(name, node.dtype, lies.size(node.shape)), lies))
        self.params = dict(zip(inputs, found, strict=False))
        return found[len(inputs) :]

    # ------------------------------------------------------------------ axes

    def axis(self, name: str, extent: int) -> tuple[Affine, tuple[Axis, ...]]:
        """An axis as an affine form of the axes it was split into, outermost first; none for an extent of 1."""
        if extent == 1:
            return Affine(), ()
        inner = self.splits.get(name)
        if inner is None:
            return affine(Axis(name, extent)), (Axis(name, extent),)
        high, above = self.axis(name + "a", extent // inner)
        low, below = self.axis(name + "b", inner)
        return high * inner + low, above + below

    def axes(self, names: Sequence[str], extents: Sequence[int]) -> tuple[tuple[Affine, ...], tuple[Axis, ...]]:
        made = [self.axis(n, e) for n, e in zip(names, extents, strict=True)]
        return tuple(at for at, _ in made), tuple(leaf for _, leaves in made for leaf in leaves)

    # ------------------------------------------------------------------ outputs

    def gather(self, outputs: list[tuple[Buffer, Storage]]) -> None:
        """Store every output: at the points of `full`, or of its outer dimensions."""
        every, leaves = self.axes([f"d{i}" for i in range(len(self.full))], self.full)
        names = {f"d{i}" for i in self.outer}
        self.points = tuple(a for a in leaves if a.name.rstrip("ab") in names)
        self.row_axes = tuple(a for a in leaves if a.name.rstrip("ab") not in names)
        self.row = tuple(at for i, at in enumerate(every) if i not in self.outer)
        rows = [(self.full[i], every[i]) for i in self.outer]
        size, row_count = math.prod(self.full), math.prod(n for n, _ in rows)
        for node, (buffer, storage) in zip(self.graph.outputs, outputs, strict=True):
            if node.type.size == 0:
                continue
            if node.type.size == size:
                stage, extents, at = self.row_axes, self.full, every
            elif node.type.size == row_count:
                stage, extents, at = (), tuple(n for n, _ in rows), tuple(a for _, a in rows)
            else:
                raise VerifyError(f"output {node!r} fits neither {self.full} nor its outer dimensions {self.outer}")
            position = self.unflatten(extents, at, node.shape)
            value = _run(self.pull(node, position, None))
            self.targets.append(StoreTarget(stage, buffer, self.address(position, storage), value))

    def scatter(self, node: Node, buffer: Buffer, storage: Storage) -> None:
        """Zeros, then sums at data-dependent places; what is placed affinely is independent, so outer."""
        compute = self.compute(node)
        free = {t.terms[0][0]: d for d, t in enumerate(compute.target) if isinstance(t, Affine) and _is_axis(t)}
        at, leaves = self.axes([f"s{k}" for k in range(len(compute.axes))], [a.extent for a in compute.axes])
        environment = {a: Offset(p) for a, p in zip(compute.axes, at, strict=True)}
        own = {axis.name for axis, p in zip(compute.axes, at, strict=True) if axis in free for axis, _ in p.terms}
        self.points = tuple(a for a in leaves if a.name in own)
        inner = tuple(a for a in leaves if a.name not in own)

        fixed = {d: environment[a] for a, d in free.items()}
        cleared = {d: Axis(f"z{d}", n) for d, n in enumerate(node.shape) if d not in fixed}
        everywhere = tuple(fixed[d] if d in fixed else Offset(affine(cleared[d])) for d in range(node.ndim))
        zero = self.build.literal(0.0 if node.dtype.kind == "f" else 0, node.dtype)
        self.targets.append(StoreTarget(tuple(cleared.values()), buffer, self.address(everywhere, storage), zero))

        body = _Body(node, compute, environment, None)
        self.check(body)
        target = tuple(_run(self.position(body, entry)) for entry in compute.target)
        value = _run(self.convert(body, compute.value))
        self.targets.append(StoreTarget(inner, buffer, self.address(target, storage), value, adds=True))

    # ------------------------------------------------------------------ positions

    def unflatten(self, extents: Shape, at: Sequence[Affine], shape: Shape) -> Position:
        """The position in `shape` of the element that stands at `at` in an array of `extents`, in row-major order."""
        if tuple(extents) == shape:
            return tuple(map(Offset, at))
        steps = row_major_strides(extents)
        flat = combine([(Offset(a), s) for a, s in zip(at, steps, strict=True)])
        size = math.prod(shape)
        return tuple(
            Offset(Affine()) if n == 1 else self.build.digit(flat, step, n, size)
            for n, step in zip(shape, row_major_strides(shape), strict=True)
        )

    def solve(self, node: Node, compute: Compute, position: Position) -> dict[Axis, Offset]:
        """The point of `compute.axes` whose target is `position`: each dimension's digits in mixed radix."""
        dimensions = mixed_radix(compute)
        if dimensions is None:
            raise VerifyError(f"the target of {node.op.name} is no mixed radix number: {compute.target}")
        solved: dict[Axis, Offset] = {}
        for (const, terms), wanted in zip(dimensions, position, strict=True):
            wanted = combine([(wanted, 1)], -const)
            if len(terms) == 1 and abs(terms[0][1]) == 1:
                solved[terms[0][0]] = combine([(wanted, terms[0][1])])
                continue
            whole = math.prod(a.extent for a, _ in terms)
            for axis, weight in terms:
                solved[axis] = self.build.digit(wanted, weight, axis.extent, whole)
        for axis in compute.axes:
            solved.setdefault(axis, Offset(Affine()))  # extent 1, not in the target
        return solved

    def address(self, position: Position, storage: Storage) -> Offset:
        return combine(list(zip(position, storage.strides, strict=True)), storage.first)

    # ------------------------------------------------------------------ values

    def compute(self, node: Node) -> Compute:
        found = self.computes.get(node)
        if found is None:
            if node.op.body is None:
                raise VerifyError(f"{node.op.name} has no body: a pass must have expanded it before lowering")
            found = node.op.body(*[n.type for n in node.inputs], **node.attrs)
            self.computes[node] = found
        return found

    def pull(self, node: Node, position: Position, guard: Expr | None) -> Pull:
        """The element of `node` at `position`; where `guard` is false memory must not be touched."""
        key = (node, *map(self.build.key, position), id(guard))
        found = self.pulled.get(key)
        if found is None:
            found = yield self._pull(node, position, guard)
            self.pulled[key] = found
        return found

    def _pull(self, node: Node, position: Position, guard: Expr | None) -> Pull:
        if node.op is INPUT:
            return self.element(node, position, guard)
        if node.op is CONSTANT:
            value = constant_value(node)
            if value is None or value.size != 1:
                raise VerifyError(f"constant {node!r} must be an input of its group")
            return self.build.literal(value.item(), node.dtype)
        compute = self.compute(node)
        if compute.scatter:
            raise VerifyError(f"{node.op.name} scatters, so nothing can be fused behind it")
        body = _Body(node, compute, self.solve(node, compute, position), guard)
        if compute.reducer is not None:
            return (yield self.fold(body))
        self.check(body)
        return (yield self.convert(body, compute.value))

    def element(self, node: Node, position: Position, guard: Expr | None) -> Expr:
        """An element of an input."""
        buffer, storage = self.params[node]
        offset = self.address(position, storage)
        low, high = offset.affine.bounds()
        safe = not offset.dynamic and low >= 0 and high < buffer.size
        found = self.build.load(buffer, offset, None if safe else guard)
        if guard is not None and not any(index.dynamic for index in position):
            self.reached(node, position)
            covered = self.in_rim(node, position, storage)
            self.covered[id(found)] = self.covered.get(id(found), covered) & covered
        return found

    def reached(self, node: Node, position: Position) -> None:
        """Remember how far beyond the input a position goes."""
        reach = self.reach.setdefault(node, [[0, 0] for _ in position])
        for ends, index, extent in zip(reach, position, node.shape, strict=True):
            low, high = index.affine.bounds()
            ends[0], ends[1] = max(ends[0], -low), max(ends[1], high + 1 - extent)

    def in_rim(self, node: Node, position: Position, storage: Storage) -> frozenset[int]:
        """Conditions without which the position is still in the array or its rim, where there is zero."""
        if not storage.rim:
            return frozenset()
        found: set[int] = set()
        for (before, after), index, extent in zip(storage.rim, position, node.shape, strict=True):
            low, high = index.affine.bounds()
            number = self.build.number(index)
            if low >= -before and high < extent + after:
                for op, bound in (("ge", 0), ("lt", extent)):
                    found.add(id(self.build.call(op, (number, self.build.literal(bound, int64)), bool_)))
        return frozenset(found)

    def fold(self, body: _Body) -> Pull:
        """The Var of a reduction at one outer point."""
        compute = body.compute
        assert compute.reducer is not None
        if not compute.reduce:
            if compute.reducer in ("argmax", "argmin"):
                return self.build.literal(0, body.node.dtype)
            return (yield self.convert(body, compute.value))
        key = (body.node, *(self.build.key(body.axes[a]) for a in compute.axes), id(body.guard))
        var = self.folded.get(key)
        if var is None:
            extents = tuple(a.extent for a in compute.reduce)
            if extents == tuple(self.full[i] for i in range(len(self.full)) if i not in self.outer):
                at, leaves = self.row, self.row_axes
            else:
                at, leaves = self.axes([f"r{len(self.folded)}_{k}" for k in range(len(extents))], extents)
            inside = body.axes | {a: Offset(p) for a, p in zip(compute.reduce, at, strict=True)}
            within = _Body(body.node, compute, inside, body.guard)
            self.check(within)
            value = yield self.convert(within, compute.value)
            var = Var(f"f{len(self.folded)}", body.node.dtype)
            self.folded[key] = var
            self.targets.append(FoldTarget(leaves, var, compute.reducer, value))
        return self.build.var(var.name, var.dtype)

    def check(self, body: _Body) -> None:
        if body.compute.check is None:
            return
        condition = _run(self.convert(body, body.compute.check))
        if body.guard is not None:
            outside = self.build.call("not", (body.guard,), condition.dtype)
            condition = self.build.call("or", (outside, condition), condition.dtype)
        self.targets.append(CheckTarget(condition, body.compute.message))

    def position(self, body: _Body, entry: Affine | Any) -> Generator[Any, Any, Offset]:
        """A body's index entry as a position."""
        if isinstance(entry, Affine):
            return substitute(entry, body.axes)
        return self.build.position((yield self.convert(body, entry)))

    def convert(self, body: _Body, expr: Any) -> Pull:
        """An expression of a primitive's body as one of the nest."""
        found = body.converted.get(id(expr))
        if found is None:
            found = yield self._convert(body, expr)
            body.converted[id(expr)] = found
        return found

    def _convert(self, body: _Body, expr: Any) -> Pull:
        match expr:
            case Literal(value, dtype):
                return self.build.literal(value, dtype)
            case Index(at):
                return self.build.number(substitute(at, body.axes))
            case Call(op, args, dtype):
                converted: list[Expr] = []
                for arg in args:
                    done = yield self.convert(body, arg)
                    converted.append(done)
                return self.build.call(op, tuple(converted), dtype)
            case Read(operand, index, dtype, mask, other):
                entries: list[Offset] = []
                for part in index:
                    entry: Any = yield self.position(body, part)
                    entries.append(entry)
                position = tuple(entries)
                condition = None if mask is None else (yield self.convert(body, mask))
                guard = self.build.both(body.guard, condition)
                source = body.node.inputs[operand]
                element = yield self.pull(source, position, guard)
                if condition is None:
                    return element
                if isinstance(element, Load) and (element.mask is None or element.mask is guard):  # through views only
                    needless = self.covered.get(id(element), frozenset()) if other == 0 else frozenset()
                    kept = self.build.without(guard, needless)
                    return self.build.load(element.buffer, element.offset, kept, other)
                return self.build.call("select", (condition, element, self.build.literal(other, dtype)), dtype)
            case _:
                raise VerifyError(f"{expr!r} in the body of {body.node.op.name}")


@dataclass(slots=True)
class _Body:
    """A node's Compute at one point. axes: its axes as positions; converted: expressions done, by identity."""

    node: Node
    compute: Compute
    axes: dict[Axis, Offset]
    guard: Expr | None
    converted: dict[int, Expr] = field(default_factory=dict)


def _is_axis(at: Affine) -> bool:
    return len(at.terms) == 1 and at.terms[0][1] == 1 and at.const == 0


def _run(task: Generator[Any, Any, Any]) -> Any:
    """Run generators that yield the generators they wait for: recursion of any depth, on a list."""
    stack = [task]
    result: Any = None
    while stack:
        try:
            stack.append(stack[-1].send(result))
            result = None
        except StopIteration as done:
            stack.pop()
            result = done.value
    return result
