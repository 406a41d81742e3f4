"""Pooling and its derivatives against PyTorch: geometry by hypothesis, ties, nan, and its errors."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from graphc.errors import DTypeError, ShapeError
from graphc.ir.expr import Affine, Read
from graphc.ops.pooling import MAX_POOL_SCATTER, avg_pool, max_pool
from graphc.tensor import Tensor, as_tensor
from graphc.types import TensorType, float32
from tests.pytorch import pytorch


@st.composite
def geometries(draw: Any, dilated: bool = True) -> dict[str, Any]:
    d = draw(st.integers(1, 3))
    window = draw(st.lists(st.integers(1, 4), min_size=d, max_size=d))
    stride = draw(st.lists(st.integers(1, 4), min_size=d, max_size=d))
    padding = [draw(st.integers(0, k // 2)) for k in window]
    dilation = draw(st.lists(st.integers(1, 2), min_size=d, max_size=d)) if dilated else [1] * d
    extra = draw(st.lists(st.integers(0, 5), min_size=d, max_size=d))
    spatial = [max(1, (k - 1) * r + 1 - 2 * p) + e for k, r, p, e in zip(window, dilation, padding, extra, strict=True)]
    options = {"window": tuple(window), "stride": tuple(stride), "padding": tuple(padding)}
    if dilated:
        options["dilation"] = tuple(dilation)
    return {"shape": (2, 2, *spatial), **options}


def leaf(values: Any) -> Tensor:
    x = as_tensor(values)
    x.requires_grad = True
    return x


@settings(max_examples=100, deadline=None)
@given(geometries(), st.booleans())
def test_max_pool_and_gradient_are_pytorchs_also_at_ties(geometry: dict[str, Any], ceil_mode: bool) -> None:
    torch = pytorch()
    rng = np.random.default_rng(0)
    x = leaf(rng.integers(0, 4, geometry.pop("shape")).astype(np.float64))
    y = max_pool(x, **geometry, ceil_mode=ceil_mode)
    tx = torch.tensor(x.detach().numpy(), requires_grad=True)
    names = ("max_pool1d", "max_pool2d", "max_pool3d")
    ty = getattr(torch.nn.functional, names[x.ndim - 3])(tx, *geometry.values(), ceil_mode)
    np.testing.assert_array_equal(y.detach().numpy(), ty.detach().numpy())
    # Dilated windows can hold padding alone; there PyTorch hands the gradient to some element, and we to none.
    assume(np.isfinite(y.detach().numpy()).all())
    g = rng.normal(size=y.shape)
    y.backward(as_tensor(g))
    ty.backward(torch.tensor(g))
    assert x.grad is not None
    np.testing.assert_allclose(x.grad.numpy(), tx.grad.numpy(), rtol=1e-13, atol=1e-13)


@settings(max_examples=60, deadline=None)
@given(geometries(dilated=False), st.booleans())
def test_avg_pool_and_gradient_are_pytorchs(geometry: dict[str, Any], include: bool) -> None:
    torch = pytorch()
    rng = np.random.default_rng(0)
    shape = geometry.pop("shape")
    assume(all(n >= k for n, k in zip(shape[2:], geometry["window"], strict=True)))  # PyTorch asks for it in 3-d
    x = leaf(rng.normal(size=shape))
    y = avg_pool(x, **geometry, count_include_pad=include)
    tx = torch.tensor(x.detach().numpy(), requires_grad=True)
    names = ("avg_pool1d", "avg_pool2d", "avg_pool3d")
    function = getattr(torch.nn.functional, names[x.ndim - 3])
    ty = function(tx, *geometry.values(), count_include_pad=include)
    g = rng.normal(size=y.shape)
    y.backward(as_tensor(g))
    ty.backward(torch.tensor(g))
    assert x.grad is not None
    np.testing.assert_allclose(y.detach().numpy(), ty.detach().numpy(), rtol=1e-12, atol=1e-13)
    np.testing.assert_allclose(x.grad.numpy(), tx.grad.numpy(), rtol=1e-12, atol=1e-13)


def test_nan_is_the_maximum_and_takes_the_gradient() -> None:
    x = leaf(np.array([[[1.0, np.nan, 5.0, np.nan, 2.0, 3.0]]]))
    y = max_pool(x, 3)
    np.testing.assert_array_equal(y.detach().numpy(), [[[np.nan, np.nan]]])
    y.backward(as_tensor(np.array([[[10.0, 20.0]]])))
    assert x.grad is not None
    np.testing.assert_array_equal(x.grad.numpy(), [[[0, 10, 0, 20, 0, 0]]])


def test_padding_never_wins_against_minus_infinity() -> None:
    x = leaf(np.full((1, 1, 4), -np.inf))
    max_pool(x, 2, padding=1).backward(as_tensor(np.array([[[1.0, 2.0, 3.0]]])))
    assert x.grad is not None
    np.testing.assert_array_equal(x.grad.numpy(), [[[1, 2, 0, 3]]])


def test_large_windows_are_pooled_axis_by_axis_with_the_same_ties() -> None:
    torch = pytorch()
    rng = np.random.default_rng(0)
    for window, stride, padding in (((7, 7), (3, 2), (3, 3)), ((5, 4), (1, 4), (0, 2)), ((3, 9), (3, 9), (1, 0))):
        x = leaf(rng.integers(0, 6, (2, 2, 15, 18)).astype(np.float64))
        y = max_pool(x, window, stride, padding)
        g = rng.normal(size=y.shape)
        y.backward(as_tensor(g))
        tx = torch.tensor(x.detach().numpy(), requires_grad=True)
        ty = torch.nn.functional.max_pool2d(tx, window, stride, padding)
        ty.backward(torch.tensor(g))
        np.testing.assert_array_equal(y.detach().numpy(), ty.detach().numpy())
        assert x.grad is not None
        np.testing.assert_allclose(x.grad.numpy(), tx.grad.numpy(), rtol=1e-13, atol=1e-13)


def test_integers_pool() -> None:
    y = max_pool(as_tensor(np.array([[[3, -7, -9, -8]]])), 2, padding=((1, 1),), stride=3)
    np.testing.assert_array_equal(y.numpy(), [[[3, -8]]])


@pytest.mark.parametrize(
    ("shape", "options", "message"),
    [
        ((2, 4), {"window": 2}, r"must be \(batch, channels, \*spatial\)"),
        ((1, 1, 3), {"window": 4}, "larger than the padded input"),
        ((1, 1, 3), {"window": 2, "padding": 2}, "smaller than the window"),
        ((1, 1, 3), {"window": (2, 2)}, "window=.* has 2 entries"),
        ((1, 1, 3), {"window": 2, "stride": 0}, "at least 1"),
    ],
)
def test_errors_teach(shape: tuple[int, ...], options: dict[str, Any], message: str) -> None:
    with pytest.raises(ShapeError, match=message):
        max_pool(as_tensor(np.ones(shape)), **options)


def test_means_of_integers_are_refused() -> None:
    with pytest.raises(DTypeError, match="astype"):
        avg_pool(as_tensor(np.ones((1, 1, 4), np.int64)), 2)


def test_scatter_of_windows_side_by_side_sums_nothing() -> None:
    """LeNet's pool: one candidate for each element, an affine target, no division, no reduction."""
    attrs = {"window": (2, 2), "stride": (2, 2), "padding": ((0, 0), (0, 0)), "dilation": (1, 1)}
    g, x = TensorType((4, 3, 5, 6), float32), TensorType((4, 3, 10, 12), float32)
    compute = MAX_POOL_SCATTER.body(g, x, **attrs)  # type: ignore[misc]
    assert compute.reduce == ()
    assert compute.reducer is None
    assert all(isinstance(t, Affine) for t in compute.target)
    routed = compute.value.args[1]  # type: ignore[union-attr]
    assert isinstance(routed, Read)
    assert routed.mask is None
    assert all(isinstance(i, Affine) for i in routed.index)
