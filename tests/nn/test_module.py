"""Module: what it holds, its state, and that it behaves as an object does."""

from __future__ import annotations

import copy
import pickle
import sys

import numpy as np
import pytest

from graphc.errors import DeviceError, DTypeError, StateError
from graphc.nn import (
    Conv2d,
    Dropout,
    Flatten,
    LayerNorm,
    Linear,
    MaxPool2d,
    Module,
    ModuleDict,
    ModuleList,
    Parameter,
    ReLU,
    Sequential,
)
from graphc.tensor import Tensor
from graphc.types import float64


class Block(Module):
    def __init__(self, width: int) -> None:
        self.linear = Linear(width, width)
        self.scale = Parameter(np.ones(width, np.float32))
        self.register_buffer("mean", Tensor(np.zeros(width, np.float32)))
        self.register_buffer("scratch", Tensor(np.zeros(2, np.float32)), persistent=False)
        self.act = ReLU()

    def forward(self, x: Tensor) -> Tensor:
        return self.act(self.linear(x)) * self.scale - self.mean


class Tied(Module):
    def __init__(self) -> None:
        self.first = Linear(3, 3)
        self.second = Linear(3, 3)
        self.second.weight = self.first.weight
        self.again = self.first

    def forward(self, x: Tensor) -> Tensor:
        return self.second(self.first(x))


def test_parameters_and_buffers_are_the_attributes_of_their_kind() -> None:
    block = Block(4)
    assert [name for name, _ in block.named_parameters()] == ["scale", "linear.weight", "linear.bias"]
    assert [name for name, _ in block.named_parameters("a", recurse=False)] == ["a.scale"]
    assert [name for name, _ in block.named_buffers()] == ["mean", "scratch"]
    assert [name for name, _ in block.named_modules()] == ["", "linear", "act"]
    assert [name for name, _ in block.named_children()] == ["linear", "act"]
    assert all(p.requires_grad and p.is_leaf for p in block.parameters())
    assert not any(b.requires_grad for b in block.buffers())
    assert block.get_submodule("linear") is block.linear
    assert block.get_submodule("") is block
    with pytest.raises(AttributeError, match="no module 'nope'.*it has: linear, act"):
        block.get_submodule("nope.linear")


def test_an_attribute_can_be_replaced_and_removed() -> None:
    block = Block(4)
    block.scale = Parameter(np.zeros(4, np.float32))
    assert next(block.parameters()) is block.scale
    del block.scale
    block.linear = None
    assert list(block.parameters()) == []
    block.mean = Tensor(np.ones(4, np.float32))
    assert [b is block.mean for b in block.buffers()] == [True, False]


def test_shared_parameters_and_modules_come_once_by_identity() -> None:
    model = Tied()
    assert [n for n, _ in model.named_parameters()] == ["first.weight", "first.bias", "second.bias"]
    everything = [n for n, _ in model.named_parameters(remove_duplicate=False)]
    assert everything == [f"{m}.{p}" for m in ("first", "second", "again") for p in ("weight", "bias")]
    assert [n for n, _ in model.named_modules()] == ["", "first", "second"]
    assert list(model.state_dict()) == everything
    # equal numbers aren't identity
    pair = Sequential(LayerNorm(2), LayerNorm(2))
    assert len(list(pair.parameters())) == 4


def test_state_dict_shares_memory_and_load_copies_in_place() -> None:
    a, b = Block(4), Block(4)
    state = a.state_dict()
    assert list(state) == ["scale", "mean", "linear.weight", "linear.bias"]
    assert not any(t.requires_grad for t in state.values())
    a.linear.weight.detach().fill_(7.0)
    assert (state["linear.weight"].numpy() == 7).all()
    before = b.linear.weight
    b.load_state_dict(state)
    assert b.linear.weight is before
    assert (before.detach().numpy() == 7).all()
    assert before.requires_grad
    a.linear.weight.detach().fill_(8.0)
    assert (before.detach().numpy() == 7).all()
    b.load_state_dict({k: np.asarray(v) for k, v in state.items()})
    assert (before.detach().numpy() == 8).all()


