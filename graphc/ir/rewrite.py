"""Rewriting: rules look at one node whose operands are already rewritten, and give a replacement or None."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from graphc.ir import origin
from graphc.ir.graph import Graph
from graphc.ir.node import Node, topological

RewriteFunction: TypeAlias = Callable[[Node], Node | None]


@dataclass(frozen=True, slots=True)
class Rule:
    """A rewrite with its name and its reason. exact: results don't change by a bit; explain() lists the others."""

    name: str
    apply: RewriteFunction
    reason: str
    exact: bool = True


def rewrite(graph: Graph, rules: Sequence[Rule]) -> Graph:
    """The graph with every rule applied, operands first, until none applies to a node. Iterative and linear.

    The same object if nothing changed.
    """
    done: dict[Node, Node] = {}
    for node in graph.nodes:
        result = node.replace(tuple([done[n] for n in node.inputs])) if node.inputs else node
        done[node] = _settle(result, rules)
    outputs = tuple(done[n] for n in graph.outputs)
    return graph if outputs == graph.outputs else Graph(graph.inputs, outputs)


def _settle(node: Node, rules: Sequence[Rule]) -> Node:
    """Apply rules to a node until none applies. The bound stops rules that undo each other."""
    for _ in range(16):
        for rule in rules:
            with origin.during(origin.rewritten(node, rule.name)):
                replacement = rule.apply(node)
            if replacement is not None and replacement is not node:
                node = replacement
                break
        else:
            return node
    return node


def substitute(outputs: Sequence[Node], replacements: dict[Node, Node]) -> list[Node]:
    """The outputs with some nodes replaced and everything above them rebuilt. Iterative."""
    done = dict(replacements)
    for node in topological(outputs, frozenset(replacements)):
        if node not in done:
            done[node] = node.replace(tuple([done[n] for n in node.inputs])) if node.inputs else node
    return [done[n] for n in outputs]
