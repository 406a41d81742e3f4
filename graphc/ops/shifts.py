"""Arrays moved along their axes, and what neighbours differ by: roll, diff, tile, repeat."""

from __future__ import annotations

from collections.abc import Sequence
from typing import SupportsIndex

from graphc.dispatch import dtype_of_value, shape_of
from graphc.errors import ShapeError
from graphc.ops.elementwise import not_equal, subtract
from graphc.ops.movement import broadcast_to, concat, narrow, reshape
from graphc.primitive import Value
from graphc.types import normalize_axis


def roll(x: Value, /, shift: int | Sequence[int], axis: int | Sequence[int] | None = None) -> Value:
    """x with its elements moved by `shift` along an axis; what leaves at one end comes in at the other.

    shift and axis may be several, one for one, or one shift for all axes; axis None rolls the flattened array.
    """
    shape = shape_of(x)
    if axis is None:
        return reshape(roll(reshape(x, (-1,)), shift, 0), shape) if x.size else x
    axes = [axis] if isinstance(axis, SupportsIndex) else list(axis)
    shifts = [int(shift)] * len(axes) if isinstance(shift, SupportsIndex) else list(shift)
    if len(shifts) != len(axes):
        raise ShapeError(f"roll: {len(shifts)} shifts for {len(axes)} axes.")
    for step, along in zip(shifts, axes, strict=True):
        at = normalize_axis(along, len(shape), "roll")
        n = shape[at]
        first = step % n if n else 0
        if first:
            x = concat([narrow(x, at, n - first, first), narrow(x, at, 0, n - first)], at)
    return x


def diff(x: Value, /, n: int = 1, axis: int = -1) -> Value:
    """What each element is above the one before it, along an axis, n times over; of booleans, whether they differ."""
    if n < 0:
        raise ShapeError(f"diff: it can be taken 0 times or more, not {n}.")
    at = normalize_axis(axis, len(shape_of(x)), "diff")
    difference = not_equal if dtype_of_value(x).kind == "b" else subtract
    for _ in range(n):
        length = shape_of(x)[at]
        rest = max(length - 1, 0)
        x = difference(narrow(x, at, length - rest, rest), narrow(x, at, 0, rest))
    return x


def repeat(x: Value, repeats: int, /, axis: int | None = None) -> Value:
    """Each element `repeats` times, one beside the other, along an axis; axis None flattens first."""
    if axis is None:
        return repeat(reshape(x, (-1,)), repeats, 0)
    shape = shape_of(x)
    at = normalize_axis(axis, len(shape), "repeat")
    if repeats < 0:
        raise ShapeError(f"repeat: elements can't be repeated {repeats} times.")
    wide = broadcast_to(
        reshape(x, (*shape[: at + 1], 1, *shape[at + 1 :])), (*shape[: at + 1], repeats, *shape[at + 1 :])
    )
    return reshape(wide, (*shape[:at], shape[at] * repeats, *shape[at + 1 :]))


def tile(x: Value, repetitions: int | Sequence[int], /) -> Value:
    """Copies of x side by side, so many along each axis; as numpy.tile."""
    counts = (repetitions,) if isinstance(repetitions, int) else tuple(repetitions)
    shape = shape_of(x)
    ndim = max(len(shape), len(counts))
    sizes = (1,) * (ndim - len(shape)) + shape
    counts = (1,) * (ndim - len(counts)) + counts
    if min(counts, default=1) < 0:
        raise ShapeError(f"tile: x can't be repeated {counts} times.")
    apart = [k for n in sizes for k in (1, n)]
    wide = [k for count, n in zip(counts, sizes, strict=True) for k in (count, n)]
    return reshape(broadcast_to(reshape(x, apart), wide), [c * n for c, n in zip(counts, sizes, strict=True)])
