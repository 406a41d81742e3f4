"""Joined arrays: NumPy's results to the bit, however many parts there are and wherever they meet."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import graphc as gc

SIZES = [(500, 500), (16, 48), (31, 70), (1, 400), (0, 65, 0), (33, 64, 3, 90), (5, 0, 2, 1, 9), (20,) * 20]
SPECIAL = [np.nan, -0.0, np.inf, -np.inf]


def arrays(sizes: tuple[int, ...], axis: int, ndim: int, dtype: Any) -> list[Any]:
    rng = np.random.default_rng(len(sizes))
    shapes = [tuple(size if d == axis else 3 + d for d in range(ndim)) for size in sizes]
    found = [(100 * rng.normal(size=shape)).astype(dtype) for shape in shapes]
    if np.dtype(dtype).kind == "f":
        for x in found:
            x.reshape(-1)[: len(SPECIAL)] = SPECIAL[: x.size]
    return found


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.int64, np.bool_])
@pytest.mark.parametrize("sizes", SIZES, ids=str)
@pytest.mark.parametrize(("axis", "ndim"), [(0, 1), (0, 2), (1, 2), (1, 3)])
def test_joined_arrays_are_numpy_s(sizes: tuple[int, ...], axis: int, ndim: int, dtype: Any) -> None:
    xs = arrays(sizes, axis, ndim, dtype)
    got = gc.compile(lambda *x: gc.concat(x, axis=axis))(*xs).numpy()
    want = np.concatenate(xs, axis)
    assert got.dtype == want.dtype
    assert got.shape == want.shape
    assert got.tobytes() == want.tobytes()


@pytest.mark.parametrize("sizes", SIZES, ids=str)
def test_what_is_computed_of_joined_arrays(sizes: tuple[int, ...]) -> None:
    """No element meets a part that isn't its own: nan of another one doesn't show."""
    xs = arrays(sizes, 1, 2, np.float32)
    want = np.concatenate(xs, 1) * np.float32(2) - np.float32(1)
    got = gc.compile(lambda *x: gc.concat(x, axis=1) * 2 - 1)(*xs).numpy()
    np.testing.assert_array_equal(got, want)


@pytest.mark.parametrize("count", [2, 4, 9])
def test_threads_change_nothing(count: int) -> None:
    xs = arrays(tuple(50_001 + 7 * i for i in range(count)), 0, 1, np.float32)
    want = np.concatenate(xs)
    before = gc.get_num_threads()
    try:
        for threads in (1, 2, 5):
            gc.set_num_threads(threads)
            assert gc.compile(lambda *x: gc.concat(x))(*xs).numpy().tobytes() == want.tobytes()
    finally:
        gc.set_num_threads(before)
