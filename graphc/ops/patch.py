"""An array with one of its slices replaced: what x[1:-1] = part is, said without memory."""

from __future__ import annotations

from typing import Any

from graphc.dispatch import apply, dtype_of_value, shape_of
from graphc.errors import ShapeError
from graphc.ir.expr import Affine, Call, Compute, Expr, Index, Literal, Read, affine, all_of, axes_of, call, within
from graphc.ops.factories import check_same_dtype
from graphc.ops.movement import SLICE, zeros_as
from graphc.primitive import Primitive, Value
from graphc.types import Shape, TensorType, dtype_of, int64


def _put_type(x: TensorType, part: TensorType, *, start: Shape, stop: Shape, step: Shape) -> TensorType:
    check_same_dtype("put_slice", x, part)
    wanted = SLICE.infer(x, start=start, stop=stop, step=step).shape
    if part.shape != wanted:
        raise ShapeError(f"put_slice: the slice has shape {wanted}, its new value {part.shape}.")
    return x


def _put_eval(xp: Any, x: Any, part: Any, *, start: Shape, stop: Shape, step: Shape) -> Any:
    _put_type(*(TensorType(a.shape, dtype_of(a.dtype)) for a in (x, part)), start=start, stop=stop, step=step)
    out = xp.array(x)
    out[tuple(slice(a, b, s) for a, b, s in zip(start, stop, step, strict=True))] = part
    return out


def _put_body(x: TensorType, part: TensorType, *, start: Shape, stop: Shape, step: Shape) -> Compute:
    axes = axes_of(x.shape)
    index: list[Affine | Expr] = []
    inside: list[Expr | None] = []
    for axis, first, stride, n in zip(axes, start, step, part.shape, strict=True):
        at = axis - first
        if stride == 1 or n == 1:
            index.append(at)
            inside.append(within(at, n))
        else:
            index.append(call("floordiv", Index(at), Literal(stride, int64)))
            inside.append(call("eq", call("mod", Index(at), Literal(stride, int64)), Literal(0, int64)))
            inside.append(within(at, (n - 1) * stride + 1 if n else 0))
    mask = all_of(tuple(inside))
    old = Read(0, tuple(map(affine, axes)), x.dtype)
    new = Read(1, tuple(index), x.dtype, mask)
    value: Expr = old if part.size == 0 else new if mask is None else Call("select", (mask, new, old), x.dtype)
    return Compute(axes, value, tuple(map(affine, axes)))


def _put_jvp(tangents: Any, y: Value, x: Value, part: Value, **attrs: Shape) -> Value:
    tx, tp = (zeros_as(v, dtype_of_value(y)) if t is None else t for t, v in zip(tangents, (x, part), strict=True))
    return apply(PUT_SLICE, tx, tp, **attrs)


PUT_SLICE: Primitive = Primitive(
    "put_slice",
    infer=_put_type,
    eval=_put_eval,
    vjp=(
        lambda g, y, x, part, **attrs: apply(PUT_SLICE, g, zeros_as(part, dtype_of_value(g)), **attrs),
        lambda g, y, x, part, **attrs: apply(SLICE, g, **attrs),
    ),
    jvp=_put_jvp,
    body=_put_body,
)

PRIMITIVES = (PUT_SLICE,)


def put_slice(x: Value, part: Value, /, start: Shape, stop: Shape, step: Shape) -> Value:
    """x with x[start:stop:step] (on every dimension; see movement.slice_) replaced by `part`, of that shape."""
    if shape_of(part) == shape_of(x):
        return part  # a slice as large as the whole is the whole, in order
    return apply(PUT_SLICE, x, part, start=start, stop=stop, step=step)
