"""Sums and products over steps: what the pass builds, and that the numbers are those of the loop."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import graphc as gc
from graphc.ir.graph import Graph
from graphc.ir.node import Node
from graphc.ops.movement import pad
from graphc.passes import pipeline
from graphc.passes.join import join
from graphc.trace import trace
from graphc.tree import flatten


def joined(f: Any, *args: Any) -> tuple[Graph, dict[str, int]]:
    """The graph after the pass, and how often each of its reasons was counted."""
    leaves, structure = flatten((args, {}))
    steps = pipeline.run(trace(f, leaves, structure).graph, pipeline.OPTIMISE)
    step = next(s for s in steps if s.name == "join")
    return step.graph, dict(step.applied)


def operations(graph: Graph, name: str) -> list[Node]:
    return [n for n in graph.nodes if n.op.name == name]


def rng() -> np.random.Generator:
    return np.random.default_rng(0)


def tensor(*shape: int) -> gc.Tensor:
    return gc.tensor(rng().standard_normal(shape))


def both(f: Any, *args: Any) -> None:
    """The compiled function's numbers are the eager ones."""
    for a, b in zip(gc.compile(f)(*args), f(*args), strict=True):
        np.testing.assert_allclose(a.numpy(), b.numpy(), rtol=1e-12, atol=1e-12)


def recurrence(steps: int) -> Any:
    def f(x: Any, w: Any, u: Any, b: Any) -> Any:
        h = gc.zeros((x.shape[1], u.shape[0]), dtype=x.dtype)
        for t in range(steps):
            h = gc.tanh(x[t] @ w + h @ u + b)
        return gc.sum(h * h)

    return gc.grad(f, (0, 1, 2, 3))


ARGUMENTS = (tensor(5, 2, 16), tensor(16, 24) / 9, tensor(24, 24) / 9, tensor(24))


def test_the_gradients_of_a_recurrence_are_one_product_each() -> None:
    graph, counted = joined(recurrence(5), *ARGUMENTS)
    # forward and backward through the state 5 and 4; the inputs' product, its two gradients, the state weights' one
    assert len(operations(graph, "matmul")) == 5 + 4 + 4
    assert not operations(graph, "pad")
    assert counted["sum of products"] == 2
    assert counted["products of slices"] == 5 + 1
    both(recurrence(5), *ARGUMENTS)


def test_gradients_of_disjoint_slices_are_joined_in_their_order() -> None:
    def f(x: Any) -> Any:
        parts = [x[:, 4:7], x[:, 0:2], x[:, 2:4]]
        return gc.sum(sum(gc.sum(p * p * p) * (k + 1.0) for k, p in enumerate(parts)))

    graph, counted = joined(gc.grad(f), tensor(3, 7))
    assert counted == {"sum of parts": 1}
    assert not operations(graph, "pad")
    both(lambda x: [gc.grad(f)(x)], tensor(3, 7))


@pytest.mark.parametrize("cuts", [((0, 3), (2, 5)), ((0, 2), (3, 5)), ((1, 3), (3, 4)), ((0, 5), (0, 5))])
def test_slices_that_overlap_or_leave_gaps(cuts: tuple[tuple[int, int], ...]) -> None:
    def f(x: Any) -> Any:
        return sum(gc.sum(gc.exp(x[a:b]) * (k + 1.0)) for k, (a, b) in enumerate(cuts))

    both(lambda x: [gc.grad(f)(x)], tensor(5, 3))


def test_terms_that_are_no_parts_stay() -> None:
    def f(x: Any) -> Any:
        return gc.sum(gc.exp(x[:2])) + gc.sum(gc.exp(x[2:])) + gc.sum(x * x * x)

    graph, counted = joined(gc.grad(f), tensor(5, 3))
    assert counted == {"sum of parts": 1}
    assert len(operations(graph, "concat")) == 1
    both(lambda x: [gc.grad(f)(x)], tensor(5, 3))


def test_large_products_are_not_copied_to_be_joined() -> None:
    """Joining four matrices of 8 x 64 moves more than adding two products of 8 x 8."""
    f = lambda a, b, c, d: a @ b + c @ d  # noqa: E731
    graph, counted = joined(f, tensor(8, 64), tensor(64, 8), tensor(8, 64), tensor(64, 8))
    assert not counted
    assert len(operations(graph, "matmul")) == 2


def test_products_of_some_of_the_slices_stay() -> None:
    def f(x: Any, w: Any) -> Any:
        return x[0] @ w, x[2] @ w

    graph, counted = joined(f, tensor(4, 3, 5), tensor(5, 2))
    assert not counted
    assert len(operations(graph, "matmul")) == 2
    both(f, tensor(4, 3, 5), tensor(5, 2))


def test_a_value_that_is_read_elsewhere_is_no_inner_term() -> None:
    def f(x: Any) -> Any:
        y = pad(x, [0], [3]) + pad(x, [3], [0])
        return y, y + pad(gc.exp(x), [0], [3])

    graph, _ = joined(f, tensor(3))
    assert operations(graph, "concat")
    both(f, tensor(3))


def test_nothing_to_join_is_the_same_graph() -> None:
    leaves, structure = flatten(((tensor(3), tensor(3)), {}))
    graph = trace(lambda x, y: x + y + x * y, leaves, structure).graph
    assert join(graph) is graph


def test_results_are_nan_where_the_loop_says_so() -> None:
    def f(x: Any) -> Any:
        return gc.sum(gc.log(x[:2])) + gc.sum(gc.log(x[2:]))

    x = gc.tensor(np.array([[1.0], [np.nan], [np.inf], [-0.0]]))
    np.testing.assert_array_equal(gc.compile(gc.grad(f))(x).numpy(), [[1.0], [np.nan], [0.0], [-np.inf]])
