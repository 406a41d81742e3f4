"""Expand `gradient` and `tangent` marks into formulas, by the same sweeps that the tape runs on numbers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager

from graphc.autodiff import Carrier, pull, push
from graphc.ir import origin
from graphc.ir.graph import Graph
from graphc.ir.node import Node, topological
from graphc.ir.rewrite import Rewriter, Rule, rewrite
from graphc.ops.marks import GRADIENT, LEAF, STOP_GRADIENT, TANGENT
from graphc.ops.movement import zeros_as
from graphc.passes.simplify import UNMARK
from graphc.primitive import Value


class _Formulas(Carrier[Node]):
    """Reads nodes as values of themselves: what the rules build is the derivative's formula."""

    def sources(self, vertex: Node) -> Sequence[Node | None]:
        return vertex.inputs

    def values(self, vertex: Node) -> tuple[Value, Sequence[Value]]:
        return vertex, vertex.inputs

    def deriving(self, vertex: Node) -> AbstractContextManager[object]:
        return origin.during(origin.derivative_of(vertex))


def differentiate(graph: Graph, before: Sequence[Rule] = (), after: Sequence[Rule] = ()) -> Graph:
    """No `gradient`, `tangent`, `stop_gradient` or `leaf` is left. Innermost first; linear in each sweep.

    before: rules applied to what derivatives are taken of. after: rules applied to everything, once they are taken; as
    `rewrite` would, but nothing is built twice.
    """
    groups: dict[tuple[Node, Node, bool], list[Node]] = {}
    marked, derivatives = False, []
    for node in graph.nodes:
        if node.op is GRADIENT:
            groups.setdefault(_sweep_of(node), []).append(node)
        if node.op in (GRADIENT, TANGENT):
            derivatives.append(node)
        marked = marked or node.op in (GRADIENT, TANGENT, LEAF, STOP_GRADIENT)
    if not marked:
        return rewrite(graph, (UNMARK, *after)) if after else graph  # rules leave marks
    done: dict[Node, Node] = {}
    rewriter = Rewriter(before, len(graph.nodes))
    for node in topological(derivatives):  # what lies beyond is built once, when no mark is left
        if node in done:
            continue
        if node.op is GRADIENT:
            _expand_gradients(groups[_sweep_of(node)], done)
        elif node.op is TANGENT:
            done[node] = _expand_tangent([done[n] for n in node.inputs])
        else:
            done[node] = node.replace(tuple([done[n] for n in node.inputs])) if node.inputs else node
            if before:
                with origin.during(rewriter.building):
                    done[node] = rewriter.settle(done[node])
    return Graph(graph.inputs, _finished(graph, done, after))


def _sweep_of(mark: Node) -> tuple[Node, Node, bool]:
    """Result, seed, and whether the seed is masked: marks that share these are expanded by one sweep."""
    return mark.inputs[0], mark.inputs[1], mark.attrs.get("masked", False)


def _expand_gradients(marks: Sequence[Node], done: dict[Node, Node]) -> None:
    """All derivatives of one result in one reverse sweep."""
    y, seed = done[marks[0].inputs[0]], done[marks[0].inputs[1]]
    # a variable that y doesn't depend on may stand later in the order: its derivative is zero
    variables = {mark: done.get(mark.inputs[2]) for mark in marks}
    wanted = {x for x in variables.values() if x is not None}
    order = topological((y,))
    active = set(wanted)
    for node in order:
        if any(n in active for n in node.inputs):
            active.add(node)
    found = pull(order, {y: seed}, _Formulas(), wanted, active, (y,) if _sweep_of(marks[0])[2] else ())
    for mark, x in variables.items():
        g = found.get(x) if x is not None else None
        done[mark] = zeros_as(mark, mark.type.dtype) if g is None else g


def _expand_tangent(operands: Sequence[Node]) -> Node:
    y, rest = operands[0], operands[1:]
    xs, ts = rest[: len(rest) // 2], rest[len(rest) // 2 :]
    moved = push(topological((y,)), dict(zip(xs, ts, strict=True)), _Formulas())
    t = moved.get(y)
    return zeros_as(y, y.type.dtype) if t is None else t  # type: ignore[no-any-return]


def _finished(graph: Graph, expanded: Mapping[Node, Node], rules: Sequence[Rule]) -> list[Node]:
    """The graph's outputs without marks, and rewritten. expanded: nodes that were built anew."""
    beyond = [node for node in graph.nodes if node not in expanded]
    read = dict.fromkeys(x for node in beyond for x in node.inputs if x in expanded)
    read |= dict.fromkeys(x for x in graph.outputs if x in expanded)
    rewriter = Rewriter((UNMARK, *rules), 2 * len(graph.nodes))
    with origin.during(rewriter.building):
        for node in topological([expanded[x] for x in read]):
            rewriter.settle(node)
        rewriter.final.update({x: rewriter.final[expanded[x]] for x in read})
        for node in beyond:
            rewriter.settle(node)
    return [rewriter.final[n] for n in graph.outputs]
