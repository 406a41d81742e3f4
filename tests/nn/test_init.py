"""Initial values: ranges and moments of each distribution, and PyTorch's defaults for each layer."""

from __future__ import annotations

import math

import numpy as np
import pytest

from graphc import random
from graphc.errors import ArgumentError, ShapeError
from graphc.nn import Conv2d, Embedding, LayerNorm, Linear, Parameter, init


def parameter(*shape: int) -> Parameter:
    return Parameter(np.empty(shape, np.float32))


def numbers(x: Parameter) -> np.ndarray:
    return x.detach().numpy()


def is_uniform(x: np.ndarray, bound: float) -> bool:
    """Within +-bound, reaching near both ends, with a uniform's deviation bound/sqrt(3)."""
    near = abs(x.min() + bound) < 0.02 * bound and abs(x.max() - bound) < 0.02 * bound
    return bool(near and abs(x).max() <= bound and abs(x.std() * math.sqrt(3) / bound - 1) < 0.03)


def test_distributions() -> None:
    random.manual_seed(0)
    x = parameter(200, 100)
    assert init.uniform_(x, -2, 4) is x
    assert is_uniform(numbers(x) - 1, 3.0)
    init.normal_(x, 5, 2)
    assert abs(numbers(x).mean() - 5) < 0.05
    assert abs(numbers(x).std() - 2) < 0.05
    assert is_uniform(numbers(init.xavier_uniform_(x, gain=2)), 2 * math.sqrt(6 / 300))
    assert abs(numbers(init.xavier_normal_(x)).std() / math.sqrt(2 / 300) - 1) < 0.03
    assert is_uniform(numbers(init.kaiming_uniform_(x, nonlinearity="relu")), math.sqrt(6 / 100))
    assert (
        abs(numbers(init.kaiming_normal_(x, mode="fan_out", nonlinearity="relu")).std() / math.sqrt(2 / 200) - 1) < 0.03
    )
    assert (numbers(init.ones_(x)) == 1).all()
    assert (numbers(init.zeros_(x)) == 0).all()
    assert x.requires_grad
    assert x.is_leaf


@pytest.mark.parametrize("name", ["linear", "conv", "sigmoid", "tanh", "relu", "leaky_relu", "selu"])
def test_gains_are_pytorchs(name: str) -> None:
    torch = pytest.importorskip("torch")
    known = {"conv": "conv2d"}.get(name, name)
    assert init.calculate_gain(name) == torch.nn.init.calculate_gain(known)


def test_layers_start_with_pytorchs_defaults() -> None:
    random.manual_seed(3)
    linear, conv = Linear(64, 500), Conv2d(16, 200, 5, groups=2)
    for layer, fan_in in ((linear, 64), (conv, 8 * 25)):
        assert is_uniform(numbers(layer.weight), 1 / math.sqrt(fan_in))
        assert abs(numbers(layer.bias)).max() <= 1 / math.sqrt(fan_in)
        assert numbers(layer.bias).std() > 0
    table = Embedding(300, 50, padding_idx=-2)
    assert abs(numbers(table.weight).std() - 1) < 0.05
    assert (numbers(table.weight)[-2] == 0).all()
    assert (numbers(table.weight)[[-3, -1]] != 0).all()
    norm = LayerNorm((3, 4))
    assert (numbers(norm.weight) == 1).all()
    assert (numbers(norm.bias) == 0).all()
    assert LayerNorm(3, bias=False).bias is None
    assert LayerNorm(3, elementwise_affine=False).weight is None


def test_the_seed_decides() -> None:
    random.manual_seed(5)
    first = numbers(Linear(3, 4).weight).copy()
    second = numbers(Linear(3, 4).weight).copy()
    assert (first != second).all()
    random.manual_seed(5)
    np.testing.assert_array_equal(numbers(Linear(3, 4).weight), first)


def test_edges() -> None:
    assert Linear(0, 3).weight.shape == (3, 0)
    assert (numbers(Linear(0, 3).bias) == 0).all()
    with pytest.raises(ShapeError, match="has no fan"):
        init.kaiming_uniform_(parameter(3))
    with pytest.raises(ArgumentError, match="no gain for 'swish'"):
        init.calculate_gain("swish")
    with pytest.raises(ArgumentError, match="mode='in'"):
        init.kaiming_normal_(parameter(3, 3), mode="in")
    with pytest.raises(ArgumentError, match="groups=3"):
        Conv2d(4, 6, 3, groups=3)
    with pytest.raises(ArgumentError, match="padding_idx=5"):
        Embedding(5, 2, padding_idx=5)
