"""What the tests of lowering compare with: a Graph evaluated node by node, by Primitive.eval."""

from __future__ import annotations

from typing import Any

import numpy as np

from graphc.ir.graph import Graph
from graphc.ir.node import CONSTANT, FUSED, INPUT, ITEM, Node
from graphc.runtime.loop.nest import Nest
from graphc.types import DType, float32


def evaluate(graph: Graph, arrays: list[Any]) -> list[Any]:
    """The outputs of `graph` on arrays given in the order of its inputs; fused nodes by their inner graphs."""
    values: dict[Node, Any] = dict(zip(graph.inputs, arrays, strict=True))
    with np.errstate(all="ignore"):
        for node in graph.nodes:
            operands = [values[x] for x in node.inputs]
            if node.op is INPUT:
                assert node in values, f"{node} is free"
            elif node.op is CONSTANT:
                values[node] = node.attrs["value"].array
            elif node.op is FUSED:
                values[node] = evaluate(node.attrs["graph"], operands)
            elif node.op is ITEM:
                values[node] = operands[0][node.attrs["index"]]
            else:
                values[node] = node.op.eval(np, *operands, **node.attrs)
    return [values[n] for n in graph.outputs]


def random_array(shape: tuple[int, ...], dtype: DType = float32, seed: int = 0, high: int = 5) -> Any:
    """Normally distributed floats, integers in [0, high) or booleans."""
    rng = np.random.default_rng([seed, *shape])
    if dtype.kind == "f":
        return rng.standard_normal(shape).astype(dtype.numpy)
    if dtype.kind == "b":
        return rng.random(shape) < 0.5
    return rng.integers(0, high, shape).astype(dtype.numpy)


def arrays_for(nest: Nest, seed: int = 5) -> dict[str, Any]:
    """An array for each param, by name: normally distributed floats, or integers and booleans of 0 and 1."""
    rng = np.random.default_rng(seed)
    found: dict[str, Any] = {}
    for buffer in nest.params:
        if buffer.dtype.kind == "f":
            found[buffer.name] = rng.standard_normal(buffer.size).astype(buffer.dtype.numpy)
        else:
            found[buffer.name] = rng.integers(0, 2, buffer.size).astype(buffer.dtype.numpy)
    return found
