"""Convolution, one primitive: closed under differentiation, because each of its derivatives is a convolution.

In one dimension, with x stretched by `lhs_dilation` l, the kernel stretched by `rhs_dilation` r, stride s and
`low` zeros before x (all of them may be cropped instead: a negative low or high):

    y[p] = sum over k of  x[i] * w[k]   where  s*p + r*k - low = l*i

so that the same equation, read for i or for k, gives the derivatives:

    gx[i] = sum over k' of g[p] * w[K-1-k']   where  l*i + r*k' - (r*(K-1) - low) = s*p     (stride l, lhs_dilation s)
    gw[k] = sum over p  of x[i] * g[p]        where  r*k + s*p - low = l*i                  (stride r, rhs_dilation s)

Sources: Dumoulin and Visin, "A guide to convolution arithmetic for deep learning", 2016; XLA's ConvGeneralDilated.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from math import gcd
from typing import Any, TypeAlias

from graphc.composed import composed
from graphc.dispatch import apply, dtype_of_value, shape_of, type_of
from graphc.errors import DTypeError, ShapeError
from graphc.ir.expr import Axis, Compute, Read, affine, all_of, call
from graphc.ops.correlation import correlate
from graphc.ops.elementwise import add, astype
from graphc.ops.movement import flip, permute_dims, reshape
from graphc.ops.phases import phased
from graphc.primitive import Fact, Primitive, Value
from graphc.types import Shape, TensorType, promote

Ints: TypeAlias = tuple[int, ...]
Pairs: TypeAlias = tuple[tuple[int, int], ...]


def stretched(extent: int, dilation: int) -> int:
    """The extent of an axis with dilation - 1 holes between its elements."""
    return (extent - 1) * dilation + 1 if extent else 0


def _out_extents(x: Shape, w: Shape, stride: Ints, padding: Pairs, lhs_dilation: Ints, rhs_dilation: Ints) -> Ints:
    """Output extents of the spatial dimensions; 0 where the kernel doesn't fit."""
    return tuple(
        max(0, (stretched(n, left) + low + high - stretched(k, right)) // s + 1)
        for n, k, s, (low, high), left, right in zip(
            x[2:], w[2:], stride, padding, lhs_dilation, rhs_dilation, strict=True
        )
    )


def _infer(
    x: TensorType,
    w: TensorType,
    *,
    stride: Ints,
    padding: Pairs,
    lhs_dilation: Ints,
    rhs_dilation: Ints,
    groups: int,
) -> TensorType:
    if x.dtype is not w.dtype or x.dtype.kind == "b":
        raise DTypeError(f"conv: input {x.dtype.name} and weight {w.dtype.name} must have one numeric dtype.")
    if x.ndim < 3 or x.ndim != w.ndim:
        raise ShapeError(
            f"conv: input {x.shape} and weight {w.shape} must be (batch, channels, *spatial) and "
            "(out_channels, channels // groups, *kernel) with as many spatial dimensions, at least one."
        )
    spatial = x.ndim - 2
    for name, entries in (
        ("stride", stride),
        ("padding", padding),
        ("lhs_dilation", lhs_dilation),
        ("rhs_dilation", rhs_dilation),
    ):
        if len(entries) != spatial:
            raise ShapeError(f"conv: {name} {entries} has {len(entries)} entries for {spatial} spatial dimensions.")
    for name, factors in (("stride", stride), ("lhs_dilation", lhs_dilation), ("rhs_dilation", rhs_dilation)):
        if min(factors) < 1:
            raise ShapeError(f"conv: {name} {factors} must be at least 1.")
    if groups < 1 or x.shape[1] != w.shape[1] * groups:
        raise ShapeError(
            f"conv: input {x.shape} has {x.shape[1]} channels, but weight {w.shape} with groups={groups} takes "
            f"{w.shape[1] * groups}. The weight's second size must be channels // groups."
        )
    if w.shape[0] % groups:
        raise ShapeError(f"conv: {w.shape[0]} output channels of weight {w.shape} don't divide into groups={groups}.")
    out = _out_extents(x.shape, w.shape, stride, padding, lhs_dilation, rhs_dilation)
    return TensorType((x.shape[0], w.shape[0], *out), x.dtype)


def _eval(
    xp: Any,
    x: Any,
    w: Any,
    *,
    stride: Ints,
    padding: Pairs,
    lhs_dilation: Ints,
    rhs_dilation: Ints,
    groups: int,
) -> Any:
    """A stretched x is never built: the outputs are computed phase by phase, each a plain correlation."""
    attrs: dict[str, Any] = {
        "stride": stride,
        "padding": padding,
        "lhs_dilation": lhs_dilation,
        "rhs_dilation": rhs_dilation,
    }
    out = _infer(type_of(x), type_of(w), **attrs, groups=groups).shape[2:]  # as_strided would not notice a misfit
    low = tuple(pair[0] for pair in padding)
    if all(left == 1 for left in lhs_dilation):
        return correlate(xp, x, w, low, stride, rhs_dilation, out, groups)
    y = xp.zeros((x.shape[0], w.shape[0], *out), dtype=x.dtype)
    if not y.size or not x.size or not w.size:
        return y
    phases = [
        _phases(*dimension) for dimension in zip(stride, rhs_dilation, low, lhs_dilation, out, w.shape[2:], strict=True)
    ]
    for choice in itertools.product(*phases):
        outputs, taps, lows, strides, dilations, extents = zip(*choice, strict=True)
        part = correlate(xp, x, w[(..., *taps)], lows, strides, dilations, extents, groups)
        y[(..., *outputs)] = part
    return y


def _phases(s: int, r: int, low: int, left: int, out: int, taps: int) -> list[tuple[slice, slice, int, int, int, int]]:
    """Per residue class of outputs: (outputs, taps, low, stride, dilation, extent) of its plain correlation."""
    period, hop = left // gcd(s, left), left // gcd(r, left)
    found = []
    for phase in range(min(period, out)):
        first = next((k for k in range(min(hop, taps)) if (s * phase + r * k - low) % left == 0), None)
        if first is not None:
            shift = (s * phase + r * first - low) // left
            outputs = slice(phase, None, period)
            extent = len(range(phase, out, period))
            found.append((outputs, slice(first, None, hop), -shift, s * period // left, r * hop // left, extent))
    return found


def _body(
    x: TensorType,
    w: TensorType,
    *,
    stride: Ints,
    padding: Pairs,
    lhs_dilation: Ints,
    rhs_dilation: Ints,
    groups: int,
) -> Compute:
    """Axes: batch, group, output channel, positions; sums over channel and taps. Reads are affine wherever the
    equation above has an affine solution, masked only where a window can leave the input."""
    out = _out_extents(x.shape, w.shape, stride, padding, lhs_dilation, rhs_dilation)
    per_group = w.shape[0] // groups
    n, o, c = Axis("n", x.shape[0]), Axis("o", per_group), Axis("c", w.shape[1])
    group = (Axis("g", groups),) if groups > 1 else ()
    first_out = affine(group[0]) * per_group if group else affine(0)
    first_in = affine(group[0]) * w.shape[1] if group else affine(0)
    dimensions = [
        phased(str(d), out[d], w.shape[2 + d], x.shape[2 + d], step=s, reach=r, start=low, every=left)
        for d, (s, r, (low, _), left) in enumerate(zip(stride, rhs_dilation, padding, lhs_dilation, strict=True))
    ]
    # Padding is an element that is 0; a pair (p, k) that solves nothing contributes nothing, whatever the weight.
    solvable = all_of(tuple(d.solvable for d in dimensions))
    present = all_of((solvable, *(d.inside for d in dimensions)))
    element = Read(0, (affine(n), first_in + c, *(d.index for d in dimensions)), x.dtype, present)
    weight = Read(1, (first_out + o, affine(c), *(d.tap for d in dimensions)), w.dtype, solvable)
    return Compute(
        axes=(n, *group, o, *(axis for d in dimensions for axis in d.axes)),
        value=call("mul", element, weight),
        target=(affine(n), first_out + o, *(d.position for d in dimensions)),
        reduce=(c, *(axis for d in dimensions for axis in d.taps)),
        reducer="sum",
    )


def _vjp_input(
    g: Value,
    y: Value,
    x: Value,
    w: Value,
    *,
    stride: Ints,
    padding: Pairs,
    lhs_dilation: Ints,
    rhs_dilation: Ints,
    groups: int,
) -> Value:
    return _transpose(g, w, shape_of(x)[2:], stride, padding, lhs_dilation, rhs_dilation, groups)


def _transpose(
    g: Value,
    w: Value,
    spatial: Ints,
    stride: Ints,
    padding: Pairs,
    lhs_dilation: Ints,
    rhs_dilation: Ints,
    groups: int,
) -> Value:
    """The adjoint in x of a convolution whose input has the extents `spatial`: flipped, transposed weights."""
    out, kernel = shape_of(g)[2:], shape_of(w)[2:]
    total, channels = shape_of(w)[:2]
    axes = tuple(range(2, len(kernel) + 2))
    grouped = reshape(w, (groups, total // groups, channels, *kernel))
    swapped = permute_dims(grouped, (0, 2, 1, *(a + 1 for a in axes)))
    turned = flip(reshape(swapped, (groups * channels, total // groups, *kernel)), axes)
    pairs = []
    for n, p, k, s, (low, _), left, right in zip(
        spatial, out, kernel, stride, padding, lhs_dilation, rhs_dilation, strict=True
    ):
        before = (k - 1) * right - low
        pairs.append((before, (n - 1) * left + stretched(k, right) - stretched(p, s) - before))
    return _conv(g, turned, lhs_dilation, tuple(pairs), stride, rhs_dilation, groups)


def _vjp_weight(
    g: Value,
    y: Value,
    x: Value,
    w: Value,
    *,
    stride: Ints,
    padding: Pairs,
    lhs_dilation: Ints,
    rhs_dilation: Ints,
    groups: int,
) -> Value:
    """The batch is summed over and channels are the new batch: both swap places, group by group."""
    batch = shape_of(g)[0]
    spatial, out, kernel = shape_of(x)[2:], shape_of(g)[2:], shape_of(w)[2:]
    channels = shape_of(w)[1]
    axes = tuple(range(2, len(kernel) + 2))
    split = reshape(x, (batch, groups, channels, *spatial))
    rows = reshape(permute_dims(split, (2, 1, 0, *(a + 1 for a in axes))), (channels, groups * batch, *spatial))
    pairs = tuple(
        (low, (k - 1) * right + stretched(p, s) - stretched(n, left) - low)
        for n, p, k, s, (low, _), left, right in zip(
            spatial, out, kernel, stride, padding, lhs_dilation, rhs_dilation, strict=True
        )
    )
    result = _conv(rows, permute_dims(g, (1, 0, *axes)), rhs_dilation, pairs, lhs_dilation, stride, groups)
    return permute_dims(result, (1, 0, *axes))


def _jvp(tangents: Sequence[Value | None], y: Value, x: Value, w: Value, **attrs: Any) -> Value:
    tx, tw = tangents
    parts = [apply(CONV, a, b, **attrs) for a, b in ((tx, w), (x, tw)) if a is not None and b is not None]
    return parts[0] if len(parts) == 1 else add(*parts)


CONV = Primitive(
    "conv",
    infer=_infer,
    eval=_eval,
    vjp=(_vjp_input, _vjp_weight),
    jvp=_jvp,
    body=_body,
    facts=Fact.CONTRACTION | Fact.COSTLY,
)
PRIMITIVES = (CONV,)


def _conv(
    x: Value, w: Value, stride: Ints, padding: Pairs, lhs_dilation: Ints, rhs_dilation: Ints, groups: int
) -> Value:
    return apply(
        CONV,
        x,
        w,
        stride=stride,
        padding=padding,
        lhs_dilation=lhs_dilation,
        rhs_dilation=rhs_dilation,
        groups=groups,
    )


def per_dimension(value: int | Sequence[int], count: int, name: str, op: str) -> Ints:
    """`value` for each of `count` spatial dimensions: a number stands for all. Raises ShapeError."""
    if isinstance(value, int):
        return (value,) * count
    if len(value) != count:
        raise ShapeError(f"{op}: {name}={value!r} has {len(value)} entries for {count} spatial dimensions.")
    return tuple(int(v) for v in value)


def padding_pairs(padding: int | Sequence[int] | Sequence[tuple[int, int]], count: int, op: str) -> Pairs:
    """(low, high) for each spatial dimension, from a number, a number each or a pair each. Raises ShapeError."""
    if isinstance(padding, int):
        return ((padding, padding),) * count
    if len(padding) != count:
        raise ShapeError(f"{op}: padding={padding!r} has {len(padding)} entries for {count} spatial dimensions.")
    return tuple((p, p) if isinstance(p, int) else (int(p[0]), int(p[1])) for p in padding)


@composed
def conv(
    x: Value,
    weight: Value,
    stride: int | Sequence[int] = 1,
    padding: str | int | Sequence[int] | Sequence[tuple[int, int]] = 0,
    dilation: int | Sequence[int] = 1,
    groups: int = 1,
) -> Value:
    """Cross-correlation in any number of spatial dimensions, as PyTorch's conv1d, conv2d and conv3d.

    x: (batch, channels, *spatial), or (channels, *spatial) for a single sample. weight: (out_channels,
    channels // groups, *kernel). padding: zeros around each dimension: a number, one a dimension, a pair
    (low, high) a dimension, "valid" (none) or "same" (output extent = input extent, for stride 1; an odd one
    goes high, as in PyTorch). Returns (batch, out_channels, *out) with
    out = (n + low + high - dilation*(k-1) - 1) // stride + 1. Raises ShapeError, DTypeError.
    """
    count = len(shape_of(weight)) - 2
    if count >= 1 and len(shape_of(x)) == count + 1:
        whole = conv(reshape(x, (1, *shape_of(x))), weight, stride, padding, dilation, groups)
        return reshape(whole, shape_of(whole)[1:])
    if count < 1 or len(shape_of(x)) != count + 2:
        raise ShapeError(
            f"conv: input {shape_of(x)} doesn't fit weight {shape_of(weight)}. Expected (batch, channels, *spatial) "
            "and (out_channels, channels // groups, *kernel) with as many spatial dimensions, at least one."
        )
    x, weight = _same_dtype(x, weight)
    strides = per_dimension(stride, count, "stride", "conv")
    dilations = per_dimension(dilation, count, "dilation", "conv")
    kernel = shape_of(weight)[2:]
    if padding == "same":
        if any(s != 1 for s in strides):
            raise ShapeError(f"conv: padding='same' has no meaning for stride {strides}. Give the padding in numbers.")
        reaches = [r * (k - 1) for r, k in zip(dilations, kernel, strict=True)]
        pairs: Pairs = tuple((reach // 2, reach - reach // 2) for reach in reaches)
    elif isinstance(padding, str):
        if padding != "valid":
            raise ShapeError(f"conv: padding={padding!r}: expected 'same', 'valid' or numbers.")
        pairs = ((0, 0),) * count
    else:
        pairs = padding_pairs(padding, count, "conv")
    for n, k, r, (low, high) in zip(shape_of(x)[2:], kernel, dilations, pairs, strict=True):
        if n + low + high < stretched(k, r):
            raise ShapeError(
                f"conv: the kernel {kernel} with dilation {dilations} spans {stretched(k, r)}, more than the padded "
                f"input's {n + low + high} (input {shape_of(x)}, padding {pairs}). Pad more or use a smaller kernel."
            )
    return _conv(x, weight, strides, pairs, (1,) * count, dilations, groups)


@composed
def conv_transpose(
    x: Value,
    weight: Value,
    stride: int | Sequence[int] = 1,
    padding: int | Sequence[int] = 0,
    output_padding: int | Sequence[int] = 0,
    dilation: int | Sequence[int] = 1,
    groups: int = 1,
) -> Value:
    """Transposed convolution, as PyTorch's conv_transpose1d, 2d, 3d: the adjoint of `conv` in its input.

    x: (batch, channels, *spatial). weight: (channels, out_channels // groups, *kernel). Returns
    (batch, out_channels, *out) with out = (n-1)*stride - 2*padding + dilation*(k-1) + output_padding + 1.
    Raises ShapeError, DTypeError.
    """
    count = len(shape_of(weight)) - 2
    if count < 1 or len(shape_of(x)) != count + 2 or shape_of(x)[1] != shape_of(weight)[0]:
        raise ShapeError(
            f"conv_transpose: input {shape_of(x)} doesn't fit weight {shape_of(weight)}. Expected "
            "(batch, channels, *spatial) and (channels, out_channels // groups, *kernel)."
        )
    if groups < 1 or shape_of(x)[1] % groups:
        raise ShapeError(f"conv_transpose: {shape_of(x)[1]} channels don't divide into groups={groups}.")
    x, weight = _same_dtype(x, weight)
    strides = per_dimension(stride, count, "stride", "conv_transpose")
    dilations = per_dimension(dilation, count, "dilation", "conv_transpose")
    pairs = padding_pairs(padding, count, "conv_transpose")
    extra = per_dimension(output_padding, count, "output_padding", "conv_transpose")
    spatial = []
    for n, k, s, r, (low, high), e in zip(
        shape_of(x)[2:], shape_of(weight)[2:], strides, dilations, pairs, extra, strict=True
    ):
        if not 0 <= e < max(s, r):
            raise ShapeError(f"conv_transpose: output_padding {extra} must be smaller than stride or dilation.")
        spatial.append((n - 1) * s - low - high + stretched(k, r) + e)
    if min(spatial) < 0:
        raise ShapeError(f"conv_transpose: padding {pairs} leaves the negative extents {tuple(spatial)}. Pad less.")
    return _transpose(x, weight, tuple(spatial), strides, pairs, (1,) * count, dilations, groups)


def _same_dtype(x: Value, w: Value) -> tuple[Value, Value]:
    common = promote(dtype_of_value(x), dtype_of_value(w))
    return astype(x, common), astype(w, common)
