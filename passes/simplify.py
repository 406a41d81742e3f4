"""Algebra that changes no bit of the result, and folded constants; with structure.py, what cleans up after others."""

from __future__ import annotations

import numpy as np

from graphc.ir.graph import Graph
from graphc.ir.node import CONSTANT, Node, constant, constant_value
from graphc.ir.rewrite import Rule, rewrite
from graphc.ops import elementwise as ew
from graphc.ops import movement as mv
from graphc.ops.marks import LEAF, STOP_GRADIENT
from graphc.passes import structure
from graphc.passes.patterns import as_type_of, is_number
from graphc.primitive import Fact

_FOLD_LIMIT = 4096  # elements: larger constants would only make the program larger


def fold_constants(node: Node) -> Node | None:
    for n in node.inputs:  # a loop: this is asked of every node
        if n.op is not CONSTANT:
            return None
    if not node.inputs or node.op.facts & Fact.SYMBOLIC or node.op.facts & Fact.CONTRACTION:
        return None
    if node.op is mv.BROADCAST_TO or isinstance(node.type, tuple) or node.type.size > _FOLD_LIMIT:
        return None
    with np.errstate(all="ignore"):
        return constant(node.op.eval(np, *[n.attrs["value"].array for n in node.inputs], **node.attrs), node.type.dtype)


def neutral_operand(node: Node) -> Node | None:
    if len(node.inputs) != 2:
        return None
    x, y = node.inputs
    if node.op is ew.MULTIPLY:
        if is_number(y, 1):
            return as_type_of(x, node)
        return as_type_of(y, node) if is_number(x, 1) else None
    if node.op is ew.DIVIDE and is_number(y, 1):
        return as_type_of(x, node)
    if node.op is ew.SUBTRACT and is_number(y, 0):  # x - 0 is x, also for -0; x + 0 is not
        return as_type_of(x, node)
    if node.op is ew.ADD and node.type.dtype.kind == "i":
        if is_number(y, 0):
            return as_type_of(x, node)
        return as_type_of(y, node) if is_number(x, 0) else None
    if node.op is ew.ADD:
        if is_number(y, -0.0):
            return as_type_of(x, node)
        return as_type_of(y, node) if is_number(x, -0.0) else None
    return None


def strong_neutral(node: Node) -> Node | None:
    """strong_multiply(g, 1) = g, but for the sign of a zero; strong_multiply(1, p) = p."""
    g, p = node.inputs
    if is_number(p, 1):
        return as_type_of(g, node)
    return as_type_of(p, node) if is_number(g, 1) else None


def strong_number(node: Node) -> Node | None:
    """strong_multiply(g, c) = g * c for a finite number c: there is no inf or nan to keep out."""
    g, p = node.inputs
    value = constant_value(p)
    if value is None or not np.isfinite(value).all():
        return None
    return as_type_of(ew.multiply(g, p), node)


def negation(node: Node) -> Node | None:
    """--x = x; a + -b = a - b; a - -b = a + b; -1 * x = -x; -a * b = -(a * b), where it may meet another sign."""
    if node.op is ew.NEGATIVE and node.inputs[0].op is ew.NEGATIVE:
        return node.inputs[0].inputs[0]
    if node.op is ew.ADD:
        a, b = node.inputs
        if b.op is ew.NEGATIVE:
            return ew.subtract(a, b.inputs[0])  # type: ignore[no-any-return]
        if a.op is ew.NEGATIVE:
            return ew.subtract(b, a.inputs[0])  # type: ignore[no-any-return]
    if node.op is ew.SUBTRACT and node.inputs[1].op is ew.NEGATIVE:
        return ew.add(node.inputs[0], node.inputs[1].inputs[0])  # type: ignore[no-any-return]
    if node.op is ew.MULTIPLY:
        a, b = node.inputs
        if is_number(b, -1):
            return as_type_of(ew.negative(a), node)
        if is_number(a, -1):
            return as_type_of(ew.negative(b), node)
    if node.op in (ew.MULTIPLY, ew.DIVIDE):
        a, b = node.inputs
        if a.op is ew.NEGATIVE and b.op is ew.NEGATIVE:
            return node.replace((a.inputs[0], b.inputs[0]))
        if a.op is ew.NEGATIVE:
            return ew.negative(node.replace((a.inputs[0], b)))  # type: ignore[no-any-return]
        if b.op is ew.NEGATIVE:
            return ew.negative(node.replace((a, b.inputs[0])))  # type: ignore[no-any-return]
    return None


def even_function(node: Node) -> Node | None:
    """f(-x) = f(x): |-x|, cos(-x)."""
    x = node.inputs[0]
    return node.replace((x.inputs[0],)) if x.op is ew.NEGATIVE else None


def constant_choice(node: Node) -> Node | None:
    """where(c, x, x) = x, and where of a constant condition is that branch."""
    if node.op is not ew.WHERE:
        return None
    condition, x, y = node.inputs
    if x is y:
        return as_type_of(x, node)
    value = constant_value(condition)
    if value is not None and value.size:
        if value.all():
            return as_type_of(x, node)
        if not value.any():
            return as_type_of(y, node)
    return None


_ARITHMETIC = (ew.ADD, ew.SUBTRACT, ew.MULTIPLY, ew.DIVIDE)

RULES = (
    Rule("fold constants", fold_constants, "numbers known now are computed now"),
    *structure.RULES,
    Rule("neutral operand", neutral_operand, "x * 1, x / 1, x - 0 and x + -0 are x, bit for bit", ops=_ARITHMETIC),
    Rule(
        "neutral factor",
        strong_neutral,
        "a gradient times 1 is that gradient; a zero keeps its sign",
        exact=False,
        ops=(ew.STRONG_MULTIPLY,),
    ),
    Rule("strong number", strong_number, "a finite number times 0 is 0 anyway", ops=(ew.STRONG_MULTIPLY,)),
    Rule("even function", even_function, "the sign is lost anyway", ops=(ew.ABS, ew.COS)),
    Rule(
        "negation",
        negation,
        "a sign is free; rounding is symmetric, so no bit changes",
        ops=(ew.NEGATIVE, *_ARITHMETIC),
    ),
    Rule("constant choice", constant_choice, "the branch that is always taken", ops=(ew.WHERE,)),
)


# Once derivatives are formulas, nothing reads what they are taken by, and what they stop at.
UNMARK = Rule("unmark", lambda node: node.inputs[0], "derivatives are taken", ops=(STOP_GRADIENT, LEAF))


def simplify(graph: Graph) -> Graph:
    """Exact rewrites only, but for the sign of zeros in gradients: results don't change by a bit."""
    return rewrite(graph, RULES)


def simplify_derivative(graph: Graph) -> Graph:
    """simplify, once no derivative is left to take."""
    return rewrite(graph, (UNMARK, *RULES))
