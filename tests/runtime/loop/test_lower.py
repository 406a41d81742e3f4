"""Lowering against Primitive.eval: single primitives and groups, each run by the interpreter."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from graphc.errors import VerifyError
from graphc.ir.graph import Graph
from graphc.ir.node import Node, constant, make, parameter
from graphc.ops import convolution, elementwise, indexing, linalg, movement, pooling, random, reduction, sorting
from graphc.runtime.loop.interp import run, run_nest
from graphc.runtime.loop.lower import alone, lower, lower_node
from graphc.runtime.loop.naive import naive
from graphc.runtime.loop.nest import Nest, contraction
from graphc.runtime.loop.storage import Storage
from graphc.runtime.loop.text import nest_text
from graphc.runtime.loop.verify import verify_nest
from graphc.types import DType, Shape, TensorType, bool_, float32, float64, int32, int64
from tests.runtime.loop.reference import evaluate, random_array


def inputs(*specs: Any) -> list[Node]:
    """Placeholders from shapes (float32) or (shape, dtype) pairs."""
    types = [TensorType(*s) if len(s) == 2 and isinstance(s[1], DType) else TensorType(s, float32) for s in specs]
    return [parameter(i, t) for i, t in enumerate(types)]


def check(nest: Nest, graph: Graph, arrays: list[Any] | None = None, rtol: float = 2e-6) -> None:
    """The nest, and its reference schedule, compute what the graph's primitives evaluate to."""
    verify_nest(nest)
    arrays = arrays or [random_array(x.shape, x.dtype, i) for i, x in enumerate(graph.inputs)]
    wanted = evaluate(graph, arrays)
    for runner in (lambda memory: run_nest(nest, memory), lambda memory: run(naive(nest), memory)):
        memory = {f"p{i}": np.array(a).reshape(-1) for i, a in enumerate(arrays)}
        memory |= {f"o{i}": np.full(y.type.size, 77, y.dtype.numpy) for i, y in enumerate(graph.outputs)}
        assert runner(memory) == 0
        for i, (want, node) in enumerate(zip(wanted, graph.outputs, strict=True)):
            got = memory[f"o{i}"].reshape(node.shape)
            if node.dtype.kind == "f":
                np.testing.assert_allclose(got, want, rtol=rtol, atol=rtol)
            else:
                np.testing.assert_array_equal(got, want)


def check_node(node: Node, arrays: list[Any] | None = None) -> Nest:
    nest = lower_node(node)
    check(nest, alone(node)[0], arrays)
    return nest


def lowered(ins: list[Node], outs: list[Node], full: Shape, outer: tuple[int, ...], whole: bool = False) -> Nest:
    """Checked; `whole`: on whole numbers, whose sums of products are exact in any order."""
    graph = Graph(ins, outs)
    nest = lower(graph, full, outer)
    arrays = [(random_array(x.shape, x.dtype, i) * 3).round() for i, x in enumerate(ins)] if whole else None
    check(nest, graph, arrays)
    return nest


# --------------------------------------------------------------------------------- single primitives

CONVOLUTIONS = [
    {"stride": (1, 1), "padding": ((0, 0), (0, 0)), "lhs_dilation": (1, 1), "rhs_dilation": (1, 1), "groups": 1},
    {"stride": (2, 1), "padding": ((1, 1), (2, 0)), "lhs_dilation": (1, 1), "rhs_dilation": (1, 2), "groups": 1},
    {"stride": (1, 1), "padding": ((2, 2), (2, 1)), "lhs_dilation": (2, 3), "rhs_dilation": (1, 1), "groups": 1},
    {"stride": (2, 3), "padding": ((1, 2), (0, 3)), "lhs_dilation": (3, 2), "rhs_dilation": (2, 1), "groups": 1},
    {"stride": (1, 1), "padding": ((-1, 0), (0, -2)), "lhs_dilation": (1, 1), "rhs_dilation": (1, 1), "groups": 1},
    {"stride": (1, 1), "padding": ((1, 1), (1, 1)), "lhs_dilation": (1, 1), "rhs_dilation": (1, 1), "groups": 2},
]


