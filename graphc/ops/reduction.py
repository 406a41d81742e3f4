"""Reductions: sum, max, min, argmax, argmin as records; mean, var, any, all, logsumexp as functions.

`axis` is None (all), an int or several; `keepdims` keeps reduced axes with size 1. As in the array API,
integers are summed in int64.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any, TypeAlias

import numpy as np

from graphc.composed import composed
from graphc.dispatch import apply, dtype_of_value, shape_of, unary
from graphc.errors import ShapeError
from graphc.ops.elementwise import (
    add,
    astype,
    divide,
    equal,
    exp,
    isfinite,
    log,
    multiply,
    sqrt,
    square,
    subtract,
    where,
)
from graphc.ops.factories import reduction, widen_integers
from graphc.ops.marks import stop_gradient
from graphc.ops.movement import broadcast_to, reshape
from graphc.ops.promotion import floating
from graphc.primitive import Primitive, Value
from graphc.types import bool_, int64, normalize_axes

AxisLike: TypeAlias = int | Iterable[int] | None


def _keep(value: Value, x: Value, axes: tuple[int, ...]) -> Value:
    """A reduced value with its reduced axes back, as size 1, so that it broadcasts against x."""
    return reshape(value, tuple(1 if i in axes else n for i, n in enumerate(shape_of(x))))


def _sum_vjp(g: Value, y: Value, x: Value, *, axes: tuple[int, ...], keepdims: bool) -> Value:
    if x.dtype.kind != "f":
        return None
    return broadcast_to(g if shape_of(g) == () else _keep(g, x, axes), shape_of(x))


def _sum_jvp(tangents: Any, y: Value, x: Value, *, axes: tuple[int, ...], keepdims: bool) -> Value:
    return apply(SUM, tangents[0], axes=axes, keepdims=keepdims)


def _sum_eval(xp: Any, x: Any, axes: tuple[int, ...], keepdims: bool) -> Any:
    if not axes and x.dtype.kind == "f":
        return xp.positive(x)  # the sum of one number is that number: NumPy's 0 + -0 would lose a sign
    if type(x) is np.ndarray and x.dtype.kind == "f":
        total: Any = np.add.reduce  # what np.sum ends in
        return total(x, axes, None, None, keepdims)
    dtype = None if x.dtype.kind == "f" else xp.int64
    return xp.sum(x, axis=axes, keepdims=keepdims, dtype=dtype)


SUM: Primitive = reduction("sum", _sum_eval, "sum", _sum_vjp, _sum_jvp, kinds="fib", result=widen_integers)


def _extreme_weights(y: Value, x: Value, axes: tuple[int, ...]) -> Value:
    """1/n at each of the n elements that attain the extreme, else 0: the derivative is shared evenly."""
    hit = astype(equal(x, _keep(y, x, axes)), dtype_of_value(x))
    return divide(hit, sum(hit, axis=axes, keepdims=True))


def _extreme_vjp(g: Value, y: Value, x: Value, *, axes: tuple[int, ...], keepdims: bool) -> Value:
    return multiply(_keep(g, x, axes), _extreme_weights(y, x, axes))


def _extreme_jvp(tangents: Any, y: Value, x: Value, *, axes: tuple[int, ...], keepdims: bool) -> Value:
    return apply(SUM, multiply(tangents[0], _extreme_weights(y, x, axes)), axes=axes, keepdims=keepdims)


def _extreme(name: str) -> Any:
    return reduction(
        name,
        lambda xp, x, axes, keepdims: getattr(xp, name)(x, axis=axes, keepdims=keepdims),
        "max" if name == "max" else "min",
        _extreme_vjp,
        _extreme_jvp,
        kinds="fib",
        needs_elements=True,
    )


MAX: Primitive = _extreme("max")
MIN: Primitive = _extreme("min")


def _position(name: str) -> Any:
    def evaluate(xp: Any, x: Any, axes: tuple[int, ...], keepdims: bool) -> Any:
        kept = [i for i in range(x.ndim) if i not in axes]
        folded = math.prod(x.shape[i] for i in axes)  # not -1, which an empty array can't resolve
        rows = x.transpose([*kept, *axes]).reshape([x.shape[i] for i in kept] + [folded])
        out = getattr(xp, name)(rows, axis=-1)
        return xp.asarray(out).reshape(
            [1 if i in axes else n for i, n in enumerate(x.shape)] if keepdims else out.shape
        )

    return reduction(
        name,
        evaluate,
        "argmax" if name == "argmax" else "argmin",
        None,
        None,
        kinds="fib",
        result=lambda dtype: int64,
        needs_elements=True,
    )


ARGMAX: Primitive = _position("argmax")
ARGMIN: Primitive = _position("argmin")

PRIMITIVES = (SUM, MAX, MIN, ARGMAX, ARGMIN)


def _reduce(primitive: Any, x: Value, axis: AxisLike, keepdims: bool) -> Value:
    ndim = len(shape_of(x))
    axes = tuple(range(ndim)) if axis is None else normalize_axes(axis, ndim, primitive.name)
    return unary(primitive, x, {"axes": axes, "keepdims": bool(keepdims)})


def sum(x: Value, /, axis: AxisLike = None, keepdims: bool = False) -> Value:
    """Sum over axes. Integers and booleans give int64. The sum of nothing is 0."""
    return _reduce(SUM, x, axis, keepdims)


def max(x: Value, /, axis: AxisLike = None, keepdims: bool = False) -> Value:
    """Largest element over axes; nan if there is one. Equal largest elements share the derivative evenly."""
    return _reduce(MAX, x, axis, keepdims)


def min(x: Value, /, axis: AxisLike = None, keepdims: bool = False) -> Value:
    """Smallest element over axes; nan if there is one. Equal smallest elements share the derivative evenly."""
    return _reduce(MIN, x, axis, keepdims)


def argmax(x: Value, /, axis: AxisLike = None, keepdims: bool = False) -> Value:
    """int64 position of the first largest element (of the first nan, if there is one)."""
    return _reduce(ARGMAX, x, axis, keepdims)


def argmin(x: Value, /, axis: AxisLike = None, keepdims: bool = False) -> Value:
    """int64 position of the first smallest element (of the first nan, if there is one)."""
    return _reduce(ARGMIN, x, axis, keepdims)


def _count(x: Value, axis: AxisLike) -> int:
    shape = shape_of(x)
    return math.prod(shape[a] for a in normalize_axes(axis, len(shape)))


def mean(x: Value, /, axis: AxisLike = None, keepdims: bool = False) -> Value:
    """Arithmetic mean over axes; integers are averaged as float32. The mean of nothing is nan."""
    x = floating(x)
    return divide(sum(x, axis, keepdims), _count(x, axis))


@composed
def var(x: Value, /, axis: AxisLike = None, correction: float = 0.0, keepdims: bool = False) -> Value:
    """Variance: squared deviations from the mean, over n - correction (0 as in the array API; PyTorch takes 1)."""
    x = floating(x)
    n = _count(x, axis) - correction
    if n < 0:
        raise ShapeError(f"var: {_count(x, axis)} elements are too few for correction={correction}.")
    average = mean(x, axis, keepdims=True)
    return divide(squared_deviations(x, average, axis, keepdims), n)


def squared_deviations(x: Value, average: Value, axis: AxisLike, keepdims: bool) -> Value:
    """sum((x - average)^2) over axes. x: floating; average: its mean with the axes kept, with extent 1.

    Written as deviations from a fixed number near the mean, sum((x - c)^2) - n (average - c)^2 with c = average: no
    derivative then goes through the deviations to the mean, where it would sum to nothing but rounding errors.
    """
    fixed = stop_gradient(average)
    total = sum(square(subtract(x, fixed)), axis, keepdims)
    apart = square(subtract(average, fixed))
    return subtract(total, multiply(apart if keepdims else reshape(apart, shape_of(total)), _count(x, axis)))


def std(x: Value, /, axis: AxisLike = None, correction: float = 0.0, keepdims: bool = False) -> Value:
    """Standard deviation: the root of `var`."""
    return sqrt(var(x, axis, correction, keepdims))


def any(x: Value, /, axis: AxisLike = None, keepdims: bool = False) -> Value:
    """Whether some element is true (non-zero); False over nothing."""
    truth = x if dtype_of_value(x) is bool_ else astype(x, bool_)
    return astype(sum(truth, axis, keepdims), bool_)


def all(x: Value, /, axis: AxisLike = None, keepdims: bool = False) -> Value:
    """Whether every element is true (non-zero); True over nothing."""
    truth = x if dtype_of_value(x) is bool_ else astype(x, bool_)
    return equal(sum(truth, axis, keepdims), _count(x, axis))


@composed
def logsumexp(x: Value, /, axis: AxisLike = None, keepdims: bool = False) -> Value:
    """log(sum(exp(x))) without overflow: the largest element is taken out first."""
    x = floating(x)
    top = stop_gradient(max(x, axis, keepdims=True))
    top = where(isfinite(top), top, 0)
    total = log(sum(exp(subtract(x, top)), axis, keepdims))
    return add(total, top if keepdims else reshape(top, shape_of(total)))
