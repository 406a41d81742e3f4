"""Movement: reshape, permute, broadcast, slice, pad, flip, concat, iota: where numbers stand, not what they are.

Closed under differentiation: slice and pad (with interior) are each other's adjoints, broadcast's adjoint
is sum, and the others' are of their own kind.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from graphc.dispatch import apply, dtype_of_value, number_like, shape_of, unary
from graphc.errors import AxisError, ShapeError
from graphc.ir.expr import (
    Affine,
    Axis,
    Call,
    Compute,
    Expr,
    Index,
    Literal,
    Read,
    affine,
    all_of,
    axes_of,
    call,
    within,
)
from graphc.ops.elementwise import astype
from graphc.ops.factories import broadcast_read, check_same_dtype
from graphc.primitive import Fact, Primitive, Rule, Value
from graphc.types import (
    DEFAULT_INT,
    DType,
    Scalar,
    Shape,
    TensorType,
    broadcast_shapes,
    dtype_of,
    int64,
    normalize_axes,
    normalize_axis,
    promote,
)

# ------------------------------------------------------------------------------------------ reshape


def _reshape_type(x: TensorType, *, shape: Shape) -> TensorType:
    if math.prod(shape) != x.size:
        raise ShapeError(f"reshape: {x.shape} has {x.size} elements, {shape} has {math.prod(shape)}.")
    return TensorType(shape, x.dtype)


def common_refinement(a: Shape, b: Shape) -> Shape | None:
    """The coarsest shape whose axes group into both a and b, or None; e.g. (6, 4), (2, 12) -> (2, 3, 4)."""
    out: list[int] = []
    left, right = [n for n in a if n != 1], [n for n in b if n != 1]
    while left and right:
        m, n = left[0], right[0]
        small = min(m, n)
        if m % small or n % small:
            return None
        out.append(small)
        for side, extent in ((left, m), (right, n)):
            if extent == small:
                side.pop(0)
            else:
                side[0] = extent // small
    return tuple(out + left + right)


def _group(axes: Sequence[Axis], shape: Shape) -> tuple[Affine, ...]:
    """Indices into `shape` whose dimensions are runs of `axes`, row-major."""
    queue = list(axes)
    out = []
    for extent in shape:
        index, remaining = affine(0), extent
        while remaining > 1:
            axis = queue.pop(0)
            remaining //= axis.extent
            index = index + axis * remaining
        out.append(index)
    return tuple(out)


def _reshape_body(x: TensorType, *, shape: Shape) -> Compute:
    if x.size == 0:
        return Compute(
            axes_of(shape), Literal(x.dtype.numpy.type(0).item(), x.dtype), tuple(map(affine, axes_of(shape)))
        )
    refined = common_refinement(x.shape, shape)
    if refined is not None:
        axes = axes_of(refined)
        return Compute(axes, Read(0, _group(axes, x.shape), x.dtype), _group(axes, shape))
    axes = axes_of(shape)
    flat, stride = affine(0), 1
    for axis in reversed(axes):
        flat, stride = flat + axis * stride, stride * axis.extent
    index: list[Expr] = []
    for extent in reversed(x.shape):
        stride = math.prod(x.shape[len(x.shape) - len(index) :])
        quotient = call("floordiv", Index(flat), Literal(stride, int64))
        index.append(call("mod", quotient, Literal(extent, int64)))
    return Compute(axes, Read(0, tuple(reversed(index)), x.dtype), tuple(affine(a) for a in axes))


RESHAPE: Primitive = Primitive(
    "reshape",
    infer=_reshape_type,
    eval=lambda xp, x, *, shape: x.reshape(shape),
    vjp=(lambda g, y, x, *, shape: apply(RESHAPE, g, shape=shape_of(x)),),
    jvp=lambda tangents, y, x, *, shape: apply(RESHAPE, tangents[0], shape=shape),
    body=_reshape_body,
    facts=Fact.VIEW,
)

# ---------------------------------------------------------------------------------- permute, broadcast


def _permute_type(x: TensorType, *, axes: tuple[int, ...]) -> TensorType:
    return TensorType(tuple(x.shape[a] for a in axes), x.dtype)


def _inverse(axes: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(sorted(range(len(axes)), key=axes.__getitem__))


def _permute_body(x: TensorType, *, axes: tuple[int, ...]) -> Compute:
    out = axes_of(_permute_type(x, axes=axes).shape)
    index = tuple(affine(out[axes.index(d)]) for d in range(x.ndim))
    return Compute(out, Read(0, index, x.dtype), tuple(affine(a) for a in out))


PERMUTE_DIMS: Primitive = Primitive(
    "permute_dims",
    infer=_permute_type,
    eval=lambda xp, x, *, axes: xp.transpose(x, axes),
    vjp=(lambda g, y, x, *, axes: apply(PERMUTE_DIMS, g, axes=_inverse(axes)),),
    jvp=lambda tangents, y, x, *, axes: apply(PERMUTE_DIMS, tangents[0], axes=axes),
    body=_permute_body,
    facts=Fact.VIEW,
)


def _broadcast_type(x: TensorType, *, shape: Shape) -> TensorType:
    if broadcast_shapes(x.shape, shape, op="broadcast_to") != shape:
        raise ShapeError(f"broadcast_to: {x.shape} can't be stretched to {shape}.")
    return TensorType(shape, x.dtype)


def _broadcast_eval(xp: Any, x: Any, *, shape: Shape) -> Any:
    if type(x) is np.ndarray and x.size == 1:
        # one number everywhere: a view with strides 0, made ten times faster than by broadcast_to
        view: Any = np.ndarray(shape, x.dtype, x, 0, (0,) * len(shape))
        view.setflags(write=False)
        return view
    return xp.broadcast_to(x, shape)


def _broadcast_vjp(g: Value, y: Value, x: Value, *, shape: Shape) -> Value:
    return sum_to(g, shape_of(x))


def _broadcast_body(x: TensorType, *, shape: Shape) -> Compute:
    axes = axes_of(shape)
    return Compute(axes, broadcast_read(0, x, axes), tuple(affine(a) for a in axes))


BROADCAST_TO: Primitive = Primitive(
    "broadcast_to",
    infer=_broadcast_type,
    eval=_broadcast_eval,
    vjp=(_broadcast_vjp,),
    jvp=lambda tangents, y, x, *, shape: apply(BROADCAST_TO, tangents[0], shape=shape),
    body=_broadcast_body,
    facts=Fact.VIEW,
)


def _stretched(source: Shape, shape: Shape) -> tuple[int, ...]:
    lead = len(source) - len(shape)
    return tuple(i for i, n in enumerate(source) if i < lead or (shape[i - lead] == 1 and n != 1))


def _unbroadcast_type(x: TensorType, *, shape: Shape) -> TensorType:
    if broadcast_shapes(x.shape, shape, op="sum_to") != x.shape:
        raise ShapeError(f"sum_to: {x.shape} is not a stretched {shape}.")
    return TensorType(shape, x.dtype)


def _unbroadcast_body(x: TensorType, *, shape: Shape) -> Compute:
    axes = axes_of(x.shape)
    folded = _stretched(x.shape, shape)
    lead = x.ndim - len(shape)
    target = tuple(affine(0) if lead + i in folded else affine(axes[lead + i]) for i in range(len(shape)))
    kept = tuple(a for i, a in enumerate(axes) if i not in folded)
    value = Read(0, tuple(affine(a) for a in axes), x.dtype)
    return Compute(kept, value, target, tuple(axes[i] for i in folded), "sum")


# The adjoint of broadcast_to: sum over the axes that were stretched.
UNBROADCAST: Primitive = Primitive(
    "sum_to",
    infer=_unbroadcast_type,
    eval=lambda xp, x, *, shape: xp.sum(x, axis=_stretched(x.shape, shape), dtype=x.dtype).reshape(shape),
    vjp=(lambda g, y, x, *, shape: apply(BROADCAST_TO, g, shape=shape_of(x)),),
    jvp=lambda tangents, y, x, *, shape: apply(UNBROADCAST, tangents[0], shape=shape),
    body=_unbroadcast_body,
    facts=Fact.REDUCTION,
)


def sum_to(x: Value, shape: Shape) -> Value:
    """The adjoint of broadcasting: x summed over the axes that stretching `shape` to x.shape made."""
    return x if shape_of(x) == shape else apply(UNBROADCAST, x, shape=shape)


# -------------------------------------------------------------------------------- slice, pad, flip


def _slice_type(x: TensorType, *, start: Shape, stop: Shape, step: Shape) -> TensorType:
    shape = []
    for axis, (n, a, b, s) in enumerate(zip(x.shape, start, stop, step, strict=True)):
        if not (0 <= a <= b <= n and s >= 1):
            raise ShapeError(f"slice: {a}:{b}:{s} doesn't fit axis {axis} of {x.shape}.")
        shape.append(-(-(b - a) // s))
    return TensorType(tuple(shape), x.dtype)


def _slice_vjp(g: Value, y: Value, x: Value, *, start: Shape, stop: Shape, step: Shape) -> Value:
    low, high = [], []
    for n, m, a, s in zip(shape_of(x), shape_of(y), start, step, strict=True):
        last = a + (m - 1) * s + 1 if m else a
        low.append(a)
        high.append(n - last)
    return apply(PAD, g, low=tuple(low), high=tuple(high), interior=tuple(s - 1 for s in step), value=0)


def _slice_body(x: TensorType, *, start: Shape, stop: Shape, step: Shape) -> Compute:
    axes = axes_of(_slice_type(x, start=start, stop=stop, step=step).shape)
    index = tuple(a * s + b for a, s, b in zip(axes, step, start, strict=True))
    return Compute(axes, Read(0, index, x.dtype), tuple(affine(a) for a in axes))


def _slice_eval(xp: Any, x: Any, *, start: Shape, stop: Shape, step: Shape) -> Any:
    return x[tuple(slice(a, b, s) for a, b, s in zip(start, stop, step, strict=True))]


SLICE: Primitive = Primitive(
    "slice",
    infer=_slice_type,
    eval=_slice_eval,
    vjp=(_slice_vjp,),
    jvp=lambda tangents, y, x, **attrs: apply(SLICE, tangents[0], **attrs),
    body=_slice_body,
    facts=Fact.VIEW,
)


def _pad_type(x: TensorType, *, low: Shape, high: Shape, interior: Shape, value: Scalar) -> TensorType:
    if len({x.ndim, len(low), len(high), len(interior)}) != 1:
        raise ShapeError(f"pad: widths {low}, {high}, {interior} need one entry for each dimension of {x.shape}.")
    if min((*low, *high, *interior, 0)) < 0:
        raise ShapeError(f"pad: widths can't be negative: low {low}, high {high}, interior {interior}; use a slice.")
    spread = [n + max(n - 1, 0) * i for n, i in zip(x.shape, interior, strict=True)]
    return TensorType(tuple(a + n + b for a, n, b in zip(low, spread, high, strict=True)), x.dtype)


def _pad_eval(xp: Any, x: Any, *, low: Shape, high: Shape, interior: Shape, value: Scalar) -> Any:
    out_shape = _pad_type(
        TensorType(x.shape, dtype_of(x.dtype)), low=low, high=high, interior=interior, value=value
    ).shape
    out = xp.full(out_shape, value, dtype=x.dtype)
    inner = tuple(slice(a, n - b, i + 1) for a, b, i, n in zip(low, high, interior, out_shape, strict=True))
    if x.size:
        out[inner] = x
    return out


def _pad_vjp(g: Value, y: Value, x: Value, *, low: Shape, high: Shape, interior: Shape, value: Scalar) -> Value:
    stop = tuple(n - b for n, b in zip(shape_of(y), high, strict=True))
    return apply(SLICE, g, start=low, stop=stop, step=tuple(i + 1 for i in interior))


def _pad_jvp(tangents: Any, y: Value, x: Value, *, low: Shape, high: Shape, interior: Shape, value: Scalar) -> Value:
    return apply(PAD, tangents[0], low=low, high=high, interior=interior, value=0)


def _pad_body(x: TensorType, *, low: Shape, high: Shape, interior: Shape, value: Scalar) -> Compute:
    out = _pad_type(x, low=low, high=high, interior=interior, value=value)
    axes = axes_of(out.shape)
    index: list[Affine | Expr] = []
    masks: list[Expr | None] = []
    for axis, a, i, n in zip(axes, low, interior, x.shape, strict=True):
        at = axis - a
        if i == 0:
            index.append(at)
            masks.append(within(at, n))
        else:
            step = Literal(i + 1, int64)
            index.append(call("floordiv", Index(at), step))
            masks.append(call("eq", call("mod", Index(at), step), Literal(0, int64)))
            masks.append(within(at, (n - 1) * (i + 1) + 1 if n else 0))
    mask = all_of(tuple(masks))
    fill = x.dtype.numpy.type(value).item()
    return Compute(axes, Read(0, tuple(index), x.dtype, mask, fill), tuple(affine(a) for a in axes))


PAD: Primitive = Primitive("pad", infer=_pad_type, eval=_pad_eval, vjp=(_pad_vjp,), jvp=_pad_jvp, body=_pad_body)


def _flip_body(x: TensorType, *, axes: tuple[int, ...]) -> Compute:
    out = axes_of(x.shape)
    index = tuple(
        affine(n - 1) - a if i in axes else affine(a) for i, (a, n) in enumerate(zip(out, x.shape, strict=True))
    )
    return Compute(out, Read(0, index, x.dtype), tuple(affine(a) for a in out))


FLIP: Primitive = Primitive(
    "flip",
    infer=lambda x, *, axes: x,
    eval=lambda xp, x, *, axes: xp.flip(x, axes),
    vjp=(lambda g, y, x, *, axes: apply(FLIP, g, axes=axes),),
    jvp=lambda tangents, y, x, *, axes: apply(FLIP, tangents[0], axes=axes),
    body=_flip_body,
    facts=Fact.VIEW,
)

# ------------------------------------------------------------------------------------- concat, iota


def _concat_type(*types: TensorType, axis: int) -> TensorType:
    dtype = check_same_dtype("concat", *types)
    first = types[0].shape
    for t in types[1:]:
        if t.ndim != len(first) or any(
            m != n for i, (m, n) in enumerate(zip(t.shape, first, strict=True)) if i != axis
        ):
            raise ShapeError(f"concat: {first} and {t.shape} differ on an axis other than {axis}.")
    total = sum(t.shape[axis] for t in types)
    return TensorType((*first[:axis], total, *first[axis + 1 :]), dtype)


def _concat_rule(number: int) -> Rule:
    def rule(g: Value, y: Value, *xs: Value, axis: int) -> Value:
        before = sum(shape_of(x)[axis] for x in xs[:number])
        return narrow(g, axis, before, shape_of(xs[number])[axis])

    return rule


def _concat_jvp(tangents: Any, y: Value, *xs: Value, axis: int) -> Value:
    dtype = dtype_of_value(y)
    parts = [zeros_as(x, dtype) if t is None else t for t, x in zip(tangents, xs, strict=True)]
    return apply(CONCAT, *parts, axis=axis)


def _concat_body(*types: TensorType, axis: int) -> Compute:
    out = _concat_type(*types, axis=axis)
    axes = axes_of(out.shape)
    parts = []
    before = 0
    for k, t in enumerate(types):
        at = axes[axis] - before
        index = tuple(at if i == axis else affine(a) for i, a in enumerate(axes))
        if t.size:
            parts.append((before + t.shape[axis], Read(k, index, t.dtype, within(at, t.shape[axis]))))
        before += t.shape[axis]
    value: Expr = parts[-1][1] if parts else Literal(out.dtype.numpy.type(0).item(), out.dtype)
    for end, read in reversed(parts[:-1]):
        first = call("lt", Index(affine(axes[axis])), Literal(end, int64))
        value = Call("select", (first, read, value), out.dtype)
    return Compute(axes, value, tuple(affine(a) for a in axes))


CONCAT: Primitive = Primitive(
    "concat",
    infer=_concat_type,
    eval=lambda xp, *xs, axis: xp.concatenate(xs, axis=axis),
    vjp=_concat_rule,
    jvp=_concat_jvp,
    body=_concat_body,
    facts=Fact.JOINS,
)


def _iota_eval(xp: Any, *, shape: Shape, axis: int, dtype: DType) -> Any:
    steps = xp.arange(shape[axis], dtype=dtype.numpy)
    aligned = steps.reshape([-1 if i == axis else 1 for i in range(len(shape))])
    return xp.ascontiguousarray(xp.broadcast_to(aligned, shape))


def _iota_body(*, shape: Shape, axis: int, dtype: DType) -> Compute:
    axes = axes_of(shape)
    return Compute(axes, Call("cast", (Index(affine(axes[axis])),), dtype), tuple(affine(a) for a in axes))


IOTA: Primitive = Primitive(
    "iota", infer=lambda *, shape, axis, dtype: TensorType(shape, dtype), eval=_iota_eval, vjp=(), body=_iota_body
)

PRIMITIVES = (RESHAPE, PERMUTE_DIMS, BROADCAST_TO, UNBROADCAST, SLICE, PAD, FLIP, CONCAT, IOTA)

# ---------------------------------------------------------------------------------------- functions


def reshape(x: Value, /, shape: int | Sequence[int]) -> Value:
    """x in another shape, row-major; one entry may be -1 (what is left)."""
    wanted = (shape,) if isinstance(shape, int) else tuple([int(n) for n in shape])
    source = shape_of(x)
    if -1 in wanted:
        known = math.prod(n for n in wanted if n != -1)
        size = math.prod(source)
        if wanted.count(-1) > 1 or known == 0 or size % known:
            raise ShapeError(f"reshape: can't fit {source} ({size} elements) into {wanted}.")
        wanted = tuple(size // known if n == -1 else n for n in wanted)
    return x if wanted == source else apply(RESHAPE, x, shape=wanted)


def permute_dims(x: Value, /, axes: Sequence[int]) -> Value:
    """x with its dimensions in the order `axes`."""
    ndim = len(shape_of(x))
    order = tuple(normalize_axis(a, ndim, "permute_dims") for a in axes)
    if sorted(order) != list(range(ndim)):
        raise AxisError(f"permute_dims: axes {tuple(axes)} must name each of the {ndim} dimensions once.")
    return x if order == tuple(range(ndim)) else apply(PERMUTE_DIMS, x, axes=order)


def swapaxes(x: Value, axis1: int, axis2: int, /) -> Value:
    """x with two dimensions exchanged."""
    order = list(range(len(shape_of(x))))
    a, b = normalize_axis(axis1, len(order), "swapaxes"), normalize_axis(axis2, len(order), "swapaxes")
    order[a], order[b] = b, a
    return permute_dims(x, order)


def matrix_transpose(x: Value, /) -> Value:
    """x with its last two dimensions exchanged."""
    if len(shape_of(x)) < 2:
        raise ShapeError(f"matrix_transpose: needs at least 2 dimensions, got shape {shape_of(x)}.")
    return swapaxes(x, -1, -2)


def moveaxis(x: Value, source: int, destination: int, /) -> Value:
    """x with one dimension moved to another place."""
    ndim = len(shape_of(x))
    a, b = normalize_axis(source, ndim, "moveaxis"), normalize_axis(destination, ndim, "moveaxis")
    order = [i for i in range(ndim) if i != a]
    order.insert(b, a)
    return permute_dims(x, order)


def broadcast_to(x: Value, /, shape: Sequence[int]) -> Value:
    """x stretched to `shape` by NumPy's rule."""
    wanted = tuple([int(n) for n in shape])
    return x if shape_of(x) == wanted else unary(BROADCAST_TO, x, {"shape": wanted})


