"""What an epilogue needs is fetched during the fold: the same numbers, and each line of each tile asked for once."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from graphc.ir.expr import Affine, Axis
from graphc.ir.graph import Graph
from graphc.ir.node import Node, make, parameter
from graphc.ops import convolution, elementwise, linalg
from graphc.runtime.cpu.target import TARGETS, by_name
from graphc.runtime.loop.interp import run_nest
from graphc.runtime.loop.ir import Block, Buffer, For, If, Kernel, Prefetch
from graphc.runtime.loop.lower import lower
from graphc.runtime.loop.nest import Nest
from graphc.runtime.loop.schedule import fetch
from graphc.runtime.loop.schedule.cpu import schedule_cpu
from graphc.types import TensorType, float32
from tests.runtime.cpu.harness import RUNNABLE, run_native
from tests.runtime.loop.reference import arrays_for
from tests.runtime.loop.test_schedule import compare


@pytest.fixture(autouse=True)
def all_is_far(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fetch, "UNCACHED", 0)


def of(*shape: int, number: int) -> Node:
    return parameter(number, TensorType(shape, float32))


def added_to(m: int, n: int, k: int) -> Nest:
    """tanh(a @ b + x) * x, rows of x elsewhere than those of the result."""
    a, b, x = of(m, k, number=0), of(k, n, number=1), of(m, n, number=2)
    y = elementwise.multiply(elementwise.tanh(elementwise.add(linalg.matmul(a, b), x)), x)
    return lower(Graph([a, b, x], [y]), (m, n), (0, 1))


def convolved() -> Nest:
    x, w, r = of(2, 6, 9, 40, number=0), of(7, 6, 3, 3, number=1), of(2, 7, 9, 40, number=2)
    attrs = {"stride": (1, 1), "padding": ((1, 1),) * 2, "lhs_dilation": (1, 1), "rhs_dilation": (1, 1), "groups": 1}
    y = elementwise.add(make(convolution.CONV, (x, w), attrs), r)
    return lower(Graph([x, w, r], [y]), y.shape, tuple(range(4)))


def fetched(kernel: Kernel) -> Counter[tuple[str, int]]:
    """(buffer, element) of each prefetch that runs, how often."""
    found: Counter[tuple[str, int]] = Counter()

    def run(block: Block, axes: dict[str, int]) -> None:
        for statement in block:
            match statement:
                case For(axis, kind, body, width):
                    for i in range(0, axis.extent, width if kind == "vector" else 1):
                        run(body, {**axes, axis.name: i})
                case If():
                    raise AssertionError("the kernels here have none around their tiles")
                case Prefetch(buffer, at):
                    found[buffer.name, at.const + sum(c * axes[axis.name] for axis, c in at.terms)] += 1

    run(kernel.body, {})
    return found


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 40), st.integers(1, 70), st.integers(1, 60), st.sampled_from(sorted(TARGETS)))
def test_products_with_epilogues(m: int, n: int, k: int, target: str) -> None:
    nest = added_to(m, n, k)
    compare(nest, schedule_cpu(nest, TARGETS[target]))


@pytest.mark.parametrize("target", sorted(TARGETS))
def test_convolutions_with_epilogues(target: str) -> None:
    compare(convolved(), schedule_cpu(convolved(), TARGETS[target]))


@pytest.mark.parametrize("target", RUNNABLE)
@pytest.mark.parametrize("shape", [(33, 64, 256), (13, 47, 129), (24, 32, 17), (11, 32, 5)])
def test_machine_code(shape: tuple[int, int, int], target: str) -> None:
    nest = added_to(*shape)
    arrays = arrays_for(nest)
    status, got = run_native(schedule_cpu(nest, by_name(target)), arrays, target)
    assert status == run_nest(nest, arrays) == 0
    for name, array in arrays.items():
        np.testing.assert_allclose(got[name], array, rtol=1e-4, atol=1e-4)


def test_each_line_of_operand_and_result_is_asked_for_once() -> None:
    kernel = schedule_cpu(added_to(28, 64, 352), TARGETS["x86-64-v4"])
    lines = {(name, at) for name in ("p2", "o0") for at in range(0, 28 * 64, 16)}
    assert fetched(kernel) == Counter(lines)


def test_what_is_near_and_short_folds(monkeypatch: pytest.MonkeyPatch) -> None:
    once = schedule_cpu(added_to(28, 64, 8), TARGETS["x86-64-v4"])  # too short to be cut: all lines before it
    assert set(fetched(once).values()) == {1}
    monkeypatch.setattr(fetch, "UNCACHED", 1 << 20)
    assert not fetched(schedule_cpu(added_to(28, 64, 352), TARGETS["x86-64-v4"]))


def test_a_loop_is_cut_into_runs_and_a_rest() -> None:
    row, loop = Axis("r", 11), Axis("j", 256)
    plan = fetch.Fetch(row, ((Buffer("x", float32, 11 * 64), row * 64),))
    seen: list[Affine] = []

    def body(at: Affine) -> Block:
        seen.append(at)
        return ()

    plan.along(loop, 1, body)
    values = sorted(
        at.const + sum(c * i for (_, c), i in zip(at.terms, point, strict=True))
        for at in seen
        for point in np.ndindex(*(axis.extent for axis, _ in at.terms))
    )
    assert values == list(range(256))
