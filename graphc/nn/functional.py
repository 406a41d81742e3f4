"""The functions of neural networks: plain functions of operations, so every mode and order of derivative has them.

Names, arguments and defaults are those of torch.nn.functional; activations, normalisations and losses are handed on
from their files.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from graphc import random
from graphc.composed import composed
from graphc.dispatch import dtype_of_value, shape_of
from graphc.errors import ArgumentError, DTypeError, ShapeError
from graphc.nn.activations import gelu, log_softmax, relu, softmax
from graphc.nn.losses import cross_entropy, l1_loss, mse_loss, nll_loss
from graphc.nn.norms import batch_norm, layer_norm
from graphc.ops.convolution import conv
from graphc.ops.elementwise import add, equal, greater_equal, multiply, tanh, where
from graphc.ops.indexing import take
from graphc.ops.linalg import matmul
from graphc.ops.logistic import sigmoid
from graphc.ops.marks import stop_gradient
from graphc.ops.movement import iota, matrix_transpose, reshape
from graphc.ops.pooling import avg_pool, max_pool
from graphc.ops.reduction import max as largest
from graphc.primitive import Value
from graphc.types import bool_

__all__ = [
    "avg_pool2d",
    "batch_norm",
    "conv2d",
    "cross_entropy",
    "dropout",
    "embedding",
    "gelu",
    "l1_loss",
    "layer_norm",
    "linear",
    "log_softmax",
    "max_pool2d",
    "mse_loss",
    "nll_loss",
    "relu",
    "scaled_dot_product_attention",
    "sigmoid",
    "softmax",
    "tanh",
]

Pair = int | Sequence[int]

# ----------------------------------------------------------------------------------------------- layers


@composed
def linear(x: Value, weight: Value, bias: Value | None = None) -> Value:
    """x @ weight.T + bias. x: (..., in). weight: (out, in). bias: (out,). Returns (..., out). Raises ShapeError."""
    sx, sw = shape_of(x), shape_of(weight)
    if len(sw) != 2 or not sx or sx[-1] != sw[1]:
        raise ShapeError(f"linear: input {sx} doesn't fit weight {sw}: expected (..., {sw[-1]}) and (out, in).")
    y = matmul(x, matrix_transpose(weight))
    return y if bias is None else add(y, bias)


@composed
def conv2d(
    x: Value,
    weight: Value,
    bias: Value | None = None,
    stride: Pair = 1,
    padding: str | Pair = 0,
    dilation: Pair = 1,
    groups: int = 1,
) -> Value:
    """Cross-correlation in two dimensions.

    x: (batch, channels, height, width), or without batch. weight: (out_channels, channels // groups, kh, kw).
    bias: (out_channels,). padding: zeros on both sides, or "valid", or "same". Returns (batch, out_channels,
    oh, ow), oh = (height + 2*padding - dilation*(kh-1) - 1) // stride + 1. Raises ShapeError.
    """
    if len(shape_of(weight)) != 4:
        raise ShapeError(f"conv2d: weight {shape_of(weight)}: expected (out_channels, channels // groups, kh, kw).")
    y = conv(x, weight, stride, padding, dilation, groups)
    return y if bias is None else add(y, reshape(bias, (-1, 1, 1)))


@composed
def max_pool2d(
    x: Value,
    kernel_size: Pair,
    stride: Pair | None = None,
    padding: Pair = 0,
    dilation: Pair = 1,
    ceil_mode: bool = False,
) -> Value:
    """The largest element of each window. x: (batch, channels, height, width), or without batch.

    stride: kernel_size unless given. The derivative goes to the first largest element of each window.
    padding: at most half the kernel; padded elements are -inf. ceil_mode: a last window may overhang the end
    if it starts inside. Raises ShapeError.
    """
    _check_padding("max_pool2d", padding, kernel_size)
    y = max_pool(_images("max_pool2d", x), kernel_size, stride, padding, dilation, ceil_mode)
    return _like(y, x)


@composed
def avg_pool2d(
    x: Value, kernel_size: Pair, stride: Pair | None = None, padding: Pair = 0, count_include_pad: bool = True
) -> Value:
    """The mean of each window. x: (batch, channels, height, width), or without batch.

    count_include_pad: whether padded zeros count as elements. Raises ShapeError.
    """
    _check_padding("avg_pool2d", padding, kernel_size)
    return _like(avg_pool(_images("avg_pool2d", x), kernel_size, stride, padding, count_include_pad), x)


@composed
def embedding(indices: Value, weight: Value, padding_idx: int | None = None) -> Value:
    """weight[indices]. indices: (...) int. weight: (count, width). Returns (..., width).

    padding_idx: that row gets no derivative. Raises IndexingError for an index outside of [-count, count).
    """
    if dtype_of_value(indices).kind != "i":
        raise DTypeError(f"embedding: indices must be integers, got {dtype_of_value(indices).name}.")
    rows = take(weight, indices, axis=0)
    if padding_idx is None:
        return rows
    row = padding_idx + shape_of(weight)[0] if padding_idx < 0 else padding_idx
    return where(reshape(equal(indices, row), (*shape_of(indices), 1)), stop_gradient(rows), rows)


def dropout(x: Value, p: float = 0.5, training: bool = True) -> Value:
    """x with each element set to 0 with probability p and the others scaled by 1/(1-p); x itself if not training.

    Drawn from graphc.random: the same stream in both modes. Raises ArgumentError unless 0 <= p <= 1.
    """
    if not 0 <= p <= 1:
        raise ArgumentError(f"dropout: p={p} must be a probability.")
    if not training or p == 0:
        return x
    if p == 1:
        return multiply(x, 0)
    keep = greater_equal(random.uniform(shape_of(x), dtype=dtype_of_value(x)), p)
    return where(keep, multiply(x, 1 / (1 - p)), 0)


def scaled_dot_product_attention(
    query: Value,
    key: Value,
    value: Value,
    attn_mask: Value | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
) -> Value:
    """softmax(query @ key.mT * scale) @ value (Vaswani et al. 2017).

    query: (..., L, E). key: (..., S, E). value: (..., S, V). Returns (..., L, V). scale: 1/sqrt(E) unless given.
    attn_mask: broadcasts to (..., L, S); bool (True takes part) or a number added to the scores. A row that
    attends to nothing gives 0. is_causal: position i attends to j <= i. dropout_p: on the weights; pass 0 in
    evaluation. Raises ArgumentError if both masks are given, ShapeError if sizes differ.
    """
    if is_causal and attn_mask is not None:
        raise ArgumentError("scaled_dot_product_attention: give attn_mask or is_causal, not both.")
    factor = 1 / math.sqrt(shape_of(query)[-1]) if scale is None else scale
    if dropout_p:
        return matmul(dropout(_attention_weights(query, key, attn_mask, is_causal, factor), dropout_p), value)
    return _attention(query, key, value, attn_mask, is_causal, factor)


@composed
def _attention(
    query: Value, key: Value, value: Value, attn_mask: Value | None, is_causal: bool, factor: float
) -> Value:
    return matmul(_attention_weights(query, key, attn_mask, is_causal, factor), value)


@composed
def _attention_weights(query: Value, key: Value, attn_mask: Value | None, is_causal: bool, factor: float) -> Value:
    """softmax of the scaled scores: (..., L, S)."""
    # the smaller operand is scaled, not the (L, S) scores
    scores = matmul(multiply(query, factor), matrix_transpose(key))
    length, source = shape_of(scores)[-2:]
    if is_causal:
        past = greater_equal(iota((length, 1), 0), iota((1, source), 1))
        return softmax(where(past, scores, -math.inf))
    if attn_mask is None:
        return softmax(scores)
    is_bool = dtype_of_value(attn_mask) is bool_
    scores = where(attn_mask, scores, -math.inf) if is_bool else add(scores, attn_mask)
    nothing = equal(largest(scores, -1, keepdims=True), -math.inf)
    return where(nothing, 0, softmax(where(nothing, 0, scores)))


# ---------------------------------------------------------------------------------------------- windows


def _pair(value: Pair, name: str) -> tuple[int, int]:
    pair = (value, value) if isinstance(value, int) else tuple(value)
    if len(pair) != 2:
        raise ShapeError(f"{name}={value!r}: expected one number or two.")
    return pair


def _images(op: str, x: Value) -> Value:
    """x with a batch dimension."""
    match len(shape_of(x)):
        case 4:
            return x
        case 3:
            return reshape(x, (1, *shape_of(x)))
        case _:
            raise ShapeError(f"{op}: input {shape_of(x)}: expected (batch, channels, height, width), or without batch.")


def _like(y: Value, x: Value) -> Value:
    """y without the batch dimension that _images added to x."""
    return y if len(shape_of(x)) == 4 else reshape(y, shape_of(y)[1:])


def _check_padding(op: str, padding: Pair, kernel_size: Pair) -> None:
    """PyTorch's rule: a window never lies in the padding alone."""
    pads, kernel = _pair(padding, "padding"), _pair(kernel_size, "kernel_size")
    if any(not 0 <= 2 * p <= k for p, k in zip(pads, kernel, strict=True)):
        raise ShapeError(f"{op}: padding={padding} must lie between 0 and half of kernel_size={kernel_size}.")
