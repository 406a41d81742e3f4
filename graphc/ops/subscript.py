"""x[key] for any key with a fixed result shape, by NumPy's rules, composed of slice, flip, reshape and take.

A key is an integer, a slice (any step), None, Ellipsis, an array of integers (a list, a NumPy array, a Tensor, a
Node), or a tuple of these. Several integer arrays broadcast and select together; they become one gather over the
dimensions they index, merged, so that the adjoint is one scatter-add.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from graphc.dispatch import dtype_of_value, shape_of
from graphc.errors import IndexingError
from graphc.ops.elementwise import add, astype, greater_equal, less, logical_or, multiply, where
from graphc.ops.indexing import as_indices, take
from graphc.ops.movement import flip, permute_dims, reshape, slice_
from graphc.primitive import Value
from graphc.types import broadcast_shapes, int64

Entry = Any  # one entry of a key
_GAP = -1


def index(x: Value, key: Any) -> Value:
    """x[key]. Raises IndexingError for too many entries, an integer out of bounds or a boolean mask."""
    shape = shape_of(x)
    plain = _plain(x, shape, key if type(key) is tuple else (key,))
    if plain is not None:
        return plain
    entries = _expanded(key, shape)
    start, stop, step = [0] * len(shape), list(shape), [1] * len(shape)
    turned: list[int] = []  # axes with a negative step
    gathers: dict[int, Value] = {}  # axis of x -> integer array
    # The key's order: an axis of x, None (a new dimension) or _GAP (an Ellipsis that stands for no dimension)
    layout: list[int | None] = []
    axis = 0
    for entry in entries:
        if entry is None or entry is Ellipsis:
            layout.append(None if entry is None else _GAP)
            continue
        extent = shape[axis]
        if isinstance(entry, slice):
            start[axis], stop[axis], step[axis], backwards = _forward(entry, extent)
            if backwards:
                turned.append(axis)
        elif _is_integer(entry):
            at = int(entry)
            if not -extent <= at < extent:
                raise IndexingError(
                    f"index {at} is out of bounds for axis {axis} with size {extent}; "
                    f"valid are {-extent} to {extent - 1}."
                )
            start[axis], stop[axis] = at % extent, at % extent + 1
        else:
            gathers[axis] = _integer_array(entry, axis, extent)
        layout.append(axis)
        axis += 1
    y = slice_(x, start, stop, step)
    y = flip(y, turned) if turned else y
    integers = {a for a, entry in zip(_axes(entries), _indexers(entries), strict=True) if _is_integer(entry)}
    if not gathers:
        return reshape(y, [1 if a is None else shape_of(y)[a] for a in layout if a != _GAP and a not in integers])
    return _gathered(y, layout, gathers, integers)


def _plain(x: Value, shape: tuple[int, ...], key: tuple[Entry, ...]) -> Value | None:
    """x[key] for a key of nothing but integers in bounds and slices that go forward; None for others."""
    if len(key) > len(shape):
        return None
    start, stop, step = [0] * len(shape), list(shape), [1] * len(shape)
    kept: list[int] = []
    for axis, entry in enumerate(key):
        extent = shape[axis]
        if type(entry) is int:
            if not -extent <= entry < extent:
                return None
            start[axis] = entry % extent
            stop[axis] = start[axis] + 1
        elif type(entry) is slice:
            start[axis], stop[axis], step[axis], backwards = _forward(entry, extent)
            if backwards:
                return None
            kept.append(len(range(start[axis], stop[axis], step[axis])))
        else:
            return None
    y = slice_(x, start, stop, step)
    return y if len(kept) == len(key) else reshape(y, (*kept, *shape[len(key) :]))


def _gathered(y: Value, layout: list[int | None], gathers: dict[int, Value], integers: set[int]) -> Value:
    """Takes along the merged axes of `gathers`, then puts the new dimensions where NumPy does.

    That is in place of the arrays if these stand together in the key, else first. An integer beside arrays counts
    as an array here.
    """
    shape = shape_of(y)
    axes = sorted(gathers)
    others = [a for a in range(len(shape)) if a not in gathers]
    merged = permute_dims(y, (*axes, *others))
    extents = [shape[a] for a in axes]
    flat = _flat_index([gathers[a] for a in axes], extents)
    merged = reshape(merged, (math.prod(extents), *(shape[a] for a in others)))
    taken = take(merged, flat, axis=0)  # (*index shape, *others)
    new = len(shape_of(flat))
    advanced = [i for i, a in enumerate(layout) if a is not None and (a in gathers or a in integers)]
    together = advanced == list(range(advanced[0], advanced[-1] + 1))
    before = layout[: advanced[0]] if together else []
    front = [new + others.index(a) for a in before if a is not None and a != _GAP]
    rest = [i for i in range(new, new + len(others)) if i not in front]
    taken = permute_dims(taken, (*front, *range(new), *rest))
    kept: list[int] = [] if together else list(shape_of(flat))
    for position, a in enumerate(layout):
        if together and position == advanced[0]:
            kept.extend(shape_of(flat))
        if a is None:
            kept.append(1)
        elif a != _GAP and a not in gathers and a not in integers:
            kept.append(shape[a])
    return reshape(taken, kept)


def _flat_index(indices: Sequence[Value], extents: Sequence[int]) -> Value:
    """One row-major index over all `extents`. An index out of its own bounds stays out of bounds: it becomes the
    product of the extents, which take() refuses."""
    if len(indices) == 1:
        return indices[0]
    broadcast_shapes(*[shape_of(i) for i in indices], op="index")
    flat: Value = None
    outside: Value = None
    for at, extent in zip(indices, extents, strict=True):
        wide = at.astype(np.int64) if isinstance(at, np.ndarray) else astype(at, int64)
        if isinstance(wide, np.ndarray):  # checked when it was read
            wrapped: Value = np.where(wide < 0, wide + extent, wide)
        else:
            wrapped = where(less(wide, 0), add(wide, extent), wide)
            wrong = logical_or(less(wide, -extent), greater_equal(wide, extent))
            outside = wrong if outside is None else logical_or(outside, wrong)
        flat = wrapped if flat is None else _sum(_product(flat, extent), wrapped)
    return flat if outside is None else where(outside, math.prod(extents), flat)


def _product(a: Value, factor: int) -> Value:
    return a * factor if isinstance(a, np.ndarray) else multiply(a, factor)


def _sum(a: Value, b: Value) -> Value:
    return a + b if isinstance(a, np.ndarray) and isinstance(b, np.ndarray) else add(a, b)


def _expanded(key: Any, shape: tuple[int, ...]) -> list[Entry]:
    """The key's entries with Ellipsis written out: one for each dimension of x, and the Nones between.

    An Ellipsis that stands for no dimension is left in: it still separates arrays.
    """
    entries = list(key) if isinstance(key, tuple) else [key]
    used = sum(entry is not None and entry is not Ellipsis for entry in entries)
    gaps = [i for i, entry in enumerate(entries) if entry is Ellipsis]
    if len(gaps) > 1:
        raise IndexingError("an index can hold only one Ellipsis (...).")
    if used > len(shape):
        raise IndexingError(f"too many indices: {used} for an array of {len(shape)} dimensions, shape {shape}.")
    fill: list[Entry] = [slice(None)] * (len(shape) - used)
    where_to = gaps[0] if gaps else len(entries)
    return entries[:where_to] + (fill or [Ellipsis] * len(gaps)) + entries[where_to + 1 :]


def _indexers(entries: list[Entry]) -> list[Entry]:
    return [entry for entry in entries if entry is not None and entry is not Ellipsis]


def _axes(entries: list[Entry]) -> range:
    return range(len(_indexers(entries)))


def _is_integer(entry: Entry) -> bool:
    return isinstance(entry, (int, np.integer)) and not isinstance(entry, bool)


def _forward(entry: slice, extent: int) -> tuple[int, int, int, bool]:
    """(start, stop, step, backwards) of a slice, with a positive step; backwards: the result is to be flipped."""
    if entry.step == 0:
        raise IndexingError("a slice's step can't be 0.")
    steps = range(*entry.indices(extent))
    if not steps:
        return 0, 0, 1, False
    if steps.step > 0:
        return steps.start, steps[-1] + 1, steps.step, False
    return steps[-1], steps.start + 1, -steps.step, True


def _integer_array(entry: Entry, axis: int, extent: int) -> Value:
    """An array of indices; known numbers are checked at once."""
    array = as_indices(entry)
    if isinstance(array, (bool, np.bool_)) or dtype_of_value(array).kind != "i":
        kind = "bool" if isinstance(array, (bool, np.bool_)) else dtype_of_value(array).name
        hint = (
            "The shape of a boolean selection depends on its values; use where(mask, x, other) instead."
            if kind == "bool"
            else "Indices are integers; convert with .astype('int64')."
        )
        raise IndexingError(f"axis {axis} can't be indexed with {kind}. {hint}")
    if isinstance(array, np.ndarray) and array.size and not (array.min() >= -extent and array.max() < extent):
        wrong = array[(array < -extent) | (array >= extent)].reshape(-1)[0]
        raise IndexingError(
            f"index {wrong} is out of bounds for axis {axis} with size {extent}; valid are {-extent} to {extent - 1}."
        )
    return array
