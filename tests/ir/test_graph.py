"""The graph as networkx sees it."""

from __future__ import annotations

import networkx
import pytest

from graphc.ir.graph import Graph
from graphc.ir.node import fresh_input
from graphc.ops.elementwise import exp, multiply
from graphc.types import TensorType, float32


def test_nx_has_an_edge_for_each_operand_slot_and_is_frozen() -> None:
    x = fresh_input("x", TensorType((3,), float32))
    e = exp(x)
    y = multiply(e, e)
    graph = Graph((x,), (y,))
    assert isinstance(graph.nx, networkx.MultiDiGraph)
    assert set(graph.nx.edges(keys=True)) == {(x, e, 0), (e, y, 0), (e, y, 1)}
    assert list(networkx.topological_sort(graph.nx)) == list(graph.nodes)
    assert graph.nx is graph.nx
    with pytest.raises(networkx.NetworkXError, match="[Ff]rozen"):
        graph.nx.add_node(x)
