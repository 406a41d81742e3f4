"""What the primitives mean, said a second time in the plainest way: element by element, from definitions.

`REFERENCES[name](*arrays, **attrs)` is the result in exact or 60-digit arithmetic, rounded once to the result's
dtype by the caller. Nothing here calls what it is a reference for: elementary functions are mpmath's, everything
else is Python loops over indices. Operations that only test logic have no tolerance at all.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import mpmath
import numpy as np

Array = Any

_MP = mpmath.mp.clone()
_MP.dps = 60


def exact(value: Any) -> Any:
    """A NumPy scalar as a Python int, bool or mpf (nan and inf stay themselves)."""
    value = value.item()
    return _MP.mpf(value) if isinstance(value, float) else value


def elementwise(function: Callable[..., Any]) -> Callable[..., Array]:
    """Lift a function of exact scalars to broadcasting arrays; the result is an object array."""

    def evaluate(*arrays: Array) -> Array:
        spread = np.broadcast_arrays(*arrays)
        out = np.empty(spread[0].shape, dtype=object)
        for index in np.ndindex(out.shape):
            out[index] = function(*(exact(a[index]) for a in spread))
        return out

    return evaluate


def real(function: Callable[..., Any], domain: Callable[..., bool] = lambda *_: True) -> Callable[..., Array]:
    """A function of finite reals, nan outside of its domain."""
    return elementwise(lambda *xs: function(*xs) if domain(*xs) else _MP.nan)


def _power(a: Any, b: Any) -> Any:
    if isinstance(a, int):
        return a**b if b >= 0 else int(_MP.mpf(a) ** b) if a else 0
    return _MP.power(a, b) if a > 0 or b == _MP.floor(b) else _MP.nan


def _floor_divide(a: Any, b: Any) -> Any:
    if isinstance(a, int):
        return a // b if b else 0
    return _MP.floor(a / b)


def _remainder(a: Any, b: Any) -> Any:
    if isinstance(a, int):
        return a % b if b else 0
    return a - b * _MP.floor(a / b)


def moved(shape: tuple[int, ...], dtype: Any, origin: Callable[..., Any], fill: Any = 0) -> Array:
    """out[i] = origin(i), or `fill` where that is None."""
    out = np.empty(shape, dtype)
    for index in np.ndindex(shape):
        value = origin(index)
        out[index] = fill if value is None else value
    return out


def _reshape(x: Array, shape: Any) -> Array:
    elements = list(x.flat)  # row-major, whatever the memory order

    def origin(index: Any) -> Any:
        flat = 0
        for i, n in zip(index, shape, strict=True):
            flat = flat * n + i
        return elements[flat]

    return moved(shape, x.dtype, origin)


def _permute(x: Array, axes: Any) -> Array:
    def origin(index: Any) -> Any:
        source = [0] * x.ndim
        for i, a in zip(index, axes, strict=True):
            source[a] = i
        return x[tuple(source)]

    return moved(tuple(x.shape[a] for a in axes), x.dtype, origin)


def _stretched(x: Array, index: Any) -> tuple[int, ...]:
    """The element of x that broadcasting puts at `index`."""
    return tuple(0 if n == 1 else i for n, i in zip(x.shape, index[len(index) - x.ndim :], strict=True))


def _pad(x: Array, low: Any, high: Any, interior: Any, value: Any) -> Array:
    shape = tuple(a + n + max(n - 1, 0) * i + b for a, n, i, b in zip(low, x.shape, interior, high, strict=True))

    def origin(index: Any) -> Any:
        at = [(i - a, s + 1) for i, a, s in zip(index, low, interior, strict=True)]
        if any(d % s or not 0 <= d // s < n for (d, s), n in zip(at, x.shape, strict=True)):
            return None
        return x[tuple(d // s for d, s in at)]

    return moved(shape, x.dtype, origin, value)


def _put_slice(x: Array, part: Array, start: Any, stop: Any, step: Any) -> Array:
    ranges = [range(*entry) for entry in zip(start, stop, step, strict=True)]

    def origin(index: Any) -> Any:
        if all(i in steps for i, steps in zip(index, ranges, strict=True)):
            return part[tuple(steps.index(i) for i, steps in zip(index, ranges, strict=True))]
        return x[index]

    return moved(x.shape, x.dtype, origin)


def _cumulative_sum(x: Array, axis: int) -> Array:
    out = np.empty(x.shape, dtype=object)
    for index in np.ndindex(x.shape):
        before = [(*index[:axis], i, *index[axis + 1 :]) for i in range(index[axis] + 1)]
        out[index] = sum((exact(x[i]) for i in before[1:]), start=exact(x[before[0]]))
    return out


def _concat(*xs: Array, axis: int) -> Array:
    pieces = [x[(slice(None),) * axis + (i,)] for x in xs for i in range(x.shape[axis])]
    shape = (*xs[0].shape[:axis], len(pieces), *xs[0].shape[axis + 1 :])
    return moved(shape, xs[0].dtype, lambda index: pieces[index[axis]][index[:axis] + index[axis + 1 :]])


def folded(fold: Callable[[list[Any]], Any]) -> Callable[..., Array]:
    """A reduction: `fold` of the exact elements, in row-major order of the reduced axes."""

    def evaluate(x: Array, axes: Any, keepdims: bool) -> Array:
        kept = [i for i in range(x.ndim) if i not in axes]
        out = np.empty([x.shape[i] for i in kept], dtype=object)
        for index in np.ndindex(out.shape):
            rows = dict(zip(kept, index, strict=True))
            places = itertools.product(*((rows[i],) if i in rows else range(x.shape[i]) for i in range(x.ndim)))
            out[index] = fold([exact(x[p]) for p in places])
        return out.reshape([1 if i in axes else n for i, n in enumerate(x.shape)]) if keepdims else out

    return evaluate


def _is_nan(v: Any) -> bool:
    return not isinstance(v, int) and bool(_MP.isnan(v))


def _extreme(values: list[Any], better: Callable[[Any, Any], bool]) -> int:
    """The position of the first extreme; a nan is extreme."""
    best = 0
    for i, v in enumerate(values):
        if not _is_nan(values[best]) and (_is_nan(v) or better(v, values[best])):
            best = i
    return best


def _greater(a: Any, b: Any) -> bool:
    return bool(a > b)


def _less(a: Any, b: Any) -> bool:
    return bool(a < b)


def _sum_to(x: Array, shape: Any) -> Array:
    out = np.full(shape, _MP.mpf(0), dtype=object)
    for index in np.ndindex(x.shape):
        out[_stretched(out, index)] += exact(x[index])
    return out


def _matmul(a: Array, b: Array) -> Array:
    batch = np.broadcast_shapes(a.shape[:-2], b.shape[:-2])
    out = np.full((*batch, a.shape[-2], b.shape[-1]), 0, dtype=object)
    for *lead, i, j in np.ndindex(out.shape):
        left = a[tuple(_stretched(a[..., 0, 0], tuple(lead)))] if a.ndim > 2 else a
        right = b[tuple(_stretched(b[..., 0, 0], tuple(lead)))] if b.ndim > 2 else b
        out[(*lead, i, j)] = sum((exact(left[i, k]) * exact(right[k, j]) for k in range(a.shape[-1])), 0)
    return out


def _conv(x: Array, w: Array, stride: Any, padding: Any, lhs_dilation: Any, rhs_dilation: Any, groups: int) -> Array:
    """Over a canvas that holds x stretched and padded, literally."""
    low = [p[0] for p in padding]
    canvas: dict[tuple[int, ...], Any] = {}
    for index in np.ndindex(x.shape):
        spatial = [i * d + a for i, d, a in zip(index[2:], lhs_dilation, low, strict=True)]
        canvas[(*index[:2], *spatial)] = exact(x[index])
    stretched = [(n - 1) * d + 1 if n else 0 for n, d in zip(x.shape[2:], lhs_dilation, strict=True)]
    width = [a + n + b for (a, b), n in zip(padding, stretched, strict=True)]
    reach = [(k - 1) * d + 1 if k else 0 for k, d in zip(w.shape[2:], rhs_dilation, strict=True)]
    positions = [range(0, n - k + 1, s) for n, k, s in zip(width, reach, stride, strict=True)]
    out = np.full((x.shape[0], w.shape[0], *map(len, positions)), 0, dtype=object)
    for index in np.ndindex(out.shape):
        n, o, *at = index
        group = o // (w.shape[0] // groups)
        total = _MP.mpf(0) if x.dtype.kind == "f" else 0
        for c, *tap in np.ndindex(w.shape[1:]):
            place = [r[p] + k * d for r, p, k, d in zip(positions, at, tap, rhs_dilation, strict=True)]
            element = canvas.get((n, group * w.shape[1] + c, *place))
            if element is not None:
                total += element * exact(w[(o, c, *tap)])
        out[index] = total
    return out


def _windows(x: Array, window: Any, stride: Any, padding: Any, dilation: Any) -> Any:
    """(output index, indices of x in its window, in row-major order of offsets, without the padding)."""
    reach = [(k - 1) * d + 1 for k, d in zip(window, dilation, strict=True)]
    positions = [
        range(-a, n + b - k + 1, s) for n, (a, b), k, s in zip(x.shape[2:], padding, reach, stride, strict=True)
    ]
    for index in np.ndindex((*x.shape[:2], *map(len, positions))):
        start = [r[p] for r, p in zip(positions, index[2:], strict=True)]
        inside = []
        for offset in np.ndindex(tuple(window)):
            at = [s + k * d for s, k, d in zip(start, offset, dilation, strict=True)]
            if all(0 <= i < n for i, n in zip(at, x.shape[2:], strict=True)):
                inside.append((*index[:2], *at))
        yield index, inside


def _first(x: Array, inside: list[Any]) -> Any:
    return inside[_extreme([exact(x[i]) for i in inside], _greater)]


def _pooled_shape(x: Array, attrs: Any) -> tuple[int, ...]:
    one = np.zeros((1, 1, *x.shape[2:]))
    *_, (last, _) = _windows(one, **attrs)
    return (*x.shape[:2], *(i + 1 for i in last[2:]))


def _max_pool(x: Array, **attrs: Any) -> Array:
    found = {index: x[_first(x, inside)] if inside else -np.inf for index, inside in _windows(x, **attrs)}
    return moved(_pooled_shape(x, attrs), x.dtype, lambda index: found[index])


def _max_pool_scatter(g: Array, x: Array, **attrs: Any) -> Array:
    out = np.full(x.shape, 0, dtype=object)
    for index, inside in _windows(x, **attrs):
        if inside:
            out[_first(x, inside)] += exact(g[index])
    return out


def _max_pool_gather(t: Array, x: Array, **attrs: Any) -> Array:
    found = {index: t[_first(x, inside)] if inside else 0 for index, inside in _windows(x, **attrs)}
    return moved(_pooled_shape(x, attrs), t.dtype, lambda index: found[index])


def _take(x: Array, indices: Array, axis: int) -> Array:
    shape = (*x.shape[:axis], *indices.shape, *x.shape[axis + 1 :])
    end = axis + indices.ndim
    return moved(shape, x.dtype, lambda i: x[(*i[:axis], indices[i[axis:end]], *i[end:])])


def _scatter_add(updates: Array, indices: Array, axis: int, size: int) -> Array:
    end = axis + indices.ndim
    out = np.full((*updates.shape[:axis], size, *updates.shape[end:]), 0, dtype=object)
    for i in np.ndindex(updates.shape):
        out[(*i[:axis], indices[i[axis:end]], *i[end:])] += exact(updates[i])
    return out


def _take_along(x: Array, indices: Array, axis: int) -> Array:
    return moved(indices.shape, x.dtype, lambda i: x[(*i[:axis], indices[i], *i[axis + 1 :])])


def _scatter_along(updates: Array, indices: Array, axis: int, size: int) -> Array:
    out = np.full((*updates.shape[:axis], size, *updates.shape[axis + 1 :]), 0, dtype=object)
    for i in np.ndindex(updates.shape):
        out[(*i[:axis], indices[i], *i[axis + 1 :])] += exact(updates[i])
    return out


def _rank(x: Array, axis: int) -> Array:
    out = np.empty(x.shape, np.int64)
    for i in np.ndindex(x.shape):
        line = [exact(v) for v in x[(*i[:axis], slice(None), *i[axis + 1 :])]]
        order = sorted(range(len(line)), key=lambda k: (_is_nan(line[k]), 0 if _is_nan(line[k]) else line[k], k))
        out[i] = order.index(i[axis])
    return out


def philox(seed: int, draw: int, element: int) -> list[int]:
    """Philox4x32-10 with Python's integers, after the paper's description."""
    low = 2**32 - 1
    c = [element & low, element >> 32, draw & low, draw >> 32]
    k = [seed & low, seed >> 32]
    for turn in range(10):
        if turn:
            k = [(k[0] + 0x9E3779B9) & low, (k[1] + 0xBB67AE85) & low]
        first, second = 0xD2511F53 * c[0], 0xCD9E8D57 * c[2]
        c = [(second >> 32) ^ c[1] ^ k[0], second & low, (first >> 32) ^ c[3] ^ k[1], first & low]
    return c


def _uniform(state: Array, shape: Any, dtype: Any) -> Array:
    seed, draw = (int(v) % 2**64 for v in state)
    out = np.empty(shape, dtype.numpy)
    for element, index in enumerate(np.ndindex(shape)):
        word0, word1, _, _ = philox(seed, draw, element)
        out[index] = (word0 >> 8) / 2**24 if dtype.itemsize == 4 else ((word0 >> 5) * 2**26 + (word1 >> 6)) / 2**53
    return out


REFERENCES: dict[str, Callable[..., Array]] = {
    "add": elementwise(lambda a, b: a + b),
    "subtract": elementwise(lambda a, b: a - b),
    "multiply": elementwise(lambda a, b: a * b),
    "divide": elementwise(lambda a, b: a / b),
    "negative": elementwise(lambda a: -a),
    "copy": elementwise(lambda a: a),
    "power": elementwise(_power),
    "floor_divide": elementwise(_floor_divide),
    "remainder": elementwise(_remainder),
    "abs": elementwise(abs),
    "sign": elementwise(lambda a: (a > 0) - (a < 0)),
    "floor": real(_MP.floor),
    "exp": real(_MP.exp),
    "expm1": real(_MP.expm1),
    "log": real(_MP.log, lambda x: x > 0),
    "log1p": real(_MP.log1p, lambda x: x > -1),
    "sqrt": real(_MP.sqrt, lambda x: x >= 0),
    "rsqrt": real(lambda x: 1 / _MP.sqrt(x), lambda x: x > 0),
    "tanh": real(_MP.tanh),
    "sigmoid": real(lambda x: 1 / (1 + _MP.exp(-x))),
    "softplus": real(lambda x: _MP.log1p(_MP.exp(x))),
    "erf": real(_MP.erf),
    "sin": real(_MP.sin),
    "cos": real(_MP.cos),
    "maximum": elementwise(max),
    "minimum": elementwise(min),
    "equal": elementwise(lambda a, b: a == b),
    "not_equal": elementwise(lambda a, b: a != b),
    "less": elementwise(lambda a, b: a < b),
    "less_equal": elementwise(lambda a, b: a <= b),
    "greater": elementwise(lambda a, b: a > b),
    "greater_equal": elementwise(lambda a, b: a >= b),
    "logical_and": elementwise(lambda a, b: a and b),
    "logical_or": elementwise(lambda a, b: a or b),
    "logical_not": elementwise(lambda a: not a),
    "where": elementwise(lambda c, a, b: a if c else b),
    "strong_multiply": elementwise(lambda g, p: g * p),
    "astype": lambda x, dtype: elementwise(lambda a: int(a) if dtype.kind == "i" else a)(x),
    "stop_gradient": elementwise(lambda a: a),
    "sum": folded(lambda values: sum(values, 0)),
    "max": folded(lambda values: values[_extreme(values, _greater)]),
    "min": folded(lambda values: values[_extreme(values, _less)]),
    "argmax": folded(lambda values: _extreme(values, _greater)),
    "argmin": folded(lambda values: _extreme(values, _less)),
    "reshape": _reshape,
    "permute_dims": _permute,
    "broadcast_to": lambda x, shape: moved(shape, x.dtype, lambda i: x[_stretched(x, i)]),
    "sum_to": _sum_to,
    "slice": lambda x, start, stop, step: moved(
        tuple(len(range(a, b, s)) for a, b, s in zip(start, stop, step, strict=True)),
        x.dtype,
        lambda index: x[tuple(a + i * s for a, i, s in zip(start, index, step, strict=True))],
    ),
    "pad": _pad,
    "put_slice": _put_slice,
    "cumulative_sum": _cumulative_sum,
    "flip": lambda x, axes: moved(
        x.shape, x.dtype, lambda index: x[tuple(~i if a in axes else i for a, i in enumerate(index))]
    ),
    "concat": _concat,
    "iota": lambda shape, axis, dtype: moved(shape, dtype.numpy, lambda index: index[axis]),
    "matmul": _matmul,
    "conv": _conv,
    "max_pool": _max_pool,
    "max_pool_scatter": _max_pool_scatter,
    "max_pool_gather": _max_pool_gather,
    "take": _take,
    "scatter_add": _scatter_add,
    "take_along_axis": _take_along,
    "scatter_add_along_axis": _scatter_along,
    "rank": _rank,
    "uniform": _uniform,
}
