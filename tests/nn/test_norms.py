"""Batch normalisation next to PyTorch's: outputs, gradients, running statistics; in both modes."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import graphc as gc
from graphc import nn
from graphc.errors import ArgumentError, ShapeError
from graphc.nn import functional as F
from tests.pytorch import pytorch

SHAPES = [("BatchNorm1d", (6, 3)), ("BatchNorm1d", (4, 3, 5)), ("BatchNorm2d", (4, 3, 5, 2))]
SETTINGS: list[dict[str, Any]] = [
    {},
    {"momentum": 0.3, "eps": 1e-2},
    {"momentum": None},
    {"affine": False},
    {"track_running_stats": False},
]


def state(module: Any) -> dict[str, np.ndarray[Any, Any]]:
    return {name: np.array(value.detach().numpy()) for name, value in module.state_dict().items()}


@pytest.mark.parametrize("compiled", [False, True], ids=["tape", "compiled"])
@pytest.mark.parametrize("settings", SETTINGS, ids=str)
@pytest.mark.parametrize(("kind", "shape"), SHAPES)
def test_trains_and_evaluates_as_pytorchs(
    kind: str, shape: tuple[int, ...], settings: dict[str, Any], compiled: bool
) -> None:
    torch = pytorch()
    ours, theirs = getattr(nn, kind)(3, **settings).to("float64"), getattr(torch.nn, kind)(3, **settings).double()
    rng = np.random.default_rng(3)
    for mine, other in zip(ours.parameters(), theirs.parameters(), strict=True):
        value = rng.standard_normal(3)
        mine.detach().copy_(gc.tensor(value))
        other.data = torch.tensor(value)

    def value_and_gradient(module: Any, x: Any, seed: Any) -> Any:
        x.requires_grad_(True)
        y = module(x)
        (y * seed).sum().backward()
        return y, x.grad

    both = gc.compile(lambda x, seed: value_and_gradient(ours, x, seed)) if compiled else None
    for training in (True, True, False, True):
        ours.train(training)
        theirs.train(training)
        x, seed = rng.standard_normal(shape) * 3 + 1, rng.standard_normal(shape)
        for module in (ours, theirs):
            module.zero_grad()
        run = both or (lambda x, seed: value_and_gradient(ours, x, seed))
        found = run(gc.tensor(x), gc.tensor(seed))
        expected = value_and_gradient(theirs, torch.tensor(x), torch.tensor(seed))
        for a, b in zip(found, expected, strict=True):
            np.testing.assert_allclose(a.detach().numpy(), b.detach().numpy(), rtol=1e-10, atol=1e-11)
        for mine, other in zip(ours.parameters(), theirs.parameters(), strict=True):
            np.testing.assert_allclose(mine.grad.numpy(), other.grad.numpy(), rtol=1e-10, atol=1e-11)
        mine_state, other_state = state(ours), state(theirs)
        assert list(mine_state) == list(other_state)
        for name, array in mine_state.items():
            np.testing.assert_allclose(array, other_state[name], rtol=1e-12, atol=1e-13, err_msg=name)


def test_a_compiled_step_moves_the_running_statistics_without_compiling_again() -> None:
    layer = nn.BatchNorm1d(2)
    step = gc.compile(lambda x: layer(x))
    x = np.array([[0.0, 1.0], [2.0, 5.0]], np.float32)
    for _ in range(3):
        step(gc.tensor(x))
    assert len(step.history) == 1
    np.testing.assert_allclose(layer.running_mean.numpy(), np.array([1.0, 3.0]) * (1 - 0.9**3), rtol=1e-6)
    np.testing.assert_allclose(layer.running_var.numpy(), 1 + (np.array([2.0, 8.0]) - 1) * (1 - 0.9**3), rtol=1e-6)
    assert layer.num_batches_tracked.item() == 3
    layer.eval()
    before = layer.running_mean.numpy().copy()
    step(gc.tensor(x))
    assert len(step.history) == 2
    np.testing.assert_array_equal(layer.running_mean.numpy(), before)
    layer.reset_running_stats()
    assert layer.running_mean.numpy().tolist() == [0, 0]
    assert layer.running_var.numpy().tolist() == [1, 1]


def test_second_derivatives_agree_with_finite_differences() -> None:
    x = np.random.default_rng(1).standard_normal((4, 2, 3))
    assert gc.gradgradcheck(lambda x: F.batch_norm(x, training=True) ** 3, gc.tensor(x).requires_grad_())


def test_what_does_not_fit_is_told() -> None:
    x = gc.tensor(np.ones((2, 3), np.float32))
    with pytest.raises(ArgumentError, match="running_mean"):
        F.batch_norm(x)
    with pytest.raises(ShapeError, match="weight"):
        F.batch_norm(x, weight=gc.tensor(np.ones(2, np.float32)), training=True)
    with pytest.raises(ShapeError, match="more than one"):
        F.batch_norm(x[:1], training=True)
    with pytest.raises(ShapeError, match="batch, channels"):
        F.batch_norm(x[0], training=True)
    with pytest.raises(ShapeError, match="4-d, 3 channels"):
        nn.BatchNorm2d(3)(x)
    with pytest.raises(ShapeError, match="4 channels"):
        nn.BatchNorm1d(4)(x)
