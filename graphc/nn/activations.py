"""Activations: plain functions of operations."""

from __future__ import annotations

import math

from graphc.composed import composed
from graphc.errors import ArgumentError
from graphc.ops.elementwise import add, divide, erf, exp, less_equal, log, multiply, subtract, tanh, where
from graphc.ops.marks import stop_gradient
from graphc.ops.reduction import max as largest
from graphc.ops.reduction import sum as total
from graphc.primitive import Value


@composed
def relu(x: Value) -> Value:
    """max(x, 0). Its derivative at 0 is 0 (PyTorch's choice); nan stays nan."""
    return where(less_equal(x, 0), 0, x)


@composed
def gelu(x: Value, approximate: str = "none") -> Value:
    """x * Phi(x), Phi the normal distribution function (Hendrycks & Gimpel 2016).

    approximate: "none" by erf, or "tanh" for x/2 * (1 + tanh(sqrt(2/pi) * (x + 0.044715 x^3))).
    Raises ArgumentError for another name.
    """
    if approximate == "none":
        return multiply(multiply(x, 0.5), add(erf(multiply(x, math.sqrt(0.5))), 1))
    if approximate == "tanh":
        cubic = multiply(multiply(x, x), x)
        inner = multiply(add(x, multiply(cubic, 0.044715)), math.sqrt(2 / math.pi))
        return multiply(multiply(x, 0.5), add(tanh(inner), 1))
    raise ArgumentError(f"gelu: approximate={approximate!r}: expected 'none' or 'tanh'.")


@composed
def softmax(x: Value, dim: int = -1) -> Value:
    """exp(x) over its sum along `dim`, the largest element taken out first so that nothing overflows."""
    e = exp(subtract(x, stop_gradient(largest(x, dim, keepdims=True))))
    return divide(e, total(e, dim, keepdims=True))


@composed
def log_softmax(x: Value, dim: int = -1) -> Value:
    """log(softmax(x)), accurate also where softmax underflows."""
    shifted = subtract(x, stop_gradient(largest(x, dim, keepdims=True)))
    return subtract(shifted, log(total(exp(shifted), dim, keepdims=True)))
