"""Fusion: the same function, in fewer kernels. Each is lowered and run by the interpreter as well."""

from __future__ import annotations

import time
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from graphc.errors import VerifyError
from graphc.ir.graph import Graph
from graphc.ir.node import CONSTANT, FUSED, INPUT, ITEM, Node, constant, fresh_input, make
from graphc.ops import elementwise as E
from graphc.ops import indexing, linalg, movement, pooling, reduction
from graphc.ops.convolution import CONV
from graphc.passes.fuse import fuse, fused_nodes
from graphc.primitive import Primitive
from graphc.runtime.loop.interp import run_nest
from graphc.runtime.loop.lower import lower_node
from graphc.runtime.loop.nest import contraction
from graphc.runtime.loop.verify import verify_nest
from graphc.types import DType, Shape, TensorType, float32, int64
from tests.runtime.loop.reference import evaluate, random_array


def new(*shape: int, dtype: DType = float32) -> Node:
    return fresh_input("x", TensorType(shape, dtype))


def run_kernels(graph: Graph, arrays: list[Any]) -> list[Any]:
    """A fused graph by lowering and interpreting each kernel."""
    values: dict[Node, Any] = dict(zip(graph.inputs, arrays, strict=True))
    for node in graph.nodes:
        operands = [values[x] for x in node.inputs]
        if node.op is CONSTANT:
            values[node] = node.attrs["value"].array
        elif node.op is ITEM:
            values[node] = operands[0][node.attrs["index"]]
        elif node.op is FUSED:
            nest = lower_node(node)
            verify_nest(nest)
            memory = {f"p{i}": np.array(a).reshape(-1) for i, a in enumerate(operands)}
            results = node.attrs["graph"].outputs
            memory |= {f"o{i}": np.full(y.type.size, 77, y.dtype.numpy) for i, y in enumerate(results)}
            assert run_nest(nest, memory) == 0
            values[node] = [memory[f"o{i}"].reshape(y.shape) for i, y in enumerate(results)]
        elif node.op is not INPUT:
            assert node.op is movement.RESHAPE
            values[node] = operands[0].reshape(node.shape)
    return [values[n] for n in graph.outputs]


def check(inputs: list[Node], outputs: list[Node], arrays: list[Any] | None = None, rtol: float = 1e-5) -> Graph:
    graph = Graph(inputs, outputs)
    fused = fuse(graph)
    assert all(n.op in (INPUT, CONSTANT, FUSED, ITEM, movement.RESHAPE) for n in fused.nodes)
    arrays = arrays or [random_array(x.shape, x.dtype, i) for i, x in enumerate(inputs)]
    wanted = evaluate(graph, arrays)
    for want, same in zip(wanted, evaluate(fused, arrays), strict=True):
        np.testing.assert_array_equal(same, want)
    for want, got in zip(wanted, run_kernels(fused, arrays), strict=True):
        np.testing.assert_allclose(got, want, rtol=rtol, atol=rtol)
    return fused


def kernels(graph: Graph) -> int:
    return len(fused_nodes(graph))


def softmax(x: Node) -> Node:
    e = E.exp(E.subtract(x, reduction.max(x, axis=-1, keepdims=True)))
    return E.divide(e, reduction.sum(e, axis=-1, keepdims=True))


def test_elementwise_operations_share_a_kernel() -> None:
    x, b = new(4, 5), new(5)
    y = E.multiply(E.tanh(E.add(x, b)), 2.0)
    assert kernels(check([x, b], [E.subtract(y, x)])) == 1


def test_both_results_of_one_kernel_are_stored() -> None:
    x = new(4, 5)
    y = E.exp(x)
    assert kernels(check([x], [y, E.add(y, 1.0)])) == 1


def test_softmax_is_one_kernel() -> None:
    x = new(20, 6)
    fused = check([x], [softmax(x)])
    assert kernels(fused) == 1
    assert fused_nodes(fused)[0].attrs["outer"] == (0,)


