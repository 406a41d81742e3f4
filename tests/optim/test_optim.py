"""Optimizers step by step against PyTorch's, and their groups, states and errors."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import numpy as np
import pytest

from graphc.errors import ArgumentError, StateError
from graphc.nn import Linear, Parameter
from graphc.optim import SGD, Adam, AdamW, Optimizer, ParamGroup
from graphc.optim.optimizer import PlainReader, hyper, install, option
from graphc.tensor import Tensor

KINDS = {"SGD": SGD, "Adam": Adam, "AdamW": AdamW}
OPTIONS: list[tuple[str, dict[str, Any]]] = [
    ("SGD", {"lr": 0.1}),
    ("SGD", {"lr": 0.1, "momentum": 0.9}),
    ("SGD", {"lr": 0.1, "momentum": 0.9, "dampening": 0.3}),
    ("SGD", {"lr": 0.1, "momentum": 0.9, "weight_decay": 0.05, "nesterov": True}),
    ("SGD", {"lr": 0.1, "momentum": 0.5, "maximize": True, "weight_decay": 0.1}),
    ("Adam", {}),
    ("Adam", {"lr": 0.05, "betas": (0.7, 0.95), "eps": 1e-3, "weight_decay": 0.1}),
    ("Adam", {"lr": 0.05, "amsgrad": True, "maximize": True}),
    ("Adam", {"lr": 0.05, "betas": (0.0, 0.0)}),
    ("AdamW", {}),
    ("AdamW", {"lr": 0.05, "weight_decay": 0.3, "amsgrad": True}),
]


def start() -> list[np.ndarray]:
    rng = np.random.default_rng(0)
    return [rng.standard_normal(shape) for shape in ((3, 2), (4,), ())]


def target(step: int, k: int, shape: tuple[int, ...]) -> np.ndarray:
    return np.random.default_rng(100 * step + k).standard_normal(shape)


def parameters(dtype: Any = np.float64) -> list[Parameter]:
    return [Parameter(x.astype(dtype)) for x in start()]


def losses(values: list[Any], step: int, wrap: Any) -> Any:
    """Sum of squared distances to targets that move; the last parameter takes part in even steps only."""
    used = values if step % 2 == 0 else values[:-1]
    return sum((((v - wrap(target(step, k, tuple(v.shape)))) ** 2).sum() for k, v in enumerate(used)), start=0.0)


def take_steps(optimizer: Any, values: list[Any], wrap: Any, count: int, begin: int = 0) -> list[list[np.ndarray]]:
    seen = []
    for step in range(begin, begin + count):
        optimizer.zero_grad()
        losses(values, step, wrap).backward()
        optimizer.step()
        seen.append([v.detach().numpy().copy() for v in values])
    return seen


def close(a: list[list[np.ndarray]], b: list[list[np.ndarray]], tolerance: float) -> None:
    for x, y in zip(a, b, strict=True):
        for u, v in zip(x, y, strict=True):
            np.testing.assert_allclose(u, v, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize(
    ("kind", "options"), OPTIONS, ids=lambda x: x if isinstance(x, str) else "-".join(x) or "defaults"
)
def test_each_step_is_pytorchs(kind: str, options: dict[str, Any]) -> None:
    torch = pytest.importorskip("torch")
    ours, theirs = parameters(), [torch.tensor(x, requires_grad=True) for x in start()]
    mine = take_steps(KINDS[kind](ours, **options), ours, Tensor, 12)
    other = take_steps(getattr(torch.optim, kind)(theirs, **options), theirs, torch.tensor, 12)
    close(mine, other, 1e-12)


def test_float32_parameters_keep_their_dtype_and_follow_float64() -> None:
    for kind, options in OPTIONS:
        narrow, wide = parameters(np.float32), parameters()
        optimizer = KINDS[kind](narrow, **options)
        mine = take_steps(optimizer, narrow, lambda x: Tensor(x.astype(np.float32)), 5)
        close(mine, take_steps(KINDS[kind](wide, **options), wide, Tensor, 5), 2e-5)
        assert all(p.dtype.name == "float32" for p in narrow)
        for kept in optimizer.state.values():
            assert {t.dtype.name for name, t in kept.items() if name != "step"} <= {"float32"}
            assert {t.dtype.name for name, t in kept.items() if name == "step"} <= {"float64"}


@pytest.mark.parametrize(
    "number", [np.float64, np.float32, lambda x: Tensor(np.asarray(x))], ids=["f64", "f32", "tensor"]
)
def test_numbers_of_other_kinds_are_as_weak_as_pythons(number: Any) -> None:
    for kind in KINDS.values():
        plain, other = parameters(np.float32), parameters(np.float32)
        expected = take_steps(kind(plain, lr=0.125), plain, lambda x: Tensor(x.astype(np.float32)), 3)
        found = take_steps(kind(other, lr=number(0.125)), other, lambda x: Tensor(x.astype(np.float32)), 3)
        close(found, expected, 0.0)


def test_groups_have_their_own_options_which_may_change() -> None:
    torch = pytest.importorskip("torch")
    ours, theirs = parameters(), [torch.tensor(x, requires_grad=True) for x in start()]

    def groups(p: list[Any]) -> list[dict[str, Any]]:
        return [{"params": p[:1], "lr": 0.2, "momentum": 0.0}, {"params": iter(p[1:2])}]

    mine, other = SGD(groups(ours), lr=0.1, momentum=0.9), torch.optim.SGD(groups(theirs), lr=0.1, momentum=0.9)
    mine.add_param_group({"params": ours[2], "nesterov": True})
    other.add_param_group({"params": theirs[2], "nesterov": True})
    for step in range(8):
        for optimizer in (mine, other):
            optimizer.param_groups[1]["lr"] = 0.1 / (step + 1)
            if step == 4:  # a buffer is needed from here on
                optimizer.param_groups[0]["momentum"] = 0.5
            if step == 6:
                optimizer.param_groups[1]["dampening"] = 0.2
        close(take_steps(mine, ours, Tensor, 1, step), take_steps(other, theirs, torch.tensor, 1, step), 1e-12)
    assert [set(mine.state[p]) for p in ours] == [{"momentum_buffer"}, {"momentum_buffer", "step"}, {"momentum_buffer"}]


def test_parameters_are_updated_in_place_without_tape() -> None:
    p = Parameter(np.ones(3))
    memory = p.detach().numpy()
    for optimizer in (SGD([p], 0.1, 0.9), AdamW([p])):
        p.grad = Tensor(np.ones(3))
        before = memory.copy()
        buffers = dict(optimizer.state[p])
        optimizer.step()
        assert (memory < before).all()
        assert p.is_leaf
        assert p.requires_grad
        assert all(optimizer.state[p][name] is t and not t.requires_grad for name, t in buffers.items())


def test_zero_grad_and_closure() -> None:
    p = Parameter(np.array([3.0]))
    optimizer = SGD([p], lr=0.25)

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = (p * p).sum()
        loss.backward()
        return loss

    assert optimizer.step(closure).item() == 9.0
    assert p.item() == 1.5
    assert optimizer.step() is None  # with the same gradient, 6
    assert p.item() == 0.0
    p.detach().fill_(0.75)
    optimizer.zero_grad(set_to_none=False)
    assert p.grad.item() == 0.0
    optimizer.zero_grad()
    assert p.grad is None
    optimizer.step()
    assert p.item() == 0.75  # no gradient, no step


@pytest.mark.parametrize(
    ("kind", "options"), OPTIONS, ids=lambda x: x if isinstance(x, str) else "-".join(x) or "defaults"
)
def test_training_goes_on_from_a_state_dict(kind: str, options: dict[str, Any]) -> None:
    straight, first = parameters(), parameters()
    expected = take_steps(KINDS[kind](straight, **options), straight, Tensor, 8)
    one = KINDS[kind](first, **options)
    take_steps(one, first, Tensor, 4)
    second = copy.deepcopy(first)
    two = KINDS[kind](second, lr=7.0)
    kept = {id(t) for own in two.state.values() for t in own.values()}
    two.load_state_dict(one.state_dict())
    assert two.param_groups[0]["lr"] == one.param_groups[0]["lr"]
    assert kept <= {id(t) for own in two.state.values() for t in own.values()}
    close(take_steps(two, second, Tensor, 4, 4), expected[4:], 0.0)
    # and the first isn't touched by what the second did
    close(take_steps(one, first, Tensor, 4, 4), expected[4:], 0.0)


@pytest.mark.parametrize("kind", ["SGD", "AdamW"])
def test_a_state_dict_of_pytorchs_can_be_taken_over(kind: str) -> None:
    torch = pytest.importorskip("torch")
    options: dict[str, Any] = {"momentum": 0.9, "dampening": 0.1} if kind == "SGD" else {}
    theirs = [torch.tensor(x, requires_grad=True) for x in start()]
    other = getattr(torch.optim, kind)(theirs, lr=0.1, **options)
    take_steps(other, theirs, torch.tensor, 3)
    ours = [Parameter(p.detach().numpy().copy()) for p in theirs]
    mine = KINDS[kind](ours, **options)
    state = other.state_dict()
    groups = [{k: v for k, v in g.items() if k in mine.defaults or k == "params"} for g in state["param_groups"]]
    mine.load_state_dict(
        {
            "state": {n: {k: np.asarray(t) for k, t in s.items()} for n, s in state["state"].items()},
            "param_groups": groups,
        }
    )
    close(take_steps(mine, ours, Tensor, 3, 3), take_steps(other, theirs, torch.tensor, 3, 3), 1e-12)


def test_a_state_that_does_not_fit_is_refused_whole() -> None:
    optimizer = SGD(parameters(), momentum=0.9)
    before = copy.deepcopy(optimizer.state_dict())
    wrong = copy.deepcopy(before)
    wrong["param_groups"][0] |= {"foreach": None, "lr": 5.0}
    wrong["state"][0]["momentum_buffer"] = Tensor(np.ones((2, 2)))
    wrong["state"][9] = {"momentum_buffer": Tensor(np.ones(()))}
    with pytest.raises(StateError) as caught:
        optimizer.load_state_dict(wrong)
    for part in ("option 'foreach'", "no group holds parameter 9", "parameter 0: momentum_buffer is (2, 2)"):
        assert part in str(caught.value)
    with pytest.raises(StateError, match=r"groups of \[3\] parameters"):
        SGD(parameters()[:2]).load_state_dict({"state": {}, "param_groups": [{"params": [0, 1, 2]}]})
    with pytest.raises(ArgumentError, match="lr=-1"):
        optimizer.load_state_dict(before | {"param_groups": [before["param_groups"][0] | {"lr": -1}]})
    assert optimizer.param_groups[0]["lr"] == 1e-3


def test_model_and_optimizer_are_copied_together() -> None:
    model = Linear(2, 1)
    pair = (model, AdamW(model.parameters()))
    for net, optimizer in (copy.deepcopy(pair), pickle.loads(pickle.dumps(pair))):
        assert [p is q for p, q in zip(optimizer.param_groups[0]["params"], net.parameters(), strict=True)] == [
            True,
            True,
        ]
        net(Tensor(np.ones((1, 2), np.float32))).sum().backward()
        before = net.weight.detach().numpy().copy()
        optimizer.step()
        assert (net.weight.detach().numpy() != before).all()
        assert optimizer.state[net.weight]["step"].item() == 1
    assert pair[1].state[model.weight]["step"].item() == 0


def test_another_reader_can_stand_in_for_numbers() -> None:
    """What a tracer does: the numbers of a step become tensors, and it learns what the step's course depends on."""
    asked: list[Any] = []

    class Lifting(PlainReader):
        def number(self, group: ParamGroup, key: str | tuple[str, int]) -> Any:
            asked.append(key)
            return Tensor(np.asarray(super().number(group, key), np.float64))

        def option(self, group: ParamGroup, name: str, test: Any) -> Any:
            asked.append((name, test(group[name])))
            return super().option(group, name, test)

    for kind, options in OPTIONS:
        for dtype in (np.float64, np.float32):
            plain, lifted = parameters(dtype), parameters(dtype)
            expected = take_steps(KINDS[kind](plain, **options), plain, lambda x, d=dtype: Tensor(x.astype(d)), 3)
            optimizer = KINDS[kind](lifted, **options)
            before = install(Lifting())
            try:
                result = take_steps(optimizer, lifted, lambda x, d=dtype: Tensor(x.astype(d)), 3)
            finally:
                install(before)
            close(result, expected, 1e-15)
            assert all(p.dtype is q.dtype for p, q in zip(lifted, plain, strict=True))
    assert {"lr", "momentum", "dampening", "weight_decay", "eps", ("betas", 0), ("betas", 1)} <= set(asked)
    assert ("momentum", True) in asked
    assert ("momentum", False) in asked
    group = ParamGroup(lr=0.5, momentum=0.0)
    assert hyper(group, "lr") == 0.5
    assert option(group, "momentum") is False
    assert group != ParamGroup(group)
    assert not group == ParamGroup(group)  # noqa: SIM201
    assert len({group, ParamGroup(group)}) == 2


