"""The order in which a program's works run: operands first, what overwrites an input after its readers, and what
frees memory as soon as it can."""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Iterator, Mapping
from math import inf

from .values import Value
from .works import Work

FEW = 1 << 10  # bytes: what a work of a few numbers reads and writes


def ordered(works: list[Work], limit: float = inf) -> list[Work]:
    """Operands first; and where possible what overwrites an input after all others that read its old value.

    Of the works that may come next one that frees more memory than it takes, by itself or with the one that waits for
    nothing else (an optimiser's step, the last reader of an activation and of a gradient; a copy in another order and
    who reads it), the least taking first; else the next in the given order, which keeps readers near to writers. Works
    of a few numbers (an optimiser's counts) never wait: what needs them could free much.

    limit: bytes of the arena; as long as others fit, what would need more waits.
    """
    return _Ordering(works, limit).result()


class _Ordering:
    """must, should: works that come after a work, because they need it or overwrite what it reads. missing, early: the
    works that a work must and should wait for, as far as they haven't run."""

    def __init__(self, works: list[Work], limit: float) -> None:
        self.works = works
        self.limit = limit
        self.number = {work: i for i, work in enumerate(works)}
        self.must: dict[Work, list[Work]] = {w: [] for w in works}
        self.should: dict[Work, list[Work]] = {w: [] for w in works}
        self.missing: dict[Work, dict[Work, None]] = {w: {} for w in works}
        self.early: dict[Work, dict[Work, None]] = {w: {} for w in works}
        readers: dict[Value, list[Work]] = {}
        for work in works:
            for value in dict.fromkeys(v.whole for v in work.reads):
                readers.setdefault(value, []).append(work)
        for before, after in _needs(works):
            self.must[before].append(after)
            self.missing[after][before] = None
        for work in works:
            for target in (v.target for v in work.writes if v.target is not None):
                for reader in readers.get(target, ()):
                    if reader is not work and reader not in self.early[work]:
                        self.should[reader].append(work)
                        self.early[work][reader] = None
        self.memory = _Memory(works, readers)
        self.done: dict[Work, None] = {}
        # By bytes taken, then by number: those that free memory or are few; then the ready; then those that would
        # overwrite what is still needed.
        self.relieving: list[tuple[int, int]] = []
        self.ready: list[tuple[int, int]] = []
        self.reluctant: list[tuple[int, int]] = []

    def result(self) -> list[Work]:
        self.offer(self.works)
        self.relieve(self.works)
        while self.relieving or self.ready or self.reluctant:
            work = self.next()
            if work is not None:
                self.run(work)
        assert len(self.done) == len(self.works), "kernels depend on each other in a circle"
        return list(self.done)

    def next(self) -> Work | None:
        """The work that runs next: the first that stays below the limit, else the one that needs least."""
        waiting: list[tuple[list[tuple[int, int]], tuple[int, int]]] = []
        chosen: Work | None = None
        for heap in (self.relieving, self.ready):
            while heap and chosen is None:
                entry = heapq.heappop(heap)
                work = self.works[entry[1]]
                if work in self.done:
                    continue
                if self.memory.grown(work, self.limit) <= self.limit:
                    chosen = work
                else:
                    waiting.append((heap, entry))
        if chosen is None and waiting:
            chosen = min((self.works[entry[1]] for _, entry in waiting), key=self.memory.grown)
        for heap, entry in waiting:
            heapq.heappush(heap, entry)
        if chosen is None and self.reluctant:
            last = self.works[heapq.heappop(self.reluctant)[1]]
            chosen = None if last in self.done else last
        return chosen

    def run(self, work: Work) -> None:
        self.done[work] = None
        for later in self.must[work]:
            del self.missing[later][work]
        for later in self.should[work]:
            del self.early[later][work]
        changed = dict.fromkeys((*self.must[work], *self.should[work]))
        self.offer(changed)
        self.relieve(dict.fromkeys((*changed, *self.memory.done(work))))

    def offer(self, works: Iterable[Work]) -> None:
        """Put those that nothing is missing for among the ready or the reluctant."""
        for work in works:
            if not self.missing[work] and work not in self.done:
                heapq.heappush(self.reluctant if self.early[work] else self.ready, (0, self.number[work]))

    def relieve(self, works: Iterable[Work]) -> None:
        """Put works of which something changed, or what they alone wait for, among the relieving if they are so."""
        for work in works:
            first = work
            if len(self.missing[work]) == 1:
                (first,) = self.missing[work]
            if self.may(first) and self.relieves(first):
                heapq.heappush(self.relieving, (self.memory.taken[first], self.number[first]))

    def may(self, work: Work) -> bool:
        return not self.missing[work] and not self.early[work] and work not in self.done

    def relieves(self, work: Work) -> bool:
        need = self.memory.need
        if need[work] < 0 or work in self.memory.few:
            return True
        return any(
            len(self.missing[later]) == 1 and not self.early[later] and need[work] + need[later] < 0
            for later in self.must[work]
        )


class _Memory:
    """used: bytes of the arena in use. taken: bytes that each work's results take. need: by how much what is in use
    would grow if the work were the next. few: works that read and write less than FEW bytes altogether."""

    def __init__(self, works: list[Work], readers: Mapping[Value, list[Work]]) -> None:
        self.used = 0
        self._left: dict[Value, dict[Work, None]] = {}  # readers to come, of values in the arena
        self.taken = dict.fromkeys(works, 0)
        self.few = {work for work in works if sum(v.nbytes for v in (*work.reads, *work.writes)) < FEW}
        for work in works:
            for value in (v.whole for v in work.writes):
                if value.place is None and value.target is None and value not in self._left:
                    self.taken[work] += value.nbytes
                    self._left[value] = dict.fromkeys(readers.get(value, ()))
        self.need = dict(self.taken)
        for value in self._left:
            self._last(value)

    def grown(self, work: Work, enough: float = -1) -> int:
        """Bytes in use while `work` runs, if it is the next; or a larger number that is at most `enough`."""
        found = self.used + self.taken[work]
        dying = [v for v in dict.fromkeys(work.reads) if len(self._left.get(v, ())) == 1] if found > enough else []
        for value in work.writes:
            for old in dying:
                if value in self._left and old.nbytes == value.nbytes and work.in_place(old, value):
                    found -= old.nbytes
                    dying.remove(old)
                    break
        return found

    def done(self, work: Work) -> list[Work]:
        """Note that `work` has run. Gives the works that now are the last to read some value."""
        found = []
        self.used += self.taken[work]
        self.used -= sum(v.nbytes for v in work.writes if v in self._left and not self._left[v])
        for value in dict.fromkeys(v.whole for v in work.reads):
            left = self._left.get(value)
            if left is not None:
                del left[work]
                self.used -= 0 if left else value.nbytes
                found += self._last(value)
        return found

    def _last(self, value: Value) -> list[Work]:
        """The only reader that a value has left, which therefore will free it; none if there are others."""
        left = list(self._left[value])
        if len(left) != 1:
            return []
        self.need[left[0]] -= value.nbytes
        return left


def _needs(works: list[Work]) -> Iterator[tuple[Work, Work]]:
    """(before, after) for each two works of which one reads what the other writes, once."""
    writer = {value: work for work in works for value in work.writes}
    for work in works:
        sources = (writer.get(source) for value in work.reads for source in value.sources())
        for before in dict.fromkeys(sources):
            if before is not None:
                yield before, work
