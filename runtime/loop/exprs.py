"""Building loop expressions so that equal ones are one object: what is shared is then found by identity.

Also positions: an index into one dimension as an Offset, the affine part and the data-dependent part apart.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from graphc.ir.digits import affine_digit
from graphc.ir.expr import Affine, Axis, Call, Index, Literal, affine
from graphc.types import DType, Scalar, bool_, int64

from .ir import Buffer, Expr, Load, Offset, Var


class Builder:
    """Makes hash-consed expressions. Keys use the identity of sub-expressions, so depth costs nothing."""

    def __init__(self) -> None:
        self._table: dict[tuple[Any, ...], Expr] = {}

    def literal(self, value: Scalar, dtype: DType) -> Expr:
        exact = value.hex() if isinstance(value, float) else value
        return self._intern((Literal, exact, type(value), dtype), lambda: Literal(value, dtype))

    def var(self, name: str, dtype: DType) -> Expr:
        return self._intern((Var, name), lambda: Var(name, dtype))

    def load(self, buffer: Buffer, offset: Offset, mask: Expr | None = None, other: Scalar = 0) -> Expr:
        exact = other.hex() if isinstance(other, float) else other
        key = (Load, buffer.name, self.key(offset), id(mask), exact if mask is not None else 0)
        return self._intern(key, lambda: Load(buffer, offset, mask, other if mask is not None else 0))

    def call(self, op: str, args: tuple[Expr, ...], dtype: DType) -> Expr:
        """A Call, without casts to the same dtype, `and`s with itself, selections by literals or twice by one mask."""
        if op == "cast" and args[0].dtype is dtype:
            return args[0]
        if op == "and" and args[0] is args[1]:
            return args[0]
        if op == "select":
            if isinstance(args[0], Literal):
                return args[1] if args[0].value else args[2]
            args = (args[0], _chosen(args[1], args[0], 1), _chosen(args[2], args[0], 2))
        return self._intern((Call, op, dtype, *map(id, args)), lambda: Call(op, args, dtype))

    def both(self, a: Expr | None, b: Expr | None) -> Expr | None:
        """Conjunction; None is true."""
        if a is None or b is None:
            return b if a is None else a
        return self.call("and", (a, b), bool_)

    def without(self, condition: Expr | None, needless: frozenset[int]) -> Expr | None:
        """The conjunction without the parts of these identities; None is true."""
        match condition:
            case Call("and", (a, b)) if needless:
                return self.both(self.without(a, needless), self.without(b, needless))
        return None if id(condition) in needless else condition

    def number(self, position: Offset) -> Expr:
        """A position as an int64 value."""
        total: Expr | None = None
        for index, coefficient in position.dynamic:
            term = self.call("cast", (index,), int64)
            if coefficient != 1:
                term = self.call("mul", (term, self.literal(coefficient, int64)), int64)
            total = term if total is None else self.call("add", (total, term), int64)
        at = position.affine
        if total is not None and not at.terms and not at.const:
            return total
        fixed = self.literal(at.const, int64) if not at.terms else self._intern((Index, at), lambda: Index(at))
        return fixed if total is None else self.call("add", (total, fixed), int64)

    def position(self, number: Expr) -> Offset:
        """The position that an integer value denotes."""
        match number:
            case Index(at):
                return Offset(at)
            case Literal(value):
                return Offset(affine(int(value)))
        return Offset(Affine(), ((number, 1),))

    def digit(self, position: Offset, weight: int, extent: int, whole: int) -> Offset:
        """floor(position / weight) % extent, for a position within range(whole).

        Affine where the axes' ranges allow it. Raises SplitAxis where splitting an axis would allow it.
        """
        if weight == 1 and extent == whole:
            return position
        if not position.dynamic:
            found = affine_digit(position.affine, weight, extent, last=weight * extent >= whole)
            if found is not None:
                return Offset(found)
        value = self.number(position)
        if weight != 1:
            value = self.call("floordiv", (value, self.literal(weight, int64)), int64)
        if weight * extent < whole:
            value = self.call("mod", (value, self.literal(extent, int64)), int64)
        return Offset(Affine(), ((value, 1),))

    @staticmethod
    def key(offset: Offset) -> tuple[Any, ...]:
        return (offset.affine, *((id(e), c) for e, c in offset.dynamic))

    def _intern(self, key: tuple[Any, ...], make: Callable[[], Expr]) -> Expr:
        found = self._table.get(key)
        if found is None:
            found = self._table[key] = make()
        return found


def _chosen(value: Expr, condition: Expr, which: int) -> Expr:
    """What a selection by `condition` gives where its outcome is known already: its argument number `which`."""
    while isinstance(value, Call) and value.op == "select" and value.args[0] is condition:
        value = value.args[which]
    return value


def combine(parts: list[tuple[Offset, int]], const: int = 0) -> Offset:
    """const + sum of coefficient * position."""
    total = Affine((), const)
    dynamic: dict[int, tuple[Expr, int]] = {}
    for part, coefficient in parts:
        if not coefficient:
            continue
        total = total + part.affine * coefficient
        for index, c in part.dynamic:
            before = dynamic[id(index)][1] if id(index) in dynamic else 0
            dynamic[id(index)] = (index, before + c * coefficient)
    return Offset(total, tuple(dynamic.values()))


def substitute(at: Affine, axes: dict[Axis, Offset]) -> Offset:
    """`at` with each axis replaced by a position."""
    return combine([(axes[a], c) for a, c in at.terms], at.const)
