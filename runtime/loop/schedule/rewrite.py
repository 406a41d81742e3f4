"""Substitution in expressions of the loop IR, and conditions decided where bounds decide them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import field, replace
from typing import assert_never

from graphc.frozen import dataclass
from graphc.ir.expr import Affine, Axis, Call, Index, Literal
from graphc.runtime.loop.ir import Accumulate, Buffer, Check, Expr, Let, Load, Offset, Store, Var
from graphc.runtime.loop.nest import Stage
from graphc.types import bool_

TRUE, FALSE = Literal(True, bool_), Literal(False, bool_)


@dataclass(frozen=True, slots=True)
class Rewriter:
    """axes: name -> what stands for the axis. variables: name -> what stands for the Var. buffers: name -> the buffer
    to use instead, the factor for its offsets, and what is added to them. loads: what is read instead of a load, with
    axes still to be rewritten. facts: conditions known to hold. ranges: by name, the first and last value of an axis
    where not all that its extent allows are met."""

    axes: Mapping[str, Affine] = field(default_factory=dict)
    variables: Mapping[str, Expr] = field(default_factory=dict)
    buffers: Mapping[str, tuple[Buffer, int, Affine]] = field(default_factory=dict)
    loads: Mapping[Load, Load] = field(default_factory=dict)
    facts: frozenset[Expr] = frozenset()
    ranges: Mapping[str, tuple[int, int]] = field(default_factory=dict)

    def affine(self, at: Affine) -> Affine:
        if not any(axis.name in self.axes for axis, _ in at.terms):
            return at
        total: dict[Axis, int] = {}
        const = at.const
        for axis, coefficient in at.terms:
            new = self.axes.get(axis.name)
            if new is None:
                total[axis] = total.get(axis, 0) + coefficient
                continue
            const += new.const * coefficient
            for inner, factor in new.terms:
                total[inner] = total.get(inner, 0) + factor * coefficient
        terms = sorted(((a, c) for a, c in total.items() if c), key=lambda term: term[0].name)
        return Affine(tuple(terms), const)

    def place(self, buffer: Buffer, offset: Offset) -> tuple[Buffer, Offset]:
        at = self.affine(offset.affine)
        dynamic = tuple((self.expr(index), factor) for index, factor in offset.dynamic)
        if buffer.name not in self.buffers:
            return buffer, Offset(at, dynamic)
        new, factor, extra = self.buffers[buffer.name]
        return new, Offset(at * factor + extra, tuple((index, f * factor) for index, f in dynamic))

    def condition(self, mask: Expr | None) -> Expr | None:
        """The mask, rewritten; None if it always holds."""
        if mask is None:
            return None
        new = self.expr(mask)
        return None if new == TRUE else new

    def expr(self, expr: Expr) -> Expr:
        match expr:
            case Literal():
                return expr
            case Index(at):
                return Index(self.affine(at))
            case Var(name):
                return self.variables.get(name, expr)
            case Load() if expr in self.loads:
                instead = self.loads[expr]
                return Load(instead.buffer, Offset(self.affine(instead.offset.affine)))
            case Load(buffer, offset, mask, other):
                new = self.condition(mask)
                if new == FALSE:
                    return Literal(other, buffer.dtype)
                return Load(*self.place(buffer, offset), new, other)
            case Call(op, args, dtype):
                return self.call(Call(op, tuple(self.expr(a) for a in args), dtype))
            case _:
                assert_never(expr)

    def call(self, call: Call) -> Expr:
        if call.op == "select" and call.args[0] in (TRUE, FALSE):
            chosen: Expr = call.args[1] if call.args[0] == TRUE else call.args[2]
            return chosen
        match call:
            case Call("select", (condition, Load(mask=mask, other=other) as x, Literal(value=value))) if other == value:
                if set(conjuncts(condition)) <= set(conjuncts(mask)):
                    return x  # the mask says the same
        if call.dtype is not bool_:
            return call
        if call in self.facts:
            return TRUE
        match call:
            case Call("and", (a, b)):
                if FALSE in (a, b):
                    return FALSE
                return b if a == TRUE else a if b == TRUE else call
            case Call("or", (a, b)):
                if TRUE in (a, b):
                    return TRUE
                return b if a == FALSE else a if b == FALSE else call
            case Call("not", (a,)) if a in (TRUE, FALSE):
                return FALSE if a == TRUE else TRUE
            case Call(op, (Index(at), Literal(value=int(bound)))):
                return decided(op, *self.bounds(at), bound) or call
            case Call(op, (Index(a), Index(b))):
                return decided(op, *self.bounds(a - b), 0) or call
        return call

    def bounds(self, at: Affine) -> tuple[int, int]:
        """The least and the largest value of an affine form of rewritten axes."""
        low = high = at.const
        for axis, step in at.terms:
            first, last = self.ranges.get(axis.name, (0, axis.extent - 1))
            low, high = low + step * (first if step > 0 else last), high + step * (last if step > 0 else first)
        return low, high

    def let(self, let: Let) -> Let:
        return Let(let.var, self.expr(let.value))

    def check(self, check: Check) -> Check:
        return Check(self.expr(check.condition), check.code)

    def store(self, store: Store | Accumulate) -> Store | Accumulate | None:
        """None where the mask never holds."""
        mask = self.condition(store.mask)
        if mask == FALSE:
            return None
        buffer, offset = self.place(store.buffer, store.offset)
        return replace(store, buffer=buffer, offset=offset, value=self.expr(store.value), mask=mask)

    def knowing(self, facts: frozenset[Expr]) -> Rewriter:
        return replace(self, facts=self.facts | facts)

    def with_axes(self, axes: Mapping[str, Affine]) -> Rewriter:
        return replace(self, axes={**self.axes, **axes})

    def with_variables(self, variables: Mapping[str, Expr]) -> Rewriter:
        return replace(self, variables={**self.variables, **variables})

    def ranging(self, axis: Axis, low: int, high: int) -> Rewriter:
        """For code that runs where low <= axis < high only."""
        return replace(self, ranges={**self.ranges, axis.name: (low, high - 1)})


def decided(op: str, low: int, high: int, bound: int) -> Literal | None:
    """What `value op bound` is for all values in low..high (inclusive); None if it differs or isn't a comparison."""
    match op:
        case "ge":
            holds, fails = low >= bound, high < bound
        case "gt":
            holds, fails = low > bound, high <= bound
        case "le":
            holds, fails = high <= bound, low > bound
        case "lt":
            holds, fails = high < bound, low >= bound
        case "eq":
            holds, fails = low == high == bound, not low <= bound <= high
        case "ne":
            holds, fails = not low <= bound <= high, low == high == bound
        case _:
            return None
    return TRUE if holds else FALSE if fails else None