def test_layer_norm_is_one_kernel() -> None:
    x, w, b = new(20, 6), new(6), new(6)
    deviation = E.subtract(x, reduction.mean(x, axis=1, keepdims=True))
    scale = E.rsqrt(E.add(reduction.mean(E.multiply(deviation, deviation), axis=1, keepdims=True), 1e-5))
    assert kernels(check([x, w, b], [E.add(E.multiply(E.multiply(deviation, scale), w), b)])) == 1


def test_cross_entropy_and_its_gradient_are_one_kernel_of_rows() -> None:
    x, labels = new(20, 6), new(20, 1, dtype=int64)
    top = reduction.max(x, axis=1, keepdims=True)
    shifted = E.subtract(x, top)
    total = E.log(reduction.sum(E.exp(shifted), axis=1, keepdims=True))
    log_p = E.subtract(shifted, total)
    hot = indexing.scatter_add_along_axis(constant(np.full((20, 1), -0.05, np.float32)), labels, 1, 6)
    gradient = E.subtract(hot, E.multiply(E.exp(log_p), reduction.sum(hot, axis=1, keepdims=True)))
    weights = new(6, 3)
    outputs = [log_p, linalg.matmul(gradient, weights), reduction.sum(gradient, axis=0)]
    fused = check([x, labels, weights], outputs)
    assert kernels(fused) == 3


def test_contraction_takes_its_epilogue_and_no_prologue() -> None:
    x, w, b, old = new(6, 8), new(8, 5), new(5), new(6, 5)
    y = linalg.matmul(E.exp(x), w)
    fused = check([x, w, b, old], [E.subtract(old, E.maximum(E.add(y, b), 0.0))])
    assert kernels(fused) == 2
    last = lower_node(fused_nodes(fused)[-1])
    assert contraction(last.stages[0]) is not None
    assert ("p1", "o0") in last.inplace or ("p0", "o0") in last.inplace or ("p3", "o0") in last.inplace


def test_transposed_operands_are_only_views() -> None:
    x, g = new(6, 8), new(6, 5)
    assert kernels(check([x, g], [linalg.matmul(movement.matrix_transpose(x), g)])) == 1


def test_convolution_and_pooling() -> None:
    x, w, b = new(2, 3, 8, 8), new(4, 3, 3, 3), new(4, 1, 1)
    attrs: dict[str, Any] = {"stride": (1, 1), "padding": ((0, 0), (0, 0)), "lhs_dilation": (1, 1)}
    y = make(CONV, (x, w), attrs | {"rhs_dilation": (1, 1), "groups": 1})
    y = pooling.max_pool(E.maximum(E.add(y, b), 0.0), (2, 2))
    flat = movement.reshape(y, (2, 36))
    arrays = [(random_array(n.shape) * 3).round() for n in (x, w, b)]
    assert kernels(check([x, w, b], [flat], arrays)) == 2


def test_masked_gradient_is_stored_by_its_column_sums() -> None:
    z, g, w = new(20, 6), new(20, 6), new(6, 3)
    dz = E.where(E.greater(z, 0.0), g, 0.0)
    fused = check([z, g, w], [reduction.sum(dz, axis=0), linalg.matmul(dz, w)])
    assert kernels(fused) == 2


def test_a_result_that_depends_on_another_reader_is_not_merged_into_a_cycle() -> None:
    x = new(20, 6)
    y = E.exp(x)
    total = reduction.sum(linalg.matmul(y, movement.matrix_transpose(y)), axis=1, keepdims=True)
    check([x], [E.multiply(y, total), E.add(E.multiply(y, 2.0), movement.reshape(reduction.sum(total), (1, 1)))])


def test_costly_values_reductions_and_random_numbers_are_computed_once() -> None:
    x, w = new(20, 20), new(20, 20)
    y = E.tanh(x)
    fused = check([x, w], [linalg.matmul(y, w), linalg.matmul(w, y), reduction.sum(y, axis=0)])
    tanhs = sum(n.op is E.TANH for f in fused_nodes(fused) for n in f.attrs["graph"].nodes)
    assert tanhs == 1


