"""What is computed again instead of being kept: the arena is smaller, the numbers are the same to the last bit."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from graphc.ir.graph import Graph
from graphc.ir.node import Node
from graphc.ops import elementwise as E
from graphc.ops import indexing, linalg, movement, random, reduction
from graphc.passes.fuse import fuse
from graphc.runtime import rematerialise
from graphc.runtime.interp import run_program
from graphc.runtime.plan import plan
from graphc.runtime.program import KernelCall, Program
from graphc.types import int64
from tests.passes.test_fuse import programs
from tests.runtime.loop.reference import random_array
from tests.runtime.test_plan import check, drawn_state, new

LAYERS, BATCH, WIDTH = 6, 16, 16
PLANE = BATCH * WIDTH * 4  # bytes of an activation


@pytest.fixture
def eager_to_repeat(monkeypatch: pytest.MonkeyPatch) -> None:
    """Small arenas matter, too, and effort doesn't."""
    monkeypatch.setattr(rematerialise, "LEAST", 0)
    monkeypatch.setattr(rematerialise, "SHARE", 1e9)


def bend(h: Node) -> Node:
    return E.multiply(h, E.tanh(h))


def slope(h: Node) -> Node:
    t = E.tanh(h)
    return E.add(t, E.multiply(h, E.subtract(1.0, E.multiply(t, t))))


def training(
    made: Callable[[Node], Node] = bend, factor: Callable[[Node], Node] = slope, layers: int = LAYERS
) -> tuple[list[Node], list[Node], dict[int, int]]:
    """Inputs, outputs and state of a step through layers of made(x @ w), whose derivative is a factor of x @ w."""
    inputs, outputs, state = [new(BATCH, WIDTH)], [], {}
    y = inputs[0]
    kept = []
    for _ in range(layers):
        w = new(WIDTH, WIDTH)
        inputs.append(w)
        h = E.multiply(linalg.matmul(y, w), 0.1)
        kept.append((y, w, h))
        y = made(h)
    g = y
    for x, w, h in reversed(kept):
        g = E.multiply(g, factor(h))
        state[len(outputs) + 1] = inputs.index(w)
        outputs.append(E.subtract(w, E.multiply(linalg.matmul(movement.matrix_transpose(x), g), 1e-3)))
        g = linalg.matmul(g, movement.matrix_transpose(w))
    return inputs, [g, *outputs], state


def kernels(program: Program) -> list[str]:
    return [step.kernel.name for step in program.steps if isinstance(step, KernelCall)]


def numbers(program: Program, graph: Graph, state: dict[int, int]) -> list[Any]:
    memory = [random_array(x.shape, x.dtype, i) for i, x in enumerate(graph.inputs)]
    memory += [np.zeros(y.shape, y.dtype.numpy) for k, y in enumerate(graph.outputs) if k not in state]
    assert run_program(program, memory) == 0
    return memory


@pytest.fixture(autouse=True)
def memory_is_dear(monkeypatch: pytest.MonkeyPatch) -> None:
    """The works here are tiny."""
    monkeypatch.setattr(rematerialise, "START", 0.0)
    monkeypatch.setattr(rematerialise, "WORTH", 0.0)


def test_little_memory_is_not_worth_many_kernels(monkeypatch: pytest.MonkeyPatch) -> None:
    inputs, outputs, state = training()
    once = len(plan(fuse(Graph(inputs, outputs)), state).steps)
    monkeypatch.setattr(rematerialise, "LEAST", 0)
    monkeypatch.setattr(rematerialise, "SHARE", 1.0)
    for start, worth, more in ((0.0, 1.0, True), (1e9, 4.0, False), (0.0, 1e6, False)):
        monkeypatch.setattr(rematerialise, "START", start)
        monkeypatch.setattr(rematerialise, "WORTH", worth)
        assert (len(plan(fuse(Graph(inputs, outputs)), state).steps) > once) is more


def test_what_is_made_of_what_is_kept_is_made_again(monkeypatch: pytest.MonkeyPatch) -> None:
    inputs, outputs, state = training()
    kept = check(inputs, outputs, state)
    monkeypatch.setattr(rematerialise, "LEAST", 0)
    monkeypatch.setattr(rematerialise, "SHARE", 1.0)
    spared = check(inputs, outputs, state)
    assert kept.arena_size >= 2 * LAYERS * PLANE
    assert spared.arena_size <= (LAYERS + 2) * PLANE
    assert len(kept.steps) < len(spared.steps) <= len(kept.steps) + 2 * LAYERS  # tanh(h) and h * tanh(h)
    graph = Graph(inputs, outputs)
    for a, b in zip(numbers(kept, graph, state), numbers(spared, graph, state), strict=True):
        np.testing.assert_array_equal(a, b)