def conjuncts(condition: Expr | None) -> tuple[Expr, ...]:
    """The parts that must all hold."""
    match condition:
        case None:
            return ()
        case Call("and", (a, b)):
            return conjuncts(a) + conjuncts(b)
    return (condition,)


def conjunction(conditions: Iterable[Expr]) -> Expr | None:
    """The condition that all hold; None for none."""
    result: Expr | None = None
    for condition in conditions:
        result = condition if result is None else Call("and", (result, condition), bool_)
    return result


def parts(expr: Expr) -> Iterator[Expr]:
    """The expression and all inside it: arguments, masks, data-dependent offsets."""
    stack: list[Expr] = [expr]
    while stack:
        e = stack.pop()
        yield e
        match e:
            case Call(args=args):
                stack.extend(args)
            case Load(offset=offset, mask=mask):
                stack.extend(index for index, _ in offset.dynamic)
                if mask is not None:
                    stack.append(mask)


def expressions(stage: Stage) -> Iterator[Expr]:
    """The topmost expressions of a stage, stores' masks and data-dependent offsets included."""
    for let in stage.lets:
        yield let.value
    for check in stage.checks:
        yield check.condition
    for fold in stage.folds:
        yield fold.value
    for store in stage.stores:
        yield store.value
        if store.mask is not None:
            yield store.mask
        for index, _ in store.offset.dynamic:
            yield index


def affines(stage: Stage) -> Iterator[Affine]:
    """Every affine form of a stage: offsets and indices."""
    for store in stage.stores:
        yield store.offset.affine
    for expr in expressions(stage):
        for part in parts(expr):
            match part:
                case Index(at) | Load(offset=Offset(affine=at)):
                    yield at


def loads(expr: Expr) -> Iterator[Load]:
    for part in parts(expr):
        if isinstance(part, Load):
            yield part


def variables(expr: Expr) -> Iterator[str]:
    for part in parts(expr):
        if isinstance(part, Var):
            yield part.name


def replaced(expr: Expr, instead: Mapping[Expr, Expr]) -> Expr:
    """The expression with others in the place of some of its arguments; what loads and masks hold stays."""
    if expr in instead:
        return instead[expr]
    if isinstance(expr, Call):
        return Call(expr.op, tuple(replaced(a, instead) for a in expr.args), expr.dtype)
    return expr