def test_a_state_that_does_not_fit_is_refused_whole() -> None:
    block = Block(4)
    state = {k: v.clone() for k, v in Block(4).state_dict().items()}
    old = {k: v.clone().numpy() for k, v in block.state_dict().items()}
    state["extra"] = Tensor(np.zeros(1, np.float32))
    del state["linear.bias"]
    state["scale"] = Tensor(np.zeros(5, np.float32))
    state["mean"] = Tensor(np.zeros(4, np.float64))
    with pytest.raises(StateError) as caught:
        block.load_state_dict(state)
    message = str(caught.value)
    assert "missing: linear.bias" in message
    assert "unknown: extra" in message
    assert "scale: shape (5,) in the state, (4,) in the module" in message
    assert "mean: float64 in the state, float32 in the module" in message
    for name, value in block.state_dict().items():
        np.testing.assert_array_equal(value.numpy(), old[name])
    with pytest.raises(StateError, match="scale: shape"):
        block.load_state_dict(state, strict=False)
    block.load_state_dict({"linear.bias": np.ones(4, np.float32), "extra": np.ones(1)}, strict=False)
    assert (block.linear.bias.detach().numpy() == 1).all()


def test_train_eval_apply_requires_grad_zero_grad() -> None:
    model = Sequential(Block(3), Dropout())
    assert all(m.training for m in model.modules())
    assert model.eval() is model
    assert not any(m.training for m in model.modules())
    model.train()
    assert all(m.training for m in model.modules())
    seen: list[str] = []
    model.apply(lambda m: seen.append(type(m).__name__))
    assert seen == ["Linear", "ReLU", "Block", "Dropout", "Sequential"]
    model(Tensor(np.ones((2, 3), np.float32))).sum().backward()
    assert all(p.grad is not None for p in model.parameters())
    model.zero_grad(set_to_none=False)
    assert all((p.grad.numpy() == 0).all() for p in model.parameters())
    model.zero_grad()
    assert all(p.grad is None for p in model.parameters())
    model.requires_grad_(False)
    assert not any(p.requires_grad for p in model.parameters())


def test_deepcopy_and_pickle_keep_numbers_and_sharing() -> None:
    model = Sequential(Tied(), Block(3))
    x = Tensor(np.arange(6, dtype=np.float32).reshape(2, 3))
    for other in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        np.testing.assert_array_equal(other(x).detach().numpy(), model(x).detach().numpy())
        assert [n for n, _ in other.named_parameters()] == [n for n, _ in model.named_parameters()]
        assert other[0].second.weight is other[0].first.weight
        assert all(isinstance(p, Parameter) and p.requires_grad for p in other.parameters())
        assert [n for n, _ in other.named_buffers()] == [n for n, _ in model.named_buffers()]
        other[0].first.weight.detach().fill_(0.0)
        assert (model[0].first.weight.detach().numpy() != 0).any()


def test_repr_is_pytorchs() -> None:
    torch = pytest.importorskip("torch")

    def build(nn: object) -> object:
        return nn.Sequential(  # type: ignore[attr-defined]
            nn.Conv2d(1, 20, 5, padding=1, bias=False), nn.Conv2d(4, 8, (3, 5), 2, dilation=2, groups=2),  # type: ignore[attr-defined]
            nn.MaxPool2d(2), nn.AvgPool2d(2), nn.ReLU(), nn.GELU("tanh"), nn.Tanh(), nn.Sigmoid(),  # type: ignore[attr-defined]
            nn.Flatten(), nn.Linear(8, 3, bias=False), nn.LayerNorm((3,)), nn.Embedding(5, 2, padding_idx=1),  # type: ignore[attr-defined]
            nn.Dropout(0.1), nn.Sequential(nn.Linear(3, 3), nn.Softmax(dim=-1)), nn.MSELoss(), nn.CrossEntropyLoss(),  # type: ignore[attr-defined]
            nn.ModuleList([nn.Linear(1, 2), nn.ReLU()]), nn.ModuleList([nn.Sequential(nn.Tanh()) for _ in range(3)]),  # type: ignore[attr-defined]
        )  # fmt: skip

    import graphc.nn

    theirs = repr(build(torch.nn)).replace("inplace=False", "").replace("p=0.1, ", "p=0.1")
    assert repr(build(graphc.nn)) == theirs