@pytest.mark.parametrize(
    ("pattern", "make"),
    [
        ("got none", lambda: SGD([])),
        ("not one tensor", lambda: SGD(Parameter(np.ones(1)))),
        ("lr=-0.1", lambda: SGD(parameters(), -0.1)),
        ("momentum=-1", lambda: SGD(parameters(), momentum=-1)),
        ("nesterov needs", lambda: SGD(parameters(), nesterov=True)),
        ("nesterov needs", lambda: SGD(parameters(), momentum=0.9, dampening=0.1, nesterov=True)),
        ("betas=", lambda: Adam(parameters(), betas=(0.9, 1.0))),
        ("eps=-1", lambda: AdamW(parameters(), eps=-1)),
        ("lr=nan", lambda: AdamW(parameters(), lr=float("nan"))),
        ("given twice", lambda: SGD(parameters()[:1] * 2)),
        ("no option 'learning_rate'", lambda: SGD([{"params": parameters(), "learning_rate": 1}])),
        ("takes tensors, got ndarray", lambda: SGD([np.ones(2)])),
        ("doesn't require a gradient", lambda: SGD([Tensor(np.ones(2))])),
        ("is the result of an operation", lambda: SGD([Parameter(np.ones(2)) * 2])),
    ],
)
def test_errors_say_what_is_wrong(pattern: str, make: Any) -> None:
    with pytest.raises(ArgumentError, match=pattern):
        make()


def test_repr_lists_the_groups() -> None:
    text = repr(SGD([{"params": parameters(), "lr": 0.5}], momentum=0.9))
    assert text.splitlines()[:2] == ["SGD (", "Parameter Group 0"]
    assert "    lr: 0.5" in text
    assert "params" not in text


def test_the_base_class_needs_a_formula() -> None:
    with pytest.raises(NotImplementedError):
        Optimizer(parameters(), {"lr": 0.1})
