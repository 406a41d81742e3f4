"""Running sums and products, and products of all elements: against NumPy, eager and compiled, with derivatives."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import graphc as gc
from graphc.errors import AxisError

RNG = np.random.default_rng(0)


def check(f: Callable[[Any], Any], x: np.ndarray, want: np.ndarray, rtol: float = 1e-12) -> None:
    for call in (f, gc.compile(f)):
        got = call(gc.asarray(x)).numpy()
        assert (got.dtype, got.shape) == (want.dtype, want.shape)
        np.testing.assert_allclose(got, want, rtol=rtol, atol=rtol)


@pytest.mark.parametrize(
    ("shape", "axis"),
    [((7,), 0), ((7,), None), ((32, 2), 0), ((33, 2), 0), ((3, 100), 1), ((2, 1025, 3), 1), ((5000,), 0),
     ((4, 5), None), ((3, 0), 1), ((0,), 0), ((2, 64), -1)],
)  # fmt: skip
def test_running_sums(shape: tuple[int, ...], axis: int | None) -> None:
    x = RNG.normal(size=shape)
    check(lambda x: gc.cumulative_sum(x, axis), x, np.cumsum(x, axis), 1e-11)
    whole = (x * 10).astype(np.int32)
    check(lambda x: gc.cumsum(x, axis), whole, np.cumsum(whole, axis, dtype=np.int64))
    flags = x > 0
    check(lambda x: gc.cumsum(x, axis), flags, np.cumsum(flags, axis, dtype=np.int64))


def test_an_initial_zero() -> None:
    x = RNG.normal(size=(3, 70))
    want = np.cumulative_sum(x, axis=1, include_initial=True)
    check(lambda x: gc.cumulative_sum(x, 1, include_initial=True), x, want)


def test_infinities_reach_only_what_comes_after() -> None:
    x = np.ones(200, np.float32)
    x[70], x[150] = np.inf, np.nan
    check(lambda x: gc.cumsum(x), x, np.cumsum(x))


def test_sums_of_blocks_round_no_worse() -> None:
    """float32 of a million elements: nearer to the exact sums than one after the other."""
    x = RNG.random(1_000_000).astype(np.float32)
    exact = np.cumsum(x.astype(np.float64))
    got = gc.compile(lambda x: gc.cumsum(x))(gc.asarray(x)).numpy()
    assert np.abs(got - exact).max() < np.abs(np.cumsum(x) - exact).max()
    assert np.abs(got / exact - 1).max() < 1e-6


@pytest.mark.parametrize("n", [1, 2, 5, 8, 13])
def test_running_products(n: int) -> None:
    x = RNG.normal(size=(2, n, 3))
    check(lambda x: gc.cumulative_prod(x, 1), x, np.cumprod(x, 1))
    whole = RNG.integers(-3, 4, (n,)).astype(np.int32)
    check(lambda x: gc.cumprod(x), whole, np.cumprod(whole, dtype=np.int64))


@pytest.mark.parametrize("keepdims", [False, True])
@pytest.mark.parametrize("axis", [None, 0, 1, -1, (0, 2), ()])
def test_products(axis: Any, keepdims: bool) -> None:
    for shape in ((2, 7, 3), (1, 1, 1), (2, 0, 3)):
        x = RNG.normal(size=shape)
        check(lambda x: gc.prod(x, axis, keepdims), x, np.prod(x, axis, keepdims=keepdims))
    whole = RNG.integers(-3, 4, (2, 3, 2)).astype(np.int32)
    check(lambda x: gc.prod(x, axis, keepdims), whole, np.prod(whole, axis, dtype=np.int64, keepdims=keepdims))


def test_derivatives() -> None:
    x = RNG.normal(size=(3, 40))
    zeros = np.array([2.0, 0.0, -1.5, 3.0, 0.5])
    for f, at in (
        (lambda x: gc.cumsum(x, 1) ** 2, x),
        (lambda x: gc.cumsum(x, 0) * x, x),
        (lambda x: gc.cumprod(x), zeros),
        (lambda x: gc.prod(x) * x, zeros),
    ):
        assert gc.gradcheck(f, [gc.tensor(at, requires_grad=True)])
        gradient = gc.grad(lambda x, f=f: f(x).sum())
        want = gradient(gc.asarray(at)).numpy()
        np.testing.assert_allclose(gc.compile(gradient)(gc.asarray(at)).numpy(), want, rtol=1e-11)
    tangent = gc.jvp(lambda x: gc.cumsum(x), (gc.asarray(zeros),), (gc.asarray(zeros + 1),))[1]
    np.testing.assert_allclose(tangent.numpy(), np.cumsum(zeros + 1))


def test_axes_are_checked() -> None:
    for f in (gc.cumsum, gc.cumprod, gc.prod):
        with pytest.raises(AxisError):
            f(gc.asarray(np.ones((2, 3))), 2)
