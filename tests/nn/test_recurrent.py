"""Recurrent layers next to PyTorch's with the same parameters, in float64: outputs, states, gradients, both modes."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import graphc as gc
from graphc import nn
from graphc.errors import ArgumentError, ShapeError
from tests.pytorch import pytorch

KINDS = ("RNN", "GRU", "LSTM")
SETTINGS: tuple[dict[str, Any], ...] = (
    {},
    {"bias": False},
    {"num_layers": 2, "batch_first": True},
    {"bidirectional": True},
    {"num_layers": 2, "bidirectional": True},
)


def pair(kind: str, *sizes: int, **settings: Any) -> tuple[Any, Any]:
    """The layer of graphc and PyTorch's, in float64, with the same numbers."""
    torch = pytorch()
    theirs = getattr(torch.nn, kind)(*sizes, **settings).double()
    ours = getattr(nn, kind)(*sizes, **settings).to("float64")
    state = theirs.state_dict()
    assert {n: tuple(p.shape) for n, p in ours.named_parameters()} == {n: tuple(p.shape) for n, p in state.items()}
    ours.load_state_dict({name: value.numpy() for name, value in state.items()})
    return ours, theirs


def flat(results: Any) -> list[Any]:
    return [r for part in results for r in flat(part)] if isinstance(results, tuple) else [results]


def loss_of(module: Any, x: Any, hx: Any) -> tuple[Any, list[Any]]:
    """A scalar that depends on every result, each with another weight, and the results."""
    results = flat(module(x) if hx is None else module(x, hx))
    return sum((r * r * (k + 1.0)).sum() for k, r in enumerate(results)), results


def agree(kind: str, ours: Any, theirs: Any, x: np.ndarray, states: list[np.ndarray], compiled: bool) -> None:
    """Results and gradients (of parameters, input and initial states) are PyTorch's."""
    torch = pytorch()
    mine = [gc.tensor(a, requires_grad=True) for a in (x, *states)]
    other = [torch.tensor(a, requires_grad=True) for a in (x, *states)]

    def packed(arrays: list[Any]) -> Any:
        return None if len(arrays) == 1 else tuple(arrays[1:]) if kind.startswith("LSTM") else arrays[1]

    def step(*arrays: Any) -> Any:
        loss, results = loss_of(ours, arrays[0], packed(list(arrays)))
        loss.backward()
        return results

    results = (gc.compile(step) if compiled else step)(*mine)
    loss, expected = loss_of(theirs, other[0], packed(other))
    loss.backward()
    for a, b in zip(results, expected, strict=True):
        np.testing.assert_allclose(a.detach().numpy(), b.detach().numpy(), rtol=1e-11, atol=1e-12)
    for a, b in zip(mine, other, strict=True):
        np.testing.assert_allclose(a.grad.numpy(), b.grad.numpy(), rtol=1e-9, atol=1e-11)
    for (name, p), q in zip(ours.named_parameters(), theirs.parameters(), strict=True):
        np.testing.assert_allclose(p.grad.numpy(), q.grad.numpy(), rtol=1e-9, atol=1e-11, err_msg=name)


@pytest.mark.parametrize("compiled", [False, True], ids=["tape", "compiled"])
@pytest.mark.parametrize("settings", SETTINGS, ids=str)
@pytest.mark.parametrize("kind", KINDS)
def test_a_layer_is_pytorchs(kind: str, settings: dict[str, Any], compiled: bool) -> None:
    ours, theirs = pair(kind, 5, 7, **settings)
    rng = np.random.default_rng(0)
    x = rng.standard_normal((3, 4, 5))
    rows = settings.get("num_layers", 1) * (2 if settings.get("bidirectional") else 1)
    batch = x.shape[0] if settings.get("batch_first") else x.shape[1]
    states = [rng.standard_normal((rows, batch, 7)) for _ in range(2 if kind == "LSTM" else 1)]
    agree(kind, ours, theirs, x, states, compiled)


