"""Nests of every kind of operation, lowered from primitives, that each schedule is tested with."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from graphc.ir.graph import Graph
from graphc.ir.node import Node, make, parameter
from graphc.ops import convolution, elementwise, indexing, linalg, movement, pooling, random, reduction
from graphc.runtime.loop.lower import alone, lower, lower_node
from graphc.runtime.loop.nest import Nest
from graphc.types import Shape, TensorType, bool_, float32, float64, int32, int64
from tests.runtime.loop.reference import evaluate, random_array

CONVOLUTIONS = {
    "plain": {"stride": (1, 1), "padding": ((0, 0), (0, 0)), "lhs_dilation": (1, 1), "rhs_dilation": (1, 1)},
    "strided": {"stride": (2, 1), "padding": ((1, 1), (2, 0)), "lhs_dilation": (1, 1), "rhs_dilation": (1, 2)},
    "dilated": {"stride": (1, 1), "padding": ((2, 2), (2, 1)), "lhs_dilation": (2, 3), "rhs_dilation": (1, 1)},
    "cropped": {"stride": (1, 1), "padding": ((-1, 0), (0, -2)), "lhs_dilation": (1, 1), "rhs_dilation": (1, 1)},
}


@dataclass(frozen=True)
class Sample:
    """A nest, arrays for its params, and what the graph's primitives evaluate to on them."""

    name: str
    nest: Nest
    arrays: dict[str, Any]
    wanted: dict[str, Any]


def samples() -> Iterator[Sample]:
    yield from _elementwise()
    yield from _reductions()
    yield from _movements()
    yield from _contractions()
    yield from _indexing()
    yield from _groups()


def inputs(*specs: Any) -> list[Node]:
    """Placeholders from shapes (float32) or (shape, dtype) pairs."""
    types = [TensorType(s, float32) if not s or isinstance(s[0], int) else TensorType(*s) for s in specs]
    return [parameter(i, t) for i, t in enumerate(types)]


def _sample(name: str, nest: Nest, graph: Graph, given: list[Any] | None = None) -> Sample:
    given = given or [random_array(x.shape, x.dtype, i) for i, x in enumerate(graph.inputs)]
    wanted = evaluate(graph, given)
    return Sample(
        name,
        nest,
        {f"p{i}": np.ascontiguousarray(a) for i, a in enumerate(given)},
        {f"o{i}": np.asarray(a).reshape(-1) for i, a in enumerate(wanted)},
    )


def _one(name: str, node: Node, given: list[Any] | None = None) -> Sample:
    return _sample(name, lower_node(node), alone(node)[0], given)


def _group(name: str, ins: list[Node], outs: list[Node], full: Shape, outer: tuple[int, ...]) -> Sample:
    graph = Graph(ins, outs)
    return _sample(name, lower(graph, full, outer), graph)


def _elementwise() -> Iterator[Sample]:
    a, b = inputs((40, 1, 5), (6, 5))
    yield _one("add_broadcast", elementwise.add(a, b))
    yield _one("add_scalars", elementwise.add(*inputs((), ())))
    yield _one("add_nothing", elementwise.add(*inputs((0, 3), (0, 3))))
    c, x, y = inputs(((7, 9), bool_), (7, 9), (7, 9))
    yield _one("where", elementwise.where(c, x, y))
    yield _one("gelu_like", elementwise.multiply(x, elementwise.add(elementwise.erf(x), 1.0)))
    yield _one("large", elementwise.exp(inputs((300, 70))[0]))
    yield _one("float64", elementwise.tanh(inputs(((33,), float64))[0]))


def _reductions() -> Iterator[Sample]:
    for dtype in (float32, float64, int32, int64, bool_):
        (x,) = inputs(((6, 70, 5), dtype))
        for name in ("sum", "max", "min", "argmax", "argmin"):
            if name == "min" and dtype is not float32:
                continue
            for axis in (None, 0, (0, 2), 1) if dtype is float32 else ((0, 2),):
                label = f"{name}_{dtype.name}_{axis}".replace(", ", "_").strip("()")
                yield _one(label.replace("(", "").replace(")", ""), getattr(reduction, name)(x, axis=axis))
    (x,) = inputs((3, 40))
    values = random_array((3, 40))
    values[0, 17] = values[0, 30] = np.nan
    values[1] = -np.inf
    values[2, 5] = values[2, 9] = 9.0
    for name in ("max", "min", "argmax", "argmin"):
        yield _one(f"{name}_of_nan", getattr(reduction, name)(x, axis=1), [values])
    yield _one("sum_of_nothing", reduction.sum(inputs((3, 0))[0], axis=1))
    yield _one("long_rows", reduction.sum(inputs((3, 5000))[0], axis=1))


def _movements() -> Iterator[Sample]:
    (x,) = inputs((4, 3, 5))
    a, b = inputs((2, 3), (2, 4))
    yield _one("permute", movement.permute_dims(x, (2, 0, 1)))
    yield _one("slice", movement.slice_(x, (1, 0, 0), (4, 3, 5), (2, 1, 3)))
    yield _one("flip", movement.flip(x, (0, 2)))
    yield _one("concat", movement.concat([a, b], 1))
    yield _one("iota", make(movement.IOTA, (), {"shape": (3, 4), "axis": 1, "dtype": int32}))
    attrs = {"low": (1, 0, 0), "high": (0, 2, 0), "interior": (0, 1, 2), "value": 1.5}
    yield _one("pad", make(movement.PAD, (x,), attrs))
    yield _one("reshape", movement.reshape(x, (6, 10)))


