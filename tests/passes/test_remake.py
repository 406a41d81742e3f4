"""What a later kernel computes again instead of reading it back."""

from __future__ import annotations

import numpy as np
import pytest

from graphc.ir.graph import Graph
from graphc.ir.node import ITEM, Node, fresh_input
from graphc.ops import elementwise as E
from graphc.ops import linalg, movement
from graphc.passes import remake
from graphc.passes.fuse import fuse, fused_nodes
from graphc.primitive import Primitive
from graphc.types import Shape, TensorType, float32
from tests.runtime.loop.reference import evaluate, random_array


def new(*shape: int) -> Node:
    return fresh_input("x", TensorType(shape, float32))


def sigmoid(x: Node, sign: int = 1) -> Node:
    e = E.exp(E.negative(E.abs(x)))
    return E.divide(E.where(E.greater_equal(x if sign > 0 else E.negative(x), 0), 1, e), E.add(e, 1))


def fused_alike(inputs: list[Node], outputs: list[Node]) -> Graph:
    """The fused graph, which computes the same bits."""
    graph = Graph(inputs, outputs)
    fused = fuse(graph)
    arrays = [random_array(n.shape, n.dtype, i) for i, n in enumerate(graph.inputs)]
    for a, b in zip(evaluate(fused, arrays), evaluate(graph, arrays), strict=True):
        np.testing.assert_array_equal(a, b)
    return fused


def times(fused: Graph, op: Primitive) -> int:
    return sum(n.op is op for kernel in fused_nodes(fused) for n in kernel.attrs["graph"].nodes)


def stored(fused: Graph, shape: Shape) -> int:
    return sum(n.op is ITEM and n.shape == shape for n in fused.nodes)


@pytest.fixture
def tiny_cache(monkeypatch: pytest.MonkeyPatch) -> None:
    """Products of a few kilobytes are large."""
    monkeypatch.setattr(remake, "CACHED", 1 << 10)


def gates(twice: bool = True) -> tuple[list[Node], Node]:
    """A gate, one of two slices of a product, multiplies before and after further products."""
    a, b, c = new(8, 5), new(5, 64), new(32, 6)
    x = linalg.matmul(a, b)
    gate, other = movement.narrow(x, 1, 0, 32), movement.narrow(x, 1, 32, 32)
    s = sigmoid(gate)
    h = linalg.matmul(E.multiply(s, other), c)
    g = linalg.matmul(h, movement.matrix_transpose(c))
    slope = E.multiply(s, sigmoid(gate, -1)) if twice else s
    return [a, b, c], E.multiply(E.multiply(g, slope), other)


@pytest.mark.usefixtures("tiny_cache")
def test_gates_are_computed_again_from_the_product_that_both_kernels_read() -> None:
    inputs, y = gates()
    fused = fused_alike(inputs, [y])
    assert times(fused, E.EXP) == 2
    assert stored(fused, (8, 32)) == 2  # what h is made of, and the result: no gate, no exponential


def test_what_a_cache_holds_is_stored() -> None:
    inputs, y = gates()
    assert times(fused_alike(inputs, [y]), E.EXP) == 1


@pytest.mark.usefixtures("tiny_cache")
def test_what_its_reader_has_no_operand_for_is_stored() -> None:
    a, b, c = new(8, 5), new(5, 32), new(32, 6)
    x = linalg.matmul(a, b)
    y = E.tanh(x)
    g = linalg.matmul(linalg.matmul(y, c), movement.matrix_transpose(c))
    fused = fused_alike([a, b, c], [E.multiply(g, E.subtract(1, E.multiply(y, y)))])
    assert times(fused, E.TANH) == 1
    assert stored(fused, x.shape) <= 2  # y and the result; x lives in y's kernel only


@pytest.mark.usefixtures("tiny_cache")
def test_values_made_of_two_arrays_are_stored() -> None:
    a, b, c = new(8, 5), new(5, 32), new(32, 6)
    x, z = linalg.matmul(a, b), linalg.matmul(E.exp(a), b)
    y = E.tanh(E.add(x, z))
    g = linalg.matmul(linalg.matmul(E.multiply(y, x), c), movement.matrix_transpose(c))
    assert times(fused_alike([a, b, c], [E.multiply(E.multiply(g, y), E.multiply(x, z))]), E.TANH) == 1


@pytest.mark.usefixtures("tiny_cache")
def test_what_three_kernels_read_is_stored() -> None:
    a, b, c = new(8, 5), new(5, 32), new(32, 6)
    x = linalg.matmul(a, b)
    y = E.tanh(x)
    value = E.multiply(y, x)
    for _ in range(2):
        through = linalg.matmul(linalg.matmul(value, c), movement.matrix_transpose(c))
        value = E.multiply(E.multiply(through, y), x)
    assert times(fused_alike([a, b, c], [value]), E.TANH) == 1
