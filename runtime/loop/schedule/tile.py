"""A tile: the points of the outer axes that are worked on side by side, in unrolled rows and vector lanes."""

from __future__ import annotations

from math import prod

from graphc.frozen import dataclass
from graphc.ir.expr import Affine, Axis
from graphc.runtime.loop.ir import Block, Buffer, For, Kind, Space
from graphc.types import DType


@dataclass(frozen=True, slots=True)
class Tile:
    """rows: axes written out. lanes: the axis of the vector loop, if any, in registers of `width` lanes.

    wide: there are more lanes than registers hold, so what belongs to a point lies in memory.
    """

    rows: tuple[Axis, ...]
    lanes: Axis | None
    width: int
    wide: bool = False

    @property
    def pitch(self) -> int:
        """Elements from one row to the next in a register buffer: whole registers."""
        return 1 if self.lanes is None else -(-self.lanes.extent // self.width) * self.width

    @property
    def size(self) -> int:
        """Elements of a buffer with one number for each point."""
        return self.pitch * prod(axis.extent for axis in self.rows)

    @property
    def points(self) -> int:
        return prod(axis.extent for axis in self.axes)

    @property
    def axes(self) -> tuple[Axis, ...]:
        return self.rows if self.lanes is None else (*self.rows, self.lanes)

    @property
    def loose(self) -> bool:
        """Whether rows without lanes are worked on one by one, so that their numbers lie in memory."""
        return self.lanes is None and bool(self.rows)

    def buffer(self, name: str, dtype: DType) -> Buffer:
        """A buffer with one number for each point."""
        return Buffer(name, dtype, self.size, self.space)

    @property
    def space(self) -> Space:
        """Where such buffers lie."""
        return "scratch" if self.loose or self.wide else "register"

    def offset(self) -> Affine:
        """Where a point's number stands in such a buffer."""
        at = Affine() if self.lanes is None else Affine(((self.lanes, 1),))
        stride = self.pitch
        for axis in reversed(self.rows):
            at, stride = at + axis * stride, stride * axis.extent
        return at

    def over(self, body: Block, kind: Kind = "unroll") -> Block:
        """`body` for every point."""
        if self.lanes is not None:
            body = (For(self.lanes, "vector", body, self.width),)
        return loops(self.rows, body, kind)


def scope(axis: Axis, body: Block) -> Block:
    """`body` with names of its own; axis: any of extent 1."""
    return (For(axis, "unroll", body),)


def loops(axes: tuple[Axis, ...], body: Block, kind: Kind) -> Block:
    for axis in reversed(axes):
        body = (For(axis, kind, body),)
    return body
