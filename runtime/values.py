"""Values of a program: numbers somewhere in memory, some of them inside of others.

A part of a joined value is written where it lies in it; a window of a value is read where it lies.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import field, replace

from graphc.errors import VerifyError
from graphc.frozen import dataclass
from graphc.ir.digits import row_major_strides
from graphc.ir.graph import Graph
from graphc.ir.node import FUSED, ITEM, Node
from graphc.passes.access import Accesses
from graphc.passes.parts import window
from graphc.primitive import Fact
from graphc.types import DType

from .loop.storage import Storage, span
from .program import Place


@dataclass(slots=True, eq=False)
class Value:
    """Numbers somewhere in memory.

    node: the input, constant or item it is; None for a copy. target: the input that it is to overwrite. storage: None
    for C order. inside: the value in whose memory it lies, `shift` elements after its start. parts: what it is joined
    of, each written on its own. window: it is only read: others write it.
    """

    dtype: DType
    size: int
    node: Node | None = None
    place: Place | None = None
    target: Value | None = None
    storage: Storage | None = None
    inside: Value | None = None
    shift: int = 0
    parts: list[Value] = field(default_factory=list)
    window: bool = False

    @property
    def nbytes(self) -> int:
        return self.size * self.dtype.itemsize

    @property
    def whole(self) -> Value:
        """What has memory of its own: the value itself, or what it lies in."""
        value = self
        while value.inside is not None:
            value = value.inside
        return value

    def located(self) -> Place:
        """Where its first element lies."""
        value, shift = self, 0
        while value.inside is not None:
            shift += value.shift
            value = value.inside
        assert value.place is not None
        return replace(value.place, offset=value.place.offset + shift * self.dtype.itemsize)

    def sources(self) -> Iterator[Value]:
        """What must have been written before it can be read."""
        stack = [self]
        while stack:
            value = stack.pop()
            if value.parts:
                stack.extend(value.parts)
            elif value.window:
                assert value.inside is not None
                stack.append(value.inside)
            else:
                yield value


def window_of(node: Node, operand: Value, access: Accesses) -> Value:
    """The value of a node that is the same memory as its operand, or a window of it. Raises VerifyError otherwise."""
    shift = window(node, access) if len(node.inputs) == 1 and operand.storage is None else None
    if shift is None and node.type.size == node.inputs[0].type.size and access(node).view:
        shift = 0  # a reshape without common factors
    if shift is None:
        raise VerifyError(f"{node!r} isn't fused, nor in the memory of its operand. {node.origin}")
    if not shift and node.type.size == operand.size:
        return operand
    return Value(node.dtype, node.type.size, inside=operand, shift=shift, window=True)


@dataclass(frozen=True, slots=True)
class Part:
    """Where a value lies in what it is joined to. storage: None for C order."""

    value: Node
    joined: Node
    shift: int
    storage: Storage | None


def joins(graph: Graph) -> list[Node]:
    """The nodes of a fused graph that are written in parts."""
    return [node for node in graph.nodes if Fact.JOINS in node.op.facts]


def shifts(joined: Node) -> Iterator[Part]:
    """The operands of a joined node, and where they lie in it."""
    axis, strides, before = joined.attrs["axis"], row_major_strides(joined.shape), 0
    for part in joined.inputs:
        dense = span(part.shape, strides) == part.type.size
        yield Part(part, joined, before * strides[axis], None if dense else Storage(strides))
        before += part.shape[axis]


def parts_in_place(graph: Graph, fixed: Iterable[Node], laid: Mapping[Node, Storage]) -> dict[Node, Part]:
    """The values that can be written where they lie in what they are joined to; the others are copied there.

    fixed: values that must have memory of their own, because arguments hold them. laid: those in another layout.
    """
    own = {*fixed, *laid}
    dense = {x for n in graph.nodes if n.op is not FUSED and Fact.JOINS not in n.op.facts for x in n.inputs}
    placed: dict[Node, Part] = {}
    for joined in reversed(joins(graph)):
        for part in () if joined in laid else shifts(joined):
            value = part.value
            if value in placed or value in own or not value.type.size:
                continue
            item = value.op is ITEM and (part.storage is None or value not in dense)
            if item or (Fact.JOINS in value.op.facts and part.storage is None):
                placed[value] = part
    return placed
