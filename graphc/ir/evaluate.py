"""The reference interpreter of graphs: each node by its primitive's `eval`, in NumPy. The oracle of every pass."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from graphc.errors import ShapeError
from graphc.ir.graph import Graph
from graphc.ir.node import FUSED, INPUT, Node


def evaluate(graph: Graph, arguments: Sequence[Any]) -> list[Any]:
    """The outputs of a graph as arrays, for arguments of its inputs' types. Nodes that are still symbolic raise."""
    if len(arguments) != len(graph.inputs):
        raise ShapeError(f"evaluate: the graph has {len(graph.inputs)} inputs, got {len(arguments)} arguments.")
    values: dict[Node, Any] = dict(zip(graph.inputs, arguments, strict=True))
    with np.errstate(all="ignore"):
        for node in graph.nodes:
            if node in values or node.op is INPUT:
                continue
            operands = [values[n] for n in node.inputs]
            if node.op is FUSED:
                values[node] = evaluate(node.attrs["graph"], operands)
            else:
                values[node] = node.op.eval(np, *operands, **node.attrs)
    return [np.asarray(values[n]) for n in graph.outputs]
