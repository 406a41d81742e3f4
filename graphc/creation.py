"""Arrays from nothing or from other data, with the array API's names.

Python floats become float32 (`graphc.types.DEFAULT_FLOAT`) and ints int64, as in PyTorch; NumPy arrays keep
their dtype.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from graphc.dispatch import dtype_of_value
from graphc.errors import DeviceError, TraceError
from graphc.interpreter import Operand, active
from graphc.ops import elementwise as ew
from graphc.ops.movement import broadcast_to, iota
from graphc.tensor import Tensor, as_tensor, wrap
from graphc.types import DEFAULT_FLOAT, DType, Scalar, dtype_of, promote, promote_scalar, scalar_dtype

ShapeLike = int | Sequence[int]


def _new(array: npt.NDArray[Any]) -> Tensor:
    return active().created(wrap(array))


def _filled(shape: ShapeLike, value: Scalar, dtype: DType) -> Tensor:
    """One number everywhere. In a traced function a number that is spread, not an array that is kept and read."""
    if active().computes:
        sizes, zero = _shape(shape), type(value) is int and value == 0  # a float's zero may be -0
        return _new(np.zeros(sizes, dtype.numpy) if zero else np.full(sizes, value, dtype.numpy))
    return ew.copy(broadcast_to(_new(np.full((), value, dtype.numpy)), _shape(shape)))  # type: ignore[no-any-return]


def _shape(shape: ShapeLike) -> tuple[int, ...]:
    return (shape,) if isinstance(shape, int) else tuple(int(n) for n in shape)


def tensor(data: Any, dtype: Any = None, device: str | None = None, requires_grad: bool = False) -> Tensor:
    """A new tensor with a copy of `data` (numbers, nested lists, an array or a tensor), without history.

    device: "cpu" (the default). Raises DTypeError for elements that aren't numbers.
    """
    if device not in (None, "cpu"):
        mend = "make it on the CPU, and compile for 'cuda'" if device == "cuda" else "tensors are made on the 'cpu'"
        raise DeviceError(f"tensor: device {device!r} isn't supported here; {mend}.")
    if isinstance(data, Tensor):
        result = ew.copy(data.detach())
    elif isinstance(data, (np.ndarray, np.generic)):
        result = as_tensor(np.array(data))
    elif (together := _together(data, dtype)) is not None:
        result = together
    else:
        array = np.array(data, dtype=None if dtype is None else dtype_of(dtype).numpy)
        if dtype is None and array.dtype == np.float64:
            array = array.astype(np.float32)
        result = as_tensor(array)
    if dtype is not None:
        result = ew.astype(result, dtype)
    typed: Tensor = result
    return typed.requires_grad_() if requires_grad else typed


def asarray(data: Any, dtype: Any = None, copy: bool | None = None) -> Tensor:
    """A tensor of `data`, sharing memory where possible (copy=True: never)."""
    together = _together(data, dtype)
    result = as_tensor(data) if together is None else together
    if dtype is not None:
        result = ew.astype(result, dtype)
    return ew.copy(result) if copy else result


def _parts(data: Any) -> Iterator[Any]:
    """What nested lists hold."""
    for x in data:
        if isinstance(x, (list, tuple)):
            yield from _parts(x)
        else:
            yield x


def _together(data: Any, dtype: Any) -> Tensor | None:
    """The numbers of nested lists that hold tensors, without history, in `dtype` or else what they promote to.

    None for anything else. Raises TraceError for tensors without numbers.
    """
    if not isinstance(data, (list, tuple)):
        return None
    parts = list(_parts(data))
    tensors = [x for x in parts if isinstance(x, Tensor)]
    if not tensors:
        return None
    if any(x.traced for x in tensors):
        raise TraceError("a list of tensors that graphc.compile is tracing has no numbers to copy; use graphc.stack.")
    if dtype is None:
        dtype = promote(*(dtype_of_value(x) for x in parts if not isinstance(x, (bool, int, float))))
        for x in parts:
            if isinstance(x, (bool, int, float)):
                dtype = promote_scalar(dtype, x)
    return _new(np.array(_plain(data), dtype=dtype_of(dtype).numpy))


def _plain(data: Any) -> Any:
    """Nested lists with an array in the place of each tensor."""
    if isinstance(data, (list, tuple)):
        return [_plain(x) for x in data]
    return np.asarray(data) if isinstance(data, Tensor) else data


def from_dlpack(x: Any) -> Tensor:
    """A tensor sharing the memory of any object with `__dlpack__` (on the CPU)."""
    return as_tensor(np.from_dlpack(x))


def zeros(shape: ShapeLike, dtype: Any = DEFAULT_FLOAT) -> Tensor:
    """Zeros."""
    return _filled(shape, 0, dtype_of(dtype))


def ones(shape: ShapeLike, dtype: Any = DEFAULT_FLOAT) -> Tensor:
    """Ones."""
    return _filled(shape, 1, dtype_of(dtype))


def full(shape: ShapeLike, fill_value: Scalar, dtype: Any = None) -> Tensor:
    """One number everywhere."""
    return _filled(shape, fill_value, scalar_dtype(fill_value) if dtype is None else dtype_of(dtype))


def empty(shape: ShapeLike, dtype: Any = DEFAULT_FLOAT) -> Tensor:
    """Zeros: graphc never shows uninitialised memory."""
    return zeros(shape, dtype)


def zeros_like(x: Tensor, dtype: Any = None) -> Tensor:
    """Zeros of x's shape and dtype."""
    return zeros(x.shape, x.dtype if dtype is None else dtype)


