"""One kernel in the making: which nodes it computes, and how each of them lies over the kernel's points.

A group loops over the shape `full`. Its points are the dimensions `outer`; over the others its regular reductions
fold, row by row. Every member knows its row-major number as an affine form of the loops (its `flat`): a member that
runs over all of `full` in order can be stored, one that runs over the outer dimensions in order is one number a
point, anything else can only be computed where it is read.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import field

from graphc.frozen import dataclass
from graphc.ir.digits import SplitAxis, affine_digit, mixed_radix, row_major, row_major_strides
from graphc.ir.expr import Affine, Axis
from graphc.ir.node import Node
from graphc.types import Shape

from .access import Access, Accesses, flat_of

MAX_MEMBERS = 96  # nodes in a kernel: what a code generator still compiles in milliseconds
MAX_VIEWS = 192  # nodes in a kernel, movements included
MAX_REPEATS = 64  # a cheap value may be computed so many times instead of being stored
MAX_REPEATED_CHAIN = 4  # and so may no more than so many of them, one behind the other
NEARLY_ONCE = 1.25  # evaluations for each element that still count as one: an array and its border
MAX_ROW_STEPS = 16  # operations between a reduction and the rows it goes into
SCALAR_REPEATS = 16  # a single number may be computed at so many points
SIDE_BY_SIDE = 1 << 14  # elements: independent kernels up to this size are cheaper as one
FEW_POINTS = 16  # with fewer outer points than this a kernel has too little to do in parallel on a CPU,
SMALL = 1 << 12  # unless it has no more elements than this
BLAS_RESULT = 1 << 24  # elements: larger products of matrices are left to BLAS, so nothing joins them


@dataclass(frozen=True, slots=True)
class Admission:
    """How a node would join a group. outer, full: what the group must become; fold, product: what it brings."""

    flat: Affine | None
    points: int
    repeated: int
    strict: bool
    full: Shape
    outer: tuple[int, ...]
    fold: bool = False
    product: bool = False


@dataclass(slots=True, eq=False)
class Group:
    """root: the node it was started for. newest_input: the latest number among the results of other groups that
    it reads; a node with a larger number may depend on nothing that comes after it, which keeps groups acyclic."""

    root: Node
    access: Accesses
    full: Shape
    outer: tuple[int, ...]
    outputs: list[Node] = field(default_factory=list)
    flat: dict[Node, Affine | None] = field(default_factory=dict)
    points: dict[Node, int] = field(default_factory=dict)
    repeated: dict[Node, int] = field(default_factory=dict)
    strict: set[Node] = field(default_factory=set)  # operands of a contraction: they must stay plain reads
    folds: bool = False
    product: bool = False
    closed: bool = False
    in_parts: bool = False  # no kernel: the root's operands are stored where they lie in it
    newest_input: int = -1
    few_points: int = FEW_POINTS

    @staticmethod
    def of(node: Node, access: Accesses, few_points: int = FEW_POINTS) -> Group:
        """The group of `node` alone."""
        own = access(node)
        if own.regular is not None:
            full, outer = own.regular
        else:
            full, outer = node.shape, tuple(range(node.ndim))
        group = Group(node, access, full, outer, [node], closed=node.type.size == 0, few_points=few_points)
        group.folds = own.kind == "fold"
        group.product = own.kind in ("contraction", "scatter")
        group.flat[node] = group.row_flat() if own.regular is not None else group.full_flat()
        group.points[node] = node.type.size
        group.repeated[node] = 0
        return group

    # ------------------------------------------------------------------ the loops

    def axes(self) -> tuple[Axis, ...]:
        return tuple(Axis(f"d{i}", n) for i, n in enumerate(self.full))

    def full_flat(self) -> Affine:
        return row_major(tuple(a for a in self.axes() if a.extent != 1))

    def row_flat(self, outer: tuple[int, ...] | None = None) -> Affine:
        every = self.axes()
        points = (every[i] for i in (self.outer if outer is None else outer))
        return row_major(tuple(a for a in points if a.extent != 1))

    def rows(self) -> int:
        return math.prod(self.full[i] for i in self.outer)

    def by_rows(self) -> bool:
        return len(self.outer) < len(self.full)

    # ------------------------------------------------------------------ asking

    def admit(self, node: Node, consumers: Sequence[Node]) -> Admission | None:
        """How `node` could be computed in this group, which has these consumers of it; None: not at all."""
        own = self.access(node)
        if self.closed or node.type.size == 0 or own.kind == "scatter" or (own.view and own.computed_index):
            return None
        strict = any(c in self.strict or self.access(c).kind == "contraction" for c in consumers)
        if strict and (not own.view or self.scrambles(node, own, consumers)):
            return None
        flats: dict[Affine | None, int] = {}
        unknown = 0
        for consumer in consumers:
            for flat, points in self.edges(consumer, node):
                unknown += flat is None
                flats[flat] = max(flats.get(flat, 0), points) if flat is not None else flats.get(flat, 0) + points
        flat = next(iter(flats)) if len(flats) == 1 and unknown < 2 else None
        if own.kind == "map":
            places = len(flats.keys() - {None}) + unknown
            return self.admit_map(node, own, consumers, flat, sum(flats.values()), places, strict)
        return self.admit_reduction(node, own, flat)

    def scrambles(self, node: Node, own: Access, consumers: Sequence[Node]) -> bool:
        """Whether a view of a contraction's operand would have no strides: dimensions merged that don't lie together,
        and that its readers don't loop over one by one either.

        Whoever computes the operand had better store it in the merged order (attention's heads, brought together).
        """
        if not own.regroups or all(self.parted(node, own, consumer) for consumer in consumers):
            return False
        operand = node.inputs[0]
        while operand.op.body is not None and self.access(operand).view:
            if self.access(operand).moves:
                return True
            operand = operand.inputs[0]
        return False

    def parted(self, node: Node, own: Access, consumer: Node) -> bool:
        """Whether each loop of a reader stays within one of the dimensions that a view merges (groups and batch of a
        convolution's gradient)."""
        for read in self.access(consumer).reads:
            if consumer.inputs[read.operand] is not node:
                continue
            for merged, index in zip(own.compute.target, read.index, strict=True):
                if not isinstance(merged, Affine) or not isinstance(index, Affine):
                    return False
                for _, weight in merged.terms:
                    inside = [(axis, c) for axis, c in index.terms if c % weight]
                    if index.const % weight + sum(abs(c) * (axis.extent - 1) for axis, c in inside) >= weight:
                        return False
        return True

    def admit_map(
        self,
        node: Node,
        own: Access,
        consumers: Sequence[Node],
        flat: Affine | None,
        points: int,
        places: int,
        strict: bool,
    ) -> Admission | None:
        repeated = max(self.repeated[c] for c in consumers)
        if len(self.flat) >= (MAX_VIEWS if own.view else MAX_MEMBERS):
            return None
        outer = self.outer
        if points > node.type.size and flat is not None:
            kept = self.rows_behind(node)
            if kept is not None and flat == self.row_flat(kept):
                outer, points = kept, node.type.size
        if not own.view:
            if own.compute.check is not None and not self.in_order(node, flat):
                return None  # every element's check must be seen
            if points > NEARLY_ONCE * node.type.size:
                if node.type.size == 1 and points > SCALAR_REPEATS:
                    return None  # a number for all: computed once, before
                if places > 2 and any(x.op.body is not None for x in node.inputs):
                    return None  # read at neighbouring places, as stencils do: stored, or every step would multiply
                repeated += 1
                if own.costly or points > MAX_REPEATS * node.type.size or repeated > MAX_REPEATED_CHAIN:
                    return None
        return Admission(flat, points, repeated, strict, self.full, outer)

    def rows_behind(self, node: Node) -> tuple[int, ...] | None:
        """The outer dimensions that a reduction a few steps behind `node` would give this group, if it has none yet.

        log(sum(exp x)) is one number a row: that shows only when the sum is reached.
        """
        if self.folds or self.product or self.by_rows():
            return None
        stack = [node]
        for _ in range(MAX_ROW_STEPS):
            if not stack:
                return None
            here = stack.pop()
            if here.op.body is None:
                continue
            own = self.access(here)
            if own.regular is not None and own.regular[0] == self.full:
                kept = own.regular[1]
                return kept if self.enough(self.full, kept) else None
            stack.extend(x for x in reversed(here.inputs) if x.type.size == node.type.size)
        return None

    def admit_reduction(self, node: Node, own: Access, flat: Affine | None) -> Admission | None:
        if flat is None or self.product or len(self.flat) >= MAX_MEMBERS:
            return None
        if own.regular is not None and own.regular[0] == self.full:
            kept = own.regular[1]
            free = not self.folds and not self.by_rows()
            if (free or self.outer == kept) and flat == self.row_flat(kept) and self.enough(self.full, kept):
                return Admission(flat, node.type.size, 0, False, self.full, kept, fold=True)
        if self.folds or self.by_rows() or not self.covers(node, flat):
            return None
        if own.kind == "contraction":
            if node.type.size > BLAS_RESULT and all(r.mask is None for r in own.reads):
                return None
            return Admission(flat, node.type.size, 0, False, self.full, self.outer, product=True)
        if own.regular is not None and self.in_order(node, flat):
            full, kept = own.regular
            if [n for n in self.full if n != 1] == [full[i] for i in kept if full[i] != 1]:
                return Admission(flat, node.type.size, 0, False, full, kept, fold=True)
        return Admission(flat, node.type.size, 0, False, self.full, self.outer, fold=True)

    def may_store(self, node: Node, admission: Admission) -> bool:
        """Whether the node, once admitted, could be an output as well."""
        if self.access(self.root).kind == "scatter":
            return False
        if admission.full != self.full:  # what was a full loop is now one number a row
            return True
        if not self.by_rows() and len(admission.outer) == len(admission.full):
            return self.in_order(node, admission.flat)
        if not self.enough(admission.full, admission.outer) or self.rival_rows(node, admission):
            return False
        rows = math.prod(self.full[i] for i in admission.outer)
        in_row = admission.flat == self.row_flat(admission.outer) and node.type.size == rows
        return in_row or self.in_order(node, admission.flat)

    def rival_rows(self, node: Node, admission: Admission) -> bool:
        """Whether reductions a few steps behind `node` fold other dimensions than this group: a group of node's own
        could hold them (softmax's gradient is one kernel of rows, whose column sums are another)."""
        stack, steps = list(node.inputs), 0
        while stack and steps < MAX_ROW_STEPS:
            here, steps = stack.pop(), steps + 1
            if here.op.body is None:
                continue
            own = self.access(here)
            if own.regular is not None and own.regular[0] == admission.full == node.shape:
                if own.regular[1] != admission.outer and self.enough(*own.regular):
                    return True
            elif own.kind == "map":
                stack.extend(here.inputs)
        return False

    def in_order(self, node: Node, flat: Affine | None) -> bool:
        """Whether the node runs over the whole loop, in row-major order."""
        return flat == self.full_flat() and node.type.size == math.prod(self.full)

    def covers(self, node: Node, flat: Affine) -> bool:
        """Whether the loop meets every element of the node exactly once, in whatever order."""
        step = 1
        for axis, coefficient in sorted(flat.terms, key=lambda t: t[1]):
            if coefficient != step:
                return False
            step *= axis.extent
        return flat.const == 0 and step == math.prod(self.full) == node.type.size

    def enough(self, full: Shape, outer: tuple[int, ...]) -> bool:
        """Whether a kernel of rows has points enough to be run in parallel, or needs none."""
        return math.prod(full[i] for i in outer) >= self.few_points or math.prod(full) <= SMALL

    def edges(self, consumer: Node, node: Node) -> Iterator[tuple[Affine | None, int]]:
        """For each read of `node` by a member: node's flat there, and how often it is evaluated."""
        own = self.access(consumer)
        base = self.flat[consumer]
        points = self.points[consumer]
        if own.kind != "map":
            aligned = own.regular is not None and own.regular[0] == self.full and base == self.row_flat()
            points = max(own.points, points)
            for read in own.reads:
                if consumer.inputs[read.operand] is node:
                    yield (self.full_flat() if aligned else None), points
            return
        target = flat_of(own.compute.target, consumer.shape)
        position: dict[Axis, Affine] | None = None
        solved = False
        for read in own.reads:
            if consumer.inputs[read.operand] is not node:
                continue
            flat = None
            at = flat_of(read.index, node.shape) if read.mask is None else None
            if at is not None and base is not None:
                if at == target and node.type.size == consumer.type.size:
                    flat = base
                else:
                    if not solved:
                        position, solved = self.solve(consumer, own, base), True
                    if position is not None:
                        flat = Affine((), at.const)
                        for axis, coefficient in at.terms:
                            flat = flat + position[axis] * coefficient
            yield flat, self.evaluations(flat, points)

    def evaluations(self, flat: Affine | None, points: int) -> int:
        """What is the same for a whole row is computed once a row."""
        if flat is None or not self.by_rows():
            return points
        every = self.axes()
        outer = {every[i] for i in self.outer}
        return min(points, self.rows()) if all(a in outer for a, _ in flat.terms) else points

    def solve(self, node: Node, own: Access, flat: Affine) -> dict[Axis, Affine] | None:
        """The axes of a member's Compute as affine forms of the loops, if they are."""
        dimensions = mixed_radix(own.compute)
        if dimensions is None:
            return None
        size = node.type.size
        solved: dict[Axis, Affine] = {}
        try:
            steps = row_major_strides(node.shape)
            for extent, step, (const, terms) in zip(node.shape, steps, dimensions, strict=True):
                at: Affine | None = Affine()
                if extent != 1:
                    at = flat if size == extent else affine_digit(flat, step, extent, last=step * extent >= size)
                if at is None:
                    return None
                if len(terms) == 1 and terms[0][0].extent == extent:
                    axis, weight = terms[0]
                    solved[axis] = (at - const) * weight
                    continue
                whole = math.prod(a.extent for a, _ in terms)
                for axis, weight in terms:
                    digit = affine_digit(at - const, weight, axis.extent, last=weight * axis.extent >= whole)
                    if digit is None:
                        return None
                    solved[axis] = digit
        except SplitAxis:
            return None
        for axis in own.compute.axes:
            solved.setdefault(axis, Affine())
        return solved

    # ------------------------------------------------------------------ joining

    def simple(self) -> bool:
        """Whether it's a small loop over elements and nothing else."""
        plain = not (self.closed or self.folds or self.product or self.by_rows())
        return plain and math.prod(self.full) <= SIDE_BY_SIDE

    def loops(self) -> Shape:
        """What two simple groups must have in common to be one; a single element has none to differ in."""
        return self.full if math.prod(self.full) != 1 else ()

    def has_room(self, other: Group) -> bool:
        return len(self.flat) + len(other.flat) <= MAX_MEMBERS

    def absorb(self, other: Group) -> None:
        """Compute what `other` computes as well. Both are simple, loop alike and are independent."""
        self.outputs += other.outputs
        self.flat |= other.flat

    def moved_to(self, other: Group) -> dict[Node, Affine | None] | None:
        """The flats of the members, were they computed in the loops of `other`: loops of the same points in the same
        order. None if these aren't, or if both compute some value at different places."""
        if (self.full, self.outer) == (other.full, other.outer):
            moved = dict(self.flat)
        elif self.by_rows() or self.folds or math.prod(self.full) != math.prod(other.full):
            return None
        else:
            axes = [axis for axis in self.axes() if axis.extent != 1]
            if len(axes) != 1 or not other.enough(other.full, other.outer):
                return None
            whole = other.full_flat()
            moved = {}
            for node, flat in self.flat.items():
                moved[node] = None if flat is None else whole * flat.coefficient(axes[0]) + flat.const
        if any(node in other.flat and other.flat[node] != flat for node, flat in moved.items()):
            return None
        return moved

    def take_in(self, other: Group, moved: dict[Node, Affine | None]) -> None:
        """Compute what `other` computes as well; moved: where its members stand in the loops of this group."""
        self.flat = {**moved, **self.flat}
        self.points = {**other.points, **self.points}
        self.repeated = {n: max(self.repeated.get(n, 0), other.repeated.get(n, 0)) for n in self.flat}
        self.outputs += [node for node in other.outputs if node not in self.outputs]
        self.strict |= other.strict
        self.folds |= other.folds
        self.newest_input = max(self.newest_input, other.newest_input)

    def join(self, node: Node, admission: Admission, store: bool) -> None:
        """Take `node` in as it was admitted."""
        flat = admission.flat
        if admission.full != self.full:
            self.reframe(admission.full, admission.outer)
            flat = self.row_flat()
        self.outer = admission.outer
        self.folds |= admission.fold
        self.product |= admission.product
        self.flat[node] = flat
        self.points[node] = admission.points
        self.repeated[node] = admission.repeated
        if admission.strict:
            self.strict.add(node)
        if store:
            self.outputs.append(node)

    def reframe(self, full: Shape, outer: tuple[int, ...]) -> None:
        """What was the full loop becomes the outer part of a larger one."""
        before = [a for a in self.axes() if a.extent != 1]
        self.full, self.outer = full, outer
        every = self.axes()
        after = [every[i] for i in outer if every[i].extent != 1]
        renamed = dict(zip(before, after, strict=True))
        for node, flat in self.flat.items():
            if flat is not None:
                moved = Affine((), flat.const)
                for axis, coefficient in flat.terms:
                    if axis in renamed:
                        moved = moved + renamed[axis] * coefficient
                self.flat[node] = moved
