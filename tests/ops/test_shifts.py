"""roll, diff, tile and repeat against NumPy's, eager and compiled, and their derivatives."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import graphc as gc
from graphc.errors import AxisError, ShapeError

X = np.random.default_rng(0).normal(size=(4, 5, 3))


def same(f: Any, want: np.ndarray, x: np.ndarray = X) -> None:
    """Eager and compiled give NumPy's array, exactly."""
    for call in (f, gc.compile(f)):
        got = call(gc.asarray(x)).numpy()
        assert got.dtype == want.dtype
        np.testing.assert_array_equal(got, want)


@pytest.mark.parametrize(
    ("shift", "axis"),
    [(0, 0), (1, 0), (-1, 1), (2, -1), (7, 1), (-13, 2), (4, None), (-61, None), ((1, -2), (0, 1)), ((1, 2), (1, 1)),
     (2, (0, 2)), (np.int64(3), 1)],
)  # fmt: skip
def test_roll(shift: Any, axis: Any) -> None:
    same(lambda x: gc.roll(x, shift, axis), np.roll(X, shift, axis))


def test_roll_of_little() -> None:
    for shape in ((0, 3), (1, 4), ()):
        x = np.ones(shape)
        same(lambda x: gc.roll(x, 1), np.roll(x, 1), x)
    with pytest.raises(ShapeError, match="2 shifts for 1 axes"):
        gc.roll(gc.asarray(X), (1, 2), 0)
    with pytest.raises(AxisError):
        gc.roll(gc.asarray(X), 1, 3)


@pytest.mark.parametrize("axis", [-1, 0, 1])
@pytest.mark.parametrize("n", [0, 1, 2, 4, 6])
def test_diff(n: int, axis: int) -> None:
    same(lambda x: gc.diff(x, n, axis), np.diff(X, n, axis))


def test_diff_of_other_types() -> None:
    flags = X > 0
    same(gc.diff, np.diff(flags), flags)
    whole = (X * 10).astype(np.int64)
    same(lambda x: gc.diff(x, axis=0), np.diff(whole, axis=0), whole)
    with pytest.raises(ShapeError, match="0 times or more"):
        gc.diff(gc.asarray(X), -1)


@pytest.mark.parametrize("axis", [None, 0, 1, -1])
@pytest.mark.parametrize("count", [0, 1, 3])
def test_repeat(count: int, axis: int | None) -> None:
    same(lambda x: gc.repeat(x, count, axis), np.repeat(X, count, axis))


@pytest.mark.parametrize("counts", [0, 1, 3, (2, 1), (1, 2, 3), (2, 1, 1, 2), ()])
def test_tile(counts: Any) -> None:
    same(lambda x: gc.tile(x, counts), np.tile(X, counts))
    same(lambda x: gc.tile(x, counts), np.tile(X[0, 0, 0], counts), X[0, 0, 0])


def test_derivatives() -> None:
    x = gc.asarray(X)
    for f in (
        lambda x: gc.roll(x, 2, 1) * x,
        lambda x: gc.diff(x, 2, 0) ** 2,
        lambda x: gc.repeat(x, 2, 1) ** 2,
        lambda x: gc.tile(x, (2, 1, 3)) ** 2,
    ):
        assert gc.gradcheck(f, [gc.tensor(X, requires_grad=True)])
        want = gc.grad(lambda x, f=f: f(x).sum())(x)
        got = gc.compile(gc.grad(lambda x, f=f: f(x).sum()))(x)
        np.testing.assert_allclose(got.numpy(), want.numpy(), rtol=1e-12)
