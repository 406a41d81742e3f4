"""Where intermediate values lie: offsets in one arena, planned once before anything runs.

A value's memory is free again after its last reader, and a kernel's result may take over the memory of an operand
that dies there, where the kernel allows it. Two orders of placing are tried, each value into the smallest gap that
holds it: as they are written, and, unless there are very many, the largest first. The smaller arena is taken.
"""

from __future__ import annotations

import bisect
import itertools
from collections.abc import Sequence

from graphc.frozen import dataclass

ALIGNMENT = 64  # bytes, of the arena, what lies in it, and constants: a cache line, and the widest vector
MANY = 600  # values: beyond, the quadratic order would take a tenth of a second


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
    heirs = _heirs(values)
    offsets, size = _in_order(values, heirs)
    if len(values) <= MANY:
        others, other_size = _largest_first(values, heirs)
        if other_size < size:
            return others, other_size
    return offsets, size


def in_use(values: Sequence[Lifetime], steps: int) -> list[int]:
    """Bytes in use in each step: at least so large is the arena."""
    heirs = _heirs(values)
    grown = [0] * (steps + 1)
    for index, value in enumerate(values):
        grown[value.first] += value.nbytes
        grown[value.last + 1] -= value.nbytes
        if index in heirs:
            grown[value.first] -= value.nbytes  # counted still for the one whose memory it takes over
            grown[value.first + 1] += value.nbytes
    return list(itertools.accumulate(grown))[:steps]


def _heirs(values: Sequence[Lifetime]) -> dict[int, int]:
    """For values that take over another's memory: whose."""
    taken: set[int] = set()
    heirs: dict[int, int] = {}
    for index in sorted(range(len(values)), key=lambda i: values[i].first):
        value = values[index]
        for other in value.over:
            old = values[other]
            if other not in taken and old.last == value.first > old.first and old.nbytes == value.nbytes:
                taken.add(other)
                heirs[index] = other
                break
    return heirs


def _in_order(values: Sequence[Lifetime], heirs: dict[int, int]) -> tuple[list[int], int]:
    """Each value, when it is written, into the smallest free gap that holds it."""
    offsets = [0] * len(values)
    taken = set(heirs.values())
    ends: dict[int, list[int]] = {}
    gaps = _Gaps()
    swept = 0
    for index in sorted(range(len(values)), key=lambda i: values[i].first):
        value = values[index]
        while swept < value.first:  # what was last read in earlier steps is free
            for dead in ends.pop(swept, ()):
                if dead not in taken:
                    gaps.free(offsets[dead], _rounded(values[dead].nbytes))
            swept += 1
        offsets[index] = offsets[heirs[index]] if index in heirs else gaps.take(_rounded(value.nbytes))
        ends.setdefault(value.last, []).append(index)
    return offsets, gaps.top


def _largest_first(values: Sequence[Lifetime], heirs: dict[int, int]) -> tuple[list[int], int]:
    """The largest values first, each into the smallest gap between those placed that are alive at some time with it.

    Quadratic; mostly leaves less unused than placing them in order (Pisarchyk & Lee, "Efficient memory management for
    deep neural net inference", 2020).
    """
    owner: dict[int, int] = {}  # the first of those that follow each other in one place
    spans: dict[int, tuple[int, int]] = {}
    for index in sorted(range(len(values)), key=lambda i: values[i].first):
        first = owner[index] = owner[heirs[index]] if index in heirs else index
        begin = spans[first][0] if first in spans else values[index].first
        spans[first] = begin, values[index].last
    placed: list[tuple[int, int, int]] = []  # (offset, end, owner), by offset
    offsets: dict[int, int] = {}
    for index in sorted(spans, key=lambda i: (-values[i].nbytes, values[i].first)):
        size, (begin, end) = _rounded(values[index].nbytes), spans[index]
        best, room, low = -1, 0, 0
        for start, stop, other in placed:
            if spans[other][0] > end or spans[other][1] < begin:
                continue
            if start - low >= size and (best < 0 or start - low < room):
                best, room = low, start - low
            low = max(low, stop)
        offsets[index] = low if best < 0 else best
        bisect.insort(placed, (offsets[index], offsets[index] + size, index))
    return [offsets[owner[i]] for i in range(len(values))], max((stop for _, stop, _ in placed), default=0)


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
