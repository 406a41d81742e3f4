"""What rules recognise: numbers, factors, and the shapes of formulas. Matchers return what they found, or None."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from graphc.ir.node import CONSTANT, Node
from graphc.ops import elementwise as ew
from graphc.ops import marks
from graphc.ops import movement as mv
from graphc.ops import reduction as red
from graphc.primitive import Primitive


def is_number(node: Node, number: float) -> bool:
    """Whether node is a constant all of whose elements are this number (0.0 and -0.0 are told apart)."""
    if node.op is not CONSTANT:
        return False
    found = node.attrs["value"].number
    if found is None or found != number:
        return False
    return number != 0 or bool(np.signbit(found) == np.signbit(number))


def as_type_of(result: Node, node: Node) -> Node | None:
    """result as a replacement of node: stretched if an operand was broadcast, refused if the dtype differs."""
    if result.type.dtype is not node.type.dtype:
        return None
    return mv.broadcast_to(result, node.type.shape)  # type: ignore[no-any-return]


def argument(op: Primitive, node: Node) -> Node | None:
    """x of op(x)."""
    return node.inputs[0] if node.op is op else None


def pairs(node: Node) -> Iterator[tuple[Node, Node]]:
    """Both orders of a binary operation's operands."""
    a, b = node.inputs
    yield a, b
    yield b, a


def added_to_one(node: Node) -> Node | None:
    """z of 1 + z."""
    if node.op is not ew.ADD:
        return None
    return next((b for a, b in pairs(node) if is_number(a, 1)), None)


def taken_from_one(node: Node) -> Node | None:
    """z of 1 - z, also written 1 + -z (which simplify makes 1 - z)."""
    return node.inputs[1] if node.op is ew.SUBTRACT and is_number(node.inputs[0], 1) else None


def square(node: Node) -> Node | None:
    """x of x * x."""
    return node.inputs[0] if node.op is ew.MULTIPLY and node.inputs[0] is node.inputs[1] else None


def negated(x: Node) -> Node:
    """-x; z for x = -z."""
    return x.inputs[0] if x.op is ew.NEGATIVE else ew.negative(x)


def opposite(a: Node, b: Node) -> bool:
    """Whether a = -b by its form."""
    return negated(a) is b


def folded(node: Node) -> Node | None:
    """x of where(x > 0, -x, x), also with >=: -|x|, written so that it can be differentiated at 0."""
    if node.op is not ew.WHERE:
        return None
    condition, minus, x = node.inputs
    if condition.op not in (ew.GREATER, ew.GREATER_EQUAL) or not is_number(condition.inputs[1], 0):
        return None
    return x if condition.inputs[0] is x and opposite(minus, x) else None


def never_positive(node: Node) -> bool:
    """Whether node is, by its form, at most 0 (or nan): its exponential can't overflow."""
    if folded(node) is not None:
        return True
    if node.op is ew.NEGATIVE:
        return node.inputs[0].op is ew.ABS or square(node.inputs[0]) is not None
    return is_shifted(node)


def is_shifted(node: Node) -> bool:
    """Whether node is x - max(x), in any of the forms in which the maximum is kept, selected or stretched."""
    if node.op is not ew.SUBTRACT:
        return False
    x, top = node.inputs
    for _ in range(8):
        if top.op is red.MAX:
            return top.inputs[0] is x
        if top.op is ew.WHERE:
            top = top.inputs[1]
        elif top.op in (mv.BROADCAST_TO, mv.RESHAPE, marks.STOP_GRADIENT, ew.COPY):
            top = top.inputs[0]
        else:
            return False
    return False


def sum_of(x: Node, node: Node) -> Node | None:
    """The SUM of x, keeping its axes, that `node` is, under any reshape or broadcast."""
    for _ in range(4):
        if node.op is red.SUM:
            return node if node.inputs[0] is x else None
        if node.op not in (mv.RESHAPE, mv.BROADCAST_TO):
            return None
        node = node.inputs[0]
    return None
