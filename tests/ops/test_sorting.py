"""Sorting by ranks: stable, nan last, differentiable."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from graphc.errors import AxisError
from graphc.ops.sorting import argsort, ranks, sort
from graphc.tensor import as_tensor

numbers = st.sampled_from([0.0, 1.0, -1.0, 2.5, np.inf, -np.inf, np.nan, 1e-300])


@settings(max_examples=150, deadline=None)
@given(arrays.arrays(np.float64, arrays.array_shapes(min_dims=1, max_dims=3, max_side=6), elements=numbers), st.data())
def test_sort_argsort_and_ranks_are_numpys(x: Any, data: Any) -> None:
    axis = data.draw(st.integers(-x.ndim, x.ndim - 1))
    order = np.argsort(x, axis, kind="stable")
    np.testing.assert_array_equal(argsort(as_tensor(x), axis).numpy(), order)
    np.testing.assert_array_equal(ranks(as_tensor(x), axis).numpy(), np.argsort(order, axis, kind="stable"))
    np.testing.assert_array_equal(sort(as_tensor(x), axis).numpy(), np.sort(x, axis))
    np.testing.assert_array_equal(sort(as_tensor(x), axis, True).numpy(), np.flip(np.sort(x, axis), axis))


def test_gradient_goes_back_to_where_each_element_came_from() -> None:
    x = as_tensor(np.array([3.0, 1.0, 2.0, 1.0]))
    x.requires_grad = True
    sort(x).backward(as_tensor(np.array([10.0, 20.0, 30.0, 40.0])))
    assert x.grad is not None
    np.testing.assert_array_equal(x.grad.numpy(), [40, 10, 30, 20])


def test_integers_and_booleans_sort() -> None:
    np.testing.assert_array_equal(sort(as_tensor(np.array([3, -1, 2]))).numpy(), [-1, 2, 3])
    np.testing.assert_array_equal(sort(as_tensor(np.array([True, False, True]))).numpy(), [False, True, True])


def test_a_wrong_axis_is_named() -> None:
    with pytest.raises(AxisError, match="axis 1"):
        sort(as_tensor(np.zeros(3)), 1)
