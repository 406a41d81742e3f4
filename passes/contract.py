"""Products and sums where they are cheapest: transpositions and factors around matmul, reductions of movement.

Sums are taken in another order here, and products rounded elsewhere, so rounding changes; every rule says why it pays.
"""

from __future__ import annotations

import math
from collections.abc import Iterable

import numpy as np

from graphc.ir.graph import Graph
from graphc.ir.node import Node, constant_value
from graphc.ir.rewrite import RewriteFunction, Rule, rewrite
from graphc.ops import elementwise as ew
from graphc.ops import linalg
from graphc.ops import movement as mv
from graphc.ops import reduction as red
from graphc.passes import simplify
from graphc.passes.patterns import is_number, pairs
from graphc.primitive import Primitive
from graphc.types import Shape


def transposed_product(node: Node) -> Node | None:
    """(a @ b).mT = b.mT @ a.mT: operands may lie in any order, the result would be copied."""
    product = node.inputs[0]
    n = node.ndim
    if product.op is not linalg.MATMUL or node.attrs["axes"] != (*range(n - 2), n - 1, n - 2):
        return None
    a, b = product.inputs
    return linalg.matmul(mv.matrix_transpose(b), mv.matrix_transpose(a))  # type: ignore[no-any-return]


def factor_of_product(node: Node) -> Node | None:
    """(c * a) @ b = c * (a @ b), or a @ (c * b): a number is multiplied in where there are fewest elements."""
    for slot in (0, 1):
        found = _factor(node.inputs[slot])
        if found is None:
            continue
        scaled, c = found
        a, b = (scaled, node.inputs[1]) if slot == 0 else (node.inputs[0], scaled)
        other = node.inputs[1 - slot]
        if node.type.size < min(scaled.type.size, other.type.size):
            return ew.multiply(node.replace((a, b)), c)  # type: ignore[no-any-return]
        if other.type.size < scaled.type.size and other.type.size <= node.type.size:
            moved = ew.multiply(other, c)
            return node.replace((a, moved) if slot == 0 else (moved, b))
    return None


def _factor(node: Node) -> tuple[Node, Node] | None:
    """(x, c) of x * c; c a finite number that isn't 0."""
    if node.op is not ew.MULTIPLY:
        return None
    for x, c in pairs(node):
        if is_finite_number(c) and x.type == node.type:
            return x, c
    return None


def is_finite_number(node: Node) -> bool:
    """Whether node is a constant of shape (), finite and not 0."""
    value = constant_value(node)
    return value is not None and value.shape == () and bool(np.isfinite(value)) and bool(value != 0)


def sum_of_permutation(node: Node) -> Node | None:
    """A reduction of permute(x) is one of x, over the axes that they were; what is left is permuted, if at all."""
    moved = node.inputs[0]
    if moved.op is not mv.PERMUTE_DIMS:
        return None
    x, order = moved.inputs[0], moved.attrs["axes"]
    axes, keepdims = node.attrs["axes"], node.attrs["keepdims"]
    folded = tuple(sorted(order[a] for a in axes))
    reduced = _reduce(node.op, x, folded, keepdims)
    if keepdims:
        return mv.permute_dims(reduced, order)  # type: ignore[no-any-return]
    kept = sorted(order[a] for a in range(moved.ndim) if a not in axes)
    return mv.permute_dims(reduced, [kept.index(order[a]) for a in range(moved.ndim) if a not in axes])  # type: ignore[no-any-return]


def _reduce(op: Primitive, x: Node, axes: Shape, keepdims: bool) -> Node:
    functions = {red.SUM: red.sum, red.MAX: red.max, red.MIN: red.min}
    return functions[op](x, axes, keepdims)  # type: ignore[no-any-return]


def sum_of_broadcast(node: Node) -> Node | None:
    """A sum of n copies is n times one of them."""
    wide = node.inputs[0]
    if wide.op is not mv.BROADCAST_TO or node.dtype.kind != "f" or 0 in wide.shape:
        return None
    x = wide.inputs[0]
    lead = wide.ndim - x.ndim
    aligned = (1,) * lead + x.shape
    axes = folded_axes(node)
    copied = [a for a in axes if aligned[a] == 1 and wide.shape[a] != 1]
    if not copied:
        return None
    count = math.prod(wide.shape[a] for a in copied)
    narrow = tuple(1 if a in copied else n for a, n in enumerate(wide.shape))
    inner = mv.broadcast_to(mv.reshape(x, aligned), narrow)
    rest = [a for a in axes if a not in copied and narrow[a] != 1]
    total = red.sum(inner, rest, keepdims=True) if rest else inner
    return ew.multiply(mv.reshape(total, node.shape), float(count))  # type: ignore[no-any-return]


def sum_of_multiple(node: Node) -> Node | None:
    """sum(x * c) = c * sum(x), where c is the same for all that is summed; sum(-x) = -sum(x)."""
    x = node.inputs[0]
    if node.dtype.kind != "f" or x.dtype is not node.dtype or 0 in x.shape:
        return None
    if x.op is ew.NEGATIVE:
        return ew.negative(node.replace(x.inputs))  # type: ignore[no-any-return]
    if x.op is not ew.MULTIPLY:
        return None
    axes = folded_axes(node)
    for inner, c in pairs(x):
        aligned = (1,) * (x.ndim - c.ndim) + c.shape
        if inner.shape == x.shape and c.type.size < x.type.size and all(aligned[a] == 1 for a in axes):
            kept = [aligned[a] for a in range(x.ndim) if a not in axes]
            shape = aligned if node.ndim == x.ndim else tuple(kept)
            if len(shape) == node.ndim:
                return ew.multiply(node.replace((inner,)), mv.reshape(c, shape))  # type: ignore[no-any-return]
    return None


