"""Exponentials, logarithms, powers and roots, trigonometric functions, tanh and erf.

What is composed of them (tan, sinh, ...) stands in hyperbolic.py.
"""

from __future__ import annotations

import math
from typing import Any

from graphc.composed import composed
from graphc.dispatch import SCALARS
from graphc.ops import special
from graphc.ops.arithmetic import add, divide, multiply, negative, subtract
from graphc.ops.comparison import equal, greater_equal, logical_and, where
from graphc.ops.factories import elementwise
from graphc.ops.promotion import of_float, of_two, promoted
from graphc.primitive import Fact, Primitive, Value

_TWO_OVER_SQRT_PI = 2.0 / math.sqrt(math.pi)

EXP: Primitive = elementwise("exp", "exp", "exp", (lambda y, x: y,), kinds="f", facts=Fact.COSTLY | Fact.MONOTONE)
EXPM1 = elementwise(
    "expm1",
    "expm1",
    "expm1",
    (lambda y, x: add(y, 1),),
    kinds="f",
    facts=Fact.COSTLY | Fact.MONOTONE | Fact.PRESERVES_ZERO,
)
LOG: Primitive = elementwise(
    "log", "log", "log", (lambda y, x: divide(1, x),), kinds="f", facts=Fact.COSTLY | Fact.MONOTONE
)
LOG1P = elementwise(
    "log1p",
    "log1p",
    "log1p",
    (lambda y, x: divide(1, add(x, 1)),),
    kinds="f",
    facts=Fact.COSTLY | Fact.MONOTONE | Fact.PRESERVES_ZERO,
)
SQRT: Primitive = elementwise(
    "sqrt", "sqrt", "sqrt", (lambda y, x: divide(0.5, y),), kinds="f", facts=Fact.MONOTONE | Fact.PRESERVES_ZERO
)
RSQRT: Primitive = elementwise(
    "rsqrt",
    lambda xp, x: xp.divide(x.dtype.type(1), xp.sqrt(x)),
    "rsqrt",
    (lambda y, x: multiply(-0.5, divide(y, x)),),
    kinds="f",
)
TANH: Primitive = elementwise(
    "tanh",
    "tanh",
    "tanh",
    (lambda y, x: subtract(1, multiply(y, y)),),
    kinds="f",
    facts=Fact.COSTLY | Fact.ODD | Fact.MONOTONE | Fact.PRESERVES_ZERO,
)
ERF: Primitive = elementwise(
    "erf",
    special.erf,
    "erf",
    (lambda y, x: multiply(_TWO_OVER_SQRT_PI, exp(negative(multiply(x, x)))),),
    kinds="f",
    facts=Fact.COSTLY | Fact.ODD | Fact.MONOTONE | Fact.PRESERVES_ZERO,
)
SIN: Primitive = elementwise(
    "sin", "sin", "sin", (lambda y, x: cos(x),), kinds="f", facts=Fact.COSTLY | Fact.ODD | Fact.PRESERVES_ZERO
)
COS: Primitive = elementwise(
    "cos", "cos", "cos", (lambda y, x: negative(sin(x)),), kinds="f", facts=Fact.COSTLY | Fact.EVEN
)


def _power_in_base(y: Value, x: Value, p: Value) -> Value:
    """p * x**(p-1), and 0 where p is 0 (x**0 is constant, even at x = 0)."""
    if type(p) in SCALARS:
        return 0 if p == 0 else multiply(p, power(x, p - 1))
    return where(equal(p, 0), 0, multiply(p, power(x, subtract(p, 1))))


def _power_in_exponent(y: Value, x: Value, p: Value) -> Value:
    """x**p * log(x), and 0 where x is 0 and p >= 0 (the limit)."""
    if type(x) in SCALARS:
        return 0 if x == 0 else multiply(y, math.log(x)) if x > 0 else multiply(y, math.nan)
    zero = logical_and(equal(x, 0), greater_equal(p, 0))
    return where(zero, 0, multiply(y, log(where(zero, 1, x))))


def _is_whole(x: Any) -> bool:
    return type(x) is int or (type(x) is not float and x.dtype.kind == "i")


def _power_eval(xp: Any, a: Any, b: Any) -> Any:
    """NumPy's power, where it has one; an integer to a negative power is what truncation leaves of it: 0, 1 or -1."""
    if not (_is_whole(a) and _is_whole(b) and xp.any(xp.less(b, 0))):
        return xp.power(a, b)
    whole = xp.power(a, xp.maximum(b, 0))
    unit = xp.where(xp.equal(xp.remainder(b, 2), 0), xp.multiply(a, a), a)
    return xp.where(xp.greater_equal(b, 0), whole, xp.where(xp.equal(xp.abs(a), 1), unit, xp.zeros_like(whole)))


POWER: Primitive = elementwise("power", _power_eval, "pow", (_power_in_base, _power_in_exponent), facts=Fact.COSTLY)

PRIMITIVES = (EXP, EXPM1, LOG, LOG1P, SQRT, RSQRT, TANH, ERF, SIN, COS, POWER)


def exp(x: Value, /) -> Value:
    """e ** x."""
    return of_float(EXP, x)


def expm1(x: Value, /) -> Value:
    """exp(x) - 1, accurate near 0."""
    return of_float(EXPM1, x)


def log(x: Value, /) -> Value:
    """Natural logarithm: -inf at 0, nan below."""
    return of_float(LOG, x)


def log1p(x: Value, /) -> Value:
    """log(1 + x), accurate near 0."""
    return of_float(LOG1P, x)


def power(x: Value, y: Value, /) -> Value:
    """x ** y, elementwise. A Python exponent 2 is computed as x * x, 1 as x."""
    if type(y) in SCALARS and type(x) not in SCALARS and y in (1, 2):
        base = promoted(x, y, "fi")[0]
        return base if y == 1 else multiply(base, base)
    return of_two(POWER, x, y, "fi")


def sqrt(x: Value, /) -> Value:
    """Square root: nan below 0."""
    return of_float(SQRT, x)


def rsqrt(x: Value, /) -> Value:
    """1 / sqrt(x)."""
    return of_float(RSQRT, x)


def tanh(x: Value, /) -> Value:
    """Hyperbolic tangent."""
    return of_float(TANH, x)


@composed
def erf(x: Value, /) -> Value:
    """The error function, 2/sqrt(pi) * integral of exp(-t^2) from 0 to x."""
    return of_float(ERF, x)


def sin(x: Value, /) -> Value:
    """Sine of x in radians."""
    return of_float(SIN, x)


def cos(x: Value, /) -> Value:
    """Cosine of x in radians."""
    return of_float(COS, x)