@pytest.mark.parametrize("compiled", [False, True], ids=["tape", "compiled"])
@pytest.mark.parametrize("kind", KINDS)
def test_the_state_starts_as_zeros_and_the_batch_may_be_left_out(kind: str, compiled: bool) -> None:
    ours, theirs = pair(kind, 3, 2)
    agree(kind, ours, theirs, np.random.default_rng(1).standard_normal((6, 3)), [], compiled)


@pytest.mark.parametrize("compiled", [False, True], ids=["tape", "compiled"])
@pytest.mark.parametrize("kind", [f"{kind}Cell" for kind in KINDS])
@pytest.mark.parametrize("batch", [(), (4,)], ids=["one", "batch"])
def test_a_cell_is_pytorchs(kind: str, batch: tuple[int, ...], compiled: bool) -> None:
    ours, theirs = pair(kind, 3, 5)
    rng = np.random.default_rng(2)
    states = [rng.standard_normal((*batch, 5)) for _ in range(2 if kind == "LSTMCell" else 1)]
    agree(kind, ours, theirs, rng.standard_normal((*batch, 3)), states, compiled)
    ours.zero_grad()
    theirs.zero_grad()
    agree(kind, ours, theirs, rng.standard_normal((*batch, 3)), [], compiled)


@pytest.mark.parametrize("kind", ["RNN", "RNNCell"])
def test_relu_for_tanh(kind: str) -> None:
    ours, theirs = pair(kind, 3, 5, nonlinearity="relu")
    agree(kind, ours, theirs, np.random.default_rng(3).standard_normal((4, 3)), [], True)
    with pytest.raises(ArgumentError, match="nonlinearity"):
        getattr(nn, kind)(3, 5, nonlinearity="gelu")


def test_dropout_stands_between_layers_in_training() -> None:
    gc.manual_seed(0)
    layer = nn.GRU(3, 4, num_layers=2, dropout=1.0)
    x = gc.ones((2, 1, 3))
    dropped = layer(x)[0].detach().numpy()
    assert not np.array_equal(dropped, layer.eval()(x)[0].detach().numpy())
    below = {name.replace("l1", "l0"): p for name, p in layer.named_parameters() if "l1" in name}
    above = nn.GRU(4, 4)
    above.load_state_dict(below)
    np.testing.assert_array_equal(dropped, above(gc.zeros((2, 1, 4)))[0].detach().numpy())


def test_the_initial_parameters_are_uniform_and_the_seeds() -> None:
    gc.manual_seed(5)
    layer = nn.LSTM(3, 16)
    gc.manual_seed(5)
    again = nn.LSTM(3, 16)
    for p, q in zip(layer.parameters(), again.parameters(), strict=True):
        np.testing.assert_array_equal(p.detach().numpy(), q.detach().numpy())
        assert 0.15 < np.abs(p.detach().numpy()).max() <= 0.25
    assert repr(nn.LSTM(3, 16, batch_first=True)) == "LSTM(3, 16, batch_first=True)"
    assert repr(nn.GRUCell(3, 16, bias=False)) == "GRUCell(3, 16, bias=False)"


def test_refusals_name_the_shapes() -> None:
    layer = nn.LSTM(3, 4)
    with pytest.raises(ShapeError, match=r"LSTM: input \(2, 5, 7\): expected \(steps, batch, 3\)"):
        layer(gc.zeros((2, 5, 7)))
    with pytest.raises(ShapeError, match=r"initial state .*: expected \(1, 5, 4\)"):
        layer(gc.zeros((2, 5, 3)), (gc.zeros((1, 2, 4)), gc.zeros((1, 5, 4))))
    with pytest.raises(ShapeError, match="no steps"):
        layer(gc.zeros((0, 5, 3)))
    with pytest.raises(ShapeError, match="LSTMCell: input"):
        nn.LSTMCell(3, 4)(gc.zeros((2, 5)))
    with pytest.raises(ShapeError, match="GRUCell: state"):
        nn.GRUCell(3, 4)(gc.zeros((2, 3)), gc.zeros((3, 4)))
    with pytest.raises(ArgumentError, match="num_layers=0"):
        nn.RNN(3, 4, 0)
    with pytest.raises(ArgumentError, match="dropout=2"):
        nn.RNN(3, 4, dropout=2)
