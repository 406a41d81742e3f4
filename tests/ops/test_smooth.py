"""sigmoid and softplus are written with a choice at 0, which no derivative may notice."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import graphc as gc

# value and the first four derivatives at 0
AT_ZERO = {"sigmoid": (0.5, 0.25, 0.0, -0.125, 0.0), "softplus": (np.log(2.0), 0.5, 0.25, 0.0, -0.125)}


@pytest.mark.parametrize("compiled", [False, True], ids=["eager", "compiled"])
@pytest.mark.parametrize("name", AT_ZERO)
def test_derivatives_at_zero(name: str, compiled: bool) -> None:
    f: Callable[..., Any] = getattr(gc, name)
    for want in AT_ZERO[name]:
        run = gc.compile(f) if compiled else f
        for zero in (0.0, -0.0):
            np.testing.assert_allclose(run(gc.tensor(np.array(zero))).numpy(), want, rtol=1e-14, atol=1e-16)
        f = gc.grad(f)


@pytest.mark.parametrize("name", AT_ZERO)
def test_far_from_zero(name: str) -> None:
    x = gc.tensor(np.array([-np.inf, -800.0, -30.0, 30.0, 800.0, np.inf, np.nan]), requires_grad=True)
    y = getattr(gc, name)(x)
    y.sum().backward()
    assert x.grad is not None
    small = np.exp(-30.0)
    value = y.detach().numpy()
    if name == "sigmoid":
        np.testing.assert_allclose(value, [0, 0, small / (1 + small), 1 / (1 + small), 1, 1, np.nan], rtol=1e-15)
        np.testing.assert_allclose(x.grad.numpy()[1:5], [0, *2 * [small / (1 + small) ** 2], 0], rtol=1e-15)
    else:
        np.testing.assert_allclose(value, [0, 0, np.log1p(small), 30 + small, 800, np.inf, np.nan], rtol=1e-15)
        np.testing.assert_allclose(x.grad.numpy()[:6], [0, 0, small / (1 + small), 1 / (1 + small), 1, 1], rtol=1e-15)