def ones_like(x: Tensor, dtype: Any = None) -> Tensor:
    """Ones of x's shape and dtype."""
    return ones(x.shape, x.dtype if dtype is None else dtype)


def full_like(x: Tensor, fill_value: Scalar, dtype: Any = None) -> Tensor:
    """One number, in x's shape and dtype."""
    return full(x.shape, fill_value, x.dtype if dtype is None else dtype)


empty_like = zeros_like


def arange(start: Scalar, stop: Scalar | None = None, step: Scalar = 1, dtype: Any = None) -> Tensor:
    """start, start + step, ... below stop; arange(n) counts from 0."""
    if stop is None:
        start, stop = 0, start
    array = np.arange(start, stop, step)
    if dtype is not None:
        array = array.astype(dtype_of(dtype).numpy)
    elif array.dtype == np.float64:
        array = array.astype(np.float32)
    return _new(array)


def linspace(start: Scalar, stop: Scalar, num: int, dtype: Any = DEFAULT_FLOAT) -> Tensor:
    """num evenly spaced numbers from start to stop, both included."""
    return _new(np.linspace(start, stop, num).astype(dtype_of(dtype).numpy))


def eye(rows: int, columns: int | None = None, k: int = 0, dtype: Any = DEFAULT_FLOAT) -> Tensor:
    """Ones on the k-th diagonal, zeros elsewhere."""
    return _new(np.eye(rows, columns, k, dtype_of(dtype).numpy))


def _triangle(x: Operand, k: int, lower: bool) -> Tensor:
    t = as_tensor(x)
    row, column = iota(t.shape[-2:], 0), iota(t.shape[-2:], 1)
    keep = ew.less_equal(column, row + k) if lower else ew.greater_equal(column, row + k)
    return ew.where(keep, t, False if t.dtype.kind == "b" else 0)  # type: ignore[no-any-return]


def tril(x: Operand, k: int = 0) -> Tensor:
    """The lower triangle of the last two dimensions (up to diagonal k); zeros elsewhere."""
    return _triangle(x, k, lower=True)


def triu(x: Operand, k: int = 0) -> Tensor:
    """The upper triangle of the last two dimensions (from diagonal k); zeros elsewhere."""
    return _triangle(x, k, lower=False)
