"""Correlation on arrays, the eager heart of convolution: windows are unfolded, then multiplied as matrices. Where there
are more outputs than inputs, as in the derivative by the input, the inputs are multiplied and their products added up.

Works on NumPy and on CuPy.
"""

from __future__ import annotations

import itertools
from math import prod
from typing import Any, TypeAlias

Ints: TypeAlias = tuple[int, ...]

_CHUNK = 1 << 22  # bytes of unfolded windows worked on at a time: they stay in the cache between writing and product


def correlate(xp: Any, x: Any, w: Any, low: Ints, stride: Ints, dilation: Ints, out: Ints, groups: int) -> Any:
    """y[n, o, p] = sum over c, k of x[n, c, stride*p + dilation*k - low] * w[o, c, k], x being 0 outside."""
    batch, kernel, channels = x.shape[0], w.shape[2:], w.shape[1]
    per_group = w.shape[0] // groups
    y = xp.zeros((batch, w.shape[0], *out), dtype=x.dtype)
    if not y.size or not x.size or not w.size:
        return y
    places, depth = prod(out), channels * prod(kernel)
    terms = w.shape[0] * prod(x.shape[2:])  # as many as there would be unfolded elements, for each tap
    if groups == 1 and prod(kernel) > 1 and set(stride) == {1} and 2 * terms <= channels * places:
        return _scattered(xp, x, w, low, dilation, y)
    windows = _windows(xp, x, low, stride, dilation, out, kernel, groups)
    if channels == per_group == 1 and prod(kernel) <= places:
        return _depthwise(xp, windows, w.reshape(groups, 1, *kernel), y)
    d = len(out)
    outs, taps = tuple(range(3, 3 + d)), tuple(range(3 + d, 3 + 2 * d))
    chunk = _chunk(groups * depth * places * x.dtype.itemsize) if prod(kernel) > 1 else batch
    matrix = w.reshape(groups, per_group, depth)
    # Unfolding copies runs along the last axis: let it be the longer one of output and kernel.
    by_output = out[-1] >= kernel[-1]
    for start in range(0, batch, chunk):
        part = windows[start : start + chunk]
        n = part.shape[0]
        if by_output:
            columns = part.transpose(0, 1, 2, *taps, *outs).reshape(n, groups, depth, places)
            product = xp.matmul(matrix, columns)
        else:
            rows = part.transpose(1, 0, *outs, 2, *taps).reshape(groups, n * places, depth)
            product = xp.matmul(rows, matrix.transpose(0, 2, 1)).reshape(groups, n, places, per_group)
            product = product.transpose(1, 0, 3, 2)
        y[start : start + chunk] = product.reshape(n, w.shape[0], *out)
    return y


def _scattered(xp: Any, x: Any, w: Any, low: Ints, dilation: Ints, y: Any) -> Any:
    """Each input times every tap's weights, added to the output that it is seen from there. y: zeros."""
    batch, kernel, inputs, d = x.shape[0], w.shape[2:], x.shape[2:], w.ndim - 2
    matrix = w.transpose(0, *range(2, 2 + d), 1).reshape(-1, w.shape[1])
    chunk = _chunk(matrix.shape[0] * prod(inputs) * x.dtype.itemsize)
    for start in range(0, batch, chunk):
        part = x[start : start + chunk]
        terms = xp.matmul(matrix, part.reshape(*part.shape[:2], -1)).reshape(-1, w.shape[0], *kernel, *inputs)
        total = y[start : start + chunk]
        for tap in itertools.product(*map(range, kernel)):
            seen, added = [], []
            for n, p, k, lo, r in zip(inputs, y.shape[2:], tap, low, dilation, strict=True):
                shift = lo - r * k  # from an input to its output
                begin, end = max(0, -shift), max(0, -shift, min(n, p - shift))
                added.append(slice(begin, end))
                seen.append(slice(begin + shift, end + shift))
            total[(..., *seen)] += terms[(slice(None), slice(None), *tap, *added)]
    return y


def _chunk(bytes_per_sample: int) -> int:
    return max(1, _CHUNK // bytes_per_sample)


def _depthwise(xp: Any, windows: Any, w: Any, y: Any) -> Any:
    """One channel in and out of each group: there is nothing to sum but the taps, so no matrix product."""
    out = y.shape[2:]
    weights = w.reshape(*w.shape, *(1 for _ in out))
    chunk = _chunk(2 * prod(y.shape[1:]) * y.dtype.itemsize)
    for start in range(0, y.shape[0], chunk):
        total, part = y[start : start + chunk], windows[start : start + chunk, :, 0]
        term = xp.empty_like(total)
        for tap in itertools.product(*map(range, w.shape[2:])):
            xp.multiply(part[(..., *tap)], weights[(slice(None), 0, *tap)], out=term)
            total += term
    return y


def _windows(xp: Any, x: Any, low: Ints, stride: Ints, dilation: Ints, out: Ints, kernel: Ints, groups: int) -> Any:
    """A view (batch, groups, channels // groups, *out, *kernel) of x; x is copied only where it needs padding."""
    inner, source, extents = [slice(None)] * 2, [slice(None)] * 2, []
    padded = False
    for n, lo, s, r, p, k in zip(x.shape[2:], low, stride, dilation, out, kernel, strict=True):
        length = (p - 1) * s + (k - 1) * r + 1
        begin, end = min(max(-lo, 0), n), min(max(length - lo, 0), n)
        source.append(slice(begin, end))
        inner.append(slice(begin + lo, end + lo) if end > begin else slice(0, 0))
        extents.append(length)
        padded |= end - begin < length
    if padded:
        buffer = xp.zeros((*x.shape[:2], *extents), dtype=x.dtype)
        buffer[tuple(inner)] = x[tuple(source)]
        x = buffer
    else:
        x = x[tuple(source)]
    over_batch, over_channels, *over = x.strides
    per_group = x.shape[1] // groups
    return xp.lib.stride_tricks.as_strided(
        x,
        (x.shape[0], groups, per_group, *out, *kernel),
        (
            over_batch,
            over_channels * per_group,
            over_channels,
            *(b * s for b, s in zip(over, stride, strict=True)),
            *(b * r for b, r in zip(over, dilation, strict=True)),
        ),
    )
