"""Interning: one node for one value, whatever threads make and drop at the same time."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

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
