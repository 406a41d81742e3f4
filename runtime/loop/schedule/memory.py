"""Which order of loops moves the least data through the caches."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from graphc.ir.expr import Axis

from .cost import Access

# Useful bytes of a core's own caches, and of the part of the last one that a core may count on. They aren't read from
# the machine: how sums are cut into pieces follows from them, so processors of one kind would give other bits where
# another system is told of another share of the caches.
FIRST_LEVEL, SECOND_LEVEL, LAST_LEVEL = 36 << 10, 640 << 10, 8 << 20
PAGE_HALF = 2048  # bytes: lines so far apart are of one set in every first-level cache, if a power of two
# A cache's useful size, cycles to bring a byte into it, how far apart lines are of one set.
LEVELS = ((FIRST_LEVEL, 1 / 40, PAGE_HALF), (SECOND_LEVEL, 1 / 12, 64 << 10))
LINE = 64
CONFLICTS = 16
MANY = 16  # lines that a set of a cache can hold


class Traffic:
    """The movement of data between caches, for any order of some loops.

    trips: iterations of each loop. tile: how many points of an axis one iteration of its loop covers (an axis that
    isn't named is covered whole). Many orders are asked about, so loops are bits here, and sets of them numbers.
    """

    def __init__(self, accesses: Sequence[Access], trips: Mapping[Axis, int], tile: Mapping[Axis, int]) -> None:
        self.bits = {axis: 1 << number for number, axis in enumerate(trips)}
        self.trips = {self.bits[axis]: count for axis, count in trips.items()}
        self.accesses = [_Strides(access, self.bits, tile) for access in accesses]
        self._touched: dict[int, tuple[list[int], list[int]]] = {}

    def cycles(self, order: Sequence[Axis]) -> float:
        """Cycles spent bringing data into the caches when the loops in `order` run, outermost first.

        For each cache there is an outermost loop inside of which all data fits. The loop around that one brings in
        anew what differs between its iterations (of windows that overlap, what is new); the loops further out bring
        in everything.
        """
        loops = [self.bits[axis] for axis in order]
        inside = sum(loops)
        found = [self.touched(inside)]
        times = [1]  # how often a loop's body runs
        for loop in loops:
            inside -= loop
            found.append(self.touched(inside))
            times.append(times[-1] * self.trips[loop])
        total = 0.0
        for level, (size, price, _) in enumerate(LEVELS):
            j = next((j for j, (_, room) in enumerate(found) if room[level] <= size), -1)
            if j <= 0:  # all of it fits, or not even what one tile needs
                total += sum(found[j][0]) * (times[-1] if j else 1) * price
                continue
            loop = loops[j - 1]
            for access, once, every in zip(self.accesses, found[j][0], found[j - 1][0], strict=True):
                if access.loops & loop:
                    moved, around = min(once * self.trips[loop], every), j - 1
                else:  # used all the time, so it stays until a loop brings another part of it
                    moved, around = once, next((i for i in range(j - 1, 0, -1) if access.loops & loops[i - 1]), 0)
                total += times[around] * moved * price
        return total

    def touched(self, inside: int) -> tuple[list[int], list[int]]:
        """For each access the bytes touched while the loops of `inside` run, and the room that all take in caches."""
        known = self._touched.get(inside)
        if known is None:
            both = [access.footprint(inside) for access in self.accesses]
            rooms = [sum(room[level] for _, room in both) for level in range(len(LEVELS))]
            known = self._touched[inside] = [once for once, _ in both], rooms
        return known


class _Strides:
    """How an access walks through its array. loops: those that lead to another part of it."""

    def __init__(self, access: Access, bits: Mapping[Axis, int], tile: Mapping[Axis, int]) -> None:
        steps = []
        self.moved = 0  # loops that its affine offset depends on
        for axis, coefficient in access.at.terms:
            bit = bits.get(axis, 0)
            self.moved |= bit
            extent = min(axis.extent, tile[axis]) if axis in tile else axis.extent
            steps.append((abs(coefficient), extent, axis.extent, bit))
        self.steps = sorted(steps)
        self.loops = self.moved
        if access.varies:
            self.loops |= sum(bit for axis, bit in bits.items() if axis.name in access.varies and not bit & self.moved)
        self.itemsize = access.buffer.dtype.itemsize
        self.most = max(LINE, access.buffer.size * self.itemsize)
        self._known: dict[int, tuple[int, list[int]]] = {}

    def footprint(self, inside: int) -> tuple[int, list[int]]:
        """Bytes, in whole cache lines, that the access touches while the loops of `inside` and of a tile run, and the
        bytes of each cache that this takes.

        The latter are more where lines lie at distances of a high power of two: they share few sets of the cache.
        """
        inside &= self.moved
        known = self._known.get(inside)
        if known is None:
            known = self._known[inside] = self._footprint(inside)
        return known

    def _footprint(self, inside: int) -> tuple[int, list[int]]:
        itemsize = self.itemsize
        run, count, apart = 1, 1, 1  # elements next to each other, how many such runs, lines from one to the next
        for step, covered, whole, bit in self.steps:
            extent = whole if bit & inside else covered
            if extent == 1:
                continue
            if step * itemsize <= LINE or step <= run:
                run += step * (extent - 1)
            else:
                if count == 1 or extent > MANY:
                    apart = step * itemsize // LINE
                count *= extent
        lines = -(-run * itemsize // LINE)
        touched = min(count * lines * LINE, self.most)
        alike = (apart & -apart) * LINE  # bytes: a power of two
        conflict = max(1, min(CONFLICTS, alike // LINE // lines)) if apart * LINE >= PAGE_HALF else 1
        return touched, [touched * (conflict if count > MANY * max(1, same // alike) else 1) for _, _, same in LEVELS]
