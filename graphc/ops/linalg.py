"""Products of matrices."""

from __future__ import annotations

import math
from typing import Any

from graphc.dispatch import apply, shape_of
from graphc.errors import ShapeError
from graphc.ir.expr import Axis, Call, Compute, Read, affine, axes_of
from graphc.ops.elementwise import add, promoted
from graphc.ops.factories import array_function, check_kinds, check_same_dtype
from graphc.ops.movement import matrix_transpose, reshape, sum_to
from graphc.primitive import Fact, Primitive, Value
from graphc.types import TensorType, broadcast_shapes


def _matmul_type(a: TensorType, b: TensorType) -> TensorType:
    check_kinds("matmul", "fi", a, b)
    dtype = check_same_dtype("matmul", a, b)
    if a.ndim < 2 or b.ndim < 2:
        raise ShapeError(f"matmul: needs matrices, got shapes {a.shape} and {b.shape}.")
    m, k = a.shape[-2:]
    k2, n = b.shape[-2:]
    if k != k2:
        hint = " Did you mean b.mT?" if k == n else " Did you mean a.mT?" if m == k2 else ""
        raise ShapeError(f"matmul: {a.shape} @ {b.shape}: {k} != {k2}.{hint}")
    return TensorType((*broadcast_shapes(a.shape[:-2], b.shape[:-2], op="matmul"), m, n), dtype)


def _matmul_body(a: TensorType, b: TensorType) -> Compute:
    out = _matmul_type(a, b)
    *batch, i, j = axes_of(out.shape)
    k = Axis("k", a.shape[-1])

    def batch_index(t: TensorType) -> tuple[Any, ...]:
        own = batch[len(batch) - (t.ndim - 2) :] if t.ndim > 2 else []
        return tuple(affine(0 if n == 1 else axis) for n, axis in zip(t.shape[:-2], own, strict=True))

    left = Read(0, (*batch_index(a), affine(i), affine(k)), a.dtype)
    right = Read(1, (*batch_index(b), affine(k), affine(j)), b.dtype)
    target = tuple(affine(axis) for axis in (*batch, i, j))
    return Compute((*batch, i, j), Call("mul", (left, right), out.dtype), target, (k,), "sum")


def _matmul_jvp(tangents: Any, y: Value, a: Value, b: Value) -> Value:
    ta, tb = tangents
    left = None if ta is None else apply(MATMUL, ta, b)
    right = None if tb is None else apply(MATMUL, a, tb)
    if left is None or right is None:
        return right if left is None else left
    return add(left, right)


MATMUL: Primitive = Primitive(
    "matmul",
    infer=_matmul_type,
    eval=array_function("matmul"),
    vjp=(
        lambda g, y, a, b: sum_to(apply(MATMUL, g, matrix_transpose(b)), shape_of(a)),
        lambda g, y, a, b: sum_to(apply(MATMUL, matrix_transpose(a), g), shape_of(b)),
    ),
    jvp=_matmul_jvp,
    body=_matmul_body,
    facts=Fact.CONTRACTION,
)

PRIMITIVES = (MATMUL,)


def matmul(a: Value, b: Value, /) -> Value:
    """a @ b: (..., M, K) @ (..., K, N) -> (..., M, N); leading dimensions broadcast, vectors as in NumPy.

    Raises ShapeError where the inner sizes differ or an operand has no dimension.
    """
    a, b = promoted(a, b, "fi")
    sa, sb = shape_of(a), shape_of(b)
    if not sa or not sb:
        raise ShapeError(f"matmul: operands need a dimension, got shapes {sa} and {sb}; use * for numbers.")
    if len(sa) == 1 and len(sb) == 1:
        return reshape(matmul(reshape(a, (1, *sa)), reshape(b, (*sb, 1))), ())
    if len(sa) == 1:
        y = matmul(reshape(a, (1, *sa)), b)
        return reshape(y, (*shape_of(y)[:-2], shape_of(y)[-1]))
    if len(sb) == 1:
        y = matmul(a, reshape(b, (*sb, 1)))
        return reshape(y, shape_of(y)[:-1])
    if len(sa) > 2 and len(sb) == 2 and sa[-1] == sb[0]:
        # one product of tall matrices, not many small ones
        y = apply(MATMUL, reshape(a, (math.prod(sa[:-1]), sa[-1])), b)
        return reshape(y, (*sa[:-1], sb[1]))
    return apply(MATMUL, a, b)