def expand_dims(x: Value, /, axis: int = 0) -> Value:
    """x with a dimension of size 1 inserted at `axis` of the result."""
    shape = list(shape_of(x))
    shape.insert(normalize_axis(axis, len(shape) + 1, "expand_dims"), 1)
    return reshape(x, shape)


def squeeze(x: Value, /, axis: int | Iterable[int] | None = None) -> Value:
    """x without the named dimensions, which must have size 1 (None: all such)."""
    shape = shape_of(x)
    if axis is None:
        return reshape(x, [n for n in shape if n != 1])
    axes = normalize_axes(axis, len(shape), "squeeze")
    for a in axes:
        if shape[a] != 1:
            raise ShapeError(f"squeeze: axis {a} of {shape} has size {shape[a]}, not 1.")
    return reshape(x, [n for i, n in enumerate(shape) if i not in axes])


def flatten(x: Value, /, start: int = 0, end: int = -1) -> Value:
    """x with dimensions start..end (inclusive) merged into one."""
    shape = shape_of(x)
    if not shape:
        return reshape(x, (1,))
    a, b = normalize_axis(start, len(shape), "flatten"), normalize_axis(end, len(shape), "flatten")
    return reshape(x, (*shape[:a], math.prod(shape[a : b + 1]), *shape[b + 1 :]))


