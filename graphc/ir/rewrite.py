"""Rewriting: rules look at one node whose operands are already rewritten, and give a replacement or None."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TypeAlias

from graphc.errors import VerifyError
from graphc.frozen import dataclass
from graphc.ir import origin
from graphc.ir.graph import Graph
from graphc.ir.node import Node, topological
from graphc.primitive import Primitive

RewriteFunction: TypeAlias = Callable[[Node], Node | None]

# Replacements that one node of the graph may lead to, on average, before rules are taken to undo each other.
_MOST_STEPS = 64


@dataclass(frozen=True, slots=True)
class Rule:
    """A rewrite with its name and its reason.

    apply: given a node, another of the same type, or None. ops: the primitives of the nodes that it may apply to;
    None for any. exact: results don't change by a bit; the others are reported by explain().
    """

    name: str
    apply: RewriteFunction
    reason: str
    exact: bool = True
    ops: tuple[Primitive, ...] | None = None


class _Told(threading.local):
    """How often each rule was applied, in each thread."""

    def __init__(self) -> None:
        self.applied: Counter[str] = Counter()


_told = _Told()


@dataclass(frozen=True, slots=True)
class Reason:
    """What stands for a rule where a pass finds the places by a walk of its own, and builds for many nodes at once."""

    name: str
    reason: str
    exact: bool = True


def applied(reason: Reason) -> None:
    """Count one application, as the rewriter does for rules."""
    _told.applied[reason.name] += 1


@contextmanager
def counting() -> Iterator[Counter[str]]:
    """Counts by name the rules that are applied inside: `with counting() as applied: ...`.

    The nodes' origins alone don't tell: a rule may hand back an operand, or a node that stood there already.
    """
    before, _told.applied = _told.applied, Counter()
    try:
        yield _told.applied
    finally:
        _told.applied = before


class Rewriter:
    """The state of one rewrite, of about so many nodes: `final` maps each to what it becomes."""

    def __init__(self, rules: Sequence[Rule], nodes: int) -> None:
        self.rules = rules
        self.left = _MOST_STEPS * (nodes + 1)
        self.by_op: dict[Primitive, tuple[Rule, ...]] = {}
        self.final: dict[Node, Node] = {}
        self.building = origin.Rewriting()

    def settle(self, node: Node) -> Node:
        """What `node` becomes. Iterative: what a rule builds is rewritten in its turn, however deep."""
        final = self.final
        replaced: dict[Node, Node] = {}
        inputs = [final.get(x) for x in node.inputs]
        if None not in inputs:  # most nodes: what is below is settled
            top = node.replace(tuple(inputs))  # type: ignore[arg-type]
            if top not in final:
                result = self.replacement(top)
                if result is None:
                    final[node] = final[top] = top
                    return top
                replaced[node] = top  # which may be the node itself
                replaced[top] = result
        stack = [node]
        while stack:
            top = stack[-1]
            if top in final:
                stack.pop()
                continue
            result = replaced.get(top)
            if result is None:
                missing = [n for n in top.inputs if n not in final]
                if missing:
                    stack.extend(missing)
                    continue
                result = top.replace(tuple([final[n] for n in top.inputs])) if top.inputs else top
                if result is top:
                    result = self.replacement(top)
                    if result is None:
                        final[top] = top
                        stack.pop()
                        continue
                replaced[top] = result
            if result in final:
                final[top] = final[result]
                stack.pop()
            else:
                stack.append(result)
        return final[node]

    def replacement(self, node: Node) -> Node | None:
        """What the first rule that applies makes of the node."""
        rules = self.by_op.get(node.op)
        if rules is None:
            rules = self.by_op[node.op] = tuple(r for r in self.rules if r.ops is None or node.op in r.ops)
        self.building.node = node
        for rule in rules:
            self.building.rule = rule.name
            result = rule.apply(node)
            if result is not None and result is not node:
                self._check(rule, node, result)
                return result
        return None

    def _check(self, rule: Rule, node: Node, result: Node) -> None:
        if result.type != node.type:
            raise VerifyError(f"rule {rule.name!r} made {result!r} of {node!r}: the types differ.")
        _told.applied[rule.name] += 1
        self.left -= 1
        if self.left < 0:
            raise VerifyError(f"rule {rule.name!r} came to no end at {node!r}: do rules undo each other?")


def rewrite(graph: Graph, rules: Sequence[Rule]) -> Graph:
    """The graph with every rule applied, operands first, until none applies. Iterative and linear.

    The same object if nothing changed. Raises VerifyError for a rule that changes a type, or rules without an end.
    """
    rewriter = Rewriter(rules, len(graph.nodes))
    with origin.during(rewriter.building):
        for node in graph.nodes:
            rewriter.settle(node)
    outputs = tuple([rewriter.final[n] for n in graph.outputs])
    return graph if outputs == graph.outputs else Graph(graph.inputs, outputs)


def substitute(outputs: Sequence[Node], replacements: dict[Node, Node]) -> list[Node]:
    """The outputs with some nodes replaced and everything above them rebuilt. Iterative."""
    done = dict(replacements)
    for node in topological(outputs, frozenset(replacements)):
        if node not in done:
            done[node] = node.replace(tuple([done[n] for n in node.inputs])) if node.inputs else node
    return [done[n] for n in outputs]
