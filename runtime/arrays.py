"""NumPy's functions, but products of matrices run on graphc's own threads, and large results lie in a heap.

NumPy's library waits for all of its threads at each product: where other work has a core, such as a compilation in the
background, a short product was seen to take many times as long. Ours (runtime/cpu/gemm.py) waits for nobody.
"""

from __future__ import annotations

import ctypes
import math
from collections.abc import Callable, Sequence
from functools import cache
from typing import Any

import numpy as np
import numpy.typing as npt

from .cpu.library import library
from .heap import Heap

Array = npt.NDArray[Any]

LEAST = 2**16  # multiplications; NumPy is done with fewer before another function is called
_KINDS = {"f": ("graphc_gemm_f32", ctypes.c_float), "d": ("graphc_gemm_f64", ctypes.c_double)}


@cache
def _product(kind: str) -> Callable[..., None]:
    """The library's product of float32 or float64 matrices. The interpreter lock is free while it runs."""
    name, number = _KINDS[kind]
    size, place = ctypes.c_int64, ctypes.c_void_p
    taken = (*[size] * 5, place, size, place, size, number, place, *[size] * 5)
    return ctypes.CFUNCTYPE(None, *taken)(library().symbols[name])


def _stored(x: Array) -> tuple[int, int] | None:
    """(whether matrices are stored transposed, elements from one row to the next there); None if BLAS can't read it."""
    (rows, columns), (down, across), item = x.shape[-2:], x.strides[-2:], x.itemsize
    if across == item and down >= columns * item and down % item == 0:
        return 0, down // item
    if down == item and across >= rows * item and across % item == 0:
        return 1, across // item
    return None


def _step(x: Array, batch: Sequence[int]) -> int | None:
    """Elements from each matrix to the next, where x is broadcast to `batch`; None if that isn't one number."""
    strides = np.broadcast_to(x, (*batch, *x.shape[-2:])).strides[: len(batch)]
    step, whole = 0, 1
    for extent, stride in zip(reversed(batch), reversed(strides), strict=True):
        if extent == 1:
            continue
        if whole == 1:
            step = stride
        elif stride != step * whole:
            return None
        whole *= extent
    return step // x.itemsize if step >= 0 and step % x.itemsize == 0 else None


def matmul(a: Array, b: Array, empty: Callable[[tuple[int, ...], np.dtype[Any]], Array] = np.empty) -> Any:
    """numpy.matmul of arrays of at least two dimensions each. empty: makes the array for a large result."""
    kind = a.dtype.char
    m, k, n = *a.shape[-2:], b.shape[-1]
    if kind not in _KINDS or b.dtype.char != kind:
        return np.matmul(a, b)
    batch = np.broadcast_shapes(a.shape[:-2], b.shape[:-2])
    if math.prod(batch) * m * n * k < LEAST or not (a.flags.aligned and b.flags.aligned):
        return np.matmul(a, b)
    operands: list[tuple[Array, int, int, int]] = []
    for x in (a, b):
        stored, step = _stored(x), _step(x, batch)
        if stored is None or step is None:
            x = np.ascontiguousarray(x)
            stored, step = (0, x.shape[-1]), _step(x, batch)
        if step is None:  # broadcast along some of several dimensions
            return np.matmul(a, b)
        operands.append((x, *stored, step))
    (a, turned_a, row_a, step_a), (b, turned_b, row_b, step_b) = operands
    c = empty((*batch, m, n), a.dtype)
    _product(kind)(
        turned_a, turned_b, m, n, k, a.ctypes.data, row_a, b.ctypes.data, row_b, 0.0, c.ctypes.data, n,
        math.prod(batch), step_a, step_b, m * n,
    )  # fmt: skip
    return c


class Namespace:
    """The module numpy, but for what is defined here, which takes memory from a heap."""

    def __init__(self, heap: Heap) -> None:
        self._heap = heap

    def matmul(self, a: Array, b: Array) -> Any:
        """The product of arrays of shapes (..., m, k) and (..., k, n), of one dtype."""
        return matmul(a, b, self._heap.empty)

    def full(self, shape: tuple[int, ...], value: Any, dtype: np.dtype[Any]) -> Array:
        """An array with `value` everywhere."""
        made = self._heap.empty(shape, dtype)
        made.fill(value)
        return made

    def zeros(self, shape: tuple[int, ...], dtype: np.dtype[Any]) -> Array:
        """An array of zeros."""
        return self.full(shape, 0, dtype)

    def empty_like(self, x: Array) -> Array:
        """An uninitialised array in C order, of the shape and dtype of x."""
        return self._heap.empty(x.shape, x.dtype)

    def __getattr__(self, name: str) -> Any:
        found = getattr(np, name)
        setattr(self, name, found)  # the next time it is found at once
        return found
