"""The reference interpreter of graphs: each node by its primitive's `eval`, in NumPy. The oracle of every pass."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from graphc.errors import ShapeError, VerifyError
from graphc.ir.graph import Graph
from graphc.ir.node import FUSED, INPUT, Node
from graphc.types import TensorType, dtype_of


def evaluate(graph: Graph, arguments: Sequence[Any]) -> list[Any]:
    """The outputs of a graph as arrays, for arguments of its inputs' types. Nodes that are still symbolic raise.

    Raises ShapeError for another number of arguments, or other types; VerifyError for an input that isn't declared.
    """
    if len(arguments) != len(graph.inputs):
        raise ShapeError(f"evaluate: the graph has {len(graph.inputs)} inputs, got {len(arguments)} arguments.")
    for number, (node, argument) in enumerate(zip(graph.inputs, arguments, strict=True)):
        array = np.asarray(argument)
        given = TensorType(array.shape, dtype_of(array.dtype))
        if given != node.type:
            raise ShapeError(f"evaluate: input {number} is {node.type}, got {given}.")
    values: dict[Node, Any] = dict(zip(graph.inputs, arguments, strict=True))
    with np.errstate(all="ignore"):
        for node in graph.nodes:
            if node in values:
                continue
            if node.op is INPUT:
                raise VerifyError(f"evaluate: {node!r} is an input that the graph doesn't declare.")
            operands = [values[n] for n in node.inputs]
            if node.op is FUSED:
                values[node] = evaluate(node.attrs["graph"], operands)
            else:
                values[node] = node.op.eval(np, *operands, **node.attrs)
    return [np.asarray(values[n]) for n in graph.outputs]
