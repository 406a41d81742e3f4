"""How an array lies in memory: in which order its dimensions, and whether zeros lie around it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeAlias

from graphc.frozen import dataclass
from graphc.types import Shape

Strides: TypeAlias = tuple[int, ...]
Rim: TypeAlias = tuple[tuple[int, ...], ...]  # (before, after) for each dimension; () for none


@dataclass(frozen=True, slots=True)
class Storage:
    """strides: elements between neighbours along each dimension. rim: how many zeros lie before and after, along each.

    Operations that slide a window over an array ask whether each element of the window is inside; a rim of zeros
    answers that once, when it is written.
    """

    strides: Strides
    rim: Rim = ()

    @property
    def first(self) -> int:
        """Where element (0, 0, ...) stands."""
        return sum(ends[0] * step for ends, step in zip(self.rim, self.strides, strict=False))

    def size(self, shape: Shape) -> int:
        """Elements from the first to the last in memory, both included."""
        return span(with_rim(shape, self.rim), self.strides)


def span(shape: Shape, strides: Strides) -> int:
    """Elements from the first to the last of an array, both included."""
    return 0 if 0 in shape else 1 + sum((n - 1) * step for n, step in zip(shape, strides, strict=True))


def with_rim(shape: Shape, rim: Rim) -> Shape:
    """The extents of an array and the zeros around it."""
    return tuple(n + sum(ends) for n, ends in zip(shape, rim, strict=True)) if rim else shape


def in_order(shape: Shape, order: Sequence[int], rim: Rim = ()) -> Storage:
    """The storage in which the dimensions follow in `order`, the last one walking neighbours."""
    extents = with_rim(shape, rim)
    strides, step = [0] * len(shape), 1
    for dimension in reversed(order):
        strides[dimension] = step
        step *= extents[dimension]
    return Storage(tuple(strides), rim)
