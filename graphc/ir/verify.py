"""The verifier: re-infers every type and checks the shape of the graph. Runs after tracing and after every pass."""

from __future__ import annotations

from graphc.errors import GraphcError, VerifyError
from graphc.ir.graph import Graph
from graphc.ir.node import FUSED, INPUT, Node
from graphc.ir.text import print_node
from graphc.types import TensorType

_WINDOW = 3


def verify(graph: Graph, after: str = "", known: set[Node] | None = None) -> Graph:
    """graph itself. Raises VerifyError with the window of IR around the first culprit and the user's line.

    known: nodes whose types have been inferred again already. They never change, so it isn't done twice; those that are
    found right here are added.
    """
    known = set() if known is None else known
    place = {node: i for i, node in enumerate(graph.nodes)}
    declared = set(graph.inputs)
    if len(declared) != len(graph.inputs):
        raise VerifyError(f"{_stage(after)}an input is declared twice")
    for i, node in enumerate(graph.nodes):
        problem = _problem(node, i, place, declared, known)
        if problem is not None:
            raise VerifyError(f"{_stage(after)}{problem}\n{_window(graph, i)}\nfrom {node.origin}")
    for number, output in enumerate(graph.outputs):
        if not isinstance(output.type, TensorType):
            window = _window(graph, place[output])
            raise VerifyError(f"{_stage(after)}output {number} is a group of results, not one of them\n{window}")
    return graph


def _stage(after: str) -> str:
    return f"after {after}: " if after else ""


def _problem(node: Node, i: int, place: dict[Node, int], declared: set[Node], known: set[Node]) -> str | None:
    if node.op is INPUT:
        return None if node in declared else "an input that the graph doesn't declare"
    for operand in node.inputs:
        if place.get(operand, i) >= i:
            return "an operand doesn't stand before its user"
    if node in known:
        return None
    if node.op is FUSED:
        inner = node.attrs["graph"]
        if [n.type for n in inner.inputs] != [n.type for n in node.inputs]:
            return "the inner graph's inputs don't have the operands' types"
        try:
            verify(inner, known=known)
        except VerifyError as error:
            return f"inner graph: {error}\nin"
    if node.op.partials is not None and len(node.op.partials) != len(node.inputs):
        return f"ill-formed: {node.op.name} takes {len(node.op.partials)} operands"
    try:
        inferred = node.op.infer(*[n.type for n in node.inputs], **node.attrs)
    except GraphcError as error:
        return f"ill-typed: {error}"
    except (TypeError, ValueError, LookupError) as error:  # operands or attributes that the operation doesn't have
        return f"ill-formed: {error}"
    if inferred != node.type:
        return f"has type {node.type}, but infers {inferred}"
    known.add(node)
    return None


def _window(graph: Graph, i: int) -> str:
    lines = []
    for j in range(max(0, i - _WINDOW), min(len(graph.nodes), i + _WINDOW + 1)):
        lines.append(("--> " if j == i else "    ") + print_node(graph.nodes[j]))
    return "\n".join(lines)
