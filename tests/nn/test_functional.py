"""The functions of graphc.nn against PyTorch's, values and gradients in float64; and their edges without it."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import graphc as gc
from graphc import random
from graphc.errors import ArgumentError, DTypeError, IndexingError, ShapeError
from graphc.nn import functional as F
from graphc.tensor import Tensor

rng = np.random.default_rng(0)


def normal(*shape: int) -> np.ndarray[Any, Any]:
    return rng.standard_normal(shape)


def classes(count: int, *shape: int) -> np.ndarray[Any, Any]:
    return rng.integers(0, count, shape)


MASK = rng.random((5, 7)) < 0.6
MASK[2] = False  # a row that attends to nothing
MASK[0, 0] = True

# name, operands (floats are differentiated), what both libraries do with them
CASES: list[tuple[str, list[Any], Callable[..., Any]]] = [
    ("relu", [normal(3, 4)], lambda F, x: F.relu(x)),
    ("relu at 0", [np.array([0.0, -0.0, 1.0, -1.0])], lambda F, x: F.relu(x)),
    ("gelu", [normal(50) * 4], lambda F, x: F.gelu(x)),
    ("gelu tanh", [normal(50) * 4], lambda F, x: F.gelu(x, approximate="tanh")),
    ("softmax", [normal(3, 4, 5) * 100], lambda F, x: F.softmax(x, dim=1)),
    ("log_softmax", [normal(3, 4) * 1000], lambda F, x: F.log_softmax(x, dim=-1)),
    ("linear", [normal(2, 3, 4), normal(5, 4), normal(5)], lambda F, x, w, b: F.linear(x, w, b)),
    ("linear no bias", [normal(4), normal(5, 4)], lambda F, x, w: F.linear(x, w)),
    (
        "conv2d",
        [normal(2, 4, 9, 8), normal(6, 2, 3, 2), normal(6)],
        lambda F, x, w, b: F.conv2d(x, w, b, stride=(2, 1), padding=(1, 2), dilation=(1, 2), groups=2),
    ),
    ("conv2d same", [normal(1, 6, 7), normal(2, 1, 4, 3)], lambda F, x, w: F.conv2d(x, w, padding="same")),
    ("max_pool2d", [normal(2, 3, 9, 8)], lambda F, x: F.max_pool2d(x, 3, 2, padding=1)),
    ("max_pool2d ceil", [normal(3, 9, 8)], lambda F, x: F.max_pool2d(x, (2, 3), dilation=(2, 1), ceil_mode=True)),
    ("avg_pool2d", [normal(2, 3, 9, 8)], lambda F, x: F.avg_pool2d(x, 3, 2, padding=1)),
    ("avg_pool2d alone", [normal(3, 9, 8)], lambda F, x: F.avg_pool2d(x, 3, 1, padding=1, count_include_pad=False)),
    ("embedding", [classes(6, 2, 3), normal(6, 4)], lambda F, i, w: F.embedding(i, w)),
    ("embedding padding", [classes(3, 9), normal(3, 4)], lambda F, i, w: F.embedding(i, w, padding_idx=-1)),
    (
        "layer_norm",
        [normal(2, 3, 4), normal(3, 4), normal(3, 4)],
        lambda F, x, w, b: F.layer_norm(x, (3, 4), w, b),
    ),
    ("layer_norm plain", [normal(2, 4)], lambda F, x: F.layer_norm(x, (4,), eps=0.1)),
    (
        "attention",
        [normal(2, 3, 5, 4), normal(2, 3, 7, 4), normal(2, 3, 7, 6)],
        lambda F, q, k, v: F.scaled_dot_product_attention(q, k, v, scale=0.3),
    ),
    (
        "attention causal",
        [normal(2, 5, 4), normal(2, 7, 4), normal(2, 7, 4)],
        lambda F, q, k, v: F.scaled_dot_product_attention(q, k, v, is_causal=True),
    ),
    (
        "attention mask",
        [normal(2, 5, 4), normal(2, 7, 4), normal(2, 7, 4), MASK],
        lambda F, q, k, v, m: F.scaled_dot_product_attention(q, k, v, attn_mask=m),
    ),
    (
        "attention scores",
        [normal(2, 5, 4), normal(2, 7, 4), normal(2, 7, 4), np.where(MASK, normal(5, 7), -math.inf)],
        lambda F, q, k, v, m: F.scaled_dot_product_attention(q, k, v, attn_mask=m),
    ),
    ("nll", [normal(6, 4), classes(4, 6)], lambda F, x, t: F.nll_loss(x, t)),
    (
        "nll sum weight",
        [normal(6, 4), classes(4, 6), abs(normal(4))],
        lambda F, x, t, w: F.nll_loss(x, t, w.detach(), reduction="sum"),
    ),
    ("nll images", [normal(2, 4, 3, 3), classes(4, 2, 3, 3)], lambda F, x, t: F.nll_loss(x, t, reduction="none")),
    ("cross_entropy", [normal(6, 4) * 50, classes(4, 6)], lambda F, x, t: F.cross_entropy(x, t)),
    ("cross_entropy one", [normal(4), np.array(2)], lambda F, x, t: F.cross_entropy(x, t)),
    (
        "cross_entropy all",
        [normal(2, 4, 3), classes(4, 2, 3), abs(normal(4)).round(2)],
        lambda F, x, t, w: F.cross_entropy(x, t, w.detach(), ignore_index=1, label_smoothing=0.1),
    ),
    (
        "cross_entropy smoothing",
        [normal(6, 4), classes(4, 6)],
        lambda F, x, t: F.cross_entropy(x, t, label_smoothing=0.2, reduction="none", ignore_index=0),
    ),
    (
        "cross_entropy probabilities",
        [normal(2, 4, 3), abs(normal(2, 4, 3))],
        lambda F, x, t: F.cross_entropy(x, t, label_smoothing=0.1),
    ),
    (
        "cross_entropy probabilities weight",
        [normal(5, 4), abs(normal(5, 4)), abs(normal(4))],
        lambda F, x, t, w: F.cross_entropy(x, t, w.detach(), reduction="sum"),
    ),
    ("mse", [normal(3, 4), normal(3, 4)], lambda F, x, t: F.mse_loss(x, t)),
    ("l1", [normal(3, 4), normal(3, 4)], lambda F, x, t: F.l1_loss(x, t, reduction="sum")),
]


@pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel:UserWarning")  # PyTorch on its own
@pytest.mark.parametrize(("operands", "call"), [case[1:] for case in CASES], ids=[case[0] for case in CASES])
def test_value_and_gradients_are_pytorchs(operands: list[Any], call: Callable[..., Any]) -> None:
    torch = pytest.importorskip("torch")
    floats = [x.dtype == np.float64 and not np.isinf(x).any() for x in operands]
    ours = [Tensor(x.copy(), requires_grad=f) for x, f in zip(operands, floats, strict=True)]
    theirs = [torch.tensor(x, requires_grad=f) for x, f in zip(operands, floats, strict=True)]
    y, expected = call(F, *ours), call(torch.nn.functional, *theirs)
    np.testing.assert_allclose(y.detach().numpy(), expected.detach().numpy(), rtol=1e-12, atol=1e-13)
    seed = rng.standard_normal(tuple(expected.shape))
    y.backward(Tensor(seed))
    expected.backward(torch.tensor(seed))
    for mine, other in zip(ours, theirs, strict=True):
        if other.grad is not None:
            np.testing.assert_allclose(mine.grad.numpy(), other.grad.numpy(), rtol=1e-11, atol=1e-12)


def test_float32_stays_float32() -> None:
    x = Tensor(normal(4, 6).astype(np.float32), requires_grad=True)
    target = Tensor(classes(6, 4))
    for y in (
        F.gelu(x),
        F.softmax(x),
        F.layer_norm(x, 6),
        F.dropout(x),
        F.cross_entropy(x, target, label_smoothing=0.1),
    ):
        assert y.dtype.name == "float32"


def test_extremes() -> None:
    huge = Tensor(np.array([[1e4, -1e4, 0.0]]), requires_grad=True)
    loss = F.cross_entropy(huge, Tensor(np.array([1])))
    assert loss.item() == 2e4
    loss.backward()
    np.testing.assert_array_equal(huge.grad.numpy(), [[1.0, -1.0, 0.0]])
    assert np.isnan(F.relu(Tensor(np.array([np.nan]))).numpy()).all()
    assert math.isnan(F.nll_loss(Tensor(normal(2, 3)), Tensor(np.array([-100, -100]))).item())


def test_dropout() -> None:
    x = Tensor(np.ones((100, 100), np.float32), requires_grad=True)
    random.manual_seed(1)
    y = F.dropout(x, 0.25)
    values = np.unique(y.detach().numpy())
    np.testing.assert_array_equal(values, np.array([0, 1 / 0.75], np.float32))
    assert abs((y.detach().numpy() == 0).mean() - 0.25) < 0.02
    y.sum().backward()
    np.testing.assert_array_equal(x.grad.numpy(), y.detach().numpy())
    again = F.dropout(x, 0.25)
    assert (again.detach().numpy() != y.detach().numpy()).any()
    random.manual_seed(1)
    np.testing.assert_array_equal(F.dropout(x, 0.25).detach().numpy(), y.detach().numpy())
    assert F.dropout(x, 0.5, training=False) is x
    assert F.dropout(x, 0.0) is x
    assert (F.dropout(x, 1.0).detach().numpy() == 0).all()
    with pytest.raises(ArgumentError, match="p=1.5"):
        F.dropout(x, 1.5)


@pytest.mark.parametrize(
    ("error", "pattern", "call"),
    [
        (
            ShapeError,
            r"linear: input \(2, 3\) doesn't fit weight \(5, 4\)",
            lambda: F.linear(normal(2, 3), normal(5, 4)),
        ),
        (ShapeError, "conv2d: weight", lambda: F.conv2d(normal(1, 1, 5, 5), normal(1, 1, 3))),
        (ShapeError, "padding=2 must lie", lambda: F.max_pool2d(normal(1, 1, 5, 5), 3, padding=2)),
        (ShapeError, "expected .batch, channels", lambda: F.avg_pool2d(normal(5, 5), 3)),
        (ShapeError, "normalized_shape", lambda: F.layer_norm(normal(2, 3), 4)),
        (ShapeError, r"target \(3,\) doesn't fit", lambda: F.nll_loss(normal(2, 4), classes(4, 3))),
        (ShapeError, "one for each class", lambda: F.nll_loss(normal(2, 4), classes(4, 2), normal(3))),
        (ShapeError, "the logits' shape", lambda: F.cross_entropy(normal(2, 4), normal(2, 3))),
        (ShapeError, "one shape", lambda: F.mse_loss(normal(2, 1), normal(2))),
        (DTypeError, "integers", lambda: F.nll_loss(normal(2, 4), normal(2))),
        (DTypeError, "indices must be integers", lambda: F.embedding(normal(2), normal(3, 3))),
        (IndexingError, "out of bounds", lambda: F.nll_loss(normal(2, 4), np.array([0, 4]))),
        (IndexingError, "out of bounds", lambda: F.nll_loss(normal(2, 4), np.array([0, -1]))),
        (ArgumentError, "reduction='avg'", lambda: F.mse_loss(normal(2), normal(2), "avg")),
        (ArgumentError, "approximate='x'", lambda: F.gelu(normal(2), "x")),
        (ArgumentError, "label_smoothing=2", lambda: F.cross_entropy(normal(2, 4), classes(4, 2), label_smoothing=2)),
        (
            ArgumentError,
            "not both",
            lambda: F.scaled_dot_product_attention(normal(2, 2), normal(2, 2), normal(2, 2), MASK, is_causal=True),
        ),
    ],
)
def test_errors_say_what_is_wrong(error: type[Exception], pattern: str, call: Callable[[], Any]) -> None:
    with pytest.raises(error, match=pattern):
        call()


@pytest.mark.slow
@pytest.mark.parametrize(("operands", "call"), [case[1:] for case in CASES], ids=[case[0] for case in CASES])
def test_compiled_is_eager(operands: list[Any], call: Callable[..., Any]) -> None:
    floats = [x.dtype == np.float64 and not np.isinf(x).any() for x in operands]
    eager, compiled = ([Tensor(x.copy(), requires_grad=f) for x, f in zip(operands, floats, strict=True)] for _ in "ab")

    def run(seed: Tensor | None, *xs: Tensor) -> Tensor:
        y: Tensor = call(F, *xs)
        y.backward(y.detach() + 1 if seed is None else seed)
        return y

    expected = run(None, *eager)
    y = gc.compile(run)(expected.detach() + 1, *compiled)
    np.testing.assert_allclose(y.detach().numpy(), expected.detach().numpy(), rtol=1e-12, atol=1e-13)
    for mine, other in zip(compiled, eager, strict=True):
        assert (mine.grad is None) == (other.grad is None)
        if other.grad is not None:
            np.testing.assert_allclose(mine.grad.numpy(), other.grad.numpy(), rtol=1e-11, atol=1e-12)