def test_containers() -> None:
    layers = [Linear(2, 3), ReLU(), Linear(3, 2)]
    model = Sequential(*layers)
    assert len(model) == 3
    assert list(model) == layers
    assert model[-1] is layers[2]
    assert list(model[1:]) == layers[1:]
    assert isinstance(model[:2], Sequential)
    model[1] = ReLU()
    assert model[1] is not layers[1]
    named = Sequential({"a": layers[0], "b": layers[2]})
    assert list(named.state_dict()) == ["a.weight", "a.bias", "b.weight", "b.bias"]
    assert named(Tensor(np.ones((1, 2), np.float32))).shape == (1, 2)
    twice = Sequential(layers[1], layers[1])
    assert len(twice) == 2
    assert len(list(twice.modules())) == 2
    several = ModuleList([Linear(2, 2)]).append(Linear(2, 2)).extend([Linear(2, 2)])
    assert [n for n, _ in several.named_children()] == ["0", "1", "2"]
    with pytest.raises(IndexError, match="3 modules"):
        several[3]
    by_name = ModuleDict({"x": layers[0]})
    by_name["y"] = layers[2]
    assert list(by_name) == ["x", "y"]
    assert "x" in by_name
    assert by_name["y"] is layers[2]
    assert [n for n, _ in by_name.items()] == ["x", "y"]
    with pytest.raises(KeyError):
        by_name["z"]
    for name in ("forward", "a.b", ""):
        with pytest.raises(KeyError, match="can't be called"):
            by_name[name] = ReLU()
    with pytest.raises(TypeError, match="argument 1 is a function"):
        Sequential(ReLU(), lambda x: x)  # type: ignore[arg-type]
    with pytest.raises(NotImplementedError, match="ModuleList must define forward"):
        several(1)


def test_a_module_that_contains_itself_is_an_error_not_a_hang() -> None:
    outer, inner = Block(2), Block(2)
    outer.inner, inner.outer = inner, outer
    with pytest.raises(StateError, match="inner.outer.*contains itself"):
        list(outer.parameters())


def test_to_changes_dtype_in_place() -> None:
    model = Sequential(Conv2d(1, 2, 3), MaxPool2d(2), Flatten(), Linear(2, 2), Block(2))
    parameters = list(model.parameters())
    assert model.to(float64) is model
    assert [a is b for a, b in zip(model.parameters(), parameters, strict=True)] == [True] * len(parameters)
    assert all(t.dtype is float64 for t in [*model.parameters(), *model.buffers()])
    out = model(Tensor(np.ones((1, 1, 4, 4))))
    assert out.dtype is float64
    out.sum().backward()
    assert all(p.grad.dtype is float64 for p in model.parameters())


def test_to_a_device_that_is_there_and_one_that_is_not() -> None:
    model = Block(2)
    memory = model.scale.detach().numpy()
    assert model.to("cpu") is model
    assert np.shares_memory(model.scale.detach().numpy(), memory)
    with pytest.raises(DTypeError, match="float32 or float64, not int64"):
        model.to("int64")
    if "cupy" not in sys.modules:
        with pytest.raises(DeviceError, match="import cupy"):
            model.to("cuda")
    assert model.scale.dtype.name == "float32"
