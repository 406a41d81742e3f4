"""Sums and copies of arrays far beyond the caches: nothing to win but the memory's speed."""

from __future__ import annotations

from typing import Any

import numpy as np

from tests.bench.work import Run, Work


def total(xp: Any, x: Any) -> Any:
    return x.sum()


def mean(xp: Any, x: Any) -> Any:
    return x.mean()


def largest(xp: Any, x: Any) -> Any:
    return x.max()


def add(xp: Any, x: Any, y: Any) -> Any:
    return x + y


def axpy(xp: Any, x: Any, y: Any) -> Any:
    return 2.5 * x + y


def copy(xp: Any, x: Any) -> Any:
    return xp.copy(x)  # graphc and PyTorch call it clone


def transposed(xp: Any, x: Any) -> Any:
    """A transposed copy; NumPy and PyTorch would only hand out a view, or results in the operand's order."""
    return xp.copy(x.T)


def cast(xp: Any, x: Any) -> Any:
    return xp.astype(x, xp.float32 if str(x.dtype).endswith("float64") else xp.float64)


def join(xp: Any, x: Any, y: Any) -> Any:
    return xp.concat((x, y))


def _clone(library: Any, x: Any) -> Run:
    run = library.function(lambda x: x.clone())
    return lambda: run(x)


def _transposed_clone(library: Any, x: Any) -> Run:
    run = library.function(lambda x: x.T.clone())
    return lambda: run(x)


def _contiguous(library: Any, x: Any) -> Run:
    run = library.function(lambda x: x.T.contiguous())
    return lambda: run(x)


def _ascontiguous(library: Any, x: Any) -> Run:
    return lambda: library.xp.ascontiguousarray(x.T)


def _arrays(count: int, *shape: int) -> Any:
    return lambda rng, dtype: [rng.random(shape).astype(dtype) for _ in range(count)]


def _works(rows: int, columns: int) -> list[Work]:
    n = rows * columns
    half = n // 2
    found = []
    for dtype in ("float32", "float64"):
        size = np.dtype(dtype).itemsize * n
        clones = {"graphc": _clone, "torch": _clone, "torch.compile": _clone, "pytensor": None}
        turns = {
            "graphc": _transposed_clone, "numpy": _ascontiguous, "torch": _contiguous, "torch.compile": _contiguous,
            "pytensor": None,
        }  # fmt: skip
        no_pytensor = {"pytensor": None}
        found += [
            Work(f"sum {dtype}", "plain", _arrays(1, n), total, dtype=dtype, bytes=size),
            Work(f"mean {dtype}", "plain", _arrays(1, n), mean, dtype=dtype, bytes=size),
            Work(f"max {dtype}", "plain", _arrays(1, n), largest, dtype=dtype, bytes=size),
            Work(f"copy {dtype}", "plain", _arrays(1, n), copy, own=clones, dtype=dtype, bytes=2 * size),
            Work(f"x + y {dtype}", "plain", _arrays(2, n), add, dtype=dtype, bytes=3 * size),
            Work(f"2.5 x + y {dtype}", "plain", _arrays(2, n), axpy, dtype=dtype, bytes=3 * size),
            Work(
                f"transposed {dtype}",
                "plain",
                _arrays(1, rows, columns),
                transposed,
                own=turns,
                dtype=dtype,
                bytes=2 * size,
            ),
            Work(f"cast from {dtype}", "plain", _arrays(1, n), cast, own=no_pytensor, dtype=dtype, bytes=12 * n),
            Work(f"concat {dtype}", "plain", _arrays(2, half), join, own=no_pytensor, dtype=dtype, bytes=2 * size),
        ]
    return found


WORKS = _works(2048, 2048)
SMALL = _works(37, 61)
