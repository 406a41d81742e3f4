"""No stale results: what a compiled function read from classes is guarded, and it can't look at captured numbers."""

from __future__ import annotations

import cProfile
import gc as collector
import pstats
import sys
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import graphc as gc
from graphc.errors import TraceError
from graphc.nn import Dropout, Module
from graphc.tensor import Tensor


class Settings:
    factor = 2.0
    label = "settings"
    names: tuple[str, ...] = ("a",)


class Scaled:
    scale = 3.0

    def __call__(self, x: Any) -> Any:
        return x * self.scale


class Layer(Module):
    twice = False

    def forward(self, x: Any) -> Any:
        return x + x if self.twice else x


def forms(compiled: Any) -> int:
    return len(compiled.specialisations)


def one(compiled: Any) -> float:
    result: Tensor = compiled(gc.ones(()))
    return float(result.item())


def test_a_class_attribute() -> None:
    compiled = gc.compile(lambda x: x * Settings.factor * len(Settings.names))
    assert one(compiled) == 2.0
    Settings.label = "other"  # not read
    assert one(compiled) == 2.0
    assert forms(compiled) == 1
    try:
        Settings.factor = 5.0
        assert one(compiled) == 5.0
        Settings.names = ("a", "b")
        assert one(compiled) == 10.0
    finally:
        Settings.factor, Settings.names = 2.0, ("a",)
    assert forms(compiled) == 3
    assert "Settings.factor was 2.0, is 5.0" in compiled.history[1]


def test_a_class_attribute_that_an_object_gets_of_its_own() -> None:
    scaled = Scaled()
    compiled = gc.compile(lambda x: scaled(x))
    assert one(compiled) == 3.0
    scaled.scale = 4.0
    assert one(compiled) == 4.0
    del scaled.scale
    assert one(compiled) == 3.0
    try:
        Scaled.scale = 7.0
        assert one(compiled) == 7.0
    finally:
        Scaled.scale = 3.0


def test_a_modules_mode_and_settings() -> None:
    layer, dropout = Layer(), Dropout(1.0)
    compiled = gc.compile(lambda x: layer(x) + dropout(x))
    assert one(compiled) == 1.0
    dropout.eval()
    assert one(compiled) == 2.0
    layer.twice = True
    assert one(compiled) == 3.0
    dropout.train()
    assert one(compiled) == 2.0
    assert forms(compiled) == 4


@pytest.mark.parametrize(
    ("what", "read"),
    [
        (r"item\(\)", lambda s: s.item()),
        (r"numpy\(\)", lambda s: s.numpy().sum()),
        (r"tolist\(\)", lambda s: s.tolist()),
        (r"float\(\)", float),
        ("if, while", lambda s: 1.0 if s else 2.0),
        ("numpy.asarray", lambda s: float(np.asarray(s))),
    ],
)
def test_numbers_of_captured_tensors_are_not_frozen(what: str, read: Callable[[Tensor], float]) -> None:
    captured = gc.tensor(2.0)
    with pytest.raises(TraceError, match=f"{what}.* a tensor from outside"):
        gc.compile(lambda x: x * read(captured))(gc.ones(()))
    assert read(captured) in (1.0, 2.0)
    compiled = gc.compile(lambda x: x * captured)
    assert one(compiled) == 2.0
    captured.fill_(3.0)
    assert one(compiled) == 3.0
    assert forms(compiled) == 1


def test_the_garbage_collectors_callbacks_are_not_the_functions() -> None:
    """Profilers and test tools time collections; one in the middle of a trace isn't the traced code's clock."""

    def timing(phase: str, info: dict[str, int]) -> None:
        try:
            time.perf_counter()
        except TraceError as error:
            refused.append(error)

    def churn(x: Any) -> Any:
        kept = [[i] for i in range(5000)]  # without calls: so it isn't the tracer's own work that collects
        return x + len(kept) - 4999

    refused: list[TraceError] = []
    collector.callbacks.append(timing)
    try:
        assert one(gc.compile(churn)) == 2.0
        assert not refused
        assert collector.isenabled()
        with pytest.raises(TraceError, match=r"reads a clock \(perf_counter\)"):
            gc.compile(lambda x: x * time.perf_counter())(gc.ones(()))
        assert collector.isenabled()
    finally:
        collector.callbacks.remove(timing)


def test_a_profiler_goes_on_after_a_trace() -> None:
    def calls(event: str) -> bool:
        return event == "call"

    seen: list[str] = []
    profiler = cProfile.Profile()
    profiler.enable()
    try:
        assert one(gc.compile(lambda x: x + 1)) == 2.0
        calls("after")
    finally:
        profiler.disable()
    assert any("calls" in name for _, _, name in pstats.Stats(profiler).stats)  # type: ignore[attr-defined]

    def profile(frame: Any, event: str, argument: Any) -> None:
        seen.append(event)

    before = sys.getprofile()
    sys.setprofile(profile)
    try:
        assert one(gc.compile(lambda x: x + 2)) == 3.0
        assert sys.getprofile() is profile
    finally:
        sys.setprofile(before)
    assert seen


class _Made:
    """Becomes an array by code of its own."""

    def __init__(self) -> None:
        self.factor = 2.0

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray[Any, Any]:
        return np.full((), self.factor, dtype or np.float32)


def test_code_that_makes_an_operand_an_array_is_watched() -> None:
    made = _Made()
    compiled = gc.compile(lambda x: gc.multiply(x, gc.asarray(made)))
    assert one(compiled) == 2.0
    made.factor = 3.0
    assert one(compiled) == 3.0


class _Doubled(gc.optim.SGD):
    """An optimizer of the user's, whose updates are watched."""

    rate = 2.0

    def update(self, group: Any, p: Any, grad: Any, state: Any) -> None:
        p.sub_(grad * self.rate)


def test_updates_of_the_user_s_are_watched() -> None:
    p = gc.nn.Parameter(gc.ones((3,)))
    optimizer = _Doubled([p], lr=0.1)

    def step(x: Any) -> Any:
        loss = (p * x).sum()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        return loss

    compiled = gc.compile(step)
    for rate in (2.0, 2.0, 3.0):
        optimizer.rate = rate
        before = p.detach().numpy().copy()
        compiled(gc.ones((3,)))
        np.testing.assert_array_equal(p.detach().numpy(), before - np.float32(rate))
    assert forms(compiled) == 2
