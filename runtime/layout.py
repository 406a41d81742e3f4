"""Layout assignment: in which order the dimensions of intermediate values lie in memory.

Where an operation slides a window over an array (convolution, pooling), neighbours in memory along the windowed
dimensions make poor vector lanes: extents are odd, windows overlap, strides skip. The dimension that is a plain loop,
the batch, makes perfect ones: lanes never meet, padding is decided for all of them at once, and a convolution is a
matrix product over pointers, without im2col. So the arrays that such operations read and write are stored with the
batch innermost, where it fills whole vectors. A smaller batch leaves that place to
the channels, if they fill vectors and aren't in groups.

The layout spreads to what shares batch and channels with such an array, element by element. Found by structure: an
operation slides a window if some index of what it reads sums a loop of the result and a reduced one. Arguments of the
call stay in C order; whether a kernel reads a copy of one in another order is decided kernel by kernel (relay.py).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import field
from typing import TypeAlias

from graphc.frozen import dataclass
from graphc.ir.expr import Affine, Compute, Expr, Read
from graphc.ir.graph import Graph
from graphc.ir.node import FUSED, ITEM, Node
from graphc.types import Shape

from .loop.storage import Storage, in_order

Key: TypeAlias = tuple[Node | None, Node]  # a node of the inner graph of a fused one; None: of the whole graph

LEAST_DIMENSIONS = 3  # batch, channels and something to slide over


@dataclass(frozen=True, slots=True)
class Layouts:
    """storage: of results of kernels that shouldn't lie in C order. One that must (an output of the call) does."""

    storage: Mapping[Node, Storage] = field(default_factory=dict)


def assign(graph: Graph, lanes: int) -> Layouts:
    """Layouts for the values of a fused graph; lanes: of float32 in a vector register."""
    items = {(node.inputs[0], node.attrs["index"]): node for node in graph.nodes if node.op is ITEM}
    alike = _Classes()  # values, and nodes inside of fused ones, that should have one layout
    sliding: list[Key] = []
    grouped: list[Key] = []  # what has channels that mean more than one loop
    for fused in graph.nodes:
        if fused.op is not FUSED:
            continue
        inner: Graph = fused.attrs["graph"]
        for operand, value in zip(inner.inputs, fused.inputs, strict=True):
            alike.join((fused, operand), (None, value))
        for index, output in enumerate(inner.outputs):
            if (fused, index) in items:
                alike.join((fused, output), (None, items[fused, index]))
        for node in inner.nodes:
            if node.op.body is None or node.ndim < LEAST_DIMENSIONS:
                continue
            compute = node.op.body(*[x.type for x in node.inputs], **node.attrs)
            if slides(compute):
                sliding.append((fused, node))
                if not _plain_channels(compute):
                    grouped.append((fused, node))
            for number, operand in enumerate(node.inputs):
                if operand.ndim == node.ndim and _shared(compute, number, 1 if slides(compute) else 2):
                    alike.join((fused, operand), (fused, node))
    wanted, mixed = {alike.find(key) for key in sliding}, {alike.find(key) for key in grouped}
    storage: dict[Node, Storage] = {}
    for value in graph.nodes:
        if value.op is not ITEM or value.ndim < LEAST_DIMENSIONS:
            continue
        kind = alike.find((None, value))
        if kind not in wanted:
            continue
        if _fills(value.shape[0], lanes):
            storage[value] = batch_innermost(value.shape)
        elif value.shape[1] % lanes == 0 and kind not in mixed:
            storage[value] = channels_last(value.shape)
    return Layouts(storage)


class _Classes:
    """Union-find."""

    def __init__(self) -> None:
        self.parent: dict[Key, Key] = {}

    def find(self, key: Key) -> Key:
        root = key
        while (above := self.parent.get(root, root)) != root:
            root = above
        while key != root:
            self.parent[key], key = root, self.parent.get(key, root)
        return root

    def join(self, a: Key, b: Key) -> None:
        self.parent[self.find(a)] = self.find(b)


def _fills(batch: int, lanes: int) -> bool:
    """Whether few lanes are left idle."""
    return batch > 0 and (batch % lanes == 0 or batch >= 4 * lanes)


def channels_last(shape: Shape) -> Storage:
    """The second dimension last, the others in their order."""
    return in_order(shape, (0, *range(2, len(shape)), 1))


def batch_innermost(shape: Shape) -> Storage:
    """The first dimension last, the others in their order."""
    return in_order(shape, (*range(1, len(shape)), 0))


def slides(compute: Compute) -> bool:
    """Whether some index sums an axis of the result and a reduced one."""
    for read in _reads(compute.value):
        for index in read.index:
            if isinstance(index, Affine):
                axes = {axis for axis, _ in index.terms}
                if axes & set(compute.reduce) and axes & set(compute.axes):
                    return True
    return False


def _shared(compute: Compute, operand: int, dimensions: int) -> bool:
    """Whether so many first dimensions of an operand are loops that the same dimensions of the result are."""
    reads = [read for read in _reads(compute.value) if read.operand == operand]
    first = compute.target[:dimensions]
    return bool(reads) and all(map(_is_loop, first)) and all(read.index[:dimensions] == first for read in reads)


def _plain_channels(compute: Compute) -> bool:
    """Whether the second index of the result and of the first operand are single loops: no groups."""
    first = [read for read in _reads(compute.value) if read.operand == 0]
    return all(map(_is_loop, (compute.target[1], *(read.index[1] for read in first))))


def _is_loop(index: Affine | Expr) -> bool:
    return isinstance(index, Affine) and index.const == 0 and [c for _, c in index.terms] == [1]


def _reads(expr: Expr) -> Iterator[Read]:
    stack: list[Expr] = [expr]
    while stack:
        e = stack.pop()
        if isinstance(e, Read):
            yield e
            stack.extend(index for index in e.index if not isinstance(index, Affine))
        stack.extend(getattr(e, "args", ()))
