"""Marks that only differentiation reads: where it stops, where a leaf is, where a derivative is asked for.

`gradient` and `tangent` stand in a traced graph for a derivative that the `differentiate` pass expands, so
that the graph can be rewritten before it is differentiated. A gradient whose seed comes from below a `where` is marked
`masked`: see autodiff.pull.
"""

from __future__ import annotations

from typing import Any

from graphc.dispatch import apply
from graphc.errors import AutodiffError
from graphc.ir.expr import Compute, affine, axes_of
from graphc.ops.factories import broadcast_read
from graphc.primitive import Fact, Primitive, Value
from graphc.types import TensorType


def _same(x: TensorType, **_: Any) -> TensorType:
    return x


def _identity(x: TensorType, **_: Any) -> Compute:
    axes = axes_of(x.shape)
    return Compute(axes, broadcast_read(0, x, axes), tuple(affine(a) for a in axes))


def _expanded(xp: Any, *operands: Any, **_: Any) -> Any:
    raise AutodiffError("a derivative that is still symbolic has no number: run the differentiate pass first")


def _gradient_type(y: TensorType, seed: TensorType, x: TensorType, *, masked: bool = False) -> TensorType:
    return x


def _tangent_type(y: TensorType, *_: TensorType) -> TensorType:
    return y


STOP_GRADIENT: Primitive = Primitive(
    "stop_gradient",
    infer=_same,
    eval=lambda xp, x: x,
    vjp=(None,),
    jvp=lambda tangents, y, x: None,
    body=_identity,
    facts=Fact.VIEW,
)
# An identity that is never merged with another: two leaves of equal value are still two variables.
LEAF: Primitive = Primitive(
    "leaf",
    infer=_same,
    eval=lambda xp, x, *, serial: x,
    vjp=(lambda g, y, x, *, serial: g,),
    jvp=lambda tangents, y, x, *, serial: tangents[0],
    body=_identity,
    facts=Fact.SYMBOLIC,
)
GRADIENT: Primitive = Primitive("gradient", infer=_gradient_type, eval=_expanded, facts=Fact.SYMBOLIC)
TANGENT: Primitive = Primitive("tangent", infer=_tangent_type, eval=_expanded, facts=Fact.SYMBOLIC)

PRIMITIVES = (STOP_GRADIENT, LEAF, GRADIENT, TANGENT)


def stop_gradient(x: Value, /) -> Value:
    """x, seen as a constant by every derivative."""
    return apply(STOP_GRADIENT, x)