def test_an_arena_that_caches_hold_is_left_alone() -> None:
    inputs, outputs, state = training(layers=3)
    program = check(inputs, outputs, state)
    assert program.arena_size < rematerialise.LEAST
    assert len(program.steps) == len(plan(fuse(Graph(inputs, outputs)), state).steps)


def test_only_so_much_effort_is_spent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rematerialise, "LEAST", 0)
    inputs, outputs, state = training()
    arenas, steps = [], []
    for share in (0.0, 0.1, 0.2, 1.0):
        monkeypatch.setattr(rematerialise, "SHARE", share)
        program = check(inputs, outputs, state)
        arenas.append(program.arena_size)
        steps.append(len(program.steps))
    assert arenas == sorted(arenas, reverse=True)
    assert steps == sorted(steps)
    assert len(set(arenas)) == len(set(steps)) == 4


@pytest.mark.usefixtures("eager_to_repeat")
def test_products_and_sums_are_not_computed_again() -> None:
    x, w, u = new(BATCH, WIDTH), new(WIDTH, 64), new(64, 128)
    early = linalg.matmul(x, w)  # made of less, but by sums
    wide = E.tanh(linalg.matmul(early, u))
    narrow = reduction.sum(wide, axis=1, keepdims=True)
    program = check([x, w, u], [E.add(early, narrow)])
    assert len(set(kernels(program))) == len(kernels(program)) == len(program.steps)


def centred(h: Node) -> Node:
    return E.subtract(h, reduction.mean(h, axis=1, keepdims=True))


@pytest.mark.parametrize("mean_is_kept", [False, True])
@pytest.mark.usefixtures("eager_to_repeat")
def test_rows_are_made_again_from_themselves_or_from_their_means(mean_is_kept: bool) -> None:
    def factor(h: Node) -> Node:
        flat = E.rsqrt(E.add(E.multiply(h, h), 1.0))
        return E.multiply(flat, reduction.mean(h, axis=1, keepdims=True)) if mean_is_kept else flat

    inputs, outputs, state = training(centred, factor)
    program = check(inputs, outputs, state)
    assert program.arena_size <= (LAYERS + 2) * PLANE + 2 * LAYERS * 64  # of means, cache lines
    names = kernels(program)
    assert sum("sum" in name for name in names) == (LAYERS - 1 if mean_is_kept else 0)  # means: not twice
    assert sum("subtract" in name for name in names) == LAYERS + (LAYERS - 2 if mean_is_kept else 2 * LAYERS - 3)


@pytest.mark.usefixtures("eager_to_repeat")
def test_what_reads_a_parameter_runs_before_its_update() -> None:
    """The recomputed y = h * tanh(h * s) reads s, which the step overwrites."""
    s = new(1, WIDTH)
    inputs, outputs, state = training(lambda h: E.multiply(h, E.tanh(E.multiply(h, s))))
    state[len(outputs)] = len(inputs)
    program = check([*inputs, s], [*outputs, E.subtract(s, reduction.sum(outputs[1], axis=0, keepdims=True))], state)
    assert program.arena_size <= (LAYERS + 4) * PLANE
    assert not any("copy" in name for name in kernels(program))


@pytest.mark.usefixtures("eager_to_repeat")
def test_masks_of_random_numbers_are_the_same_the_second_time() -> None:
    key = new(2, dtype=int64)

    def dropped(h: Node) -> Node:
        chosen = E.less(random.uniform(key, h.shape), 0.7)
        return E.where(chosen, E.multiply(h, E.tanh(h)), 0.0)

    inputs, outputs, state = training(dropped)
    state[len(outputs)] = len(inputs)
    check([*inputs, key], [*outputs, E.add(key, 1)], state)


@pytest.mark.usefixtures("eager_to_repeat")
def test_what_is_checked_is_computed_once() -> None:
    rows = new(BATCH, dtype=int64)
    inputs, outputs, state = training()
    table = E.tanh(inputs[0])
    outputs = [*outputs, E.multiply(indexing.take(table, E.remainder(rows, BATCH), axis=0), outputs[0])]
    check([*inputs, rows], outputs, state)


@pytest.mark.usefixtures("eager_to_repeat")
@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(programs(), st.data())
def test_random_programs(program: tuple[list[Node], list[Node]], data: Any) -> None:
    inputs, outputs = program
    check(inputs, outputs, drawn_state(inputs, outputs, data))


@pytest.mark.usefixtures("eager_to_repeat")
def test_hundreds_of_layers_take_seconds() -> None:
    inputs, outputs, state = training(layers=300)
    fused = fuse(Graph(inputs, outputs))
    start = time.perf_counter()
    program = plan(fused, state)
    assert time.perf_counter() - start < 20
    assert program.arena_size <= (300 + 4) * PLANE
