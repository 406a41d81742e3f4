"""put_slice: what is overwritten, read back, or left alone is found without running it."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest

from graphc.ir.graph import Graph
from graphc.ir.node import INPUT, Node, fresh_input
from graphc.ops import elementwise as E
from graphc.ops.movement import broadcast_to, slice_
from graphc.ops.patch import PUT_SLICE, put_slice
from graphc.passes.simplify import simplify
from graphc.types import TensorType, float32
from tests.runtime.loop.reference import evaluate, random_array


def new(*shape: int) -> Node:
    return fresh_input("x", TensorType(shape, float32))


def put(x: Node, part: Node, start: Sequence[int], step: Sequence[int] = (1, 1)) -> Node:
    stop = [a + (n - 1) * s + 1 for a, n, s in zip(start, part.shape, step, strict=True)]
    return put_slice(x, part, tuple(start), tuple(stop), tuple(step))  # type: ignore[no-any-return]


def simplified(*outputs: Node) -> list[str]:
    """The operations left, after checking that they mean the same."""
    graph = Graph([n for n in Graph([], list(outputs)).nodes if n.op is INPUT], list(outputs))
    small = simplify(graph)
    arrays = [random_array(x.shape, x.dtype, i) for i, x in enumerate(graph.inputs)]
    for want, got in zip(evaluate(graph, arrays), evaluate(small, arrays), strict=True):
        np.testing.assert_array_equal(got, want)
    return sorted(n.op.name for n in small.nodes if n.op is not INPUT)


def test_what_is_overwritten_is_not_written() -> None:
    x, a, b = new(8, 9), new(3, 4), new(3, 4)
    assert simplified(put(put(x, a, (1, 2)), b, (1, 2))) == ["put_slice"]
    assert simplified(put(put(x, a, (2, 3)), new(6, 7), (1, 1))) == ["put_slice"]
    assert simplified(put(put(x, a, (1, 2)), b, (2, 2))) == ["put_slice", "put_slice"]
    assert simplified(put(put(x, a, (0, 0), (2, 2)), b, (0, 0), (2, 1))) == ["put_slice", "put_slice"]


def test_what_is_put_back_changes_nothing() -> None:
    x = new(8, 9)
    part = slice_(x, (1, 2), (4, 6), (1, 1))
    assert simplified(put(x, part, (1, 2))) == []
    assert simplified(put(x, part, (2, 2))) == ["put_slice", "slice"]
    assert simplified(put(x, new(0, 4), (1, 2))) == []


@pytest.mark.parametrize(
    ("start", "stop", "left"),
    [
        ((1, 2), (4, 6), []),  # the part
        ((2, 3), (4, 5), ["slice"]),  # of the part
        ((5, 0), (8, 9), ["slice"]),  # of the array
        ((0, 6), (8, 9), ["slice"]),
        ((0, 0), (4, 6), ["put_slice", "slice"]),  # of both
    ],
)
def test_a_slice_reads_what_it_needs(start: tuple[int, int], stop: tuple[int, int], left: list[str]) -> None:
    assert simplified(slice_(put(new(8, 9), new(3, 4), (1, 2)), start, stop, (1, 1))) == left


def test_most_of_an_array_is_read_from_the_array() -> None:
    """The interior of a grid: the grid is what will be stored."""
    x, part = new(8, 9), new(6, 7)
    assert simplified(slice_(put(x, part, (1, 1)), (1, 1), (7, 8), (1, 1))) == ["put_slice", "slice"]
    zeros = broadcast_to(E.astype(new(), float32), (6, 7))
    assert simplified(slice_(put(x, zeros, (1, 1)), (1, 1), (7, 8), (1, 1))) == ["broadcast_to"]


def test_a_slice_as_large_as_the_array_is_the_array() -> None:
    x, part = new(4, 3), new(4, 3)
    assert put(x, part, (0, 0)) is part
    assert put(x, new(4, 2), (0, 0)).op is PUT_SLICE