def folded_axes(node: Node) -> tuple[int, ...]:
    """The axes of its operand that a sum or sum_to adds up."""
    if node.op is red.SUM:
        return node.attrs["axes"]  # type: ignore[no-any-return]
    source, shape = node.inputs[0].shape, node.attrs["shape"]
    lead = len(source) - len(shape)
    return tuple(i for i, n in enumerate(source) if i < lead or (shape[i - lead] == 1 and n != 1))


def sum_of_sum(node: Node) -> Node | None:
    """sum_to(sum_to(x)) = sum_to(x), sum(sum(x)) = sum(x): one loop over x."""
    inner = node.inputs[0]
    if inner.op is not node.op or inner.inputs[0].dtype is not node.dtype:
        return None
    x = inner.inputs[0]
    if node.op is mv.UNBROADCAST:
        return mv.sum_to(x, node.attrs["shape"])  # type: ignore[no-any-return]
    if inner.attrs["keepdims"] != node.attrs["keepdims"]:
        return None
    if node.attrs["keepdims"]:
        axes = sorted({*inner.attrs["axes"], *node.attrs["axes"]})
        return red.sum(x, axes, keepdims=True)  # type: ignore[no-any-return]
    kept = [a for a in range(x.ndim) if a not in inner.attrs["axes"]]
    return red.sum(x, sorted([*inner.attrs["axes"], *(kept[a] for a in node.attrs["axes"])]))  # type: ignore[no-any-return]


def sum_of_one(node: Node) -> Node | None:
    """A reduction over axes of size 1 is a reshape."""
    x = node.inputs[0]
    if any(x.shape[a] != 1 for a in folded_axes(node)) or x.dtype is not node.dtype:
        return None
    return mv.reshape(x, node.shape)  # type: ignore[no-any-return]


def gradient_of_share(node: Node) -> Node | None:
    """e * (g * (1 / s) - sum(g * (y / s))) = y * (g - sum(g * y)), where y = e / s, and s is the same for all that is
    summed: what comes of softmax's derivative. Likewise of strong products, where the sum is that of g * -(y / s)."""
    if node.op is ew.MULTIPLY:
        for e, factor in pairs(node):
            found = _shared(e, *factor.inputs) if factor.op is ew.SUBTRACT else None
            if found is not None:
                g, y, total = found
                return ew.multiply(y, ew.subtract(g, total.replace((ew.multiply(g, y),))))  # type: ignore[no-any-return]
        return None
    factor, e = node.inputs
    for direct, through in pairs(factor) if factor.op is ew.ADD else ():
        found = _shared(e, direct, through)
        if found is not None:
            g, y, total = found
            gradient = ew.subtract(g, total.replace((ew.strong_multiply(g, y),)))
            return ew.strong_multiply(gradient, y)  # type: ignore[no-any-return]
    return None


def _shared(e: Node, direct: Node, through: Node) -> tuple[Node, Node, Node] | None:
    """(g, y, through), if direct = g * (1 / s) and through = sum(g * (y / s)) with y = e / s; or, of strong products,
    through = sum(g * -(y / s))."""
    if through.op not in (red.SUM, mv.UNBROADCAST) or through.inputs[0].shape != e.shape:
        return None
    for g, inverse in _factors(direct):
        if inverse.op is not ew.DIVIDE or not is_number(inverse.inputs[0], 1):
            continue
        s = inverse.inputs[1]
        for other, scaled in _factors(through.inputs[0]):
            if through.inputs[0].op is not direct.op or other is not g or s.shape != through.shape:
                continue
            if direct.op is ew.STRONG_MULTIPLY:
                if scaled.op is not ew.NEGATIVE:
                    continue
                scaled = scaled.inputs[0]
            if scaled.op is ew.DIVIDE and scaled.inputs[1] is s:
                y = scaled.inputs[0]
                if y.op is ew.DIVIDE and y.inputs[0] is e and y.inputs[1] is s and y.type == e.type:
                    return g, y, through
    return None


def _factors(product: Node) -> Iterable[tuple[Node, Node]]:
    """(g, p) for a product g * p: both orders, but of a strong one."""
    if product.op is ew.STRONG_MULTIPLY:
        g, p = product.inputs
        return ((g, p),)
    return pairs(product) if product.op is ew.MULTIPLY else ()


def _rule(name: str, apply: RewriteFunction, reason: str, *ops: Primitive) -> Rule:
    return Rule(name, apply, reason, exact=False, ops=ops)


RULES = (
    _rule("transposed product", transposed_product, "BLAS reads operands in any order", mv.PERMUTE_DIMS),
    _rule("factor of product", factor_of_product, "fewer multiplications", linalg.MATMUL),
    _rule(
        "gradient of share",
        gradient_of_share,
        "one division, and only the quotient is kept",
        ew.MULTIPLY,
        ew.STRONG_MULTIPLY,
    ),
    _rule("sum of broadcast", sum_of_broadcast, "one multiplication instead of a sum", red.SUM, mv.UNBROADCAST),
    _rule("sum of multiple", sum_of_multiple, "fewer multiplications", red.SUM, mv.UNBROADCAST),
    _rule("sum of sum", sum_of_sum, "one loop instead of two", red.SUM, mv.UNBROADCAST),
    _rule("sum of one", sum_of_one, "nothing is added", red.SUM, mv.UNBROADCAST),
    _rule("sum of permute", sum_of_permutation, "a sum has no order", red.SUM),
    Rule("extreme of permute", sum_of_permutation, "an extreme has no order", exact=True, ops=(red.MAX, red.MIN)),
)


def contract(graph: Graph) -> Graph:
    """Fewer operations, in another order. Simplifies as well: what rules build."""
    return rewrite(graph, (*simplify.RULES, *RULES))
