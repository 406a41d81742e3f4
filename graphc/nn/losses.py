"""Loss functions: plain functions of operations, with the arguments and defaults of torch.nn.functional."""

from __future__ import annotations

import math
from collections.abc import Callable

from graphc.composed import composed
from graphc.dispatch import dtype_of_value, shape_of
from graphc.errors import ArgumentError, DTypeError, ShapeError
from graphc.nn.activations import log_softmax
from graphc.ops.elementwise import abs as magnitude
from graphc.ops.elementwise import add, divide, less, multiply, negative, not_equal, square, subtract, where
from graphc.ops.indexing import take, take_along_axis
from graphc.ops.movement import reshape
from graphc.ops.reduction import mean
from graphc.ops.reduction import sum as total
from graphc.primitive import Value


@composed
def cross_entropy(
    logits: Value,
    target: Value,
    weight: Value | None = None,
    ignore_index: int | None = -100,
    reduction: str = "mean",
    label_smoothing: float = 0.0,
) -> Value:
    """-log softmax(logits) at the target class.

    logits: (batch, classes, ...) or (classes,) float. target: classes as (batch, ...) or () integers, or
    probabilities of the logits' shape. weight: (classes,). label_smoothing: the share of the uniform
    distribution mixed into the target (Szegedy et al. 2016). ignore_index and reduction: as nll_loss; the mean
    over probabilities is over batch elements. Raises ShapeError, DTypeError, ArgumentError, and IndexingError
    for a class that isn't there.
    """
    if not 0 <= label_smoothing <= 1:
        raise ArgumentError(f"cross_entropy: label_smoothing={label_smoothing} must lie in [0, 1].")
    _check_reduction("cross_entropy", reduction)
    axis = _class_axis("cross_entropy", logits)
    classes = shape_of(logits)[axis]
    log_probabilities = log_softmax(logits, axis)
    if dtype_of_value(target).kind == "f":
        if shape_of(target) != shape_of(logits):
            raise ShapeError(
                f"cross_entropy: probabilities {shape_of(target)} must have the logits' shape, {shape_of(logits)}."
            )
        if label_smoothing:
            target = add(multiply(target, 1 - label_smoothing), label_smoothing / classes)
        each = negative(total(_weighted(multiply(log_probabilities, target), weight, axis), axis))
        if reduction == "mean":
            return divide(total(each), math.prod(shape_of(each)))
        return _reduced(each, reduction)
    loss = nll_loss(log_probabilities, target, weight, ignore_index, reduction)
    if not label_smoothing:
        return loss
    valid, safe = _valid(target, ignore_index)
    uniform = _masked(negative(total(_weighted(log_probabilities, weight, axis), axis)), valid)
    if reduction == "mean":
        uniform = divide(total(uniform), _count(target, valid, safe, weight))
    else:
        uniform = _reduced(uniform, reduction)
    return add(multiply(loss, 1 - label_smoothing), multiply(uniform, label_smoothing / classes))


@composed
def nll_loss(
    log_probabilities: Value,
    target: Value,
    weight: Value | None = None,
    ignore_index: int | None = -100,
    reduction: str = "mean",
) -> Value:
    """Minus the log-probability of the target class.

    log_probabilities: (batch, classes, ...) or (classes,) float. target: (batch, ...) or () integers.
    weight: (classes,), a factor for each class. ignore_index: targets of this value count for nothing (None: there
    are none). reduction: "mean" (the weighted mean over what counts; nan if nothing does), "sum" or "none".
    Returns () or, for "none", the target's shape. Raises ShapeError, DTypeError, ArgumentError, and
    IndexingError for a class that isn't there.
    """
    _check_reduction("nll_loss", reduction)
    axis = _class_axis("nll_loss", log_probabilities)
    shape = shape_of(log_probabilities)
    expected = (*shape[:axis], *shape[axis + 1 :])
    if dtype_of_value(target).kind != "i":
        raise DTypeError(f"nll_loss: target must be integers, got {dtype_of_value(target).name}.")
    if shape_of(target) != expected:
        raise ShapeError(f"nll_loss: target {shape_of(target)} doesn't fit {shape}: expected {expected}.")
    if weight is not None and shape_of(weight) != (shape[axis],):
        raise ShapeError(f"nll_loss: weight {shape_of(weight)}: expected one for each class, {(shape[axis],)}.")
    valid, safe = _valid(target, ignore_index)
    # a negative class is a mistake, not one counted from the end: it is moved out of bounds, where it is found
    index = reshape(where(less(safe, 0), shape[axis], safe), (*shape[:axis], 1, *shape[axis + 1 :]))
    each = negative(reshape(take_along_axis(log_probabilities, index, axis), expected))
    if weight is not None:
        each = multiply(each, take(weight, safe, axis=0))
    each = _masked(each, valid)
    if reduction == "mean":
        return divide(total(each), _count(target, valid, safe, weight))
    return _reduced(each, reduction)


@composed
def mse_loss(x: Value, target: Value, reduction: str = "mean") -> Value:
    """(x - target)^2, elementwise. reduction: "mean", "sum" or "none". Raises ShapeError if shapes differ."""
    return _elementwise_loss("mse_loss", square, x, target, reduction)


@composed
def l1_loss(x: Value, target: Value, reduction: str = "mean") -> Value:
    """|x - target|, elementwise. reduction: "mean", "sum" or "none". Raises ShapeError if shapes differ."""
    return _elementwise_loss("l1_loss", magnitude, x, target, reduction)


def _elementwise_loss(op: str, error: Callable[[Value], Value], x: Value, target: Value, reduction: str) -> Value:
    _check_reduction(op, reduction)
    if shape_of(x) != shape_of(target):
        raise ShapeError(f"{op}: input {shape_of(x)} and target {shape_of(target)} must have one shape; reshape one.")
    return _reduced(error(subtract(x, target)), reduction)


def _check_reduction(op: str, reduction: str) -> None:
    if reduction not in ("mean", "sum", "none"):
        raise ArgumentError(f"{op}: reduction={reduction!r}: expected 'mean', 'sum' or 'none'.")


def _reduced(each: Value, reduction: str) -> Value:
    match reduction:
        case "mean":
            return mean(each)
        case "sum":
            return total(each)
        case _:
            return each


def _class_axis(op: str, scores: Value) -> int:
    if not shape_of(scores):
        raise ShapeError(f"{op}: expected (batch, classes, ...) or (classes,), got a number.")
    return 0 if len(shape_of(scores)) == 1 else 1


def _weighted(scores: Value, weight: Value | None, axis: int) -> Value:
    if weight is None:
        return scores
    return multiply(scores, reshape(weight, (-1, *(1,) * (len(shape_of(scores)) - axis - 1))))


def _valid(target: Value, ignore_index: int | None) -> tuple[Value | None, Value]:
    """Which targets count (None: all), and the targets with a class that exists in place of the others."""
    if ignore_index is None:
        return None, target
    valid = not_equal(target, ignore_index)
    return valid, where(valid, target, 0)


def _masked(each: Value, valid: Value | None) -> Value:
    return each if valid is None else where(valid, each, 0)


def _count(target: Value, valid: Value | None, safe: Value, weight: Value | None) -> Value:
    """What the mean divides by: the number, or the summed weights, of the targets that count."""
    if weight is not None:
        return total(_masked(take(weight, safe, axis=0), valid))
    return math.prod(shape_of(target)) if valid is None else total(valid)
