"""A compiled step holds its optimizer's state: the same numbers as on the tape, whatever the options do meanwhile."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import graphc as gc
from graphc.nn import GELU, Dropout, LayerNorm, Linear, Module, Sequential
from graphc.nn import functional as F
from graphc.optim import SGD, Adam, AdamW, Optimizer

MAKERS: dict[str, Callable[[Any], Optimizer]] = {
    "sgd": lambda p: SGD(p, lr=0.1),
    "decay": lambda p: SGD(p, lr=0.1, weight_decay=0.1, maximize=True),
    "momentum": lambda p: SGD(p, lr=0.1, momentum=0.9),
    "nesterov": lambda p: SGD(p, lr=0.1, momentum=0.9, nesterov=True),
    "dampening": lambda p: SGD(p, lr=0.1, momentum=0.9, dampening=0.5),
    "adam": lambda p: Adam(p, lr=0.01, weight_decay=0.1),
    "amsgrad": lambda p: Adam(p, lr=0.01, amsgrad=True),
    "adamw": lambda p: AdamW(p, lr=0.01),
}


def build() -> Module:
    gc.manual_seed(0)
    return Sequential(Linear(4, 8), GELU(), LayerNorm(8), Dropout(0.2), Linear(8, 3)).to("float64")


def training(model: Module, optimizer: Optimizer) -> Callable[[Any, Any], Any]:
    def step(x: Any, y: Any) -> Any:
        optimizer.zero_grad()
        loss = F.cross_entropy(model(x), y, label_smoothing=0.1)
        loss.backward()
        optimizer.step()
        return loss

    return step


class Pair:
    """The same training on the tape and compiled."""

    def __init__(self, make: Callable[[Any], Optimizer]) -> None:
        self.models = [build(), build()]
        self.optimizers = [make(model.parameters()) for model in self.models]
        tape, graph = (training(m, o) for m, o in zip(self.models, self.optimizers, strict=True))
        self.compiled = gc.compile(graph)
        self.steps: list[Callable[[Any, Any], Any]] = [tape, self.compiled]

    def set(self, **options: Any) -> None:
        for optimizer in self.optimizers:
            optimizer.param_groups[0].update(options)

    def run(self, number: int) -> None:
        """One step of each, with the same data and random numbers; they must agree."""
        rng = np.random.default_rng(number)
        x, y = gc.tensor(rng.standard_normal((5, 4))), gc.tensor(rng.integers(0, 3, 5))
        losses = []
        for step in self.steps:
            gc.manual_seed(number)
            losses.append(step(x, y).item())
        assert losses[0] == pytest.approx(losses[1], rel=1e-12)
        for a, b in zip(*(m.parameters() for m in self.models), strict=True):
            np.testing.assert_allclose(a.detach().numpy(), b.detach().numpy(), rtol=1e-10, atol=1e-13)
        ours, theirs = (list(o.state.values()) for o in self.optimizers)
        for kept, other in zip(ours, theirs, strict=True):
            assert list(kept) == list(other)
            for name, value in kept.items():
                np.testing.assert_allclose(value.numpy(), other[name].numpy(), rtol=1e-10, atol=1e-13)


@pytest.mark.parametrize("name", MAKERS)
def test_both_modes_take_the_same_steps_while_the_rate_changes(name: str) -> None:
    pair = Pair(MAKERS[name])
    for number in range(4):
        pair.set(lr=0.1 / (number + 1))
        pair.run(number)
    assert len(pair.compiled.specialisations) == 1


def test_numbers_are_inputs_and_options_are_guarded() -> None:
    pair = Pair(MAKERS["sgd"])
    pair.run(0)
    changes: list[tuple[dict[str, Any], int]] = [
        ({"momentum": 0.9}, 2),  # buffers appear
        ({"momentum": 0.5}, 2),
        ({"weight_decay": 0.1}, 3),
        ({"lr": 0.01, "weight_decay": 0.2}, 3),
        ({"nesterov": True}, 4),
        ({"nesterov": False, "dampening": 0.3}, 5),
        ({"dampening": 0.0}, 6),  # the step counters that dampening brought stay
        ({"momentum": 0.0, "weight_decay": 0.0}, 7),
        ({"momentum": 0.9}, 8),
        ({"momentum": 0.0}, 8),  # known already
    ]
    for number, (options, forms) in enumerate(changes, 1):
        pair.set(**options)
        pair.run(number)
        pair.run(100 + number)
        assert len(pair.compiled.specialisations) == forms, options


def test_training_and_evaluation_are_two_forms() -> None:
    pair = Pair(MAKERS["adamw"])
    pair.run(0)
    for model in pair.models:
        model.eval()
    pair.run(1)
    for model in pair.models:
        model.train()
    pair.run(2)
    assert len(pair.compiled.specialisations) == 2


def test_a_loaded_state_is_seen_by_the_compiled_step() -> None:
    pair = Pair(MAKERS["adamw"])
    pair.run(0)
    kept = [copy.deepcopy((m.state_dict(), o.state_dict())) for m, o in zip(pair.models, pair.optimizers, strict=True)]
    pair.run(1)
    for model, optimizer, (weights, moments) in zip(pair.models, pair.optimizers, kept, strict=True):
        model.load_state_dict(weights)
        optimizer.load_state_dict(moments)
    pair.run(1)
    pair.run(2)
    assert len(pair.compiled.specialisations) == 1
