"""Pooling over windows. Max pooling is a trio of primitives closed under differentiation:

    max_pool(x)              the maximum of each window
    max_pool_scatter(g, x)   g of each window, added where its first maximum stands     (max_pool's vjp; linear in g)
    max_pool_gather(t, x)    t where each window's first maximum stands                 (scatter's adjoint in g)

"First" is PyTorch's rule for ties, in row-major order over the window; padding is never the maximum while the
window holds an element. A NaN counts as greater than every number, and the first NaN as the maximum.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from math import prod
from typing import Any, TypeAlias

import numpy as np

from graphc.composed import composed
from graphc.dispatch import apply, dtype_of_value, shape_of, type_of
from graphc.errors import DTypeError, ShapeError
from graphc.ir.expr import (
    Affine,
    Axis,
    Compute,
    Expr,
    Index,
    Literal,
    Read,
    affine,
    all_of,
    call,
    within,
)
from graphc.ops.convolution import Ints, Pairs, conv, padding_pairs, per_dimension, stretched
from graphc.ops.elementwise import multiply
from graphc.ops.phases import Phased, phased
from graphc.ops.selection import select
from graphc.primitive import Fact, Primitive, Value
from graphc.types import DType, Scalar, Shape, TensorType, int64

_Slices: TypeAlias = tuple[slice, ...]

_WHOLE = 16  # windows of more elements are pooled axis by axis


def _lowest(dtype: DType) -> Scalar:
    """What padding holds: less than or equal to every number of the dtype."""
    return float("-inf") if dtype.kind == "f" else int(np.iinfo(dtype.name).min)


def _pooled(x: Shape, window: Ints, stride: Ints, padding: Pairs, dilation: Ints) -> Ints:
    return tuple(
        max(0, (n + low + high - stretched(k, d)) // s + 1)
        for n, k, s, (low, high), d in zip(x[2:], window, stride, padding, dilation, strict=True)
    )


def _infer(x: TensorType, *, window: Ints, stride: Ints, padding: Pairs, dilation: Ints) -> TensorType:
    if x.dtype.kind == "b":
        raise DTypeError("max_pool: booleans have no order; convert with .astype(...) or use any().")
    spatial = x.ndim - 2
    if spatial < 1:
        raise ShapeError(f"max_pool: input {x.shape} must be (batch, channels, *spatial).")
    for name, entries in (("window", window), ("stride", stride), ("padding", padding), ("dilation", dilation)):
        if len(entries) != spatial:
            raise ShapeError(f"max_pool: {name} {entries} has {len(entries)} entries for {spatial} spatial dimensions.")
    for name, factors in (("window", window), ("stride", stride), ("dilation", dilation)):
        if min(factors) < 1:
            raise ShapeError(f"max_pool: {name} {factors} must be at least 1.")
    for n, k, (low, high), d in zip(x.shape[2:], window, padding, dilation, strict=True):
        if not (0 <= low < stretched(k, d) and high >= 0):
            raise ShapeError(
                f"max_pool: padding {padding} must be non-negative and smaller than the window {window}: "
                "a window of padding alone has no maximum."
            )
        if n + low + high < stretched(k, d):
            raise ShapeError(
                f"max_pool: the window {window} with dilation {dilation} is larger than the padded input "
                f"{x.shape} (padding {padding}). Pad more or use a smaller window."
            )
    return TensorType((*x.shape[:2], *_pooled(x.shape, window, stride, padding, dilation)), x.dtype)


def _infer_scatter(
    g: TensorType, x: TensorType, *, window: Ints, stride: Ints, padding: Pairs, dilation: Ints
) -> TensorType:
    pooled = _infer(x, window=window, stride=stride, padding=padding, dilation=dilation)
    if g.shape != pooled.shape:
        raise ShapeError(f"max_pool_scatter: g {g.shape} must have the pooled shape {pooled.shape}.")
    return TensorType(x.shape, g.dtype)


def _infer_gather(
    t: TensorType, x: TensorType, *, window: Ints, stride: Ints, padding: Pairs, dilation: Ints
) -> TensorType:
    pooled = _infer(x, window=window, stride=stride, padding=padding, dilation=dilation)
    if t.shape != x.shape:
        raise ShapeError(f"max_pool_gather: t {t.shape} must have the shape of x, {x.shape}.")
    return TensorType(pooled.shape, t.dtype)


# ----------------------------------------------------------------------------------------------- eager


def _taps(x: Shape, window: Ints, stride: Ints, padding: Pairs, dilation: Ints) -> Iterator[tuple[_Slices, _Slices]]:
    """For each offset in the window, in row-major order: the outputs whose element at this offset is not padding,
    and these elements of x."""
    out = _pooled(x, window, stride, padding, dilation)
    for offset in itertools.product(*map(range, window)):
        outputs, elements = [slice(None)] * 2, [slice(None)] * 2
        for n, p, k, s, (low, _), d in zip(x[2:], out, offset, stride, padding, dilation, strict=True):
            shift = k * d - low
            first = max(0, -(shift // s))
            count = max(0, min(p, (n - 1 - shift) // s + 1) - first)
            begin = first * s + shift if count else 0
            outputs.append(slice(first, first + count))
            elements.append(slice(begin, begin + (count - 1) * s + 1 if count else begin, s))
        yield tuple(outputs), tuple(elements)


def _eval(xp: Any, x: Any, *, window: Ints, stride: Ints, padding: Pairs, dilation: Ints) -> Any:
    out = _infer(type_of(x), window=window, stride=stride, padding=padding, dilation=dilation).shape[2:]
    lowest = -np.inf if x.dtype.kind == "f" else np.iinfo(x.dtype).min
    y = xp.full((*x.shape[:2], *out), lowest, dtype=x.dtype)
    for outputs, elements in _taps(x.shape, window, stride, padding, dilation):
        xp.maximum(y[outputs], x[elements], out=y[outputs])
    return y


def _first_maxima(
    xp: Any, x: Any, window: Ints, stride: Ints, padding: Pairs, dilation: Ints
) -> Iterator[tuple[_Slices, _Slices, Any]]:
    """For each offset in the window: outputs, elements (see _taps) and which of them are their window's first
    maximum."""
    best = _eval(xp, x, window=window, stride=stride, padding=padding, dilation=dilation)
    searching = xp.ones(best.shape, dtype=bool)
    missing = best != best  # true for NaN alone
    some_missing = bool(missing.any())
    for outputs, elements in _taps(x.shape, window, stride, padding, dilation):
        element = x[elements]
        hit = element == best[outputs]
        if some_missing:
            hit |= missing[outputs] & (element != element)
        hit &= searching[outputs]
        searching[outputs] ^= hit
        yield outputs, elements, hit


def _eval_scatter(xp: Any, g: Any, x: Any, *, window: Ints, stride: Ints, padding: Pairs, dilation: Ints) -> Any:
    attrs: dict[str, Any] = {"window": window, "stride": stride, "padding": padding, "dilation": dilation}
    result = xp.zeros(_infer_scatter(type_of(g), type_of(x), **attrs).shape, dtype=g.dtype)
    zero = g.dtype.type(0)
    for outputs, elements, hit in _first_maxima(xp, x, **attrs):
        result[elements] += select(xp, hit, g[outputs], zero)
    return result


def _eval_gather(xp: Any, t: Any, x: Any, *, window: Ints, stride: Ints, padding: Pairs, dilation: Ints) -> Any:
    attrs: dict[str, Any] = {"window": window, "stride": stride, "padding": padding, "dilation": dilation}
    y = xp.zeros(_infer_gather(type_of(t), type_of(x), **attrs).shape, dtype=t.dtype)
    for outputs, elements, hit in _first_maxima(xp, x, **attrs):
        y[outputs] = select(xp, hit, t[elements], y[outputs])
    return y


# -------------------------------------------------------------------------------------------- compiled


def _body(x: TensorType, *, window: Ints, stride: Ints, padding: Pairs, dilation: Ints) -> Compute:
    n, c = Axis("n", x.shape[0]), Axis("c", x.shape[1])
    out = _pooled(x.shape, window, stride, padding, dilation)
    positions = tuple(Axis(f"p{i}", extent) for i, extent in enumerate(out))
    offsets = tuple(Axis(f"k{i}", extent) for i, extent in enumerate(window))
    at = [
        p * s + k * d - low for p, k, s, (low, _), d in zip(positions, offsets, stride, padding, dilation, strict=True)
    ]
    return Compute(
        axes=(n, c, *positions),
        value=_element(0, x, (affine(n), affine(c)), at),
        target=tuple(affine(a) for a in (n, c, *positions)),
        reduce=offsets,
        reducer="max",
    )


def _element(operand: int, x: TensorType, lead: tuple[Affine, ...], at: Sequence[Affine]) -> Read:
    """An element of a window: the lowest number where `at` is padding."""
    mask = all_of(tuple(within(a, n) for a, n in zip(at, x.shape[2:], strict=True)))
    return Read(operand, (*lead, *at), x.dtype, mask, _lowest(x.dtype) if mask is not None else 0)


def _is_first_maximum(
    x: TensorType, lead: tuple[Affine, ...], start: Sequence[Affine], window: Ints, dilation: Ints, offset: Affine
) -> Expr:
    """Whether the window that begins at `start` has its first maximum at the given offset (its row-major number).

    Written out over the window: the maximum, then the first element equal to it.
    """
    elements, valid = [], []
    for tap in itertools.product(*map(range, window)):
        at = [s + k * d for s, k, d in zip(start, tap, dilation, strict=True)]
        element = _element(1, x, lead, at)
        elements.append(element)
        valid.append(element.mask)
    highest: Expr = elements[0]
    for element in elements[1:]:
        highest = call("maximum", highest, element)
    winner: Expr = Literal(-1, int64)
    for number, (element, mask) in reversed(list(enumerate(zip(elements, valid, strict=True)))):
        hit: Expr = call("eq", element, highest)
        if x.dtype.kind == "f":
            hit = call("or", hit, call("ne", element, element))
        hit = hit if mask is None else call("and", hit, mask)
        winner = call("select", hit, Literal(number, int64), winner)
    return call("eq", winner, Index(offset))


def _row_major(offsets: Sequence[Affine], window: Ints) -> Affine:
    """The number of an offset in its window."""
    number = affine(0)
    for offset, extent in zip(offsets, window, strict=True):
        number = number * extent + offset
    return number


def _body_scatter(
    g: TensorType, x: TensorType, *, window: Ints, stride: Ints, padding: Pairs, dilation: Ints
) -> Compute:
    """Each element of the result sums g over the windows that have their first maximum there.

    Element i meets offset k of window p where stride*p = i + low - dilation*k: split by phase, so that for
    windows that don't overlap there is one candidate and nothing to sum.
    """
    n, c = Axis("n", x.shape[0]), Axis("c", x.shape[1])
    lead = (affine(n), affine(c))
    dimensions: list[Phased] = [
        phased(str(i), extent, k, p, step=1, reach=-d, start=-low, every=s)
        for i, (extent, p, k, s, (low, _), d) in enumerate(
            zip(x.shape[2:], g.shape[2:], window, stride, padding, dilation, strict=True)
        )
    ]
    # The window begins at i - dilation*k, whether or not p = (that + low) / stride is a whole number.
    start = [dim.position - dim.tap * d for dim, d in zip(dimensions, dilation, strict=True)]
    offset = _row_major([dim.tap for dim in dimensions], window)
    present = all_of(tuple(condition for dim in dimensions for condition in (dim.solvable, dim.inside)))
    first = _is_first_maximum(x, lead, start, window, dilation, offset)
    routed = Read(0, (*lead, *(dim.index for dim in dimensions)), g.dtype, present)
    taps = tuple(axis for dim in dimensions for axis in dim.taps)
    value = call("select", first, routed, Literal(0, g.dtype))
    return Compute(
        axes=(n, c, *(axis for dim in dimensions for axis in dim.axes)),
        value=value,
        target=(*lead, *(dim.position for dim in dimensions)),
        reduce=taps,
        reducer="sum" if taps else None,
    )


def _body_gather(
    t: TensorType, x: TensorType, *, window: Ints, stride: Ints, padding: Pairs, dilation: Ints
) -> Compute:
    n, c = Axis("n", x.shape[0]), Axis("c", x.shape[1])
    lead = (affine(n), affine(c))
    out = _pooled(x.shape, window, stride, padding, dilation)
    positions = tuple(Axis(f"p{i}", extent) for i, extent in enumerate(out))
    offsets = tuple(Axis(f"k{i}", extent) for i, extent in enumerate(window))
    start = [p * s - low for p, s, (low, _) in zip(positions, stride, padding, strict=True)]
    at = [b + k * d for b, k, d in zip(start, offsets, dilation, strict=True)]
    mask = all_of(tuple(within(a, extent) for a, extent in zip(at, x.shape[2:], strict=True)))
    offset = _row_major([affine(k) for k in offsets], window)
    first = _is_first_maximum(x, lead, start, window, dilation, offset)
    value = call("select", first, Read(0, (*lead, *at), t.dtype, mask), Literal(0, t.dtype))
    return Compute(
        axes=(n, c, *positions),
        value=value,
        target=tuple(affine(a) for a in (n, c, *positions)),
        reduce=offsets,
        reducer="sum",
    )


MAX_POOL: Primitive = Primitive(
    "max_pool",
    infer=_infer,
    eval=_eval,
    vjp=(lambda g, y, x, **attrs: apply(MAX_POOL_SCATTER, g, x, **attrs),),
    jvp=lambda tangents, y, x, **attrs: apply(MAX_POOL_GATHER, tangents[0], x, **attrs),
    body=_body,
)
MAX_POOL_SCATTER: Primitive = Primitive(
    "max_pool_scatter",
    infer=_infer_scatter,
    eval=_eval_scatter,
    vjp=(lambda c, y, g, x, **attrs: apply(MAX_POOL_GATHER, c, x, **attrs), None),
    jvp=lambda tangents, y, g, x, **attrs: _linear(MAX_POOL_SCATTER, tangents, x, attrs),
    body=_body_scatter,
    facts=Fact.COSTLY,
)
MAX_POOL_GATHER: Primitive = Primitive(
    "max_pool_gather",
    infer=_infer_gather,
    eval=_eval_gather,
    vjp=(lambda c, y, t, x, **attrs: apply(MAX_POOL_SCATTER, c, x, **attrs), None),
    jvp=lambda tangents, y, t, x, **attrs: _linear(MAX_POOL_GATHER, tangents, x, attrs),
    body=_body_gather,
    facts=Fact.COSTLY,
)

PRIMITIVES = (MAX_POOL, MAX_POOL_SCATTER, MAX_POOL_GATHER)


def _linear(primitive: Primitive, tangents: Sequence[Value | None], x: Value, attrs: dict[str, Any]) -> Value | None:
    """Scatter and gather are linear in their first operand, and piecewise constant in x."""
    return None if tangents[0] is None else apply(primitive, tangents[0], x, **attrs)


# ------------------------------------------------------------------------------------------- functions


@composed
def max_pool(
    x: Value,
    window: int | Sequence[int],
    stride: int | Sequence[int] | None = None,
    padding: int | Sequence[int] | Sequence[tuple[int, int]] = 0,
    dilation: int | Sequence[int] = 1,
    ceil_mode: bool = False,
) -> Value:
    """The maximum of each window, in any number of spatial dimensions, as PyTorch's max_pool1d, 2d and 3d.

    x: (batch, channels, *spatial). stride: None means the window's size. padding never wins. ceil_mode: the
    last window may reach over the end. Returns (batch, channels, *out), out = (n + low + high -
    dilation*(k-1) - 1) // stride + 1. The derivative goes to the first maximum of each window. Raises ShapeError.
    """
    count = len(shape_of(x)) - 2
    if count < 1:
        raise ShapeError(f"max_pool: input {shape_of(x)} must be (batch, channels, *spatial).")
    windows = per_dimension(window, count, "window", "max_pool")
    strides = windows if stride is None else per_dimension(stride, count, "stride", "max_pool")
    dilations = per_dimension(dilation, count, "dilation", "max_pool")
    pairs = padding_pairs(padding, count, "max_pool")
    if ceil_mode:
        pairs = tuple(
            (low, high + _overhang(n, k, s, low, high, d))
            for n, k, s, (low, high), d in zip(shape_of(x)[2:], windows, strides, pairs, dilations, strict=True)
        )
    if prod(windows) <= _WHOLE or count == 1:
        return apply(MAX_POOL, x, window=windows, stride=strides, padding=pairs, dilation=dilations)
    _infer(type_of(x), window=windows, stride=strides, padding=pairs, dilation=dilations)  # the error for the whole
    for axis in reversed(range(count)):
        x = _along_one(x, axis, windows[axis], strides[axis], pairs[axis], dilations[axis])
    return x


def _along_one(x: Value, axis: int, window: int, stride: int, padding: tuple[int, int], dilation: int) -> Value:
    """Max pooling along one spatial axis. A large window is pooled axis by axis, the last one first: the sum of its
    extents in comparisons, not their product, and the same first maximum (its row is the first that holds it)."""
    count = len(shape_of(x)) - 2

    def there(value: Any, elsewhere: Any) -> Any:
        return tuple(value if a == axis else elsewhere for a in range(count))

    attrs = {"window": there(window, 1), "stride": there(stride, 1), "dilation": there(dilation, 1)}
    return apply(MAX_POOL, x, **attrs, padding=there(padding, (0, 0)))


def _overhang(n: int, k: int, s: int, low: int, high: int, d: int) -> int:
    """Extra padding for one more window, if that window still begins inside the input or the low padding."""
    spare = (n + low + high - stretched(k, d)) % s
    begins = n + low + high - stretched(k, d) - spare + s
    return s - spare if spare and begins < n + low else 0


@composed
def avg_pool(
    x: Value,
    window: int | Sequence[int],
    stride: int | Sequence[int] | None = None,
    padding: int | Sequence[int] | Sequence[tuple[int, int]] = 0,
    count_include_pad: bool = True,
) -> Value:
    """The mean of each window, as PyTorch's avg_pool1d, 2d and 3d: a depthwise convolution with a constant kernel.

    x: (batch, channels, *spatial) of floats. stride: None means the window's size. count_include_pad: padding
    counts as zeros; otherwise the mean is over the elements alone. Raises ShapeError, DTypeError.
    """
    count = len(shape_of(x)) - 2
    dtype = dtype_of_value(x)
    if count < 1:
        raise ShapeError(f"avg_pool: input {shape_of(x)} must be (batch, channels, *spatial).")
    if dtype.kind != "f":
        raise DTypeError(f"avg_pool: {dtype.name} has no mean; convert with .astype('float32').")
    windows = per_dimension(window, count, "window", "avg_pool")
    strides = windows if stride is None else per_dimension(stride, count, "stride", "avg_pool")
    pairs = padding_pairs(padding, count, "avg_pool")
    channels = shape_of(x)[1]
    kernel = np.full((channels, 1, *windows), 1.0 / prod(windows), dtype=dtype.numpy)
    mean = conv(x, kernel, strides, pairs, 1, groups=channels)
    if count_include_pad or not any(low or high for low, high in pairs):
        return mean
    factor = np.ones((), dtype=np.float64)
    for n, k, s, (low, high) in zip(shape_of(x)[2:], windows, strides, pairs, strict=True):
        begins = np.arange((n + low + high - k) // s + 1) * s - low
        held = np.minimum(begins + k, n) - np.maximum(begins, 0)
        factor = factor[..., None] * (k / held)
    return multiply(mean, factor.astype(dtype.numpy))