@pytest.mark.parametrize("attrs", CONVOLUTIONS, ids=lambda a: str(list(a.values())))
def test_convolution(attrs: dict[str, Any]) -> None:
    x, w = inputs((2, 4, 7, 8), (6, 4 // attrs["groups"], 3, 3))
    node = make(convolution.CONV, (x, w), attrs)
    nest = check_node(node)
    if attrs["lhs_dilation"] == (1, 1):
        assert contraction(nest.stages[0]) is not None, nest_text(nest)


POOLINGS = [
    {"window": (2, 2), "stride": (2, 2), "padding": ((0, 0), (0, 0)), "dilation": (1, 1)},
    {"window": (3, 2), "stride": (2, 1), "padding": ((1, 1), (0, 1)), "dilation": (1, 1)},
    {"window": (2, 2), "stride": (3, 3), "padding": ((0, 0), (1, 0)), "dilation": (2, 1)},
]


@pytest.mark.parametrize("attrs", POOLINGS, ids=lambda a: str(list(a.values())))
def test_pooling(attrs: dict[str, Any]) -> None:
    (x,) = inputs((2, 3, 6, 8))
    y = make(pooling.MAX_POOL, (x,), attrs)
    check_node(y)
    values = random_array(x.shape, float32).round(0)  # ties
    values[0, 0, 1, 1] = np.nan
    g = parameter(0, y.type)
    check_node(make(pooling.MAX_POOL_SCATTER, (g, x), attrs), [random_array(g.shape), values])
    check_node(make(pooling.MAX_POOL_GATHER, (parameter(0, x.type), x), attrs), [random_array(x.shape), values])


@pytest.mark.parametrize(("a", "b"), [((3, 4), (4, 5)), ((2, 1, 3, 4), (5, 4, 2)), ((1, 1), (1, 1)), ((3, 0), (0, 2))])
def test_matmul(a: Shape, b: Shape) -> None:
    check_node(linalg.matmul(*inputs(a, b)))


@pytest.mark.parametrize(
    ("old", "new"), [((6, 4), (2, 12)), ((6, 4), (24,)), ((4, 6), (6, 4)), ((1, 5), (5, 1, 1)), ((3, 0), (0,))]
)
def test_reshape(old: Shape, new: Shape) -> None:
    check_node(movement.reshape(inputs(old)[0], new))


def movements() -> list[Node]:
    (x,) = inputs((4, 3, 5))
    (a, b) = inputs((2, 3), (2, 4))
    return [
        movement.permute_dims(x, (2, 0, 1)),
        movement.broadcast_to(inputs((3, 1))[0], (2, 3, 4)),
        movement.sum_to(x, (3, 1)),
        movement.slice_(x, (1, 0, 0), (4, 3, 5), (2, 1, 3)),
        movement.flip(x, (0, 2)),
        movement.concat([a, b], 1),
        make(movement.IOTA, (), {"shape": (3, 4), "axis": 1, "dtype": int32}),
        make(movement.PAD, (x,), {"low": (1, 0, 0), "high": (0, 2, 0), "interior": (0, 1, 2), "value": 1.5}),
        make(movement.PAD, (a,), {"low": (0, 0), "high": (0, 2), "interior": (0, 0), "value": float("inf")}),
    ]


@pytest.mark.parametrize("node", movements(), ids=lambda n: n.op.name)
def test_movement(node: Node) -> None:
    check_node(node)


@pytest.mark.parametrize("dtype", [float32, float64, int32, int64, bool_], ids=lambda d: d.name)
@pytest.mark.parametrize("axis", [None, 0, (0, 2), 1])
@pytest.mark.parametrize("name", ["sum", "max", "min", "argmax", "argmin"])
def test_reduction(name: str, axis: Any, dtype: DType) -> None:
    (x,) = inputs(((4, 3, 5), dtype))
    check_node(getattr(reduction, name)(x, axis=axis))


@pytest.mark.parametrize("name", ["max", "argmax", "argmin"])
def test_nan_is_extreme(name: str) -> None:
    (x,) = inputs((3, 4))
    values = np.array([[1, np.nan, 3, np.nan], [-np.inf, -np.inf, -np.inf, -np.inf], [4, 4, 1, 1]], np.float32)
    check_node(getattr(reduction, name)(x, axis=1), [values])


def test_gather_and_scatter() -> None:
    table, rows, updates = inputs((10, 4), ((3, 2), int64), (3, 2, 4))
    picks = np.array([[1, -1], [1, 0], [9, 1]])
    check_node(indexing.take(table, rows, axis=0), [random_array((10, 4)), picks])
    nest = check_node(indexing.scatter_add(updates, rows, 0, 10), [random_array((3, 2, 4)), picks])
    assert [a.extent for a in nest.outer] == [4]  # columns are independent
    along = parameter(1, TensorType((10, 1), int32))
    where = np.arange(10, dtype=np.int32).reshape(10, 1) % 4
    check_node(indexing.take_along_axis(table, along, 1), [random_array((10, 4)), where])
    check_node(
        indexing.scatter_add_along_axis(parameter(0, TensorType((10, 1), float32)), along, 1, 4),
        [random_array((10, 1)), where],
    )


def test_index_out_of_bounds_is_reported_and_touches_nothing() -> None:
    table, rows = inputs((10, 4), ((2,), int64))
    nest = lower_node(indexing.take(table, rows, axis=0))
    memory = {
        "p0": random_array((40,)), "p1": np.array([3, 10]), "o0": np.zeros(8, np.float32),
    }  # fmt: skip
    code = run_nest(nest, memory)
    assert "out of bounds" in nest.messages[code - 1]
    np.testing.assert_array_equal(memory["o0"][:4], memory["p0"][12:16])


def test_random_numbers_and_ranks() -> None:
    (state,) = inputs(((2,), int64))
    check_node(random.uniform(state, (3, 5)), [np.array([7, 2])])
    check_node(random.uniform(state, (4,), dtype=float64), [np.array([-7, 2**40])])
    check_node(sorting.ranks(inputs((4, 6))[0], 1))


@pytest.mark.parametrize("shape", [(), (0,), (3, 0), (1, 1)])
def test_small_shapes(shape: Shape) -> None:
    a, b = inputs(shape, shape)
    check_node(elementwise.add(a, b))
    check_node(reduction.sum(a))


# ------------------------------------------------------------------------------------------- groups


def test_softmax_keeps_the_exponentials_in_a_row() -> None:
    (x,) = inputs((6, 8))
    e = elementwise.exp(elementwise.subtract(x, reduction.max(x, axis=1, keepdims=True)))
    nest = lowered([x], [elementwise.divide(e, reduction.sum(e, axis=1, keepdims=True))], (6, 8), (0,))
    assert len(nest.stages) == 3
    assert [b.size for b in nest.locals] == [8]
    assert nest.inplace == (("p0", "o0"),)


def test_log_softmax_has_one_number_a_row_beside_the_rows() -> None:
    (x,) = inputs((6, 8))
    total = _logsumexp(x)
    nest = lowered([x], [elementwise.subtract(x, total), movement.reshape(total, (6,))], (6, 8), (0,))
    hoisted = [s for s in nest.stages if not s.axes and s.lets]
    assert len(hoisted) == 1, nest_text(nest)


def _logsumexp(x: Node) -> Node:
    top = reduction.max(x, axis=1, keepdims=True)
    total = reduction.sum(elementwise.exp(elementwise.subtract(x, top)), axis=1, keepdims=True)
    return elementwise.add(elementwise.log(total), top)


def test_layer_norm_forward_and_backward() -> None:
    x, w, b, g = inputs((6, 8), (8,), (8,), (6, 8))
    mean = reduction.mean(x, axis=1, keepdims=True)
    scale = elementwise.rsqrt(elementwise.add(reduction.var(x, axis=1, keepdims=True), 1e-5))
    normal = elementwise.multiply(elementwise.subtract(x, mean), scale)
    lowered([x, w, b], [elementwise.add(elementwise.multiply(normal, w), b)], (6, 8), (0,))
    gw = elementwise.multiply(g, w)
    along = reduction.mean(elementwise.multiply(gw, normal), axis=1, keepdims=True)
    inner = elementwise.subtract(gw, reduction.mean(gw, axis=1, keepdims=True))
    gx = elementwise.multiply(scale, elementwise.subtract(inner, elementwise.multiply(normal, along)))
    lowered([x, w, b, g], [gx], (6, 8), (0,))


def test_masked_gradient_with_its_column_sums_is_one_stage() -> None:
    x, g = inputs((6, 8), (6, 8))
    dz = elementwise.where(elementwise.greater(x, 0), g, 0.0)
    nest = lowered([x, g], [dz, reduction.sum(dz, axis=0)], (6, 8), (1,))
    assert len(nest.stages) == 2, nest_text(nest)
    assert len(nest.stages[0].folds) == len(nest.stages[0].stores) == 1


def test_contraction_with_epilogue_stays_a_contraction() -> None:
    x, w, b, old = inputs((6, 8), (8, 5), (5,), (6, 5))
    y = elementwise.maximum(elementwise.add(linalg.matmul(x, w), b), 0.0)
    step = elementwise.subtract(old, elementwise.multiply(y, 0.1))
    nest = lowered([x, w, b, old], [step, y], (6, 5), (0, 1))
    assert contraction(nest.stages[0]) is not None
    assert ("p3", "o0") in nest.inplace


def test_convolution_then_reshape_splits_axes() -> None:
    x, w = inputs((2, 3, 6, 6), (4, 3, 3, 3))
    y = make(convolution.CONV, (x, w), CONVOLUTIONS[0])
    nest = lowered([x, w], [elementwise.multiply(movement.reshape(y, (2, 64)), 2.0)], (2, 64), (0, 1), whole=True)
    assert contraction(nest.stages[0]) is not None
    assert not any("mod" in line for line in nest_text(nest).splitlines())


def test_padding_guards_what_is_computed_behind_it() -> None:
    (x,) = inputs((5,))
    padded = make(
        movement.PAD, (elementwise.log(elementwise.add(x, constant(9.0, float32))),),
        {"low": (1,), "high": (3,), "interior": (1,), "value": 4.0},
    )  # fmt: skip
    lowered([x], [elementwise.add(padded, 1.0)], padded.shape, (0,))


def test_gather_inside_a_group_and_reversed_reads() -> None:
    table, rows, bias = inputs((10, 4), ((6,), int64), (4,))
    picked = indexing.take(elementwise.multiply(table, 2.0), rows, axis=0)
    y = movement.flip(elementwise.add(picked, bias), (0,))
    lowered([table, rows, bias], [y], (6, 4), (0, 1))


def test_other_layouts() -> None:
    x, b = inputs((4, 3, 5), (3, 1))
    graph = Graph([x, b], [elementwise.add(x, b)])
    nest = lower(graph, (4, 3, 5), (0, 1, 2), storage=[Storage((1, 20, 4)), None, Storage((1, 20, 4))])
    values, bias = random_array((4, 3, 5)), random_array((3, 1))
    memory = {
        "p0": values.transpose(1, 2, 0).reshape(-1).copy(),
        "p1": bias.reshape(-1),
        "o0": np.zeros(60, np.float32),
    }
    run_nest(nest, memory)
    np.testing.assert_array_equal(memory["o0"].reshape(3, 5, 4).transpose(2, 0, 1), values + bias)
    assert nest.inplace == (("p0", "o0"),)


def test_a_reduction_inside_of_a_loop_is_refused() -> None:
    (x,) = inputs((6, 8))
    graph = Graph([x], [elementwise.divide(x, reduction.sum(x, axis=1, keepdims=True))])
    with pytest.raises(VerifyError, match="neither"):
        lower(Graph([x], [reduction.sum(x, axis=1)]), (6, 8), (1,))
    with pytest.raises(VerifyError, match="isn't one number"):
        lower(graph, (6, 8), (1,))


def test_in_place_is_refused_where_elements_move() -> None:
    (x,) = inputs((6,))
    nest = lowered([x], [movement.flip(x, (0,))], (6,), (0,))
    assert nest.inplace == ()


def test_a_chain_of_hundreds_is_lowered_without_recursion() -> None:
    (x,) = inputs((4,))
    y = x
    for k in range(400):
        y = elementwise.add(elementwise.multiply(y, 0.5), float(k % 3))
    lowered([x], [y], (4,), (0,))


def test_shared_values_are_computed_once() -> None:
    (x,) = inputs((4,))
    y = x
    for _ in range(50):
        y = elementwise.add(y, elementwise.multiply(y, constant(0.01, float32)))
    nest = lowered([x], [y], (4,), (0,))
    assert sum(len(s.lets) for s in nest.stages) < 120


@st.composite
def reshapes(draw: Any) -> list[Shape]:
    """Shapes of equal size, to be passed through one after the other with transposes between."""
    factors = draw(st.lists(st.sampled_from([2, 3, 2, 5]), min_size=1, max_size=4))
    shapes = []
    for _ in range(draw(st.integers(1, 4))):
        order = draw(st.permutations(factors))
        cuts = draw(st.lists(st.booleans(), min_size=len(order), max_size=len(order)))
        shape = [1]
        for factor, cut in zip(order, cuts, strict=True):
            shape = [*shape, factor] if cut else [*shape[:-1], shape[-1] * factor]
        shapes.append(tuple(shape))
    return shapes


@settings(max_examples=60, deadline=None)
@given(reshapes())
def test_any_chain_of_reshapes_and_transposes(shapes: list[Shape]) -> None:
    (x,) = inputs(shapes[0])
    y = elementwise.add(x, 1.0)
    for shape in shapes:
        y = movement.permute_dims(movement.reshape(y, shape), tuple(reversed(range(len(shape)))))
    y = elementwise.multiply(y, 2.0)
    lowered([x], [y], y.shape, tuple(range(y.ndim)))


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.sampled_from(["flip", "slice", "pad", "transpose", "neg", "broadcast", "sum"]), max_size=6),
    st.integers(0, 3),
)
def test_any_chain_of_movements(steps: list[str], seed: int) -> None:
    rng = np.random.default_rng(seed)
    (x,) = inputs((3, 4))
    y = x
    for step in steps:
        match step:
            case "flip":
                y = movement.flip(y, (int(rng.integers(2)),))
            case "slice":
                y = movement.slice_(y, (min(1, y.shape[0] - 1), 0), y.shape, (int(rng.integers(1, 3)), 1))
            case "pad":
                low, inner = (tuple(int(n) for n in rng.integers(0, 3, 2)) for _ in range(2))
                y = make(movement.PAD, (y,), {"low": low, "high": (0, 1), "interior": inner, "value": 2.0})
            case "transpose":
                y = movement.permute_dims(y, (1, 0))
            case "neg":
                y = elementwise.negative(y)
            case "broadcast":
                y = elementwise.add(y, constant(np.arange(y.shape[1], dtype=np.float32)[:1]))
            case "sum":
                y = elementwise.multiply(y, y)
    lowered([x], [y], y.shape, (0, 1))


def test_every_combination_of_kept_dimensions() -> None:
    (x,) = inputs((2, 3, 4))
    for count in range(1, 4):
        for axes in itertools.combinations(range(3), count):
            total = reduction.sum(x, axis=axes, keepdims=True)
            outer = tuple(i for i in range(3) if i not in axes)
            lowered([x], [elementwise.divide(x, total), total], (2, 3, 4), outer)
