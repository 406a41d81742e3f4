"""Parts of joined values are written where they lie in them, and windows are read where they lie."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import graphc as gc
from graphc.ir.node import Node, constant
from graphc.ops import elementwise as E
from graphc.ops import linalg, movement
from graphc.runtime.program import KernelCall, Program
from tests.runtime.test_plan import check, new


def kernels(program: Program) -> list[str]:
    return [step.kernel.name.split("_", 1)[1] for step in program.steps if isinstance(step, KernelCall)]


def product(x: Node) -> Node:
    """A reader that wants its operand in memory."""
    return linalg.matmul(x, constant(np.eye(x.shape[-1], dtype=np.float32)))  # type: ignore[no-any-return]


@pytest.mark.parametrize("axis", [0, 1])
def test_parts_are_written_in_place(axis: int) -> None:
    x, y = new(6, 6), new(6, 6)
    joined = movement.concat([E.exp(x), linalg.matmul(x, y), E.negative(y)], axis)
    program = check([x, y], [product(joined)])
    # two parts share a kernel, and no kernel joins
    assert len(kernels(program)) == 3
    assert not any(name.startswith(("concat", "copy", "relay")) for name in kernels(program))
    assert program.arena_size == 6 * 6 * 3 * 4 // 64 * 64 + 64


def test_a_joined_output_is_written_by_its_parts() -> None:
    x = new(6, 5)
    program = check([x], [movement.concat([E.exp(x), E.negative(x)], 1)])
    assert len(program.steps) == 1
    assert program.arena_size == 0


def test_what_is_a_part_twice_is_copied_once() -> None:
    x = new(4, 5)
    part = E.exp(x)
    joined = movement.concat([part, part, E.sin(x)], 0)
    other = movement.concat([E.cos(x), part], 1)
    program = check([x], [product(joined), product(other)])
    assert sum("copy" in name or "relay" in name for name in kernels(program)) == 2


def test_inputs_constants_and_outputs_are_copied_into_place() -> None:
    x, y = new(4, 5), new(3, 5)
    part = E.exp(x)
    numbers = constant(np.arange(10, dtype=np.float32).reshape(2, 5))
    check([x, y], [product(movement.concat([part, y, numbers, E.sin(x), E.cos(y)], 0)), part])


@pytest.mark.parametrize("axis", [0, 1])
def test_few_inputs_are_chosen_between_and_each_of_many_is_copied(axis: int) -> None:
    few = [new(3, 3) for _ in range(4)]
    assert kernels(check(few, [movement.concat(few, axis)])) == ["concat_12x3" if axis == 0 else "concat_3x12"]
    many = [new(3, 3) for _ in range(7)]
    for reader in (lambda x: x, E.exp, product):
        program = check(many, [reader(movement.concat(many, axis))])
        names = [step.kernel.name for step in program.steps if isinstance(step, KernelCall)]
        copies = [name for name in names if "relay" in name]
        assert len(copies) == 7
        assert len(set(copies)) == 1  # the same kernel, called with other pointers


@pytest.mark.parametrize("inner", [0, 1, 2])
@pytest.mark.parametrize("outer", [0, 1, 2])
def test_joined_parts_of_joined_values(inner: int, outer: int) -> None:
    x = new(3, 4, 5)
    low = movement.concat([E.exp(x), E.sin(x)], inner)
    sides = movement.concat([E.cos(low), low, E.negative(low)], outer)
    check([x], [product(sides), product(low)])


def test_parts_of_zero_elements() -> None:
    x, nothing = new(3, 4), new(0, 4)
    check([x, nothing], [product(movement.concat([E.exp(x), E.exp(nothing), E.sin(x)], 0))])


def test_a_joined_update_of_state() -> None:
    """Its parts read what they would overwrite."""
    state, x = new(8, 4), new(4, 4)
    half = movement.narrow(state, 0, 4, 4)
    joined = movement.concat([E.multiply(half, x), E.add(linalg.matmul(half, x), x)], 0)
    check([state, x], [joined, E.exp(half)], {0: 0})


def test_state_is_overwritten_after_windows_of_it_are_read() -> None:
    state, x = new(8, 4), new(4, 4)
    windows = [movement.narrow(state, 0, 4 * k, 4) for k in range(2)]
    check([state, x], [E.multiply(state, 2.0), linalg.matmul(windows[0], x), E.exp(windows[1])], {0: 0})


def test_windows_of_inputs_constants_parts_and_joined_values() -> None:
    x = new(8, 6)
    numbers = constant(np.arange(48, dtype=np.float32).reshape(8, 6))
    joined = movement.concat([E.exp(movement.narrow(x, 0, 3, 4)), E.sin(movement.narrow(numbers, 0, 1, 4))], 0)
    outputs = [product(movement.narrow(joined, 0, k, 4)) for k in (0, 1, 4)]
    check([x], [*outputs, product(movement.narrow(E.cos(x), 0, 2, 3)), product(joined)])


def test_a_window_of_a_part_that_lies_in_strides() -> None:
    x = new(8, 6)
    part = E.exp(x)
    joined = movement.concat([part, E.sin(x)], 1)
    check([x], [product(joined), product(movement.narrow(part, 0, 2, 3))])


def test_the_steps_of_a_loop_are_one_kernel() -> None:
    def f(x: Any, u: Any) -> Any:
        h = gc.zeros((3, 8))
        for t in range(12):
            h = gc.tanh(x[t] + h @ u)
        return h

    rng = np.random.default_rng(0)
    x, u = (gc.tensor(rng.standard_normal(shape).astype(np.float32)) for shape in ((12, 3, 8), (8, 8)))
    fast = gc.compile(f)
    np.testing.assert_allclose(fast(x, u).numpy(), f(x, u).numpy(), rtol=1e-5, atol=1e-6)
    called = [line.split()[0] for line in fast.explain().kernels if "buffers" in line]
    assert called.count(max(called, key=called.count)) >= 11
    assert len(set(called)) <= 3


@pytest.mark.parametrize("threads", [1, 2, 5])
@pytest.mark.parametrize("batch", [1, 3, 17])
def test_a_recurrent_step_is_the_same_on_any_number_of_threads(threads: int, batch: int) -> None:
    gc.manual_seed(0)
    layer = gc.nn.LSTM(9, 21)
    x = gc.tensor(np.random.default_rng(1).standard_normal((6, batch, 9)).astype(np.float32))

    def step(x: Any) -> Any:
        layer.zero_grad()
        layer(x)[0].sum().backward()
        return [p.grad for p in layer.parameters()]

    before = gc.get_num_threads()
    try:
        gc.set_num_threads(1)
        one = [g.numpy().copy() for g in gc.compile(step)(x)]
        gc.set_num_threads(threads)
        for a, b in zip(gc.compile(step)(x), one, strict=True):
            np.testing.assert_array_equal(a.numpy(), b)
    finally:
        gc.set_num_threads(before)
