"""Which order of loops moves the least data through the caches."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import prod

from graphc.ir.expr import Axis

from .cost import Access

LEVELS = ((36 << 10, 1 / 40), (640 << 10, 1 / 12))  # a cache's useful size, cycles to bring a byte into it
LINE = 64
CONFLICTS = 16
PAGE_HALF = 2048  # bytes: lines so far apart are of one set in every first-level cache, if a power of two
MANY = 16  # lines that a set of a cache can hold


class Traffic:
    """The movement of data between caches, for any order of some loops.

    trips: iterations of each loop. tile: how many points of an axis one iteration of its loop covers (an axis that
    isn't named is covered whole).
    """

    def __init__(self, accesses: Sequence[Access], trips: Mapping[Axis, int], tile: Mapping[Axis, int]) -> None:
        self.accesses, self.trips, self.tile = accesses, trips, tile
        self._touched: dict[frozenset[Axis], tuple[list[int], int]] = {}

    def cycles(self, order: Sequence[Axis]) -> float:
        """Cycles spent bringing data into the caches when the loops in `order` run, outermost first.

        For each cache there is an outermost loop inside of which all data fits. The loop around that one brings in
        anew what differs between its iterations (of windows that overlap, what is new); the loops further out bring
        in everything.
        """
        found = [self.touched(frozenset(order[j:])) for j in range(len(order) + 1)]
        total = 0.0
        for size, price in LEVELS:
            j = next((j for j, (_, room) in enumerate(found) if room <= size), -1)
            if j <= 0:  # all of it fits, or not even what one tile needs
                total += sum(found[j][0]) * (prod(self.trips[axis] for axis in order) if j else 1) * price
                continue
            axis = order[j - 1]
            for access, once, every in zip(self.accesses, found[j][0], found[j - 1][0], strict=True):
                if access.depends(axis):
                    moved, around = min(once * self.trips[axis], every), order[: j - 1]
                else:  # used all the time, so it stays until a loop brings another part of it
                    last = max((i for i in range(j - 1) if access.depends(order[i])), default=-1)
                    moved, around = once, order[: last + 1]
                total += prod(self.trips[outer] for outer in around) * moved * price
        return total

    def touched(self, inside: frozenset[Axis]) -> tuple[list[int], int]:
        """For each access the bytes touched while the loops of `inside` run, and the room that all take in a cache."""
        known = self._touched.get(inside)
        if known is None:
            both = [footprint(access, inside, self.tile) for access in self.accesses]
            known = self._touched[inside] = [once for once, _ in both], sum(room for _, room in both)
        return known


def footprint(access: Access, inside: frozenset[Axis], tile: Mapping[Axis, int]) -> tuple[int, int]:
    """Bytes, in whole cache lines, that an access touches while the loops of `inside` and of a tile run, and the
    bytes of a cache that this takes.

    The latter are more where lines lie at distances of a high power of two: they share few sets of the cache.
    """
    steps = []
    for axis, coefficient in access.at.terms:
        extent = axis.extent if axis in inside or axis not in tile else min(axis.extent, tile[axis])
        if extent > 1:
            steps.append((abs(coefficient), extent))
    itemsize = access.buffer.dtype.itemsize
    run, count, apart = 1, 1, 1  # elements next to each other, how many such runs, lines from one to the next
    for step, extent in sorted(steps):
        if step * itemsize <= LINE or step <= run:
            run += step * (extent - 1)
        else:
            if count == 1 or extent > MANY:
                apart = step * itemsize // LINE
            count *= extent
    lines = -(-run * itemsize // LINE)
    conflict = 1
    if count > MANY and apart * LINE >= PAGE_HALF:
        conflict = max(1, min(CONFLICTS, (apart & -apart) // lines))
    touched = min(count * lines * LINE, max(LINE, access.buffer.size * itemsize))
    return touched, touched * conflict
