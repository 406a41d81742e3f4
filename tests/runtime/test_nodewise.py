"""Graphs computed node by node: the numbers of the graphs' own interpreter, and an executable's manners."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from graphc.errors import AliasError, ArgumentError, DTypeError, IndexingError, ShapeError
from graphc.ir.evaluate import evaluate
from graphc.ir.graph import Graph
from graphc.ir.node import Node, constant, fresh_input, make
from graphc.ops.elementwise import add, exp, multiply, negative, strong_multiply
from graphc.ops.indexing import take
from graphc.ops.linalg import matmul
from graphc.ops.movement import permute_dims, reshape
from graphc.primitive import Primitive
from graphc.runtime.heap import BLOCK, Heap
from graphc.runtime.nodewise import Nodewise
from graphc.types import TensorType, dtype_of, float32, int64
from tests.graphs import arguments, graphs
from tests.registry import SUMS, about, each_primitive
from tests.samples import samples

rng = np.random.default_rng(0)
T = TensorType((2, 3), float32)


def normal(*shape: int) -> Any:
    return rng.standard_normal(shape).astype(np.float32)


def agree(graph: Graph, arrays: Sequence[Any], exact: bool = True) -> None:
    """The interpreter's numbers, from arguments that are left as they were."""
    before = [np.array(a) for a in arrays]
    found = Nodewise(graph, {})(*arrays)
    for a, b in zip(before, arrays, strict=True):
        assert a.tobytes() == np.array(b).tobytes()
    for got, want, node in zip(found, evaluate(graph, arrays), graph.outputs, strict=True):
        assert (got.shape, got.dtype) == (node.shape, node.dtype.numpy)
        if exact:
            np.testing.assert_array_equal(got, want)
        else:
            np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-5)


@each_primitive
def test_every_primitive(primitive: Primitive) -> None:
    for sample in samples(primitive):
        with about(sample):
            inputs = [fresh_input(f"x{i}", t) for i, t in enumerate(sample.types)]
            graph = Graph(inputs, [make(primitive, inputs, sample.attrs)])
            agree(graph, sample.arrays, exact=primitive.name not in SUMS)


@settings(max_examples=60, deadline=None)
@given(graphs(), st.integers(0, 2**32 - 1))
def test_random_graphs(graph: Graph, seed: int) -> None:
    agree(graph, arguments(graph, seed))


def test_a_result_is_written_over_what_nobody_reads_again() -> None:
    x, y = fresh_input("x", T), fresh_input("y", T)
    a = exp(x)
    b = multiply(a, y)  # over a
    c = add(b, a)  # not b's: it is an output; a is still read below
    d = negative(c)
    view = reshape(d, (3, 2))
    e = multiply(d, d)  # d has a view
    agree(Graph([x, y], [b, d, add(reshape(e, (3, 2)), view), a]), [normal(2, 3), normal(2, 3)])


@pytest.mark.parametrize("shape", [(2, 3), (200, 300)])  # in memory of NumPy's, and of the heap
def test_results_have_memory_of_their_own(shape: tuple[int, int]) -> None:
    x = fresh_input("x", TensorType(shape, float32))
    fixed = constant(normal(*shape))
    doubled, square = add(x, x), matmul(x, permute_dims(x, (1, 0)))
    given_x = normal(*shape)
    views = [reshape(x, (x.type.size,)), permute_dims(x, (1, 0)), reshape(doubled, (x.type.size,)), exp(square)]
    graph = Graph([x], [x, *views, fixed, doubled, doubled, square])
    run = Nodewise(graph, {})
    first = run(given_x)
    expected = [a.copy() for a in first]
    for array in first:
        assert array.flags.c_contiguous
        array[...] = 7
    assert not (given_x == 7).any()
    for array, want in zip(run(given_x), expected, strict=True):
        np.testing.assert_array_equal(array, want)


def test_large_results_are_written_into_the_heap() -> None:
    """The views that live longest are of operands that died: their memory isn't given to others."""
    x, heap = fresh_input("x", TensorType((60, 200), float32)), Heap()
    node, views = exp(x), []
    for k in range(12):
        node = add(multiply(node, constant(0.5, float32)), exp(multiply(node, constant(-1.0 - k, float32))))
        views.append(permute_dims(reshape(node, (200, 60)), (1, 0)))
        node = add(node, views[-1])
    run = Nodewise(Graph([x], [add(node, sum_of(views)), node]), {}, heap)
    array = normal(60, 200)
    expected = evaluate(Graph([x], [add(node, sum_of(views)), node]), [array])
    for _ in range(3):
        for got, want in zip(run(array), expected, strict=True):
            np.testing.assert_array_equal(got, want)
            assert got.flags.owndata
    assert heap.nbytes == BLOCK


