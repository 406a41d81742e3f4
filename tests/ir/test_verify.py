"""The verifier and the interpreter refuse what isn't a graph, and say where it came from."""

from __future__ import annotations

from types import MappingProxyType
from typing import Any

import numpy as np
import pytest

from graphc.errors import ShapeError, VerifyError
from graphc.ir.evaluate import evaluate
from graphc.ir.graph import Graph
from graphc.ir.node import FUSED, Node, fresh_input, make, parameter
from graphc.ir.origin import Origin
from graphc.ir.verify import verify
from graphc.ops import elementwise as ew
from graphc.ops import reduction as red
from graphc.types import TensorType, float32, float64


def _input(*shape: int) -> Node:
    return fresh_input("x", TensorType(shape, float32))


def _forged(op: Any, inputs: tuple[Node, ...], type: Any, **attrs: Any) -> Node:
    """A node that `make` would not make."""
    return Node(op, inputs, MappingProxyType(attrs), type, Origin("model.py:41"))


def test_a_good_graph_is_handed_back() -> None:
    x = _input(2)
    graph = Graph((x,), (ew.exp(x),))
    assert verify(graph) is graph


@pytest.mark.parametrize(
    ("node", "says"),
    [
        (lambda x: _forged(ew.EXP, (x,), TensorType((3,), float32)), r"has type f32\[3\], but infers f32\[2\]"),
        (lambda x: _forged(ew.EXP, (x,), TensorType((2,), float64)), r"has type f64\[2\], but infers f32\[2\]"),
        (lambda x: _forged(ew.ADD, (x, _input(3)), x.type), "an input that the graph doesn't declare"),
        (lambda x: _forged(ew.ADD, (x, red.sum(ew.astype(x, "int64"))), x.type), "ill-typed: add"),
        (lambda x: _forged(ew.EXP, (x, x), x.type), "exp takes 1 operands"),
        (lambda x: _forged(red.SUM, (x,), x.type, axes=(0,)), "ill-formed"),
    ],
)
def test_a_bad_node_is_shown_in_its_window(node: Any, says: str) -> None:
    x = _input(2)
    before = ew.tanh(x)
    bad = node(x)
    with pytest.raises(VerifyError, match=says) as caught:
        verify(Graph((x,), (before, ew.negative(before), bad)), after="simplify")
    message = str(caught.value)
    assert message.startswith("after simplify: ")
    assert message.count("--> ") == 1
    assert message.count(" = ") >= 3
    if "declare" not in says:
        assert "from model.py:41" in message
        assert f"--> %{bad.serial} = {bad.op.name}" in message


def test_inputs_and_outputs() -> None:
    x = _input(2)
    with pytest.raises(VerifyError, match="declared twice"):
        verify(Graph((x, x), (x,)))
    p = parameter(0, x.type)
    inner = Graph((p,), (ew.exp(p), ew.negative(p)))
    group = make(FUSED, (x,), {"graph": inner, "full": (2,), "outer": (0,)})
    with pytest.raises(VerifyError, match="output 0 is a group"):
        verify(Graph((x,), (group,)))


def test_inside_of_fused_nodes() -> None:
    x, p = _input(2), parameter(0, TensorType((2,), float32))
    bad = _forged(ew.EXP, (p,), TensorType((3,), float32))
    group = _forged(FUSED, (x,), (bad.type,), graph=Graph((p,), (bad,)), full=(2,), outer=(0,))
    item = _forged(ew.NEGATIVE, (group,), x.type)
    with pytest.raises(VerifyError, match=r"inner graph: has type f32\[3\]"):
        verify(Graph((x,), (item,)))
    other = make(FUSED, (_input(3),), {"graph": Graph((p,), (ew.exp(p),)), "full": (2,), "outer": (0,)})
    with pytest.raises(VerifyError, match="don't have the operands' types"):
        verify(Graph(other.inputs, (other,)))


def test_the_interpreter_checks_its_arguments() -> None:
    x = _input(2)
    graph = Graph((x,), (ew.exp(x),))
    with pytest.raises(ShapeError, match="1 inputs, got 0"):
        evaluate(graph, [])
    with pytest.raises(ShapeError, match=r"input 0 is f32\[2\], got f32\[3\]"):
        evaluate(graph, [np.zeros(3, np.float32)])
    with pytest.raises(VerifyError, match="doesn't declare"):
        evaluate(Graph((), (ew.exp(x),)), [])


def test_types_are_inferred_once_for_several_graphs() -> None:
    """A node that was found right is known; a wrong one is refused each time."""
    x = _input(3)
    right, known = ew.exp(x), set[Node]()
    verify(Graph((x,), (right,)), known=known)
    assert known == {right}
    wrong = _forged(ew.NEGATIVE, (right,), TensorType((4,), float32))
    for _ in range(2):
        with pytest.raises(VerifyError, match="infers"):
            verify(Graph((x,), (wrong,)), known=known)
    assert known == {right}