def slice_(x: Value, /, start: Sequence[int], stop: Sequence[int], step: Sequence[int]) -> Value:
    """x[start:stop:step] on every dimension; 0 <= start <= stop <= size, step >= 1."""
    shape = shape_of(x)
    a, b, s = tuple(start), tuple(stop), tuple(step)
    if b == shape and not any(a) and s.count(1) == len(s):
        return x
    return apply(SLICE, x, start=a, stop=b, step=s)


def narrow(x: Value, axis: int, start: int, length: int) -> Value:
    """x[start : start + length] on one dimension."""
    shape = shape_of(x)
    axis = normalize_axis(axis, len(shape), "narrow")
    if not 0 <= start <= start + length <= shape[axis]:
        raise ShapeError(f"narrow: {start} to {start + length} doesn't fit axis {axis} of {shape}.")
    first, last = [0] * len(shape), list(shape)
    first[axis], last[axis] = start, start + length
    return slice_(x, first, last, [1] * len(shape))


def pad(
    x: Value, /, low: Sequence[int], high: Sequence[int], interior: Sequence[int] | None = None, value: Scalar = 0
) -> Value:
    """x with `low` and `high` elements of `value` before and after on each dimension, and `interior` between."""
    widths = tuple(interior) if interior is not None else (0,) * len(shape_of(x))
    if not any((*low, *high, *widths)):
        return x
    return apply(PAD, x, low=tuple(low), high=tuple(high), interior=widths, value=value)