@pytest.mark.parametrize(
    ("rows", "with_operand", "times"),
    [(1024, True, 2), (256, True, 1), (1024, False, 1)],
    ids=["of what no cache holds", "small", "without its operand"],
)
def test_costly_values_may_be_computed_again_beside_their_operand(rows: int, with_operand: bool, times: int) -> None:
    a, b, c = new(rows, 4), new(4, 1024), new(1024, 4)
    x = linalg.matmul(a, b)
    u = E.multiply(x, 0.75)
    v = E.erf(u)
    y = linalg.matmul(E.multiply(v, E.add(u, 1.0) if not with_operand else x), c)
    g = linalg.matmul(y, movement.matrix_transpose(c))  # the later kernel needs all of y
    derivative = E.exp(E.negative(E.multiply(u, u))) if with_operand else E.subtract(1.0, E.multiply(v, v))
    graph = Graph([a, b, c], [E.multiply(g, E.add(derivative, v))])
    fused = fuse(graph)
    assert sum(n.op is E.ERF for kernel in fused_nodes(fused) for n in kernel.attrs["graph"].nodes) == times
    arrays = [random_array(n.shape, n.dtype, i) for i, n in enumerate(graph.inputs)]
    np.testing.assert_array_equal(evaluate(fused, arrays)[0], evaluate(graph, arrays)[0])


def test_cheap_masks_are_computed_again_rather_than_stored() -> None:
    x, a, b = new(20, 6), new(20, 6), new(6, 20)
    mask = E.greater(x, 0.0)
    fused = check([x, a, b], [E.where(mask, a, 0.0), E.where(movement.matrix_transpose(mask), b, 0.0)])
    assert all(item.dtype is float32 for item in fused.outputs)
    assert not any(n.op is ITEM and n.dtype.kind == "b" for n in fused.nodes)


def test_reshape_without_common_factors_is_the_same_memory() -> None:
    x = new(6, 4)
    through = movement.reshape(E.exp(movement.matrix_transpose(x)), (2, 12))
    assert kernels(check([x], [E.add(through, 1.0)])) == 1  # (4, 6) and (2, 12) have the factors 2, 2, 6
    z = movement.reshape(E.exp(movement.broadcast_to(x, (5, 6, 4))), (8, 15))
    fused = check([x], [E.add(E.multiply(z, z), reduction.sum(z, axis=0))])
    assert any(n.op is movement.RESHAPE for n in fused.nodes)


def test_equal_kernels_are_one_inner_graph() -> None:
    inputs = [new(4, 4) for _ in range(5)]
    x = inputs[0]
    for w in inputs[1:]:
        x = E.tanh(linalg.matmul(x, w))
    fused = check(inputs, [x])
    assert kernels(fused) == 4
    assert len({n.attrs["graph"] for n in fused_nodes(fused)}) == 1


def test_outputs_that_are_inputs_or_constants_pass_through() -> None:
    x = new(3)
    c = constant(np.ones(3, np.float32))
    fused = fuse(Graph([x], [x, c]))
    assert fused.outputs == (x, c)


def test_symbolic_operations_are_refused() -> None:
    mark = Primitive("mark", infer=lambda x: x, eval=lambda xp, x: x)
    x = new(3)
    with pytest.raises(VerifyError, match="mark"):
        fuse(Graph([x], [make(mark, (x,), {})]))


def test_long_chains_are_cut_in_linear_time() -> None:
    x = new(4)
    y = x
    for i in range(20000):
        y = E.add(y, x) if i % 2 else E.multiply(y, 0.5)
    start = time.process_time()
    fused = fuse(Graph([x], [y]))
    assert time.process_time() - start < 20  # what others do on the machine doesn't count
    assert 20000 / 96 <= kernels(fused) < 20000 / 48
    assert len({n.attrs["graph"] for n in fused_nodes(fused)}) < 8


