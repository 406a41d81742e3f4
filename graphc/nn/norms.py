"""Normalisations: plain functions of operations, with the arguments and defaults of torch.nn.functional."""

from __future__ import annotations

import math
from collections.abc import Sequence

from graphc.composed import composed
from graphc.dispatch import shape_of
from graphc.errors import ArgumentError, ShapeError
from graphc.ops.elementwise import add, divide, multiply, rsqrt, subtract
from graphc.ops.movement import reshape
from graphc.ops.reduction import mean, squared_deviations
from graphc.primitive import Value
from graphc.records import no_grad
from graphc.tensor import Tensor


@composed
def layer_norm(
    x: Value,
    normalized_shape: int | Sequence[int],
    weight: Value | None = None,
    bias: Value | None = None,
    eps: float = 1e-5,
) -> Value:
    """(x - mean) / sqrt(var + eps) * weight + bias over the trailing dimensions (Ba, Kiros & Hinton 2016).

    normalized_shape: those dimensions; weight and bias have that shape. var is over n (not n - 1).
    Raises ShapeError if x doesn't end in normalized_shape.
    """
    shape = (normalized_shape,) if isinstance(normalized_shape, int) else tuple(normalized_shape)
    if not shape or shape_of(x)[-len(shape) :] != shape:
        raise ShapeError(f"layer_norm: input {shape_of(x)} doesn't end in normalized_shape {shape}.")
    axes = tuple(range(-len(shape), 0))
    average = mean(x, axes, keepdims=True)
    variance = divide(squared_deviations(x, average, axes, True), math.prod(shape))
    y = multiply(subtract(x, average), rsqrt(add(variance, eps)))
    if weight is not None:
        y = multiply(y, weight)
    return y if bias is None else add(y, bias)


def batch_norm(
    x: Value,
    running_mean: Tensor | None = None,
    running_var: Tensor | None = None,
    weight: Value | None = None,
    bias: Value | None = None,
    training: bool = False,
    momentum: Value = 0.1,
    eps: float = 1e-5,
) -> Value:
    """(x - mean) / sqrt(var + eps) * weight + bias, for each channel (Ioffe & Szegedy 2015).

    x: (batch, channels, ...). The others, where given: (channels,). training: mean and var (over n) are those of x over
    all dimensions but channels; the running ones, where given, then move towards them in place, by `momentum` of the
    way, var there over n - 1. Otherwise the running ones are used. Raises ShapeError for a size that doesn't fit or,
    in training, a single number a channel; ArgumentError for evaluation without running statistics.
    """
    shape = shape_of(x)
    if len(shape) < 2:
        raise ShapeError(f"batch_norm: input {shape}: expected (batch, channels, ...).")
    names = ("running_mean", "running_var", "weight", "bias")
    for name, value in zip(names, (running_mean, running_var, weight, bias), strict=True):
        if value is not None and shape_of(value) != (shape[1],):
            raise ShapeError(f"batch_norm: {name} {shape_of(value)}: expected one for each channel, {(shape[1],)}.")
    columns = (shape[1], *[1] * (len(shape) - 2))
    if training:
        axes = (0, *range(2, len(shape)))
        count = math.prod(shape) // max(1, shape[1])
        if count < 2:
            raise ShapeError(f"batch_norm: input {shape}: training needs more than one number for each channel.")
        average = mean(x, axes, keepdims=True)
        centred = subtract(x, average)
        variance = divide(squared_deviations(x, average, axes, True), count)
        with no_grad():
            if running_mean is not None:
                _move(running_mean, reshape(average, (shape[1],)), momentum)
            if running_var is not None:
                _move(running_var, multiply(reshape(variance, (shape[1],)), count / (count - 1)), momentum)
    elif running_mean is None or running_var is None:
        raise ArgumentError("batch_norm: evaluation needs running_mean and running_var; or pass training=True.")
    else:
        centred = subtract(x, reshape(running_mean, columns))
        variance = reshape(running_var, columns)
    scale = rsqrt(add(variance, eps))
    y = multiply(centred, scale if weight is None else multiply(scale, reshape(weight, columns)))
    return y if bias is None else add(y, reshape(bias, columns))


def _move(running: Tensor, value: Value, momentum: Value) -> None:
    """running + (value - running) * momentum, in place."""
    running.copy_(add(running, multiply(subtract(value, running), momentum)))
