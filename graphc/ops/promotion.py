"""The dtype in which operands meet: astype, and promotion by the rules of graphc.types."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy import ndarray

from graphc.dispatch import NUMBERS, SCALARS, apply, binary, dtype_of_value, unary
from graphc.ir.expr import Call, Compute, affine, axes_of
from graphc.ops.factories import broadcast_read
from graphc.primitive import Fact, Primitive, Value
from graphc.types import DEFAULT_FLOAT, DType, TensorType, dtype_of, int64, promote, promote_scalar


def _cast_type(x: TensorType, *, dtype: DType) -> TensorType:
    return TensorType(x.shape, dtype)


def _cast_body(x: TensorType, *, dtype: DType) -> Compute:
    axes = axes_of(x.shape)
    value = broadcast_read(0, x, axes)
    return Compute(axes, Call("cast", (value,), dtype), tuple(affine(a) for a in axes))


ASTYPE: Primitive = Primitive(
    "astype",
    infer=_cast_type,
    eval=lambda xp, x, *, dtype: xp.asarray(x).astype(dtype.numpy),
    vjp=(
        lambda g, y, x, *, dtype: (
            astype(g, dtype_of_value(x)) if dtype.kind == "f" and dtype_of_value(x).kind == "f" else None
        ),
    ),
    jvp=lambda tangents, y, x, *, dtype: astype(tangents[0], dtype) if dtype.kind == "f" else None,
    body=_cast_body,
    facts=Fact.ELEMENTWISE | Fact.PRESERVES_ZERO,
)

PRIMITIVES = (ASTYPE,)


def astype(x: Value, dtype: Any, /) -> Value:
    """x converted to dtype (a graphc or NumPy dtype, or its name). Floats go to integers by truncation."""
    target = dtype_of(dtype)
    if type(x) in SCALARS:
        return target.numpy.type(x)
    return x if dtype_of_value(x) is target else apply(ASTYPE, x, dtype=target)


def floating(x: Value) -> Value:
    """x itself if it is floating, else as float32."""
    return x if dtype_of_value(x).kind == "f" else astype(x, DEFAULT_FLOAT)


def promoted(x: Value, y: Value, kinds: str = "fib") -> tuple[Value, Value]:
    """Both operands in their common dtype (Python scalars stay as they are, weak).

    kinds: raise operands of another kind to the first kind listed ("f": integers become float32).
    """
    if type(x) in SCALARS and type(y) in SCALARS:
        return (float(x), y) if kinds == "f" else (x, y)
    if type(x) in SCALARS:
        dtype = promote_scalar(own := dtype_of_value(y), x)
        if dtype is own and own.kind in kinds:
            return x, y
    elif type(y) in SCALARS:
        dtype = promote_scalar(own := dtype_of_value(x), y)
        if dtype is own and own.kind in kinds:
            return x, y
    elif getattr(x, "weak", False) and not getattr(y, "weak", False):
        dtype = promote_scalar(dtype_of_value(y), 0.0)
    elif getattr(y, "weak", False) and not getattr(x, "weak", False):
        dtype = promote_scalar(dtype_of_value(x), 0.0)
    else:
        mine, other = dtype_of_value(x), dtype_of_value(y)
        if mine is other and mine.kind in kinds:
            return x, y
        dtype = promote(mine, other)
    if dtype.kind not in kinds:
        dtype = DEFAULT_FLOAT if kinds == "f" else int64
    return _to(x, dtype), _to(y, dtype)


def _to(x: Value, dtype: DType) -> Value:
    return x if type(x) in SCALARS else astype(x, dtype)


def of_two(primitive: Primitive, x: Value, y: Value, kinds: str = "fib") -> Value:
    """A binary operation on its operands, promoted. kinds: see promoted()."""
    # the backward sweep's usual case: raw numbers, promoted by NumPy
    if type(x) is ndarray:
        if x.dtype.kind == "f" and (type(y) is ndarray or type(y) in SCALARS):
            return binary(primitive, x, y)
    elif type(y) is ndarray and type(x) in SCALARS and y.dtype.kind == "f":
        return binary(primitive, x, y)
    if type(x) in NUMBERS and type(y) in NUMBERS:
        # a scalar beside an array is weak, unless it raises the kind
        if type(x) in SCALARS or type(y) in SCALARS:
            x, y = promoted(x, y, kinds)
        return binary(primitive, x, y)
    # beside a tensor, NumPy's float64 scalar is the Python float that it derives from
    x = float(x) if type(x) is np.float64 else x
    y = float(y) if type(y) is np.float64 else y
    return binary(primitive, *promoted(x, y, kinds))


def of_float(primitive: Primitive, x: Value) -> Value:
    """A unary operation that only floats have; of anything else as float32."""
    data = getattr(x, "_data", x)  # the numbers of a Tensor
    if type(data) is ndarray and data.dtype.kind == "f":
        return unary(primitive, x)
    if type(x) in SCALARS:
        return unary(primitive, float(x))
    return unary(primitive, floating(x))
