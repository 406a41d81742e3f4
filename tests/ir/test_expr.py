"""The language that says what an element is."""

from __future__ import annotations

import math

import pytest

from graphc.ir.expr import Literal
from graphc.types import bool_, float32, float64, int32


@pytest.mark.parametrize("value", [0.0, -0.0, 1.5, math.inf, -math.inf, math.nan])
def test_equal_literals_are_the_same_number(value: float) -> None:
    one, again = Literal(value, float32), Literal(float(str(value)), float32)
    assert one == again
    assert hash(one) == hash(again)
    assert one != Literal(value, float64)


def test_zeros_differ_by_sign_and_dtype() -> None:
    assert Literal(0.0, float32) != Literal(-0.0, float32)
    assert Literal(0, float32) == Literal(0.0, float32)
    assert len({Literal(0.0, float32), Literal(-0.0, float32), Literal(0, int32), Literal(False, bool_)}) == 4
    assert Literal(1, int32) != 1
