"""Running sums and products along an axis, and the product of all elements."""

from __future__ import annotations

import math
from typing import Any

from graphc.dispatch import apply, dtype_of_value, number_like, shape_of
from graphc.errors import ShapeError
from graphc.ir.expr import Axis, Compute, Index, Read, affine, axes_of, call
from graphc.ops.elementwise import astype, multiply
from graphc.ops.factories import widen_integers
from graphc.ops.movement import BROADCAST_TO, concat, flip, narrow, pad, permute_dims, reshape
from graphc.ops.reduction import AxisLike
from graphc.primitive import Primitive, Value
from graphc.types import TensorType, int64, normalize_axes, normalize_axis


def _running_type(x: TensorType, *, axis: int) -> TensorType:
    if not 0 <= axis < x.ndim:
        raise ShapeError(f"cumulative_sum: axis {axis} of an array of shape {x.shape}.")
    return TensorType(x.shape, widen_integers(x.dtype))


def _running_eval(xp: Any, x: Any, *, axis: int) -> Any:
    return xp.cumsum(x, axis=axis, dtype=x.dtype if x.dtype.kind == "f" else xp.int64)


def _running_vjp(g: Value, y: Value, x: Value, *, axis: int) -> Value:
    if dtype_of_value(x).kind != "f":
        return None
    return flip(apply(CUMULATIVE_SUM, flip(g, axis), axis=axis), axis)


def _running_body(x: TensorType, *, axis: int) -> Compute:
    """Each element the sum of those up to it: for short axes; passes/running.py cuts long ones."""
    axes = axes_of(x.shape)
    before = Axis("j0", x.shape[axis])
    reached = call("le", Index(affine(before)), Index(affine(axes[axis])))
    index = tuple(affine(before if i == axis else a) for i, a in enumerate(axes))
    value: Any = Read(0, index, x.dtype, reached, x.dtype.numpy.type(0).item())
    wide = _running_type(x, axis=axis).dtype
    if wide is not x.dtype:
        value = call("cast", value, dtype=wide)
    return Compute(axes, value, tuple(map(affine, axes)), (before,), "sum")


CUMULATIVE_SUM: Primitive = Primitive(
    "cumulative_sum",
    infer=_running_type,
    eval=_running_eval,
    vjp=(_running_vjp,),
    jvp=lambda tangents, y, x, *, axis: apply(CUMULATIVE_SUM, tangents[0], axis=axis),
    body=_running_body,
)

PRIMITIVES = (CUMULATIVE_SUM,)


def _one_axis(x: Value, axis: int | None, op: str) -> tuple[Value, int]:
    """x and the axis to run along: all of it, flattened, for None (NumPy's rule)."""
    if axis is None:
        return reshape(x, (-1,)), 0
    return x, normalize_axis(axis, len(shape_of(x)), op)


def cumulative_sum(x: Value, /, axis: int | None = None, include_initial: bool = False) -> Value:
    """The sum of each element and all before it along an axis (None: of the flattened array).

    Integers and booleans are summed in int64. include_initial: begin with a 0, one element more.
    """
    x, at = _one_axis(x, axis, "cumulative_sum")
    total = apply(CUMULATIVE_SUM, x, axis=at)
    if not include_initial:
        return total
    low = [int(i == at) for i in range(len(shape_of(total)))]
    return pad(total, low, [0] * len(low))


cumsum = cumulative_sum


def cumulative_prod(x: Value, /, axis: int | None = None) -> Value:
    """The product of each element and all before it along an axis (None: of the flattened array), by doubling."""
    x, at = _one_axis(x, axis, "cumulative_prod")
    x = _widened(x)
    n = shape_of(x)[at]
    step = 1
    while step < n:
        done = narrow(x, at, 0, step)
        x = concat([done, multiply(narrow(x, at, step, n - step), narrow(x, at, 0, n - step))], at)
        step *= 2
    return x


cumprod = cumulative_prod


def prod(x: Value, /, axis: AxisLike = None, keepdims: bool = False) -> Value:
    """Product over axes, in pairs; its derivative is right at zeros too. The product of nothing is 1.

    Integers and booleans are multiplied in int64.
    """
    shape = shape_of(x)
    axes = tuple(range(len(shape))) if axis is None else normalize_axes(axis, len(shape), "prod")
    kept = [i for i in range(len(shape)) if i not in axes]
    rows = [shape[i] for i in kept]
    x = _widened(x)
    n = math.prod(shape[i] for i in axes)
    x = reshape(permute_dims(x, (*kept, *axes)), (*rows, n))
    last = len(rows)
    if n == 0:
        x = apply(BROADCAST_TO, number_like(x, 1, dtype_of_value(x)), shape=(*rows, 1))
    while n > 1:
        half = n // 2
        pairs = multiply(narrow(x, last, 0, half), narrow(x, last, half, half))
        x = concat([pairs, narrow(x, last, 2 * half, 1)], last) if n % 2 else pairs
        n -= half
    return reshape(x, [1 if i in axes else m for i, m in enumerate(shape)] if keepdims else rows)


def _widened(x: Value) -> Value:
    return x if dtype_of_value(x).kind == "f" else astype(x, int64)
