"""Layout assignment: in which order the dimensions of intermediate values lie in memory.

Where an operation slides a window over an array (convolution, pooling), neighbours in memory along the windowed
dimensions make poor vector lanes: extents are odd, windows overlap, strides skip. The dimension that is a plain loop,
the batch, makes perfect ones: lanes never meet, padding is decided for all of them at once, and a convolution is a
matrix product over pointers, without im2col. So the arrays that such operations read and write are stored with the
batch innermost, where it fills whole vectors.

Found by structure: an operation slides a window if some index of what it reads sums a loop of the result and a
reduced one. Arguments of the call stay in C order; one that should lie otherwise is copied first.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import TypeAlias

from graphc.ir.expr import Affine, Axis, Compute, Expr, Read
from graphc.ir.graph import Graph
from graphc.ir.node import FUSED, INPUT, ITEM, Node
from graphc.types import Shape

Strides: TypeAlias = tuple[int, ...]

LEAST_DIMENSIONS = 3  # batch, channels and something to slide over


@dataclass(frozen=True, slots=True)
class Layouts:
    """strides: of values that don't lie in C order. readers: the fused nodes that want their operands so.

    A value of `strides` that must lie in C order (an argument, an output) is to be copied for its readers.
    """

    strides: Mapping[Node, Strides] = field(default_factory=dict)
    readers: frozenset[Node] = frozenset()


def assign(graph: Graph, lanes: int) -> Layouts:
    """Layouts for the values of a fused graph; lanes: of float32 in a vector register."""
    strides: dict[Node, Strides] = {}
    items: dict[tuple[Node, int], Node] = {
        (node.inputs[0], node.attrs["index"]): node for node in graph.nodes if node.op is ITEM
    }
    for node in graph.nodes:
        if node.op is FUSED:
            for value in _batched(node, items):
                if value.ndim >= LEAST_DIMENSIONS and _fills(value.shape[0], lanes):
                    strides[value] = batch_innermost(value.shape)
    readers = frozenset(n for n in graph.nodes if n.op is FUSED and any(x in strides for x in n.inputs))
    return Layouts(strides, readers)


def _fills(batch: int, lanes: int) -> bool:
    """Whether few lanes are left idle."""
    return batch > 0 and (batch % lanes == 0 or batch >= 4 * lanes)


def batch_innermost(shape: Shape) -> Strides:
    """Strides that put the first dimension last and keep the order of the others."""
    strides, step = [], shape[0]
    for extent in reversed(shape[1:]):
        strides.append(step)
        step *= extent
    return (1, *reversed(strides))


def _batched(fused: Node, items: Mapping[tuple[Node, int], Node]) -> Iterator[Node]:
    """The operands and results of a fused node whose first dimension is the batch of a sliding window in it."""
    inner: Graph = fused.attrs["graph"]
    operands = dict(zip(inner.inputs, fused.inputs, strict=True))
    results = {node: items.get((fused, i)) for i, node in enumerate(inner.outputs)}
    for node in inner.nodes:
        if node.op.body is None or node.ndim < LEAST_DIMENSIONS:
            continue
        compute = node.op.body(*[x.type for x in node.inputs], **node.attrs)
        if not slides(compute):
            continue
        for number, operand in enumerate(node.inputs):
            if _shares_first(compute, number):
                yield from _reached(operand, operands)
        for output, item in results.items():
            if item is not None and output.shape == node.shape and _elementwise_of(output, node):
                yield item


def slides(compute: Compute) -> bool:
    """Whether some index sums an axis of the result and a reduced one."""
    for read in _reads(compute.value):
        for index in read.index:
            if isinstance(index, Affine):
                axes = {axis for axis, _ in index.terms}
                if axes & set(compute.reduce) and axes & set(compute.axes):
                    return True
    return False


def _shares_first(compute: Compute, operand: int) -> bool:
    """Whether the first index of an operand is the loop that the first of the result is."""
    first = compute.target[0]
    reads = [read for read in _reads(compute.value) if read.operand == operand]
    return bool(reads) and _single(first) is not None and all(r.index and r.index[0] == first for r in reads)


def _single(index: Affine | Expr) -> Axis | None:
    if isinstance(index, Affine) and index.const == 0 and len(index.terms) == 1 and index.terms[0][1] == 1:
        return index.terms[0][0]
    return None


def _reads(expr: Expr) -> Iterator[Read]:
    stack: list[Expr] = [expr]
    while stack:
        e = stack.pop()
        if isinstance(e, Read):
            yield e
            stack.extend(index for index in e.index if not isinstance(index, Affine))
        stack.extend(getattr(e, "args", ()))


def _reached(node: Node, operands: Mapping[Node, Node]) -> Iterator[Node]:
    """The group's operands that `node` is, or is an elementwise function of, with the same shape."""
    stack, seen = [node], {node}
    while stack:
        current = stack.pop()
        if current in operands:
            yield operands[current]
        elif current.op is not INPUT and _is_elementwise(current):
            for x in current.inputs:
                if x.shape == node.shape and x not in seen:
                    seen.add(x)
                    stack.append(x)


def _elementwise_of(output: Node, source: Node) -> bool:
    """Whether `output` is `source`, or an elementwise function of it with the same shape."""
    stack, seen = [output], {output}
    while stack:
        current = stack.pop()
        if current is source:
            return True
        if _is_elementwise(current):
            for x in current.inputs:
                if x.shape == output.shape and x not in seen:
                    seen.add(x)
                    stack.append(x)
    return False


def _is_elementwise(node: Node) -> bool:
    """Whether each element of the result is made from the elements at its own place (or broadcast to it)."""
    if node.op.body is None:
        return False
    compute = node.op.body(*[x.type for x in node.inputs], **node.attrs)
    if compute.reduce or compute.scatter:
        return False
    return all(
        read.index == compute.target for read in _reads(compute.value) if node.inputs[read.operand].shape == node.shape
    )