@st.composite
def programs(draw: Any) -> tuple[list[Node], list[Node]]:
    """Random programs over matrices: maps, reductions, broadcasts, transposes, products; several results."""
    n, m = draw(st.sampled_from([(3, 4), (17, 5), (1, 6), (5, 1)]))
    values = [new(n, m), new(n, m), new(m), new(n, 1)]
    inputs = list(values)

    def pick(shape: Shape | None = None) -> Node:
        fitting = [v for v in values if shape is None or v.shape == shape]
        return fitting[draw(st.integers(0, len(fitting) - 1))]

    for _ in range(draw(st.integers(1, 14))):
        match draw(st.sampled_from(["add", "mul", "tanh", "row", "column", "all", "T", "matmul", "mask", "reshape"])):
            case "add":
                values.append(E.add(pick((n, m)), pick((n, m))))
            case "mul":
                small = [v for v in values if v.shape in ((m,), (n, 1), (1, m), (), (n, m))]
                values.append(E.multiply(pick((n, m)), small[draw(st.integers(0, len(small) - 1))]))
            case "tanh":
                values.append(E.tanh(pick()))
            case "row":
                values.append(reduction.sum(pick((n, m)), axis=1, keepdims=True))
            case "column":
                values.append(reduction.max(pick((n, m)), axis=0))
            case "all":
                values.append(reduction.mean(pick((n, m))))
            case "T":
                values.append(
                    E.negative(movement.matrix_transpose(E.add(movement.matrix_transpose(pick((n, m))), 1.0)))
                )
            case "matmul":
                square = linalg.matmul(movement.matrix_transpose(pick((n, m))), E.tanh(pick((n, m))))
                values.append(E.multiply(linalg.matmul(pick((n, m)), square), 0.1))
            case "mask":
                values.append(E.where(E.greater(pick((n, m)), 0.0), pick((n, m)), 0.5))
            case "reshape":
                flat = E.add(movement.reshape(pick((n, m)), (n * m,)), 1.0)
                values.append(movement.reshape(flat, (n, m)))
    results = draw(st.lists(st.integers(len(inputs), len(values) - 1), min_size=1, max_size=4)) if values[4:] else []
    return inputs, [values[i] for i in results] or [values[-1]]


@settings(max_examples=150, deadline=None)
@given(programs())
def test_random_programs(program: tuple[list[Node], list[Node]]) -> None:
    inputs, outputs = program
    used = [x for x in inputs if x in Graph(inputs, outputs).users]
    check(used, outputs, rtol=1e-3)


@pytest.mark.parametrize(("products", "copies"), [(2, 0), (3, 1), (7, 1)])
def test_a_matrix_that_many_products_turn_over_is_turned_over_once(products: int, copies: int) -> None:
    w = new(16, 24)
    xs = [new(4, 24) for _ in range(products)]
    fused = fuse(Graph([w, *xs], [linalg.matmul(x, movement.matrix_transpose(w)) for x in xs]))
    groups = fused_nodes(fused)
    assert sum(g.attrs["graph"].outputs[0].op is movement.PERMUTE_DIMS for g in groups) == copies
    assert len(groups) == products + copies


def test_a_left_factor_is_read_as_it_lies() -> None:
    w = new(16, 24)
    xs = [new(16, 4) for _ in range(5)]
    fused = fuse(Graph([w, *xs], [linalg.matmul(movement.matrix_transpose(w), x) for x in xs]))
    assert len(fused_nodes(fused)) == 5


@pytest.mark.parametrize(("rows", "columns", "copies"), [(1024, 128, 1), (1024, 64, 0), (512, 128, 0)])
def test_a_large_left_factor_is_turned_over_where_its_columns_are_read_often(
    rows: int, columns: int, copies: int
) -> None:
    x, g = new(1024, rows), new(1024, columns)
    groups = fused_nodes(fuse(Graph([x, g], [linalg.matmul(movement.matrix_transpose(x), g)])))
    assert len(groups) == 1 + copies
