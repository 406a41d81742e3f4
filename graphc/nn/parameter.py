"""Parameter: a tensor that a Module trains."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from graphc.records import no_grad
from graphc.tensor import Tensor, as_tensor
from graphc.types import DEFAULT_FLOAT, Scalar, Shape, dtype_of


class Parameter(Tensor):
    """A leaf that requires a gradient; assigned as an attribute of a Module it is one of its parameters.

    data: a tensor (whose memory it shares) or anything that makes one. Raises AutodiffError for integers, unless
    requires_grad is False.
    """

    __slots__ = ()

    def __init__(self, data: Tensor | npt.NDArray[Any] | Scalar | Sequence[Any], requires_grad: bool = True) -> None:
        super().__init__(as_tensor(data).detach(), requires_grad)

    def __repr__(self) -> str:
        return f"Parameter containing:\n{super().__repr__()}"


def unset(shape: Shape, dtype: Any = None) -> Parameter:
    """A parameter with room for its elements (float32 by default), which init is about to write."""
    return Parameter(np.empty(shape, dtype_of(dtype or DEFAULT_FLOAT).numpy))


def clear_grad(x: Tensor, set_to_none: bool = True) -> None:
    """Drop a tensor's gradient, or fill it with zeros."""
    if set_to_none:
        x.grad = None
    elif x.grad is not None:
        with no_grad():
            x.grad.zero_()


def convert_(x: Tensor, target: Any) -> None:
    """Put a leaf's elements, and its gradient's, on another device or into another dtype. It stays the same object."""
    moved, grad = x.detach().to(target), x.grad
    x.grad = None
    x._data = moved._data
    x._view = x._version = None  # what it shared memory with keeps the old elements
    if grad is not None:
        x.grad = grad.to(target)
