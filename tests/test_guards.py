"""What a compiled function read from classes is guarded too: no stale result when it changes."""

from __future__ import annotations

from typing import Any

import graphc as gc
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