def _contractions() -> Iterator[Sample]:
    yield _one("matmul", linalg.matmul(*inputs((33, 70), (70, 20))))
    yield _one("matmul_batched", linalg.matmul(*inputs((2, 1, 3, 4), (5, 4, 2))))
    yield _one("matmul_of_nothing", linalg.matmul(*inputs((3, 0), (0, 2))))
    yield _one("matmul_long", linalg.matmul(*inputs((4, 2000), (2000, 3))))
    for name, attrs in CONVOLUTIONS.items():
        for groups in (1, 2):
            x, w = inputs((2, 4, 7, 8), (6, 4 // groups, 3, 3))
            yield _one(f"convolution_{name}_{groups}", make(convolution.CONV, (x, w), {**attrs, "groups": groups}))


def _indexing() -> Iterator[Sample]:
    table, rows, updates = inputs((10, 4), ((3, 2), int64), (3, 2, 4))
    picks = np.array([[1, 8], [1, 0], [9, 1]])
    yield _one("take", indexing.take(table, rows, axis=0), [random_array((10, 4)), picks])
    yield _one("scatter_add", indexing.scatter_add(updates, rows, 0, 10), [random_array((3, 2, 4)), picks])
    updates, rows = inputs((300, 4), ((300,), int64))
    many = random_array((300,), int64, high=10)
    # whole numbers: their sums are the same in any order
    yield _one("scatter_add_many", indexing.scatter_add(updates, rows, 0, 10), [random_array((300, 4)).round(), many])
    along = parameter(1, TensorType((10, 1), int32))
    where = np.arange(10, dtype=np.int32).reshape(10, 1) % 4
    yield _one("take_along_axis", indexing.take_along_axis(table, along, 1), [random_array((10, 4)), where])
    node = indexing.scatter_add_along_axis(parameter(0, TensorType((10, 1), float32)), along, 1, 4)
    yield _one("scatter_add_along_axis", node, [random_array((10, 1)), where])
    (state,) = inputs(((2,), int64))
    yield _one("uniform", random.uniform(state, (3, 50)), [np.array([7, 2])])
    yield _one("uniform_float64", random.uniform(state, (40,), dtype=float64), [np.array([-7, 2**40])])
    (x,) = inputs((2, 3, 6, 8))
    attrs = {"window": (3, 2), "stride": (2, 1), "padding": ((1, 1), (0, 1)), "dilation": (1, 1)}
    y = make(pooling.MAX_POOL, (x,), attrs)
    values = random_array(x.shape).round(0)  # ties
    values[0, 0, 1, 1] = np.nan
    yield _one("max_pool", y, [values])
    g = parameter(0, y.type)
    x = parameter(1, x.type)
    yield _one("max_pool_scatter", make(pooling.MAX_POOL_SCATTER, (g, x), attrs), [random_array(g.shape), values])
    t = parameter(0, x.type)
    yield _one("max_pool_gather", make(pooling.MAX_POOL_GATHER, (t, x), attrs), [random_array(x.shape), values])


def _groups() -> Iterator[Sample]:
    for rows, columns in ((6, 8), (3, 700)):
        (x,) = inputs((rows, columns))
        e = elementwise.exp(elementwise.subtract(x, reduction.max(x, axis=1, keepdims=True)))
        total = reduction.sum(e, axis=1, keepdims=True)
        yield _group(f"softmax_{columns}", [x], [elementwise.divide(e, total)], (rows, columns), (0,))
        x, w, b = inputs((rows, columns), (columns,), (columns,))
        mean = reduction.mean(x, axis=1, keepdims=True)
        scale = elementwise.rsqrt(elementwise.add(reduction.var(x, axis=1, keepdims=True), 1e-5))
        normal = elementwise.multiply(elementwise.subtract(x, mean), scale)
        y = elementwise.add(elementwise.multiply(normal, w), b)
        yield _group(f"layer_norm_{columns}", [x, w, b], [y], (rows, columns), (0,))
    x, g = inputs((50, 8), (50, 8))
    dz = elementwise.where(elementwise.greater(x, 0), g, 0.0)
    yield _group("gradient_and_column_sums", [x, g], [dz, reduction.sum(dz, axis=0)], (50, 8), (1,))
    x, w, b, old = inputs((6, 80), (80, 5), (5,), (6, 5))
    y = elementwise.maximum(elementwise.add(linalg.matmul(x, w), b), 0.0)
    step = elementwise.subtract(old, elementwise.multiply(y, 0.1))
    yield _group("matmul_bias_relu", [x, w, b, old], [step, y], (6, 5), (0, 1))
    x, w = inputs((2, 3, 6, 6), (4, 3, 3, 3))
    y = make(convolution.CONV, (x, w), {**CONVOLUTIONS["plain"], "groups": 1})
    yield _group("convolution_reshaped", [x, w], [movement.reshape(y, (2, 64))], (2, 64), (0, 1))
