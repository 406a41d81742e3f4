"""The same numbers by cheaper operations, once no derivative is left to take.

Functions that are records for their derivatives' sake are spelt out: their parts are then shared and recomputed
like any others. Powers with a constant exponent need no logarithm.
"""

from __future__ import annotations

import math
from collections.abc import Callable

from graphc.ir.graph import Graph
from graphc.ir.node import Node, constant_value
from graphc.ir.rewrite import RewriteFunction, Rule, rewrite
from graphc.ops import elementwise as ew
from graphc.ops import logistic as lg
from graphc.ops.cumulative import CUMULATIVE_SUM
from graphc.passes import simplify
from graphc.passes.patterns import as_type_of
from graphc.passes.running import running_sum
from graphc.primitive import Primitive, Value


def _small_exponential(x: Node) -> Value:
    """exp(-|x|): sigmoid(x), sigmoid(-x) and softplus(x) have it in common."""
    return ew.exp(ew.negative(ew.abs(x)))


def sigmoid(node: Node) -> Node | None:
    """sigmoid(x) = (1 - s) or s, s = e / (1 + e), e = exp(-|x|): at most 1/2, so nothing cancels."""
    (x,) = node.inputs
    e = _small_exponential(x)
    s = ew.divide(e, ew.add(e, 1))
    return as_type_of(ew.where(ew.greater_equal(x, 0), ew.subtract(1, s), s), node)


def softplus(node: Node) -> Node | None:
    """softplus(x) = max(x, 0) + log1p(exp(-|x|))."""
    (x,) = node.inputs
    return as_type_of(ew.add(ew.maximum(x, 0), ew.log1p(_small_exponential(x))), node)


def _plus(x: Value) -> Value:
    """x, but +0 at -0: what is no odd power doesn't know the sign of zero."""
    return ew.add(x, 0.0)


def _root(x: Value) -> Value:
    return ew.sqrt(_plus(x))


# Three roundings at most. No part overflows, or loses digits to underflow, before the power does.
_POWERS: dict[float, Callable[[Value], Value]] = {
    3.0: lambda x: ew.multiply(ew.multiply(x, x), x),
    4.0: lambda x: ew.square(ew.square(x)),
    -1.0: lambda x: ew.divide(1, x),
    -2.0: lambda x: ew.divide(ew.divide(1, x), x),
    0.5: _root,
    -0.5: lambda x: ew.divide(1, _root(x)),
    1.5: lambda x: ew.multiply(_plus(x), _root(x)),
    -1.5: lambda x: ew.divide(ew.divide(1, _root(x)), _plus(x)),
}


def constant_power(node: Node) -> Node | None:
    """x^c by products, quotients and roots; nan at -inf for a root, where C99's pow gives inf."""
    x, exponent = node.inputs
    value = constant_value(exponent)
    if node.dtype.kind != "f" or value is None or value.size == 0:
        return None
    first = value.reshape(-1)[0]
    formula = _POWERS.get(float(first))
    if formula is None or not (value == first).all():
        return None
    return as_type_of(formula(x), node)


def divisor_of_two(node: Node) -> Node | None:
    """x / 2^k = x * 2^-k, where both are normal numbers: the same bits."""
    x, divisor = node.inputs
    value = constant_value(divisor)
    if value is None or value.shape != ():
        return None
    mantissa, exponent = math.frexp(float(value))
    least = -126 if node.dtype.itemsize == 4 else -1022
    if abs(mantissa) != 0.5 or not least < exponent - 1 < -least:
        return None
    return as_type_of(ew.multiply(x, 1 / float(value)), node)


def _rule(name: str, apply: RewriteFunction, reason: str, *ops: Primitive, exact: bool = True) -> Rule:
    return Rule(name, apply, reason, exact=exact, ops=ops)


RULES = (
    _rule(
        "sigmoid spelt out",
        sigmoid,
        "its exponential is that of softplus(x) too, and its quotient that of sigmoid(-x)",
        lg.SIGMOID,
    ),
    _rule("softplus spelt out", softplus, "its exponential is that of its derivative, sigmoid(x), too", lg.SOFTPLUS),
    _rule("constant power", constant_power, "a logarithm and an exponential less", ew.POWER, exact=False),
    _rule("running sum", running_sum, "a block's sum for each element, not all before it", CUMULATIVE_SUM, exact=False),
    _rule("divisor of two", divisor_of_two, "a product of the same bits", ew.DIVIDE),
)


def cheapen(graph: Graph) -> Graph:
    """Cheaper operations. Simplifies as well: what rules build."""
    return rewrite(graph, (*simplify.RULES, *RULES))