def sum_of(nodes: Sequence[Node]) -> Node:
    total = nodes[0]
    for node in nodes[1:]:
        total = add(total, node)
    return total


@pytest.mark.parametrize("g", [0.0, -0.0, 2.0, np.inf, np.nan])
@pytest.mark.parametrize("p", [3.0, np.inf, -np.inf, np.nan, 3e38])
def test_strong_products_written_over_their_factors(g: float, p: float) -> None:
    shape = (80, 100)
    x, y = fresh_input("x", TensorType(shape, float32)), fresh_input("y", TensorType(shape, float32))
    both = [strong_multiply(negative(x), y), strong_multiply(x, negative(y)), strong_multiply(x, y)]
    a, b = np.full(shape, g, np.float32), np.full(shape, p, np.float32)
    b[:, ::3] = 1
    agree(Graph([x, y], both), [a, b])
    with np.errstate(over="ignore"):
        expected = np.where(a == 0, 0, a * np.where(a == 0, 1, b))
    np.testing.assert_array_equal(Nodewise(Graph([x, y], both), {})(a, b)[2], expected)


def swapped() -> Nodewise:
    """Two states change places; their sum is a result."""
    a, b = fresh_input("a", T), fresh_input("b", T)
    return Nodewise(Graph([a, b], [b, a, add(a, b)]), {0: 0, 1: 1})


def test_state_is_written_when_all_is_computed() -> None:
    a, b = normal(2, 3), normal(2, 3)
    old = a.copy(), b.copy()
    first, second, total = swapped()(a, b)
    assert first is a
    assert second is b
    np.testing.assert_array_equal(a, old[1])
    np.testing.assert_array_equal(b, old[0])
    np.testing.assert_array_equal(total, old[0] + old[1])


def test_state_in_any_memory_order() -> None:
    a, b = np.asfortranarray(normal(2, 3)), normal(2, 6)[:, ::2]
    old = a.copy(), b.copy()
    swapped()(a, b)
    np.testing.assert_array_equal(a, old[1])
    np.testing.assert_array_equal(b, old[0])


def test_it_refuses_what_an_executable_refuses() -> None:
    run, a, b = swapped(), normal(2, 3), normal(2, 3)
    before = a.copy(), b.copy()
    with pytest.raises(ArgumentError, match="takes 2 arrays, not 1"):
        run(a)
    with pytest.raises(ShapeError, match=r"argument 1 .*\(3, 2\) instead of \(2, 3\)"):
        run(a, b.T)
    with pytest.raises(DTypeError, match="float64 instead of float32"):
        run(a.astype(np.float64), b)
    with pytest.raises(ArgumentError, match="must be an array, not list"):
        run(a.tolist(), b)
    with pytest.raises(AliasError, match="0 and 1 .* share memory"):
        run(a, a)
    frozen = b.copy()
    frozen.flags.writeable = False
    with pytest.raises(ArgumentError, match="read-only"):
        run(a, frozen)
    np.testing.assert_array_equal((a, b), before)


def test_numbers_stand_for_inputs_without_dimensions() -> None:
    x, y = fresh_input("x", T), fresh_input("y", TensorType((), dtype_of("float64")))
    run = Nodewise(Graph([x, y], [add(x, x), multiply(y, y)]), {})
    assert float(run(normal(2, 3), 1.5)[1]) == 2.25


def test_a_wrong_index_leaves_the_state_alone() -> None:
    state, indices = fresh_input("state", T), fresh_input("indices", TensorType((4,), int64))
    run = Nodewise(Graph([state, indices], [negative(state), take(state, indices, axis=0)]), {0: 0})
    array = normal(2, 3)
    before = array.copy()
    with pytest.raises(IndexingError, match="Got 2"):
        run(array, np.array([0, 1, 2, 0]))
    np.testing.assert_array_equal(array, before)


def test_numpy_doesnt_complain() -> None:
    x = fresh_input("x", T)
    (found,) = Nodewise(Graph([x], [exp(exp(x))]), {})(np.full((2, 3), 50, np.float32))
    assert np.isinf(found).all()


def test_threads() -> None:
    x = fresh_input("x", TensorType((200, 300), float32))
    node: Node = x
    for _ in range(20):
        node = multiply(add(node, x), constant(0.5, float32))
    run = Nodewise(Graph([x], [node]), {})
    given_arrays = [normal(200, 300) for _ in range(4)]
    expected = [run(a)[0] for a in given_arrays]

    def work(number: int) -> list[bool]:
        return [run(given_arrays[number])[0].tobytes() == expected[number].tobytes() for _ in range(10)]

    with ThreadPoolExecutor(4) as threads:
        assert list(threads.map(work, range(4))) == [[True] * 10] * 4
