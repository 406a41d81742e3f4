"""Where intermediate values lie: offsets in one arena, planned once before anything runs.

Values are placed in the order in which they are written, each into the smallest free gap that holds it (best fit),
and their memory is free again after their last reader. A kernel's result may take over the memory of an operand
that dies there, where the kernel allows it.
"""

from __future__ import annotations

import bisect
from collections.abc import Sequence
from dataclasses import dataclass

ALIGNMENT = 64  # bytes: a cache line, and the widest vector


@dataclass(frozen=True, slots=True)
class Lifetime:
    """A value of `nbytes`, written in step `first` and last read in step `last` >= first.

    over: numbers of other values of the list, in order of preference, whose memory it may take over: each must be
    as large, be read in step `first` for the last time, and be taken by one value only.
    """

    nbytes: int
    first: int
    last: int
    over: tuple[int, ...] = ()


def place(values: Sequence[Lifetime]) -> tuple[list[int], int]:
    """Byte offsets in the arena, one for each value, and the arena's size. Values alive together don't overlap."""
    offsets = [0] * len(values)
    taken: set[int] = set()  # values whose memory went on to another
    ends: dict[int, list[int]] = {}
    gaps = _Gaps()
    order = sorted(range(len(values)), key=lambda i: values[i].first)
    swept = 0
    for index in order:
        value = values[index]
        while swept < value.first:  # what was last read in earlier steps is free
            for dead in ends.pop(swept, ()):
                if dead not in taken:
                    gaps.free(offsets[dead], _rounded(values[dead].nbytes))
            swept += 1
        for other in value.over:
            old = values[other]
            if other not in taken and old.last == value.first > old.first and old.nbytes == value.nbytes:
                taken.add(other)
                offsets[index] = offsets[other]
                break
        else:
            offsets[index] = gaps.take(_rounded(value.nbytes))
        ends.setdefault(value.last, []).append(index)
    return offsets, gaps.top


def _rounded(nbytes: int) -> int:
    return max(ALIGNMENT, -(-nbytes // ALIGNMENT) * ALIGNMENT)


class _Gaps:
    """Free memory below `top`, as disjoint gaps that don't touch, sorted by offset and by size."""

    def __init__(self) -> None:
        self.top = 0
        self._sizes: dict[int, int] = {}  # start -> size
        self._starts: dict[int, int] = {}  # end -> start
        self._by_size: list[tuple[int, int]] = []

    def take(self, size: int) -> int:
        """The offset of `size` free bytes: the smallest gap that holds them, else new memory on top."""
        at = bisect.bisect_left(self._by_size, (size, -1))
        if at < len(self._by_size):
            room, start = self._by_size[at]
            self._remove(start)
            if room > size:
                self._add(start + size, room - size)
            return start
        start = self._starts.get(self.top, self.top)  # grow the gap at the end, if there is one
        if start != self.top:
            self._remove(start)
        self.top = start + size
        return start

    def free(self, start: int, size: int) -> None:
        end = start + size
        if end in self._sizes:
            size += self._sizes[end]
            self._remove(end)
        before = self._starts.get(start)
        if before is not None:
            size += start - before
            self._remove(before)
            start = before
        self._add(start, size)

    def _add(self, start: int, size: int) -> None:
        self._sizes[start], self._starts[start + size] = size, start
        bisect.insort(self._by_size, (size, start))

    def _remove(self, start: int) -> None:
        size = self._sizes.pop(start)
        del self._starts[start + size]
        del self._by_size[bisect.bisect_left(self._by_size, (size, start))]