def flip(x: Value, /, axis: int | Sequence[int] | None = None) -> Value:
    """x backwards along the given dimensions (None: all)."""
    axes = normalize_axes(axis, len(shape_of(x)), "flip")
    return apply(FLIP, x, axes=axes) if axes else x


def concat(arrays: Sequence[Value], /, axis: int = 0) -> Value:
    """Arrays joined along an existing dimension; the other sizes must agree. Dtypes are promoted."""
    if not arrays:
        raise ShapeError("concat: needs at least one array.")
    common = promote(*map(dtype_of_value, arrays))
    if any(dtype_of_value(x) is not common for x in arrays):
        arrays = [astype(x, common) for x in arrays]
    return apply(CONCAT, *arrays, axis=normalize_axis(axis, len(shape_of(arrays[0])), "concat"))


def stack(arrays: Sequence[Value], /, axis: int = 0) -> Value:
    """Arrays of equal shape joined along a new dimension."""
    return concat([expand_dims(x, axis) for x in arrays], axis)


def split(x: Value, sizes: int | Sequence[int], /, axis: int = 0) -> list[Value]:
    """x cut along a dimension, into pieces of the given size(s); as torch.split."""
    shape = shape_of(x)
    axis = normalize_axis(axis, len(shape), "split")
    total = shape[axis]
    if isinstance(sizes, int):
        sizes = [min(sizes, total - at) for at in range(0, total, sizes)]
    if sum(sizes) != total:
        raise ShapeError(f"split: sizes {list(sizes)} add up to {sum(sizes)}, but axis {axis} of {shape} has {total}.")
    starts = np.cumsum([0, *sizes[:-1]]).tolist()
    return [narrow(x, axis, start, n) for start, n in zip(starts, sizes, strict=True)]


def iota(shape: Sequence[int], axis: int = -1, dtype: Any = DEFAULT_INT) -> Value:
    """An array whose elements are their own index along `axis`."""
    dims = tuple(int(n) for n in shape)
    return apply(IOTA, shape=dims, axis=normalize_axis(axis, len(dims), "iota"), dtype=dtype_of(dtype))


def zeros_as(x: Value, dtype: DType) -> Value:
    """Zeros of x's shape and the given dtype."""
    return apply(BROADCAST_TO, number_like(x, 0, dtype), shape=shape_of(x))
