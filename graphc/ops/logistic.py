"""sigmoid and softplus: smooth functions that are computed by a choice, so that nothing overflows.

They are records, not compositions, because the pieces must not be differentiated: at 0, where the choice changes,
and far from it, where the piece that wasn't chosen overflows. As records they have the derivatives that calculus
gives them: softplus' = sigmoid, and sigmoid'(x) = sigmoid(x) sigmoid(-x), which keeps its digits on both sides.
"""

from __future__ import annotations

from typing import Any

from graphc.ir.expr import Call, Expr, Literal, call
from graphc.ops.elementwise import multiply, negative
from graphc.ops.factories import elementwise
from graphc.ops.promotion import of_float
from graphc.primitive import Fact, Primitive, Value
from graphc.types import bool_


def _sigmoid_eval(xp: Any, x: Any) -> Any:
    e = xp.exp(-xp.abs(x))
    return xp.where(x >= 0, e.dtype.type(1), e) / (e + 1)


def _softplus_eval(xp: Any, x: Any) -> Any:
    return xp.maximum(x, 0) + xp.log1p(xp.exp(-xp.abs(x)))


def _small_exponential(x: Expr) -> Expr:
    """exp(-|x|)."""
    return call("exp", call("neg", call("abs", x)))


def _sigmoid_scalar(x: Expr) -> Expr:
    e, one = _small_exponential(x), Literal(1.0, x.dtype)
    positive = Call("ge", (x, Literal(0.0, x.dtype)), bool_)
    return call("div", call("select", positive, one, e), call("add", e, one))


def _softplus_scalar(x: Expr) -> Expr:
    return call("add", call("maximum", x, Literal(0.0, x.dtype)), call("log1p", _small_exponential(x)))


SIGMOID: Primitive = elementwise(
    "sigmoid",
    _sigmoid_eval,
    _sigmoid_scalar,
    (lambda y, x: multiply(y, sigmoid(negative(x))),),
    kinds="f",
    facts=Fact.COSTLY | Fact.MONOTONE,
)
SOFTPLUS: Primitive = elementwise(
    "softplus",
    _softplus_eval,
    _softplus_scalar,
    (lambda y, x: sigmoid(x),),
    kinds="f",
    facts=Fact.COSTLY | Fact.MONOTONE,
)

PRIMITIVES = (SIGMOID, SOFTPLUS)


def sigmoid(x: Value, /) -> Value:
    """1 / (1 + exp(-x)), accurate and without overflow on both sides."""
    return of_float(SIGMOID, x)


def softplus(x: Value, /) -> Value:
    """log(1 + exp(x)) = max(x, 0) + log1p(exp(-|x|))."""
    return of_float(SOFTPLUS, x)
