"""Arithmetic: sums, products, quotients, remainders, signs and whole numbers.

Records first, then the functions that users and derivative rules call; so in all files of elementwise operations.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from graphc.dispatch import SCALARS, apply, dtype_of_value, unary
from graphc.ir.expr import Expr, Literal, call
from graphc.ops.factories import elementwise
from graphc.ops.promotion import of_two
from graphc.ops.selection import select
from graphc.primitive import Fact, Primitive, Value

ADD: Primitive = elementwise("add", "add", "add", (lambda y, a, b: 1, lambda y, a, b: 1), facts=Fact.COMMUTATIVE)
SUBTRACT: Primitive = elementwise("subtract", "subtract", "sub", (lambda y, a, b: 1, lambda y, a, b: -1))
MULTIPLY: Primitive = elementwise(
    "multiply", "multiply", "mul", (lambda y, a, b: b, lambda y, a, b: a), facts=Fact.COMMUTATIVE
)
DIVIDE: Primitive = elementwise(
    "divide",
    "divide",
    "div",
    (lambda y, a, b: _reciprocal(b), lambda y, a, b: negative(divide(y, b))),
    kinds="f",
)


def _reciprocal(b: Value) -> Value:
    """1 / b; of a Python number, a Python number."""
    return 1.0 / b if type(b) in SCALARS and b != 0 else divide(1, b)


def _floor_quotient(a: Expr, b: Expr) -> Expr:
    """floor(a / b). In floating point from the exact remainder, so that -0.1 // 0.1 is -1 (as in NumPy)."""
    if a.dtype.kind == "i":
        return call("floordiv", a, b)
    zero, one = Literal(0.0, a.dtype), Literal(1.0, a.dtype)
    ratio = call("div", a, b)
    quotient = call("div", call("sub", a, call("mod", a, b)), b)  # whole, up to rounding
    below = call("floor", quotient)
    short = call("gt", call("sub", quotient, below), Literal(0.5, a.dtype))
    whole = call("select", short, call("add", below, one), below)
    # With b infinite the remainder of opposite sign is b itself, and says nothing: the quotient is -0 or -1.
    opposite = call("lt", call("mul", call("sign", a), call("sign", b)), zero)
    tiny = call("select", opposite, Literal(-1.0, a.dtype), zero)
    by_infinity = call("select", call("eq", call("sub", a, a), zero), tiny, call("sub", a, a))
    infinite = call("eq", call("abs", b), Literal(math.inf, a.dtype))
    result = call("select", infinite, by_infinity, whole)
    # a / 0 is what the division says; and so is the sign of a zero
    return call("select", call("or", call("eq", b, zero), call("eq", a, zero)), ratio, result)


FLOOR_DIVIDE: Primitive = elementwise("floor_divide", "floor_divide", _floor_quotient, (None, None), kinds="fi")
REMAINDER: Primitive = elementwise(
    "remainder",
    "remainder",
    "mod",
    (lambda y, a, b: 1, lambda y, a, b: negative(floor_divide(a, b))),
)
NEGATIVE: Primitive = elementwise(
    "negative", "negative", "neg", (lambda y, x: -1,), facts=Fact.ODD | Fact.PRESERVES_ZERO
)
ABS: Primitive = elementwise("abs", "abs", "abs", (lambda y, x: sign(x),), facts=Fact.EVEN | Fact.PRESERVES_ZERO)
SIGN: Primitive = elementwise("sign", "sign", "sign", (None,), facts=Fact.ODD | Fact.MONOTONE | Fact.PRESERVES_ZERO)
FLOOR: Primitive = elementwise("floor", "floor", "floor", (None,), kinds="f", facts=Fact.MONOTONE | Fact.PRESERVES_ZERO)
COPY: Primitive = elementwise(
    "copy", lambda xp, x: xp.array(x), lambda x: x, (lambda y, x: 1,), kinds="fib", facts=Fact.PRESERVES_ZERO
)


def _strong_tangent(tg: Value | None, tp: Value | None, g: Value, p: Value) -> Value:
    if tp is None:
        return strong_multiply(tg, p)
    if tg is None:
        return strong_multiply(g, tp)
    return add(strong_multiply(tg, p), strong_multiply(g, tp))


def _strong_eval(xp: Any, g: Any, p: Any) -> Any:
    if xp is np:
        return _strong(g, p)
    product = xp.multiply(g, p)
    lost = xp.logical_and(xp.equal(g, 0), xp.isnan(product))
    return select(xp, lost, xp.zeros((), product.dtype), product)


