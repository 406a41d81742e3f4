"""Order, logic and choice: maximum and minimum, comparisons, and, or, not, where."""

from __future__ import annotations

import math

from graphc.dispatch import SCALARS, apply, dtype_of_value
from graphc.ir.expr import Call, Compute, affine, axes_of
from graphc.ops.arithmetic import abs
from graphc.ops.factories import broadcast_read, check_kinds, check_same_dtype, elementwise
from graphc.ops.promotion import astype, of_two, promoted
from graphc.ops.selection import select
from graphc.primitive import Fact, Primitive, Value
from graphc.types import TensorType, bool_, broadcast_shapes, promote, scalar_dtype


def _share(y: Value, mine: Value, other: Value) -> Value:
    """1 where `mine` is the extreme, 1/2 at a tie (PyTorch's and JAX's convention), else 0."""
    dtype = dtype_of_value(y)
    return where(equal(mine, other), 0.5, astype(equal(y, mine), dtype))


MAXIMUM: Primitive = elementwise(
    "maximum",
    "maximum",
    "maximum",
    (lambda y, a, b: _share(y, a, b), lambda y, a, b: _share(y, b, a)),
    kinds="fib",
    facts=Fact.COMMUTATIVE | Fact.MONOTONE,
)
MINIMUM: Primitive = elementwise(
    "minimum",
    "minimum",
    "minimum",
    (lambda y, a, b: _share(y, a, b), lambda y, a, b: _share(y, b, a)),
    kinds="fib",
    facts=Fact.COMMUTATIVE | Fact.MONOTONE,
)


def _comparison(name: str, scalar: str, facts: Fact = Fact.NONE) -> Primitive:
    return elementwise(name, name, scalar, (None, None), kinds="fib", result=bool_, facts=facts)


EQUAL: Primitive = _comparison("equal", "eq", Fact.COMMUTATIVE)
NOT_EQUAL: Primitive = _comparison("not_equal", "ne", Fact.COMMUTATIVE)
LESS: Primitive = _comparison("less", "lt")
LESS_EQUAL: Primitive = _comparison("less_equal", "le")
GREATER: Primitive = _comparison("greater", "gt")
GREATER_EQUAL: Primitive = _comparison("greater_equal", "ge")
LOGICAL_AND: Primitive = elementwise(
    "logical_and", "logical_and", "and", (None, None), kinds="b", facts=Fact.COMMUTATIVE
)
LOGICAL_OR: Primitive = elementwise("logical_or", "logical_or", "or", (None, None), kinds="b", facts=Fact.COMMUTATIVE)
LOGICAL_NOT: Primitive = elementwise("logical_not", "logical_not", "not", (None,), kinds="b")


def _where_type(condition: TensorType, x: TensorType, y: TensorType) -> TensorType:
    check_kinds("where (condition)", "b", condition)
    dtype = check_same_dtype("where", x, y)
    return TensorType(broadcast_shapes(condition.shape, x.shape, y.shape, op="where"), dtype)


def _where_body(condition: TensorType, x: TensorType, y: TensorType) -> Compute:
    out = _where_type(condition, x, y)
    axes = axes_of(out.shape)
    reads = [broadcast_read(k, t, axes) for k, t in enumerate((condition, x, y))]
    return Compute(axes, Call("select", tuple(reads), out.dtype), tuple(affine(a) for a in axes))


WHERE: Primitive = Primitive(
    "where",
    infer=_where_type,
    eval=select,
    vjp=(
        None,
        lambda g, y, condition, a, b: where(condition, g, 0),
        lambda g, y, condition, a, b: where(condition, 0, g),
    ),
    jvp=lambda tangents, y, condition, a, b: where(
        condition, 0 if tangents[1] is None else tangents[1], 0 if tangents[2] is None else tangents[2]
    ),
    body=_where_body,
    facts=Fact.ELEMENTWISE | Fact.SELECTS,
)

PRIMITIVES = (
    MAXIMUM, MINIMUM, EQUAL, NOT_EQUAL, LESS, LESS_EQUAL, GREATER, GREATER_EQUAL,
    LOGICAL_AND, LOGICAL_OR, LOGICAL_NOT, WHERE,
)  # fmt: skip


def maximum(x: Value, y: Value, /) -> Value:
    """The larger, elementwise; nan if either is. At a tie each gets half of the derivative."""
    return of_two(MAXIMUM, x, y)


def minimum(x: Value, y: Value, /) -> Value:
    """The smaller, elementwise; nan if either is. At a tie each gets half of the derivative."""
    return of_two(MINIMUM, x, y)


def clip(x: Value, /, min: Value | None = None, max: Value | None = None) -> Value:
    """x limited to [min, max]; None leaves that side open."""
    if min is not None:
        x = maximum(x, min)
    return x if max is None else minimum(x, max)


def equal(x: Value, y: Value, /) -> Value:
    """x == y, elementwise, bool."""
    return of_two(EQUAL, x, y)


def not_equal(x: Value, y: Value, /) -> Value:
    """x != y, elementwise, bool; nan differs from itself."""
    return of_two(NOT_EQUAL, x, y)


def less(x: Value, y: Value, /) -> Value:
    """x < y, elementwise, bool."""
    return of_two(LESS, x, y)


def less_equal(x: Value, y: Value, /) -> Value:
    """x <= y, elementwise, bool."""
    return of_two(LESS_EQUAL, x, y)


def greater(x: Value, y: Value, /) -> Value:
    """x > y, elementwise, bool."""
    return of_two(GREATER, x, y)


def greater_equal(x: Value, y: Value, /) -> Value:
    """x >= y, elementwise, bool."""
    return of_two(GREATER_EQUAL, x, y)


def logical_and(x: Value, y: Value, /) -> Value:
    """x and y, elementwise; operands are bool."""
    return apply(LOGICAL_AND, x, y)


def logical_or(x: Value, y: Value, /) -> Value:
    """x or y, elementwise; operands are bool."""
    return apply(LOGICAL_OR, x, y)


def logical_not(x: Value, /) -> Value:
    """not x, elementwise; the operand is bool."""
    return apply(LOGICAL_NOT, x)


def isnan(x: Value, /) -> Value:
    """Whether each element is nan."""
    return not_equal(x, x)


def isfinite(x: Value, /) -> Value:
    """Whether each element is neither infinite nor nan."""
    return less(abs(x), math.inf)


def isinf(x: Value, /) -> Value:
    """Whether each element is +inf or -inf."""
    return equal(abs(x), math.inf)


def where(condition: Value, x: Value, y: Value, /) -> Value:
    """x where the bool condition holds, else y; all three broadcast.

    The gradient of the branch that wasn't chosen is exactly 0, even where that branch is inf or nan.
    """
    if type(x) in SCALARS and type(y) in SCALARS:
        dtype = promote(scalar_dtype(x), scalar_dtype(y)).numpy
        return apply(WHERE, condition, dtype.type(x), dtype.type(y))
    return apply(WHERE, condition, *promoted(x, y))
