"""Quotients f(x)/x at a removable zero, such as (exp(x) - 1)/x: by f's series near 0, so that derivatives are right.

The value of expm1(x)/x is accurate as it stands. Its derivative exp(x)/x - expm1(x)/x^2 is a difference of two
numbers near 1/x and keeps no digit at x = 1e-9. The derivative of a truncated Taylor series is a truncated
Taylor series, so the same formula stays accurate to any order that a program takes.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from graphc.frozen import dataclass
from graphc.ir.node import Node
from graphc.ops import elementwise as ew
from graphc.primitive import Primitive, Value
from graphc.types import DType, float32


@dataclass(frozen=True, slots=True)
class Quotient:
    """f(x)/x near 0. low, high: where the series is used. near: (x, terms) -> the series' value. terms: how many
    terms leave a remainder below half an ulp, also in the second derivative, in (float32, float64)."""

    low: float
    high: float
    near: Callable[[Value, int], Value]
    terms: tuple[int, int]


def _horner(coefficients: Sequence[float], x: Value) -> Value:
    total: Value = coefficients[-1]
    for c in coefficients[-2::-1]:
        total = ew.add(ew.multiply(x, total), c)
    return total


def _expm1(x: Value, terms: int) -> Value:
    """sum of x^k / (k+1)!"""
    return _horner([1 / math.factorial(k + 1) for k in range(terms)], x)


def _sin(x: Value, terms: int) -> Value:
    """sum of (-x^2)^k / (2k+1)!"""
    return _horner([(-1) ** k / math.factorial(2 * k + 1) for k in range(terms)], ew.multiply(x, x))


def _log1p(x: Value, terms: int) -> Value:
    """log1p(x) = 2 artanh(s) with s = x/(2+x), so log1p(x)/x = 2/(2+x) * sum of s^2k / (2k+1)."""
    below = ew.add(x, 2)
    s = ew.divide(x, below)
    return ew.multiply(ew.divide(2, below), _horner([1 / (2 * k + 1) for k in range(terms)], ew.multiply(s, s)))


QUOTIENTS: dict[Primitive, Quotient] = {
    ew.EXPM1: Quotient(-1.0, 1.0, _expm1, (12, 21)),
    ew.SIN: Quotient(-1.5, 1.5, _sin, (8, 13)),
    ew.LOG1P: Quotient(-0.5, 1.0, _log1p, (10, 20)),
}


def quotient(op: Primitive, x: Node) -> Node:
    """op(x)/x for an op of QUOTIENTS. nan at 0, as the division says."""
    return _quotient(op, x)  # type: ignore[no-any-return]


def _quotient(op: Primitive, x: Value) -> Value:
    entry = QUOTIENTS[op]
    inside = ew.logical_and(ew.greater(x, entry.low), ew.less(x, entry.high))
    near = ew.logical_and(inside, ew.not_equal(x, 0))
    # Each branch gets an argument that it is made for, so the one that isn't chosen makes neither inf nor nan.
    x_near, x_far = ew.where(near, x, 0), ew.where(near, entry.high, x)
    far = ew.divide(_function(op, x_far), x_far)
    return ew.where(near, entry.near(x_near, _terms(entry, x.dtype)), far)


def _terms(entry: Quotient, dtype: DType) -> int:
    return entry.terms[0] if dtype is float32 else entry.terms[1]


def _function(op: Primitive, x: Value) -> Value:
    return {ew.EXPM1: ew.expm1, ew.SIN: ew.sin, ew.LOG1P: ew.log1p}[op](x)


def is_far_branch(x: Node) -> bool:
    """Whether x is the argument that `quotient` gives to the division far from 0."""
    return x.op is ew.WHERE and x.inputs[0].op is ew.LOGICAL_AND and x.inputs[0].inputs[1].op is ew.NOT_EQUAL
