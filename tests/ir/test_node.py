"""Interning: one node for one value, whatever threads make and drop at the same time."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest

from graphc.errors import VerifyError
from graphc.ir import node
from graphc.ir.node import constant, fresh_input, make
from graphc.ops.elementwise import exp, multiply
from graphc.types import TensorType, float32


@pytest.fixture
def _switching_often() -> Iterator[None]:
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(before)


def test_equal_values_are_one_node_and_leave_the_table_with_their_last_holder() -> None:
    x = fresh_input("x", TensorType((3,), float32))
    assert multiply(x, x) is multiply(x, x)
    assert constant(0.0) is not constant(-0.0)
    y = exp(multiply(x, x))
    key = (y.op, y.inputs)
    assert key in node._interned
    del y
    assert key not in node._interned


@pytest.mark.usefixtures("_switching_often")
def test_threads_that_make_and_drop_the_same_node(monkeypatch: pytest.MonkeyPatch) -> None:
    x = fresh_input("x", TensorType((3,), float32))
    op = multiply(x, x).op
    unraisable: list[object] = []
    monkeypatch.setattr(sys, "unraisablehook", unraisable.append)

    def work(_: int) -> None:
        for _ in range(40_000):
            make(op, (x, x), {})

    with ThreadPoolExecutor(4) as threads:
        list(threads.map(work, range(4)))  # raises what they raise
    assert not unraisable
    assert (op, (x, x)) not in node._interned
    assert make(op, (x, x), {}) is multiply(x, x)


@pytest.mark.parametrize(
    ("array", "number"),
    [(2.5, 2.5), ([0.5, 0.5], 0.5), ([[-0.0]], -0.0), ([1.0, 2.0], None), ([np.nan, np.nan], None), ([], None)],
)
def test_the_number_that_a_constant_is(array: Any, number: float | None) -> None:
    value = constant(array, float32).attrs["value"]
    for _ in range(2):
        if number is None:
            assert value.number is None
        else:
            assert value.number == number
            assert np.signbit(value.number) == np.signbit(number)


def test_a_node_is_finished_when_it_is_made() -> None:
    x = fresh_input("x", TensorType((3,), float32))
    for made in (x, multiply(x, x)):
        assert type(made) is node.Node
        with pytest.raises(VerifyError, match="immutable"):
            made.type = x.type


def test_shared_operands_are_listed_once_and_before_their_users() -> None:
    x = fresh_input("x", TensorType((3,), float32))
    a = exp(x)
    b = multiply(a, x)
    c = multiply(b, a)
    assert node.topological([c, a, c, b]) == [x, a, b, c]
    assert node.topological([b, c], stop={a}) == [a, x, b, c]
    assert node.topological([multiply(x, a), c])[:2] == [x, a]
