"""Planning: the whole program of a graph, run by the interpreter, gives what the graph's primitives evaluate to."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from graphc.errors import VerifyError
from graphc.ir.graph import Graph
from graphc.ir.node import ITEM, Node, constant, fresh_input
from graphc.ops import convolution, indexing, linalg, movement, reduction
from graphc.ops import elementwise as E
from graphc.passes.fuse import fuse
from graphc.runtime.interp import run_program
from graphc.runtime.layout import Layouts, assign
from graphc.runtime.loop.storage import Storage
from graphc.runtime.loop.text import program_text
from graphc.runtime.loop.verify import verify
from graphc.runtime.plan import plan
from graphc.runtime.program import KernelCall, MatmulCall, Program
from graphc.types import DType, TensorType, float32, int64
from tests.passes.test_fuse import programs
from tests.runtime.loop.reference import evaluate, random_array


def new(*shape: int, dtype: DType = float32) -> Node:
    return fresh_input("x", TensorType(shape, dtype))


def check(inputs: list[Node], outputs: list[Node], state: dict[int, int] | None = None, **options: Any) -> Program:
    """Plan, run, and compare every output and every updated input."""
    state = state or {}
    graph = Graph(inputs, outputs)
    program = plan(fuse(graph), state, **options)
    for step in program.steps:
        if isinstance(step, KernelCall):
            verify(step.kernel)
    arrays = [random_array(x.shape, x.dtype, i) for i, x in enumerate(inputs)]
    wanted = evaluate(graph, [a.copy() for a in arrays])
    memory = [a.copy() for a in arrays]
    memory += [np.full(y.shape, 77, y.dtype.numpy) for k, y in enumerate(outputs) if k not in state]
    assert run_program(program, memory) == 0
    own = len(inputs)
    for k, want in enumerate(wanted):
        got = memory[state[k]] if k in state else memory[own]
        own += k not in state
        np.testing.assert_allclose(got, want, rtol=1e-3, atol=1e-3, err_msg=program_text(program))
    for i, array in enumerate(arrays):
        if i not in state.values():
            np.testing.assert_array_equal(memory[i], array)
    return program


def drawn_state(inputs: list[Node], outputs: list[Node], data: st.DataObject) -> dict[int, int]:
    """Some of the outputs, with the input of equal type that each overwrites."""
    state: dict[int, int] = {}
    for k, y in enumerate(outputs):
        fitting = [i for i, x in enumerate(inputs) if x.type == y.type and i not in state.values()]
        if fitting and data.draw(st.booleans()):
            state[k] = data.draw(st.sampled_from(fitting))
    return state


def test_an_optimiser_updates_its_state_without_copies() -> None:
    w, v, x, g = new(8, 5), new(8, 5), new(6, 8), new(6, 5)
    grad = linalg.matmul(movement.matrix_transpose(x), g)
    velocity = E.add(E.multiply(v, 0.9), grad)
    program = check([w, v, x, g], [E.subtract(w, E.multiply(velocity, 0.1)), velocity], {0: 0, 1: 1})
    assert len(program.steps) == 1
    assert program.arena_size == 0


def test_state_is_overwritten_after_its_last_reader() -> None:
    w, x = new(6, 6), new(6, 6)
    y = linalg.matmul(x, w)
    program = check([w, x], [E.subtract(w, 1.0), y], {0: 0})
    assert len(program.steps) == 2
    assert program.arena_size == 0


def test_an_update_that_is_read_while_the_old_value_is_needed_is_copied() -> None:
    w, x = new(6, 6), new(6, 6)
    updated = linalg.matmul(w, x)  # a kernel that reads all of w while it writes
    program = check([w, x], [updated], {0: 0})
    assert len(program.steps) == 2


def test_states_that_change_places() -> None:
    a, b = new(4), new(4)
    check([a, b], [b, a], {0: 0, 1: 1})
    check([a, b], [E.add(b, 1.0), E.add(a, 1.0)], {0: 0, 1: 1})
    check([a, b], [b, E.add(a, b), a], {0: 0, 1: 1})


def test_outputs_that_are_inputs_constants_or_equal() -> None:
    x = new(3, 2)
    y = E.exp(x)
    check([x], [x, constant(np.arange(4.0, dtype=np.float32)), y, y, movement.reshape(y, (2, 3))])
    check([x], [x], {0: 0})


def test_memory_is_used_again() -> None:
    x = new(32, 32)
    y = x
    for _ in range(10):
        y = E.tanh(linalg.matmul(y, movement.matrix_transpose(y)))
    program = check([x], [y])
    assert program.arena_size <= 2 * 32 * 32 * 4


def test_what_frees_memory_runs_first() -> None:
    inputs, outputs, state = _training(lambda gradient: gradient)
    program = check(inputs, outputs, state)
    assert program.arena_size <= 10 * 16 * 16 * 4  # eight activations, a gradient and the next


def test_what_frees_memory_does_not_wait_for_a_few_numbers() -> None:
    count = rate = new()
    for _ in range(40):  # so long a formula that it stands behind all gradients
        rate = E.tanh(E.add(rate, 1.0))
    inputs, outputs, state = _training(lambda gradient: E.multiply(gradient, rate))
    program = check([*inputs, count], outputs, state)
    assert program.arena_size <= 10 * 16 * 16 * 4 + 64


def _training(step: Callable[[Node], Node]) -> tuple[list[Node], list[Node], dict[int, int]]:
    """Inputs, outputs and state of eight layers. Each gradient could wait for its parameter's update, which is its
    last reader, until the end. step: what is taken from a parameter."""
    inputs, outputs, state = [new(16, 16)], [], {}
    y = inputs[0]
    layers = []
    for _ in range(8):
        w = new(16, 16)
        inputs.append(w)
        layers.append((y, w))
        y = E.tanh(linalg.matmul(y, w))
    g = y
    for x, w in reversed(layers):
        gradient = linalg.matmul(movement.matrix_transpose(x), g)
        state[len(outputs) + 1] = inputs.index(w)
        outputs.append(E.subtract(w, step(gradient)))
        g = E.tanh(linalg.matmul(g, movement.matrix_transpose(w)))
    return inputs, [g, *outputs], state


def test_equal_kernels_are_one() -> None:
    x, *weights = [new(4, 4) for _ in range(5)]
    y = x
    for w in weights:
        y = E.tanh(linalg.matmul(y, w))
    program = check([x, *weights], [y])
    assert len({step.kernel for step in program.steps if isinstance(step, KernelCall)}) == 1


@pytest.mark.parametrize("left", [False, True])
@pytest.mark.parametrize("right", [False, True])
@pytest.mark.parametrize("batch", [(), (3,)])
def test_large_products_go_to_blas(left: bool, right: bool, batch: tuple[int, ...]) -> None:
    a = new(*batch, 7, 5) if left else new(*batch, 5, 7)
    b = new(*batch, 4, 7) if right else new(*batch, 7, 4)
    y = linalg.matmul(movement.matrix_transpose(a) if left else a, movement.matrix_transpose(b) if right else b)
    program = check([a, b], [y], blas_result=1)
    (step,) = program.steps
    assert isinstance(step, MatmulCall)
    assert (step.transpose_a, step.transpose_b, step.batch) == (left, right, 3 if batch else 1)


def test_products_with_transposed_results_and_shared_factors() -> None:
    a, b, w = new(6, 7), new(7, 4), new(2, 7, 3)
    check([a, b], [movement.matrix_transpose(linalg.matmul(a, b))], blas_result=1)
    check([a, w], [linalg.matmul(a, w)], blas_result=1)


def test_failed_checks_name_their_message() -> None:
    table, rows = new(10, 4), new(3, dtype=int64)
    graph = Graph([table, rows], [E.add(indexing.take(table, rows, axis=0), 1.0), indexing.take(table, rows, axis=1)])
    program = plan(fuse(graph))
    memory = [random_array((10, 4)), np.array([0, 7, 1]), np.zeros((3, 4), np.float32), np.zeros((10, 3), np.float32)]
    code = run_program(program, memory)
    assert "axis 1" in program.messages[code - 1]


def test_other_layouts_between_kernels() -> None:
    x, w = new(16, 3, 5, 5), new(16, 3, 5, 5)
    y = E.tanh(x)
    z = movement.permute_dims(y, (1, 2, 3, 0))

    outputs = [reduction.sum(E.multiply(y, w), axis=(1, 2)), reduction.max(z, axis=3)]
    fused = fuse(Graph([x, w], outputs))
    storage = {n: Storage((1, 400, 80, 16)) for n in fused.nodes if n.op is ITEM and n.shape == (16, 3, 5, 5)}
    assert "16*" in program_text(check([x, w], outputs, layouts=Layouts(storage)))


def test_results_of_kernels_have_the_batch_innermost() -> None:
    x, w = new(16, 2, 6, 6), new(4, 2, 3, 3)
    y = convolution.conv(x, w)
    outputs = [reduction.sum(E.tanh(y), axis=(1, 2, 3)), convolution.conv(E.tanh(y), new_kernel := new(3, 4, 2, 2))]
    fused = fuse(Graph([x, w, new_kernel], outputs))
    layouts = assign(fused, lanes=16)
    assert {n.shape for n in layouts.storage} >= {(16, 4, 4, 4)}
    assert {n.op for n in layouts.storage} == {ITEM}
    check([x, w, new_kernel], outputs, layouts=layouts)
    assert assign(fused, lanes=64).storage == {}


def test_a_small_batch_leaves_the_lanes_to_the_channels() -> None:
    x, w, u = new(2, 3, 7, 7), new(16, 3, 3, 3), new(4, 16, 2, 2)
    y = E.tanh(convolution.conv(x, w, padding=1))
    outputs = [convolution.conv(y, u), reduction.sum(E.exp(y), axis=(2, 3))]
    layouts = assign(fuse(Graph([x, w, u], outputs)), lanes=16)
    assert {s.strides for s in layouts.storage.values()} == {(16 * 49, 1, 16 * 7, 16)}
    assert {n.op for n in layouts.storage} == {ITEM}
    check([x, w, u], outputs, layouts=layouts)


def test_graphs_that_are_not_fused_are_refused() -> None:
    x = new(3)
    with pytest.raises(VerifyError, match="isn't fused"):
        plan(Graph([x], [E.add(x, x)]))
    with pytest.raises(VerifyError, match="overwrite"):
        plan(fuse(Graph([x], [reduction.sum(E.exp(x))])), {0: 0})


def test_empty_values_need_no_steps() -> None:
    x = new(0, 3)
    program = check([x], [E.exp(x), reduction.sum(x, axis=0)])
    assert len(program.steps) == 1


@settings(max_examples=120, deadline=None)
@given(programs(), st.data())
def test_random_programs_with_state(program: tuple[list[Node], list[Node]], data: Any) -> None:
    inputs, outputs = program
    state = drawn_state(inputs, outputs, data)
    check(inputs, outputs, state, blas_result=data.draw(st.sampled_from([1, 1 << 20])))
