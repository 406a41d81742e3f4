"""Add an operation: one record, and it works eagerly, compiled, and under every derivative.

The operation is a smooth limit to [-1, 1]:   softclip(x) = x / sqrt(1 + x^2),   softclip'(x) = (1 + x^2)^(-3/2)
"""

import numpy as np

import graphc as gc
from graphc.dispatch import apply
from graphc.ir.expr import Literal, call
from graphc.ops.factories import elementwise
from graphc.primitive import Fact

SOFTCLIP = elementwise(
    "softclip",
    # what it means on whole arrays of NumPy or cupy
    eval=lambda xp, x: x / xp.sqrt(1 + x * x),
    # what one element is, for the native backends
    scalar=lambda x: call("mul", x, call("rsqrt", call("add", Literal(1.0, x.dtype), call("mul", x, x)))),
    # dy/dx, written in operations: the tape runs it on numbers, the compiler on formulas
    partials=(lambda y, x: gc.power(gc.add(gc.multiply(x, x), 1), -1.5),),
    kinds="f",
    facts=Fact.ODD | Fact.MONOTONE | Fact.PRESERVES_ZERO,
)


def softclip(x):
    """x / sqrt(1 + x^2), elementwise. Floating tensors of any shape."""
    return apply(SOFTCLIP, x)


def total(t):
    return softclip(t).sum()


x = gc.asarray(np.linspace(-3, 3, 7))
exact = (1 + x.numpy() ** 2) ** -1.5
rows = {
    "softclip, eager": softclip(x),
    "softclip, compiled": gc.compile(softclip)(x),
    "derivative, tape": gc.grad(total)(x),
    "derivative, compiled": gc.compile(gc.grad(total))(x),
    "second derivative, tape": gc.grad(lambda t: gc.grad(total)(t).sum())(x),
    "second derivative, compiled": gc.compile(gc.grad(lambda t: gc.grad(total)(t).sum()))(x),
    "forward mode": gc.jvp(softclip, (x,), (gc.ones_like(x),))[1],
}
for name, value in rows.items():
    print(f"{name:28}", np.array2string(value.numpy(), precision=6, floatmode="fixed", sign="+"))
assert np.allclose(rows["derivative, compiled"].numpy(), exact)
assert np.allclose(rows["second derivative, compiled"].numpy(), -3 * x.numpy() * (1 + x.numpy() ** 2) ** -2.5)
