"""Initial values, written in place, drawn from graphc.random. Names, formulas and defaults as in torch.nn.init."""

from __future__ import annotations

import math
from typing import Literal as OneOf

from graphc import random
from graphc.errors import ArgumentError, ShapeError
from graphc.records import no_grad
from graphc.tensor import Tensor

_GAINS = {"linear": 1.0, "conv": 1.0, "sigmoid": 1.0, "tanh": 5 / 3, "relu": math.sqrt(2), "selu": 0.75}


def calculate_gain(nonlinearity: str, slope: float = 0.01) -> float:
    """The factor by which a layer's weights are enlarged for the nonlinearity that follows.

    nonlinearity: linear, conv, sigmoid, tanh, relu, selu, or leaky_relu with its negative slope.
    """
    if nonlinearity == "leaky_relu":
        return math.sqrt(2 / (1 + slope**2))
    if nonlinearity not in _GAINS:
        raise ArgumentError(f"no gain for {nonlinearity!r}; known: leaky_relu, {', '.join(_GAINS)}")
    return _GAINS[nonlinearity]


def fans(x: Tensor) -> tuple[int, int]:
    """(fan_in, fan_out): how many inputs an output has, and outputs an input. x: (out, in, *kernel)."""
    if x.ndim < 2:
        raise ShapeError(f"a tensor of shape {x.shape} has no fan: it needs (out, in, *kernel)")
    field = math.prod(x.shape[2:])
    return x.shape[1] * field, x.shape[0] * field


def uniform_(x: Tensor, a: float = 0.0, b: float = 1.0) -> Tensor:
    """Fill with numbers uniform in [a, b). Returns x, as all functions here."""
    with no_grad():
        return x.copy_(random.uniform(x.shape, a, b, dtype=x.dtype))


def normal_(x: Tensor, mean: float = 0.0, std: float = 1.0) -> Tensor:
    """Fill with normally distributed numbers."""
    with no_grad():
        return x.copy_(random.normal(x.shape, mean, std, dtype=x.dtype))


def constant_(x: Tensor, value: float) -> Tensor:
    """Fill with one number."""
    with no_grad():
        return x.fill_(value)


def zeros_(x: Tensor) -> Tensor:
    """Fill with 0."""
    return constant_(x, 0.0)


def ones_(x: Tensor) -> Tensor:
    """Fill with 1."""
    return constant_(x, 1.0)


def xavier_uniform_(x: Tensor, gain: float = 1.0) -> Tensor:
    """Uniform in +-gain * sqrt(6 / (fan_in + fan_out)) (Glorot & Bengio 2010)."""
    bound = gain * math.sqrt(6 / sum(fans(x)))
    return uniform_(x, -bound, bound)


def xavier_normal_(x: Tensor, gain: float = 1.0) -> Tensor:
    """Normal with deviation gain * sqrt(2 / (fan_in + fan_out)) (Glorot & Bengio 2010)."""
    return normal_(x, 0.0, gain * math.sqrt(2 / sum(fans(x))))


Fan = OneOf["fan_in", "fan_out"]


def kaiming_uniform_(x: Tensor, a: float = 0.0, mode: Fan = "fan_in", nonlinearity: str = "leaky_relu") -> Tensor:
    """Uniform in +-gain * sqrt(3 / fan) (He et al. 2015). a: the leaky ReLU's slope."""
    bound = math.sqrt(3) * _kaiming_std(x, a, mode, nonlinearity)
    return uniform_(x, -bound, bound)


def kaiming_normal_(x: Tensor, a: float = 0.0, mode: Fan = "fan_in", nonlinearity: str = "leaky_relu") -> Tensor:
    """Normal with deviation gain / sqrt(fan) (He et al. 2015). a: the leaky ReLU's slope."""
    return normal_(x, 0.0, _kaiming_std(x, a, mode, nonlinearity))


def _kaiming_std(x: Tensor, a: float, mode: Fan, nonlinearity: str) -> float:
    if mode not in ("fan_in", "fan_out"):
        raise ArgumentError(f"mode={mode!r}: expected 'fan_in' or 'fan_out'")
    fan = fans(x)[mode == "fan_out"]
    # a layer without inputs has nothing to draw
    return calculate_gain(nonlinearity, a) / math.sqrt(fan) if fan else 0.0


def default_(weight: Tensor, bias: Tensor | None) -> None:
    """What PyTorch's Linear and Conv2d start with: both uniform in +-1/sqrt(fan_in).

    For the weight this is kaiming_uniform_(a=sqrt(5)), by history rather than by theory.
    """
    kaiming_uniform_(weight, a=math.sqrt(5))
    if bias is None:
        return
    fan_in, _ = fans(weight)
    bound = 1 / math.sqrt(fan_in) if fan_in else 0.0
    uniform_(bias, -bound, bound)