def _strong(g: Any, p: Any, out: Any = None) -> Any:
    """Of NumPy's numbers, into `out` as a ufunc does: it may be g's or p's memory."""
    # NumPy's complaint about 0 * inf is silenced where operations run: by the tape, or by the caller's errstate
    if np.isfinite(np.add.reduce(p, None)):
        return np.multiply(g, p, out=out)  # inf and nan would have shown in the sum
    lost = np.logical_and(np.equal(g, 0), np.logical_not(np.isfinite(p)))
    product = np.multiply(g, p, out=out)
    if out is None:
        return select(np, lost, np.zeros((), product.dtype), product)
    np.copyto(out, 0, where=lost)
    return out


_strong_eval.ufunc = _strong  # type: ignore[attr-defined]


def _strong_scalar(g: Expr, p: Expr) -> Expr:
    product, zero = call("mul", g, p), Literal(0, g.dtype)
    lost = call("and", call("eq", g, zero), call("ne", product, product))
    return call("select", lost, zero, product)


# g * p, but 0 where g is 0 and p is inf or nan. The backward sweep multiplies with it below a
# `where`, so that the branch that wasn't chosen can't poison the gradient. Bilinear, like multiply, in its
# own derivatives: differentiating "0 where g == 0" as a select would lose second derivatives at g = 0.
STRONG_MULTIPLY: Primitive = elementwise(
    "strong_multiply",
    _strong_eval,
    _strong_scalar,
    vjp=(
        lambda c, y, g, p: strong_multiply(c, p),
        lambda c, y, g, p: strong_multiply(g, c),
    ),
    jvp=lambda tangents, y, g, p: _strong_tangent(tangents[0], tangents[1], g, p),
    kinds="f",
    facts=Fact.SELECTS,  # its own derivative by p has the zeros of g
)

PRIMITIVES = (
    ADD, SUBTRACT, MULTIPLY, STRONG_MULTIPLY, DIVIDE, FLOOR_DIVIDE, REMAINDER, NEGATIVE, ABS, SIGN, FLOOR, COPY,
)  # fmt: skip


def add(x: Value, y: Value, /) -> Value:
    """x + y, elementwise. Operands broadcast and promote."""
    return of_two(ADD, x, y, "fi")


def subtract(x: Value, y: Value, /) -> Value:
    """x - y, elementwise."""
    return of_two(SUBTRACT, x, y, "fi")


def multiply(x: Value, y: Value, /) -> Value:
    """x * y, elementwise."""
    return of_two(MULTIPLY, x, y, "fi")


def strong_multiply(g: Value, p: Value, /) -> Value:
    """g * p, but exactly 0 where g is 0, whatever p is there (inf, nan)."""
    return of_two(STRONG_MULTIPLY, g, p, "f")


def square(x: Value, /) -> Value:
    """x * x."""
    return multiply(x, x)


def divide(x: Value, y: Value, /) -> Value:
    """x / y, elementwise; integers are divided as float32."""
    return of_two(DIVIDE, x, y, "f")


def reciprocal(x: Value, /) -> Value:
    """1 / x."""
    return divide(1, x)


def floor_divide(x: Value, y: Value, /) -> Value:
    """floor(x / y), elementwise; integers stay integers. Not differentiable (zero almost everywhere)."""
    return of_two(FLOOR_DIVIDE, x, y, "fi")


def remainder(x: Value, y: Value, /) -> Value:
    """x - y * floor(x / y), elementwise: the sign is that of y."""
    return of_two(REMAINDER, x, y, "fi")


def negative(x: Value, /) -> Value:
    """-x."""
    return unary(NEGATIVE, x)


def positive(x: Value, /) -> Value:
    """+x: x itself."""
    return x


def abs(x: Value, /) -> Value:
    """|x|. The derivative at 0 is 0."""
    return unary(ABS, x)


def sign(x: Value, /) -> Value:
    """-1, 0 or 1; nan for nan."""
    return unary(SIGN, x)


def floor(x: Value, /) -> Value:
    """The largest whole number not above x. Integers are returned as they are."""
    return x if dtype_of_value(x).kind != "f" else apply(FLOOR, x)


def ceil(x: Value, /) -> Value:
    """The smallest whole number not below x."""
    return negative(floor(negative(x)))


def copy(x: Value, /) -> Value:
    """A copy with memory of its own; the derivative passes through."""
    return unary(COPY, x)
