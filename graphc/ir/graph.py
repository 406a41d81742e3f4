"""Graph: inputs and outputs; what the outputs don't reach isn't in it."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import TYPE_CHECKING

from graphc.ir.node import INPUT, Node, topological

if TYPE_CHECKING:
    import networkx


class Graph:
    """A function of nodes. Immutable; equal graphs have the same inputs and outputs (nodes are interned)."""

    def __init__(self, inputs: Sequence[Node], outputs: Sequence[Node]) -> None:
        self.inputs = tuple(inputs)
        self.outputs = tuple(outputs)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Graph):
            return NotImplemented
        return self.inputs == other.inputs and self.outputs == other.outputs

    def __hash__(self) -> int:
        return hash((self.inputs, self.outputs))

    @cached_property
    def nodes(self) -> tuple[Node, ...]:
        """Every node, operands before users; unused inputs come first."""
        order = topological(self.outputs)
        reached = set(order)
        unused = [n for n in self.inputs if n not in reached]
        return (*unused, *order)

    @cached_property
    def users(self) -> dict[Node, tuple[Node, ...]]:
        """For each node the nodes that read it, once per operand slot, in topological order."""
        table: dict[Node, list[Node]] = {n: [] for n in self.nodes}
        for node in self.nodes:
            for operand in node.inputs:
                table[operand].append(node)
        return {n: tuple(u) for n, u in table.items()}

    @cached_property
    def nx(self) -> networkx.MultiDiGraph[Node]:
        """The graph as a frozen networkx.MultiDiGraph: edge producer -> consumer, key = operand slot.

        Built once, when asked: structural questions are networkx's to answer.
        """
        import networkx  # the one place; 60 ms, paid only by those who ask

        graph: networkx.MultiDiGraph[Node] = networkx.MultiDiGraph()
        for node in self.nodes:
            graph.add_node(node, op=node.op.name, type=str(node.type))
            for slot, operand in enumerate(node.inputs):
                graph.add_edge(operand, node, key=slot)
        networkx.freeze(graph)
        return graph

    @property
    def free(self) -> list[Node]:
        """Input nodes that are reached but not declared: a closed graph has none."""
        declared = set(self.inputs)
        return [n for n in self.nodes if n.op is INPUT and n not in declared]

    def __repr__(self) -> str:
        return f"<Graph {len(self.inputs)} inputs, {len(self.nodes)} nodes, {len(self.outputs)} outputs>"
