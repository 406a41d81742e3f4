"""What single rules make: the expected formula, by the name of its operations or node for node."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import pytest

import graphc as gc
from graphc.errors import VerifyError
from graphc.ir.evaluate import evaluate
from graphc.ir.graph import Graph
from graphc.ir.node import Node, constant, fresh_input, make
from graphc.ir.rewrite import Rule, rewrite
from graphc.ir.verify import verify
from graphc.ops import elementwise as ew
from graphc.ops import linalg
from graphc.ops import movement as mv
from graphc.ops import reduction as red
from graphc.ops.marks import GRADIENT, stop_gradient
from graphc.passes.contract import contract
from graphc.passes.differentiate import differentiate
from graphc.passes.simplify import simplify, simplify_derivative
from graphc.types import DType, TensorType, float32, float64, int64


def _input(*shape: int, dtype: DType = float64) -> Node:
    return fresh_input("x", TensorType(shape, dtype))


def _after(run: Any, node: Node, *inputs: Node) -> Node:
    """The node that a pass makes of `node`, verified, and compared with it by the interpreter."""
    graph = Graph(inputs, (node,))
    after = verify(run(graph))
    numbers = [np.random.default_rng(i).normal(size=n.shape).astype(n.dtype.numpy) for i, n in enumerate(inputs)]
    np.testing.assert_allclose(evaluate(after, numbers)[0], evaluate(graph, numbers)[0], rtol=1e-12, atol=1e-12)
    return after.outputs[0]


def _operations(node: Node) -> Counter[str]:
    return Counter(n.op.name for n in Graph((), (node,)).nodes if n.inputs)


x, y, v = _input(2, 3), _input(2, 3), _input(3)


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (lambda: ew.multiply(x, 1), lambda: x),
        (lambda: ew.multiply(v, np.ones((2, 3))), lambda: mv.broadcast_to(v, (2, 3))),
        (lambda: ew.add(x, constant(-0.0, float64)), lambda: x),
        (lambda: ew.add(x, 0.0), lambda: ew.add(x, 0.0)),  # -0 + 0 is 0
        (lambda: ew.subtract(x, 0.0), lambda: x),
        (lambda: ew.divide(x, 1), lambda: x),
        (lambda: ew.negative(ew.negative(x)), lambda: x),
        (lambda: ew.add(x, ew.negative(y)), lambda: ew.subtract(x, y)),
        (lambda: ew.multiply(ew.negative(x), ew.negative(y)), lambda: ew.multiply(x, y)),
        (lambda: ew.divide(ew.negative(x), y), lambda: ew.negative(ew.divide(x, y))),
        (lambda: ew.where(ew.less(x, 0), y, y), lambda: y),
        (lambda: ew.where(np.bool_(True), x, y), lambda: x),
        (lambda: ew.exp(mv.broadcast_to(v, (2, 3))), lambda: mv.broadcast_to(ew.exp(v), (2, 3))),
        (lambda: ew.add(mv.broadcast_to(v, (2, 3)), x), lambda: ew.add(v, x)),
        (lambda: mv.reshape(mv.reshape(x, (6,)), (2, 3)), lambda: x),
        (lambda: mv.permute_dims(mv.permute_dims(x, (1, 0)), (1, 0)), lambda: x),
        (lambda: mv.flip(mv.flip(x, 0), (0, 1)), lambda: mv.flip(x, 1)),
        (lambda: mv.permute_dims(mv.reshape(v, (1, 3)), (1, 0)), lambda: mv.reshape(v, (3, 1))),
        (lambda: mv.narrow(mv.narrow(x, 1, 1, 2), 1, 1, 1), lambda: mv.narrow(x, 1, 2, 1)),
        (lambda: mv.narrow(mv.pad(v, (2,), (2,)), 0, 2, 3), lambda: v),
        (lambda: mv.narrow(mv.pad(v, (2,), (2,)), 0, 1, 3), lambda: mv.pad(mv.narrow(v, 0, 0, 2), (1,), (0,))),
        (lambda: mv.pad(mv.pad(v, (2,), (2,)), (1,), (0,)), lambda: mv.pad(v, (3,), (2,))),
        (lambda: mv.narrow(mv.concat([x, y], 1), 1, 3, 2), lambda: mv.narrow(y, 1, 0, 2)),
        (lambda: mv.concat([mv.concat([x, y], 1), x], 1), lambda: mv.concat([x, y, x], 1)),
        (lambda: mv.concat([x]), lambda: x),
        (lambda: ew.copy(x), lambda: x),
        (lambda: ew.astype(ew.astype(x, "float32"), "float64"), lambda: ew.astype(ew.astype(x, "float32"), "float64")),
    ],
)
def test_simplify(before: Any, after: Any) -> None:
    assert _after(simplify, before(), x, y, v) is after()


def test_constants_are_computed_now() -> None:
    two = constant(2.0, float64)
    found = _after(simplify, ew.multiply(x, ew.exp(ew.add(two, 1))), x)
    np.testing.assert_array_equal(found.inputs[1].attrs["value"].array, np.exp(3.0))
    big = _input(100, 100)
    assert _after(simplify, ew.add(mv.broadcast_to(two, (100, 100)), big), big) is ew.add(two, big)


def test_a_convolution_without_groups_only_permutes_its_weights() -> None:
    """The derivative in x reshapes, permutes and reshapes for the sake of groups."""
    image, weight = gc.tensor(np.ones((2, 3, 5, 5))), gc.tensor(np.ones((4, 3, 2, 2)))
    f = gc.compile(gc.grad(lambda image: gc.sum(gc.conv(image, weight) ** 2)))
    f(image)
    graph = next(s.graph for s in f.graphs() if s.name == "contract")
    moved = [n for n in graph.nodes if n.op in (mv.RESHAPE, mv.PERMUTE_DIMS)]
    assert [n.op for n in moved] == [mv.PERMUTE_DIMS]
    assert moved[0].attrs["axes"] == (1, 0, 2, 3)


def test_products_are_not_transposed_after() -> None:
    a, b = _input(4, 3), _input(3, 5)
    found = _after(contract, mv.matrix_transpose(linalg.matmul(a, b)), a, b)
    assert found is linalg.matmul(mv.matrix_transpose(b), mv.matrix_transpose(a))
    back = _after(contract, mv.matrix_transpose(linalg.matmul(mv.matrix_transpose(b), mv.matrix_transpose(a))), a, b)
    assert back is linalg.matmul(a, b)


def test_a_linear_layers_weight_gradient_is_one_product() -> None:
    data, weight = gc.tensor(np.ones((8, 3))), gc.tensor(np.ones((5, 3)))
    f = gc.compile(gc.grad(lambda w: gc.sum(gc.matmul(data, gc.matrix_transpose(w)) ** 2)))
    f(weight)
    graph = next(s.graph for s in f.graphs() if s.name == "contract")
    (last,) = graph.outputs
    assert last.op is linalg.MATMUL  # not the transpose of one


def test_numbers_are_multiplied_in_where_there_are_fewest_elements() -> None:
    a, b = _input(100, 3), _input(3, 5)
    assert _after(contract, linalg.matmul(ew.multiply(a, 2.5), b), a, b) is linalg.matmul(a, ew.multiply(b, 2.5))
    c, d = _input(2, 50), _input(50, 2)
    assert _after(contract, linalg.matmul(ew.multiply(c, 2.5), d), c, d) is ew.multiply(linalg.matmul(c, d), 2.5)
    infinite = linalg.matmul(ew.multiply(c, np.inf), d)
    assert contract(Graph((c, d), (infinite,))).outputs == (infinite,)  # 0 * inf would be nan elsewhere


def test_sums() -> None:
    assert _after(contract, red.sum(mv.broadcast_to(v, (4, 3)), 0), v) is ew.multiply(v, 4.0)
    whole = _after(contract, red.sum(mv.broadcast_to(v, (4, 3))), v)
    assert _operations(whole)["sum"] == 1
    assert whole.op is mv.RESHAPE or whole.op is ew.MULTIPLY
    assert _after(contract, red.sum(red.sum(x, 1), 0), x) is red.sum(x, (0, 1))
    assert _after(contract, red.sum(mv.permute_dims(x, (1, 0)), 0), x) is red.sum(x, 1)
    assert _after(contract, red.max(mv.permute_dims(x, (1, 0)), 1, keepdims=True), x).op is not red.MAX
    assert _after(contract, mv.sum_to(mv.sum_to(x, (1, 3)), (1, 1)), x) is mv.sum_to(x, (1, 1))
    one = _input(1, 3)
    assert _after(contract, red.sum(one, 0), one) is mv.reshape(one, (3,))
    whole_numbers = _input(3, dtype=int64)
    counted = red.sum(mv.broadcast_to(whole_numbers, (4, 3)), 0)
    assert contract(Graph((whole_numbers,), (counted,))).outputs == (counted,)


def test_marks_are_gone_after_differentiation() -> None:
    node = ew.exp(stop_gradient(x))
    assert simplify_derivative(Graph((x,), (node,))).outputs == (ew.exp(x),)
    graph = Graph((x,), (ew.exp(x),))
    assert differentiate(graph) is graph


def test_rules_without_an_end_are_found_out() -> None:
    grow = Rule("grow", lambda n: ew.exp(ew.negative(n.inputs[0])), "", ops=(ew.EXP,))
    with pytest.raises(VerifyError, match="'grow' came to no end"):
        rewrite(Graph((x,), (ew.exp(x),)), [grow])


def test_a_rule_that_changes_a_type_is_found_out() -> None:
    narrow = Rule("narrow", lambda n: ew.astype(n, float32), "", ops=(ew.EXP,))
    with pytest.raises(VerifyError, match="'narrow' made"):
        rewrite(Graph((x,), (ew.exp(x),)), [narrow])


def test_origins_of_what_rules_build() -> None:
    node: Node = ew.log(ew.exp(ew.add(x, 1)))
    made = rewrite(
        Graph((x,), (node,)),
        [Rule("to sine", lambda n: ew.sin(n.inputs[0]), "", ops=(ew.LOG,))],
    ).outputs[0]
    assert made is not None
    assert made.origin.rule == "to sine"
    assert made.origin.source is node
    assert made.origin.location == node.origin.location


def test_the_gradient_of_a_share_keeps_only_the_share() -> None:
    e, g = _input(4, 5), _input(4, 5)
    for axis in (0, 1):
        s = red.sum(ew.exp(e), axis, keepdims=True)
        top = ew.exp(e)
        y = ew.divide(top, s)
        through = mv.sum_to(ew.negative(ew.multiply(g, ew.divide(y, s))), s.shape)
        before = ew.multiply(top, ew.add(ew.multiply(g, ew.divide(1, s)), through))
        after = _after(contract, before, e, g)
        assert after is ew.multiply(y, ew.subtract(g, mv.sum_to(ew.multiply(g, y), s.shape)))


def test_the_gradient_of_a_share_by_strong_products_stays_strong() -> None:
    e, g = _input(4, 5), _input(4, 5)
    top = ew.exp(e)
    s = red.sum(top, 1, keepdims=True)
    y = ew.divide(top, s)
    through = mv.sum_to(ew.strong_multiply(g, ew.negative(ew.divide(y, s))), s.shape)
    before = ew.strong_multiply(ew.add(ew.strong_multiply(g, ew.divide(1, s)), through), top)
    after = _after(contract, before, e, g)
    total = mv.sum_to(ew.strong_multiply(g, y), s.shape)
    assert after is ew.strong_multiply(ew.subtract(g, total), y)
    numbers = [np.full((4, 5), np.nan), np.zeros((4, 5))]  # nothing comes from where no gradient is
    assert (evaluate(Graph((e, g), (after,)), numbers)[0] == 0).all()


def test_the_gradient_of_softmax_is_that_of_a_share() -> None:
    z, g = _input(4, 5), _input(4, 5)

    def of_softmax(z: Node) -> Node:
        e = ew.exp(ew.subtract(z, stop_gradient(red.max(z, 1, keepdims=True))))
        return ew.divide(e, red.sum(e, 1, keepdims=True))  # type: ignore[no-any-return]

    y = of_softmax(z)
    gradient = make(GRADIENT, (y, g, z), {})
    derived = simplify_derivative(differentiate(Graph((z, g), (gradient,)))).outputs[0]
    after = _after(contract, derived, z, g)
    assert _operations(after)["divide"] == 1


def test_a_factor_that_is_the_same_for_all_is_taken_out_of_a_sum() -> None:
    a, c, row = _input(4, 5), _input(4, 1), _input(5)
    for keepdims in (False, True):
        after = _after(contract, red.sum(ew.multiply(a, c), 1, keepdims), a, c)
        assert _operations(after)["multiply"] == 1
        assert any(n.op is red.SUM and n.inputs[0] is a for n in Graph((a, c), (after,)).nodes)
    after = _after(contract, mv.sum_to(ew.negative(ew.multiply(a, row)), (1, 5)), a, row)
    assert any(n.op is mv.UNBROADCAST and n.inputs[0] is a for n in Graph((a, row), (after,)).nodes)
    before = red.sum(ew.multiply(a, row), 1)  # differs along what is summed
    assert contract(Graph((a, row), (before,))).outputs[0] is before
