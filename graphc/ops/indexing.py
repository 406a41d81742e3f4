"""Gathers and their adjoints, the scatters: closed under differentiation.

    take(x, indices; axis)             <->  scatter_add(updates, indices; axis, size)
    take_along_axis(x, indices; axis)  <->  scatter_add_along_axis(updates, indices; axis, size)

Indices are int32 or int64, and count from the end where negative, as in NumPy. An index outside [-n, n) raises
IndexingError, eagerly and in compiled code. Python's x[key] is in subscript.py.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from graphc.composed import composed
from graphc.dispatch import apply, shape_of, type_of
from graphc.errors import AxisError, DTypeError, IndexingError, ShapeError
from graphc.ir.expr import Affine, Compute, Expr, Index, Literal, Read, affine, axes_of, call
from graphc.ops.movement import broadcast_to
from graphc.primitive import Fact, Primitive, Value
from graphc.types import Shape, TensorType, broadcast_shapes, int64, normalize_axis


def _check_indices(op: str, indices: TensorType, axis: int, ndim: int) -> None:
    if indices.dtype.kind != "i":
        raise DTypeError(
            f"{op}: indices must be int32 or int64, not {indices.dtype.name}. "
            "For a boolean mask use where(mask, x, other), whose shape is known."
        )
    if not 0 <= axis < ndim:
        raise AxisError(f"{op}: axis {axis} is out of range for an array of {ndim} dimensions.")


def _check_summable(op: str, updates: TensorType) -> None:
    if updates.dtype.kind == "b":
        raise DTypeError(f"{op}: booleans can't be added up; convert with .astype('int64').")


def _nonempty(op: str, indices: TensorType, axis: int, size: int) -> None:
    if size == 0 and indices.size:
        raise IndexingError(f"{op}: axis {axis} has no elements, so no index is valid.")


def _out_of_bounds(op: str, axis: int, size: int) -> str:
    return f"{op}: an index is out of bounds for axis {axis} with size {size}; valid are {-size} to {size - 1}."


def _checked(op: str, indices: Any, axis: int, size: int) -> None:
    """Raises IndexingError naming the first index out of bounds."""
    if not indices.size or (int(indices.min()) >= -size and int(indices.max()) < size):
        return
    wrong = int(indices[(indices < -size) | (indices >= size)].reshape(-1)[0])
    raise IndexingError(_out_of_bounds(op, axis, size) + f" Got {wrong}.")


def _wrapped(indices: Expr, size: int) -> tuple[Expr, Expr]:
    """(an index counted from the start, the condition that it is in range)."""
    at = indices if indices.dtype is int64 else call("cast", indices, dtype=int64)
    ok = call("and", call("ge", at, Literal(-size, int64)), call("lt", at, Literal(size, int64)))
    negative = call("lt", at, Literal(0, int64))
    return call("select", negative, call("add", at, Literal(size, int64)), at), ok


# ------------------------------------------------------------------------------------------------ take


def _take_type(x: TensorType, indices: TensorType, *, axis: int) -> TensorType:
    _check_indices("take", indices, axis, x.ndim)
    _nonempty("take", indices, axis, x.shape[axis])
    return TensorType((*x.shape[:axis], *indices.shape, *x.shape[axis + 1 :]), x.dtype)


def _take_eval(xp: Any, x: Any, indices: Any, *, axis: int) -> Any:
    _take_type(type_of(x), type_of(indices), axis=axis)
    _checked("take", indices, axis, x.shape[axis])
    return xp.take(x, indices, axis=axis)


def _take_body(x: TensorType, indices: TensorType, *, axis: int) -> Compute:
    axes = axes_of(_take_type(x, indices, axis=axis).shape)
    index = Read(1, tuple(affine(a) for a in axes[axis : axis + indices.ndim]), indices.dtype)
    at, ok = _wrapped(index, x.shape[axis])
    before, after = map(affine, axes[:axis]), map(affine, axes[axis + indices.ndim :])
    value = Read(0, (*before, at, *after), x.dtype, mask=ok)
    message = _out_of_bounds("take", axis, x.shape[axis])
    return Compute(axes, value, tuple(affine(a) for a in axes), check=ok, message=message)


TAKE: Primitive = Primitive(
    "take",
    infer=_take_type,
    eval=_take_eval,
    vjp=(lambda g, y, x, indices, *, axis: scatter_add(g, indices, axis, shape_of(x)[axis]), None),
    jvp=lambda tangents, y, x, indices, *, axis: _along(TAKE, tangents[0], indices, axis=axis),
    body=_take_body,
)


# ----------------------------------------------------------------------------------------- scatter_add


def _scatter_type(updates: TensorType, indices: TensorType, *, axis: int, size: int) -> TensorType:
    _check_indices("scatter_add", indices, axis, updates.ndim - indices.ndim + 1)
    _check_summable("scatter_add", updates)
    if updates.shape[axis : axis + indices.ndim] != indices.shape:
        raise ShapeError(
            f"scatter_add: updates {updates.shape} must hold the shape of indices {indices.shape} at axis {axis}."
        )
    _nonempty("scatter_add", indices, axis, size)
    return TensorType((*updates.shape[:axis], size, *updates.shape[axis + indices.ndim :]), updates.dtype)


def _scatter_eval(xp: Any, updates: Any, indices: Any, *, axis: int, size: int) -> Any:
    """Adds the updates in the order of their indices, those of equal index in the order they stand."""
    _scatter_type(type_of(updates), type_of(indices), axis=axis, size=size)
    _checked("scatter_add", indices, axis, size)
    before, after = updates.shape[:axis], updates.shape[axis + indices.ndim :]
    rows = xp.moveaxis(updates.reshape(*before, indices.size, *after), axis, 0)
    at = xp.where(indices < 0, indices + size, indices).reshape(-1)
    out = xp.zeros((size, *before, *after), dtype=updates.dtype)
    if rows.size:
        # Sorted, rows of equal index stand together and are summed as a run: ten times np.add.at's speed on rows.
        order = xp.argsort(at, kind="stable")
        run = at[order]
        first = xp.flatnonzero(xp.concatenate((xp.ones(1, dtype=bool), run[1:] != run[:-1])))
        out[run[first]] = xp.add.reduceat(rows[order], first, axis=0)
    return xp.ascontiguousarray(xp.moveaxis(out, 0, axis))


def _scatter_body(updates: TensorType, indices: TensorType, *, axis: int, size: int) -> Compute:
    axes = axes_of(updates.shape)
    index = Read(1, tuple(affine(a) for a in axes[axis : axis + indices.ndim]), indices.dtype)
    target: tuple[Affine | Expr, ...] = (*map(affine, axes[:axis]), index, *map(affine, axes[axis + indices.ndim :]))
    return _accumulate("scatter_add", updates, index, target, axis, size)


def _accumulate(
    op: str, updates: TensorType, index: Expr, target: Sequence[Affine | Expr], axis: int, size: int
) -> Compute:
    """Adds each update at `target`, whose entry `index` is wrapped; one out of range adds nothing and is reported."""
    at, ok = _wrapped(index, size)
    inside = call("select", ok, at, Literal(0, int64))
    axes = axes_of(updates.shape)
    return Compute(
        axes,
        Read(0, tuple(affine(a) for a in axes), updates.dtype, mask=ok),
        tuple(inside if entry is index else entry for entry in target),
        scatter=True,
        check=ok,
        message=_out_of_bounds(op, axis, size),
    )


SCATTER_ADD: Primitive = Primitive(
    "scatter_add",
    infer=_scatter_type,
    eval=_scatter_eval,
    vjp=(lambda g, y, updates, indices, *, axis, size: apply(TAKE, g, indices, axis=axis), None),
    jvp=lambda tangents, y, updates, indices, **attrs: _along(SCATTER_ADD, tangents[0], indices, **attrs),
    body=_scatter_body,
    facts=Fact.COSTLY,
)


# ------------------------------------------------------------------------------------- along an axis


def _same_but(op: str, x: Shape, indices: Shape, axis: int) -> None:
    if len(x) != len(indices) or x[:axis] + x[axis + 1 :] != indices[:axis] + indices[axis + 1 :]:
        raise ShapeError(f"{op}: indices {indices} must have the shape {x}, except on axis {axis}.")


def _take_along_type(x: TensorType, indices: TensorType, *, axis: int) -> TensorType:
    _check_indices("take_along_axis", indices, axis, x.ndim)
    _same_but("take_along_axis", x.shape, indices.shape, axis)
    _nonempty("take_along_axis", indices, axis, x.shape[axis])
    return TensorType(indices.shape, x.dtype)


def _take_along_eval(xp: Any, x: Any, indices: Any, *, axis: int) -> Any:
    _take_along_type(type_of(x), type_of(indices), axis=axis)
    _checked("take_along_axis", indices, axis, x.shape[axis])
    return xp.take_along_axis(x, indices, axis=axis)


def _take_along_body(x: TensorType, indices: TensorType, *, axis: int) -> Compute:
    axes = axes_of(indices.shape)
    everywhere = tuple(affine(a) for a in axes)
    at, ok = _wrapped(Read(1, everywhere, indices.dtype), x.shape[axis])
    value = Read(0, (*everywhere[:axis], at, *everywhere[axis + 1 :]), x.dtype, mask=ok)
    return Compute(axes, value, everywhere, check=ok, message=_out_of_bounds("take_along_axis", axis, x.shape[axis]))


def _scatter_along_type(updates: TensorType, indices: TensorType, *, axis: int, size: int) -> TensorType:
    _check_indices("scatter_add_along_axis", indices, axis, updates.ndim)
    _check_summable("scatter_add_along_axis", updates)
    if updates.shape != indices.shape:
        raise ShapeError(f"scatter_add_along_axis: updates {updates.shape} and indices {indices.shape} must agree.")
    _nonempty("scatter_add_along_axis", indices, axis, size)
    return TensorType((*updates.shape[:axis], size, *updates.shape[axis + 1 :]), updates.dtype)


def _scatter_along_eval(xp: Any, updates: Any, indices: Any, *, axis: int, size: int) -> Any:
    _scatter_along_type(type_of(updates), type_of(indices), axis=axis, size=size)
    _checked("scatter_add_along_axis", indices, axis, size)
    out = xp.zeros((*updates.shape[:axis], size, *updates.shape[axis + 1 :]), dtype=updates.dtype)
    if not updates.size:
        return out
    if updates.shape[axis] == 1:  # one update a line (cross-entropy's gradient): nothing can collide
        xp.put_along_axis(out, indices, updates, axis=axis)
        return out
    grid = xp.ogrid[tuple(slice(n) for n in updates.shape)]
    xp.add.at(out, (*grid[:axis], indices, *grid[axis + 1 :]), updates)
    return out


def _one_hot_body(updates: TensorType, indices: TensorType, axis: int, size: int) -> Compute:
    """One update a line (cross-entropy's gradient): as an operation on elements, so that others can be fused to it."""
    axes = axes_of((*updates.shape[:axis], size, *updates.shape[axis + 1 :]))
    line = tuple(affine(0 if i == axis else a) for i, a in enumerate(axes))
    at, ok = _wrapped(Read(1, line, indices.dtype), size)
    hit = call("eq", at, Index(affine(axes[axis])))
    zero = Literal(0.0 if updates.dtype.kind == "f" else 0, updates.dtype)
    value = call("select", hit, Read(0, line, updates.dtype), zero)
    message = _out_of_bounds("scatter_add_along_axis", axis, size)
    return Compute(axes, value, tuple(affine(a) for a in axes), check=ok, message=message)


def _scatter_along_body(updates: TensorType, indices: TensorType, *, axis: int, size: int) -> Compute:
    if updates.shape[axis] == 1:
        return _one_hot_body(updates, indices, axis, size)
    everywhere = tuple(affine(a) for a in axes_of(updates.shape))
    index = Read(1, everywhere, indices.dtype)
    target: tuple[Affine | Expr, ...] = (*everywhere[:axis], index, *everywhere[axis + 1 :])
    return _accumulate("scatter_add_along_axis", updates, index, target, axis, size)


TAKE_ALONG_AXIS: Primitive = Primitive(
    "take_along_axis",
    infer=_take_along_type,
    eval=_take_along_eval,
    vjp=(
        lambda g, y, x, indices, *, axis: apply(SCATTER_ADD_ALONG_AXIS, g, indices, axis=axis, size=shape_of(x)[axis]),
        None,
    ),
    jvp=lambda tangents, y, x, indices, *, axis: _along(TAKE_ALONG_AXIS, tangents[0], indices, axis=axis),
    body=_take_along_body,
)
SCATTER_ADD_ALONG_AXIS: Primitive = Primitive(
    "scatter_add_along_axis",
    infer=_scatter_along_type,
    eval=_scatter_along_eval,
    vjp=(lambda g, y, updates, indices, *, axis, size: apply(TAKE_ALONG_AXIS, g, indices, axis=axis), None),
    jvp=lambda tangents, y, updates, indices, **attrs: _along(SCATTER_ADD_ALONG_AXIS, tangents[0], indices, **attrs),
    body=_scatter_along_body,
    facts=Fact.COSTLY,
)

PRIMITIVES = (TAKE, SCATTER_ADD, TAKE_ALONG_AXIS, SCATTER_ADD_ALONG_AXIS)


def _along(primitive: Primitive, tangent: Value | None, indices: Value, **attrs: Any) -> Value | None:
    """All four are linear in their first operand and have no derivative in the indices."""
    return None if tangent is None else apply(primitive, tangent, indices, **attrs)


# ------------------------------------------------------------------------------------------- functions


def as_indices(indices: Value) -> Value:
    """Indices from nested lists or NumPy integers of any width; other values as they are."""
    if isinstance(indices, (int, list, tuple, np.ndarray, np.integer)):
        array = np.asarray(indices)
        if array.size == 0 and not isinstance(indices, np.ndarray):
            array = array.astype(np.int64)
        return array.astype(np.int64) if array.dtype.kind in "iu" and array.dtype != np.int32 else array
    return indices


@composed
def take(x: Value, indices: Value, /, axis: int | None = None) -> Value:
    """Elements of x along `axis` (None: x has one dimension), as np.take. indices: integers of any shape.

    Returns x.shape with `axis` replaced by indices.shape. Raises IndexingError out of bounds.
    """
    ndim = len(shape_of(x))
    if axis is None and ndim != 1:
        raise AxisError(f"take: give the axis: x has {ndim} dimensions, shape {shape_of(x)}.")
    return apply(TAKE, x, as_indices(indices), axis=normalize_axis(axis or 0, ndim, "take"))


def scatter_add(updates: Value, indices: Value, axis: int, size: int) -> Value:
    """The adjoint of take: zeros of extent `size` along `axis`, to which each update is added at its index."""
    indices = as_indices(indices)
    ndim = len(shape_of(updates)) - len(shape_of(indices)) + 1
    return apply(SCATTER_ADD, updates, indices, axis=normalize_axis(axis, ndim, "scatter_add"), size=size)


@composed
def take_along_axis(x: Value, indices: Value, /, axis: int = -1) -> Value:
    """x[..., indices[...], ...]: one index for each element of the result, as np.take_along_axis.

    indices: integers of x's number of dimensions; the other dimensions broadcast. Raises IndexingError.
    """
    indices = as_indices(indices)
    source, wanted = shape_of(x), shape_of(indices)
    if len(source) != len(wanted):
        raise ShapeError(f"take_along_axis: x {source} and indices {wanted} must have as many dimensions.")
    axis = normalize_axis(axis, len(source), "take_along_axis")
    others = broadcast_shapes(
        (*source[:axis], 1, *source[axis + 1 :]), (*wanted[:axis], 1, *wanted[axis + 1 :]), op="take_along_axis"
    )
    x = broadcast_to(x, (*others[:axis], source[axis], *others[axis + 1 :]))
    indices = broadcast_to(indices, (*others[:axis], wanted[axis], *others[axis + 1 :]))
    return apply(TAKE_ALONG_AXIS, x, indices, axis=axis)


def scatter_add_along_axis(updates: Value, indices: Value, axis: int, size: int) -> Value:
    """The adjoint of take_along_axis: each update is added at its own index along `axis`, of extent `size`."""
    axis = normalize_axis(axis, len(shape_of(updates)), "scatter_add_along_axis")
    return apply(SCATTER_ADD_ALONG_AXIS, updates, as_indices(indices), axis=axis, size=size)
