"""Text of graphs: what is printed reads back as the same computation, to the bit."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from graphc.dispatch import apply
from graphc.errors import VerifyError
from graphc.ir.evaluate import evaluate
from graphc.ir.graph import Graph
from graphc.ir.node import constant, fresh_input
from graphc.ir.text import parse, parse_type, print_graph
from graphc.ir.verify import verify
from graphc.ops import PRIMITIVES
from graphc.ops import elementwise as ew
from graphc.ops import movement as mv
from graphc.ops import reduction as red
from graphc.passes.fuse import fuse
from graphc.types import TensorType, float32, float64
from tests.graphs import arguments, assert_same_bits, graphs
from tests.samples import computable, samples

patient = [HealthCheck.too_slow, HealthCheck.data_too_large]
slowly = settings(max_examples=100, deadline=None, suppress_health_check=patient)


@given(graphs())
@slowly
def test_graphs_read_back(graph: Graph) -> None:
    text = print_graph(graph)
    again = verify(parse(text, PRIMITIVES))
    assert print_graph(again) == text
    assert print_graph(parse(print_graph(graph, origins=True), PRIMITIVES)) == text
    numbers = arguments(graph, 3)
    assert_same_bits(evaluate(again, numbers), evaluate(graph, numbers))


@given(graphs(most=8))
@slowly
def test_fused_graphs_read_back(graph: Graph) -> None:
    fused = fuse(graph)
    text = print_graph(fused)
    again = verify(parse(text, PRIMITIVES))
    assert print_graph(again) == text
    numbers = arguments(graph, 4)
    assert_same_bits(evaluate(again, numbers), evaluate(fused, numbers))


@given(
    st.sampled_from([np.float32, np.float64]).flatmap(
        lambda t: hnp.arrays(t, hnp.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=3))
    )
)
@settings(deadline=None)
def test_constants_read_back_to_the_bit(array: Any) -> None:
    graph = Graph((), (constant(array),))
    assert parse(print_graph(graph), PRIMITIVES) == graph  # interned by bits


def test_odd_constants() -> None:
    nans = np.array([0x7FF8000000000000, 0xFFF8000000000000, 0x7FF8000000000001, 0x7FF4000000000000], np.uint64)
    for array in (nans.view(np.float64), np.array([-0.0, 0.0, np.inf, -np.inf, 5e-324]), np.zeros((0, 3), np.int32)):
        graph = Graph((), (constant(array),))
        (back,) = parse(print_graph(graph), PRIMITIVES).outputs
        assert back.attrs["value"].array.tobytes() == array.tobytes()
        assert back is graph.outputs[0]


@pytest.mark.parametrize("value", [0, 1, True, 0.0, -0.0, math.inf, -math.inf, math.nan, 1.1])
def test_numbers_among_attributes_keep_their_kind(value: Any) -> None:
    x = fresh_input("x", TensorType((2,), float64))
    graph = Graph((x,), (mv.pad(x, (1,), (1,), None, value),))
    (back,) = parse(print_graph(graph), PRIMITIVES).outputs
    found = back.attrs["value"]
    assert type(found) is type(value)
    assert repr(found) == repr(value)


@pytest.mark.parametrize("primitive", computable(), ids=lambda p: p.name)
def test_every_primitive_reads_back(primitive: Any) -> None:
    for sample in samples(primitive):
        inputs = [fresh_input("x", TensorType(a.shape, constant(a).dtype)) for a in sample.arrays]
        node = apply(primitive, *inputs, **sample.attrs) if inputs else constant(primitive.eval(np, **sample.attrs))
        graph = Graph(inputs, (node,))
        again = parse(print_graph(graph), PRIMITIVES)
        assert print_graph(again) == print_graph(graph)
        assert dict(again.outputs[0].attrs) == dict(node.attrs) or "nan" in print_graph(graph)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "expected 'graph'"),
        ("graph(%0: f32[2]) {\n  return %1\n}", "stands above"),
        ("graph(%0: f32[2]) {\n  %1 = nothing(%0) : f32[2]\n  return %1\n}", "an operation, not 'nothing'"),
        ("graph(%0: f32[2]) {\n  %1 = exp(%0) : f32[3]\n  return %1\n}", r"infers f32\[2\]"),
        ("graph(%0: f16[2]) {\n  return %0\n}", "expected a type, not 'f16'"),
        ("graph(%0: f32[2]) {\n  %1 = constant value=f32[2](0x1p+0) : f32[2]\n  return %1\n}", "2 elements"),
        ("graph(%0: f32[2]) {\n  return %0\n", "end of the text"),
        ("graph(%0: f32[2]) {\n  return %0\n}\nand", "expected the end"),
        ("graph(%0: f32[2]) {\n  %1 = ex!p(%0) : f32[2]\n  return %1\n}", "not a graph"),
    ],
)
def test_what_is_no_graph(text: str, says: str) -> None:
    with pytest.raises(VerifyError, match=says):
        parse(text, PRIMITIVES)


def test_types() -> None:
    assert parse_type("f32[2,3]") == TensorType((2, 3), float32)
    assert parse_type("f64[]") == TensorType((), float64)
    with pytest.raises(VerifyError):
        parse_type("f32[2")


def test_goldens(golden: Any) -> None:
    x, y = fresh_input("x", TensorType((2, 3), float32)), fresh_input("y", TensorType((3,), float32))
    graph = Graph((x, y), (red.sum(ew.multiply(ew.add(x, y), 1.5), 1), ew.where(ew.less(y, 0), y, -math.inf)))
    golden("ir/small.txt", print_graph(graph))
    golden("ir/fused.txt", print_graph(fuse(graph)))
