"""tan, sinh and cosh, composed of functions that are exact where these need them to be."""

from __future__ import annotations

from graphc.ops.elementwise import add, cos, divide, exp, expm1, greater, greater_equal, multiply, negative, sin, where
from graphc.primitive import Value

_FAR = 20.0  # beyond, sinh(x) is exp(|x|) / 2 but for its sign; exp(|x|) itself would overflow too early


def tan(x: Value, /) -> Value:
    """Tangent of x in radians."""
    return divide(sin(x), cos(x))


def _magnitude(x: Value) -> tuple[Value, Value]:
    """|x| and the sign of x, written as a choice: at 0 it is then differentiated as x (see sigmoid)."""
    positive = greater_equal(x, 0)
    return where(positive, x, negative(x)), where(positive, 1.0, -1.0)


def _half_exponential(x: Value) -> Value:
    """exp(x) / 2 without overflow where exp(x) has one."""
    half = exp(multiply(x, 0.5))
    return multiply(multiply(half, 0.5), half)


def sinh(x: Value, /) -> Value:
    """Hyperbolic sine, accurate near 0."""
    size, sign = _magnitude(x)
    far = greater(size, _FAR)
    e = expm1(where(far, 1.0, size))
    near = multiply(add(e, divide(e, add(e, 1))), 0.5)
    return multiply(where(far, _half_exponential(size), near), sign)


def cosh(x: Value, /) -> Value:
    """Hyperbolic cosine."""
    size, _ = _magnitude(x)
    grown = _half_exponential(size)
    return add(grown, divide(0.25, grown))
