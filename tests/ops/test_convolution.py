"""Convolution and its derivatives against PyTorch, its geometry by hypothesis, and its errors."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from graphc.errors import DTypeError, ShapeError
from graphc.ir.expr import Affine, Call, Read
from graphc.ops import correlation
from graphc.ops.convolution import CONV, conv, conv_transpose
from graphc.tensor import Tensor, as_tensor
from graphc.types import TensorType, float32
from tests.pytorch import pytorch


@st.composite
def geometries(draw: Any) -> dict[str, Any]:
    """A convolution whose kernel fits; sizes small, every attribute free."""
    d = draw(st.integers(1, 3))
    groups, channels, features = draw(st.integers(1, 3)), draw(st.integers(1, 3)), draw(st.integers(1, 3))
    many = st.lists(st.integers(1, 3), min_size=d, max_size=d)
    kernel, stride, dilation = draw(many), draw(many), draw(many)
    padding = draw(st.lists(st.integers(0, 2), min_size=d, max_size=d))
    extra = draw(st.lists(st.integers(0, 4), min_size=d, max_size=d))
    spatial = [max(1, (k - 1) * r + 1 - 2 * p) + e for k, r, p, e in zip(kernel, dilation, padding, extra, strict=True)]
    return {
        "x": (draw(st.integers(1, 3)), groups * channels, *spatial),
        "w": (groups * features, channels, *kernel),
        "stride": tuple(stride),
        "padding": tuple(padding),
        "dilation": tuple(dilation),
        "groups": groups,
    }


def leaf(rng: np.random.Generator, shape: tuple[int, ...]) -> Tensor:
    x = as_tensor(rng.normal(size=shape))
    x.requires_grad = True
    return x


@settings(max_examples=60, deadline=None)
@given(geometries())
def test_conv_and_gradients_are_pytorchs(geometry: dict[str, Any]) -> None:
    torch = pytorch()
    rng = np.random.default_rng(0)
    x, w = leaf(rng, geometry.pop("x")), leaf(rng, geometry.pop("w"))
    y = conv(x, w, **geometry)
    g = rng.normal(size=y.shape)
    y.backward(as_tensor(g))
    tx, tw = (torch.tensor(v.detach().numpy(), requires_grad=True) for v in (x, w))
    function = (torch.conv1d, torch.conv2d, torch.conv3d)[x.ndim - 3]
    ty = function(tx, tw, None, *geometry.values())
    ty.backward(torch.tensor(g))
    for ours, theirs in ((y.detach(), ty.detach()), (x.grad, tx.grad), (w.grad, tw.grad)):
        assert ours is not None
        np.testing.assert_allclose(ours.numpy(), theirs.numpy(), rtol=1e-11, atol=1e-11)


@settings(max_examples=50, deadline=None)
@given(geometries(), st.integers(0, 2))
def test_transposed_convolution_is_pytorchs(geometry: dict[str, Any], extra: int) -> None:
    torch = pytorch()
    rng = np.random.default_rng(0)
    batch, channels, *spatial = geometry["x"]
    kernel, groups = geometry["w"][2:], geometry["groups"]
    x, w = leaf(rng, (batch, channels, *spatial)), leaf(rng, (channels, geometry["w"][0] // groups, *kernel))
    limits = [max(s, r) for s, r in zip(geometry["stride"], geometry["dilation"], strict=True)]
    output_padding = tuple(min(extra, limit - 1) for limit in limits)
    stride, padding, dilation = geometry["stride"], geometry["padding"], geometry["dilation"]
    sizes = [
        (n - 1) * s - 2 * p + r * (k - 1) + e + 1
        for n, s, p, r, k, e in zip(spatial, stride, padding, dilation, kernel, output_padding, strict=True)
    ]
    if min(sizes) < 1:
        return  # PyTorch refuses an empty result
    y = conv_transpose(x, w, stride, padding, output_padding, dilation, groups)
    g = rng.normal(size=y.shape)
    y.backward(as_tensor(g))
    tx, tw = (torch.tensor(v.detach().numpy(), requires_grad=True) for v in (x, w))
    function = (torch.conv_transpose1d, torch.conv_transpose2d, torch.conv_transpose3d)[x.ndim - 3]
    ty = function(tx, tw, None, stride, padding, output_padding, groups, dilation)
    ty.backward(torch.tensor(g))
    for ours, theirs in ((y.detach(), ty.detach()), (x.grad, tx.grad), (w.grad, tw.grad)):
        assert ours is not None
        np.testing.assert_allclose(ours.numpy(), theirs.numpy(), rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("kernel", [1, 2, 3, 4])
def test_same_padding_keeps_extents_and_pads_high_as_pytorch(kernel: int) -> None:
    torch = pytorch()
    rng = np.random.default_rng(0)
    x, w = rng.normal(size=(2, 3, 8)), rng.normal(size=(4, 3, kernel))
    y = conv(as_tensor(x), as_tensor(w), padding="same", dilation=2)
    want = torch.conv1d(torch.tensor(x), torch.tensor(w), padding="same", dilation=2)
    assert y.shape == (2, 4, 8)
    np.testing.assert_allclose(y.numpy(), want.numpy(), atol=1e-12)


def test_a_single_sample_needs_no_batch_axis() -> None:
    rng = np.random.default_rng(0)
    x, w = as_tensor(rng.normal(size=(3, 6, 5))), as_tensor(rng.normal(size=(2, 3, 2, 2)))
    np.testing.assert_array_equal(conv(x, w).numpy(), conv(x[None], w).numpy()[0])


def test_operands_promote() -> None:
    y = conv(as_tensor(np.ones((1, 1, 3), np.int64)), as_tensor(np.ones((1, 1, 2), np.float32)))
    assert y.dtype is float32
    np.testing.assert_array_equal(y.numpy(), [[[2.0, 2.0]]])


@pytest.mark.parametrize(
    ("x", "w", "options", "message"),
    [
        ((2, 3, 8), (4, 2, 3), {}, r"has 3 channels, but weight \(4, 2, 3\) with groups=1 takes 2"),
        ((2, 4, 8), (3, 2, 3), {"groups": 2}, "3 output channels .* groups=2"),
        ((2, 3, 2), (4, 3, 3), {}, "spans 3, more than the padded input's 2"),
        ((2, 3), (4, 3, 3, 3), {}, "doesn't fit weight"),
        ((2, 3, 8), (4, 3, 3), {"stride": (1, 1)}, "stride=.* 2 entries for 1 spatial"),
        ((2, 3, 8), (4, 3, 3), {"stride": 0}, "stride .* at least 1"),
        ((2, 3, 8), (4, 3, 3), {"padding": "full"}, "'same', 'valid' or numbers"),
        ((2, 3, 8), (4, 3, 3), {"padding": "same", "stride": 2}, "no meaning for stride"),
    ],
)
def test_errors_teach(x: tuple[int, ...], w: tuple[int, ...], options: dict[str, Any], message: str) -> None:
    with pytest.raises(ShapeError, match=message):
        conv(as_tensor(np.ones(x)), as_tensor(np.ones(w)), **options)


def test_booleans_are_refused() -> None:
    with pytest.raises(DTypeError, match="numeric"):
        conv(as_tensor(np.ones((1, 1, 3), bool)), as_tensor(np.ones((1, 1, 2), bool)))


def _reads(x: tuple[int, ...], w: tuple[int, ...], **attrs: Any) -> list[Read]:
    value = CONV.body(TensorType(x, float32), TensorType(w, float32), **attrs).value  # type: ignore[misc]
    assert isinstance(value, Call)
    return list(value.args)


def test_body_reads_are_affine_and_masked_only_where_a_window_leaves_the_input() -> None:
    plain = {"lhs_dilation": (1,), "rhs_dilation": (1,), "groups": 1}
    for read in _reads((2, 3, 8), (4, 3, 3), stride=(1,), padding=((0, 0),), **plain):
        assert read.mask is None
    element, weight = _reads((2, 3, 8), (4, 3, 3), stride=(2,), padding=((1, 1),), **plain)
    assert element.mask is not None
    assert weight.mask is None
    # the input gradient of a strided convolution: phases divide the extent
    attrs = {"stride": (1,), "padding": ((2, 3),), "lhs_dilation": (2,), "rhs_dilation": (1,), "groups": 1}
    for read in _reads((2, 4, 4), (3, 4, 3), **attrs):
        assert all(isinstance(i, Affine) for i in read.index)


@pytest.mark.parametrize(
    ("kernel", "inputs", "low", "dilation", "out"),
    [
        ((3,), (4,), (2,), (1,), (6,)),
        ((3,), (4,), (5,), (1,), (14,)),  # outputs that see nothing
        ((2,), (9,), (-3,), (1,), (4,)),  # cropped
        ((3, 2), (4, 5), (4, 1), (2, 1), (8, 6)),
        ((1, 4), (3, 2), (0, 3), (1, 1), (3, 5)),
        ((2, 2, 3), (2, 3, 2), (1, 1, 2), (1, 1, 1), (3, 4, 4)),
    ],
)
def test_inputs_scattered_to_outputs_are_windows_gathered(
    kernel: Any, inputs: Any, low: Any, dilation: Any, out: Any
) -> None:
    rng = np.random.default_rng(0)
    w = rng.integers(-4, 5, (3, 5, *kernel)).astype(np.float64)
    for x in (rng.integers(-4, 5, (7, 5, *inputs)).astype(np.float64), rng.integers(-4, 5, (5, 7, *inputs)) * 1.0):
        x = x if x.shape[1] == 5 else x.swapaxes(0, 1)
        expected = np.zeros((7, 3, *out))
        for p, k in itertools.product(np.ndindex(*out), np.ndindex(*kernel)):
            at = tuple(i + r * j - lo for i, j, r, lo in zip(p, k, dilation, low, strict=True))
            if all(0 <= i < n for i, n in zip(at, inputs, strict=True)):
                expected[(..., *p)] += x[(..., *at)] @ w[(..., *k)].T
        found = correlation._scattered(np, x, w, low, dilation, np.zeros_like(expected))
        np.testing.assert_array_equal(found, expected)
        assert np.array_equal(correlation.correlate(np, x, w, low, (1,) * len(out), dilation, out, 1), expected)


def test_what_has_more_outputs_is_scattered(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Any] = []
    scattered = correlation._scattered
    monkeypatch.setattr(correlation, "_scattered", lambda *args: seen.append(args[1].shape) or scattered(*args))
    x, w = np.ones((2, 50, 8, 8)), np.ones((20, 50, 5, 5))
    correlation.correlate(np, x, w, (4, 4), (1, 1), (1, 1), (12, 12), 1)
    assert seen == [x.shape]
    correlation.correlate(np, x, w, (0, 0), (1, 1), (1, 1), (4, 4), 1)
    correlation.correlate(np, x, w, (4, 4), (2, 1), (1, 1), (6, 12), 1)
    assert seen == [x.shape]
