"""Values that are computed again instead of being kept: where an arena is largest, what the backward sweep needs much
later takes most of it, and some of that is made in a moment from what is kept anyway (a GELU's output from its input,
a normalised x from x, its mean and its scale, a mask from the numbers that chose it).

Such a work runs a second time, before the first that needs its result after the peak: the same kernel, or the part of
it that leads to the one result from the others that are kept. The numbers are the same to the last bit. What is
computed again are functions of elements, and of rows; contractions aren't.
"""

from __future__ import annotations

import bisect
import itertools
from collections.abc import Callable
from dataclasses import replace
from math import prod

import numpy as np

from graphc.frozen import dataclass
from graphc.ir.expr import Call
from graphc.ir.graph import Graph
from graphc.ir.node import CONSTANT, FUSED, ITEM, Node, make, parameter, topological
from graphc.passes.access import Accesses

from .loop.ir import Load
from .loop.nest import Nest, Stage, contraction
from .loop.schedule.cost import ARITHMETIC, SIMPLE
from .loop.schedule.rewrite import expressions, parts
from .memory import in_use
from .order import ordered
from .values import Value
from .works import Work, lifetimes

LEAST = 4 << 20  # bytes: a smaller arena stays in the caches
SHARE = 1 / 16  # of the effort may be spent again
NOTABLE = 1 / 1024  # of the peak: smaller values aren't thought about
AT_A_TIME = 16  # of so many candidates one is chosen, then the next are compared again
WORTH = 4.0  # so many times the share of the effort is the least share of the peak that must be spared for it
START = 200_000.0  # cycles, times the lanes of a vector, in which a kernel starts and its threads meet again
STREAM = 8.0  # cycles in which a vector comes from memory, or goes there
PRODUCT = 0.5  # cycles of a vector of products that are summed
ROUNDS = 3  # another order of the works may show what else is worth while

Lowered = Callable[[Node, tuple[Value, ...], tuple[Value, ...]], Nest]


def rematerialised(works: list[Work], lowered: Lowered) -> list[Work]:
    """The works in an order in which they may run, some of them twice. They are given in such an order, too.

    lowered: the nest of a fused node that reads and writes these values.
    """
    here = _Search(works, lowered)
    if here.peak < LEAST:
        return works
    here = _tightened(here)
    total = sum(effort(work.nest) for work in works)
    budget = SHARE * total
    for _ in range(ROUNDS):
        tried = []
        for number in here.choices(budget):
            changed, spent = here.result(number)
            tried.append((_tightened(_Search(ordered(changed), lowered)), spent))
        best, spent = min(tried, key=lambda one: one[0].peak, default=(here, 0.0))
        spared = here.peak - best.peak
        if spared <= 0 or spared * total < WORTH * spent * here.peak:
            break
        here, budget = best, budget - spent
    return here.works


def _tightened(here: _Search) -> _Search:
    """The works in an order that needs less, as long as there is one with what they needed as its limit."""
    for _ in range(ROUNDS):
        other = _Search(ordered(here.works, here.peak - 1), here.lowered)
        if other.peak >= here.peak:
            break
        here = other
    return here


@dataclass(slots=True)
class _Again:
    """work: computes a copy of a value. before: when the value itself is needed for the last time. time: when the copy
    is made."""

    work: Work
    price: float
    before: int = 0
    time: int = 0


class _Search:
    """Works in an order, and which of them to do again. Work p runs at time 2p; one that is done again for it, at
    2p - 1. peak: the most bytes in use at any time, before anything is done again."""

    def __init__(self, works: list[Work], lowered: Lowered) -> None:
        self.works = works
        self.lowered = lowered
        self._writer = {value: work for work in works for value in work.writes}
        lives = lifetimes(works, lambda value: value.place is None and value.target is None)
        doubled = [replace(life, first=2 * life.first, last=2 * life.last) for life in lives.values()]
        self._used = np.array(in_use(doubled, 2 * len(works)), np.int64)
        self.peak = int(self._used.max(initial=0))
        self._times = {value: [2 * life.first] for value, life in lives.items()}  # written, then read
        apart: set[Value] = set()  # aren't written or read as a whole
        for position, work in enumerate(works):
            apart.update(v.whole for v in (*work.reads, *work.writes) if v.inside is not None)
            for value in dict.fromkeys(v.whole for v in work.reads):
                if value in self._times:
                    self._times[value].append(2 * position)
        self._again: dict[Value, _Again] = {}
        self._known: dict[Value, _Again] = {}
        self._gaps = {
            value: _longest(times)
            for value, times in self._times.items()
            if value.nbytes >= NOTABLE * self.peak and len(times) > 1 and value not in apart
        }

    def choices(self, budget: float) -> list[int]:
        """Choose works to do again as long as there are some that spare memory at the peak: those of the least effort
        for it, a few of many at a time, of the effort `budget` altogether. Gives the numbers of them, the first chosen,
        that could be enough: those that lower the peak, and all, as the others may do so in another order."""
        spent, lowest, number = 0.0, self.peak, 0
        while True:
            at = int(self._used.argmax())
            if self._used[at] < lowest:
                lowest, number = int(self._used[at]), len(self._again)
            found: list[tuple[float, int, Value, _Again]] = []
            for value in [v for v, (before, after) in self._gaps.items() if before < at < after - 1]:
                again = self.again(value)
                if again is None or spent + again.price > budget:
                    del self._gaps[value]
                    continue
                spared = value.nbytes - sum(v.nbytes for v in self.operands(again) if self._times[v][-1] < at)
                if spared > 0:
                    found.append((again.price / spared, len(found), value, again))
            if not found:
                return [n for n in sorted({number, len(self._again)}) if n]
            for _, _, value, again in sorted(found)[: max(1, len(found) // AT_A_TIME)]:
                if spent + again.price <= budget:
                    self.choose(value, again)
                    spent += again.price

    def operands(self, again: _Again) -> list[Value]:
        """What it reads of the arena."""
        return [v for v in dict.fromkeys(v.whole for v in again.work.reads) if v in self._times]

    def again(self, value: Value) -> _Again | None:
        """How to compute a value again from what its work reads and that work's other results; None: not at all."""
        if value not in self._known:
            work, copy = self._writer[value], Value(value.dtype, value.size, storage=value.storage)
            if work.node is not None:
                part = _part(work.node, work.writes.index(value))
                if part is None:
                    return None
                node, operands = part
                reads = tuple((*work.reads, *work.writes)[i] for i in operands)
                work = Work(node, reads, (copy,), self.lowered(node, reads, (copy,)))
            else:
                work = replace(work, writes=(copy,))
            self._known[value] = _Again(work, effort(work.nest))
        return self._known[value]

    def choose(self, value: Value, again: _Again) -> None:
        """Compute a value again for those that read it after the longest time in which nobody does."""
        before, after = self._gaps.pop(value)
        self._used[before + 1 : after - 1] -= value.nbytes
        self._again[value] = again
        again.before, again.time = before, after - 1
        for operand in self.operands(again):
            times, made = self._times[operand], self._again.get(operand)
            if made is not None and made.before < again.time < made.time:  # it is computed again for this already
                self._used[again.time : made.time] += operand.nbytes
                made.time = again.time
            elif times[-1] < again.time:
                self._used[times[-1] + 1 : again.time + 1] += operand.nbytes
            bisect.insort(times, again.time)
            if operand in self._gaps:
                self._gaps[operand] = _longest(times)

    def result(self, number: int) -> tuple[list[Work], float]:
        """All works by their times, with the first `number` of those that were chosen; and the effort of these."""
        chosen = dict(itertools.islice(self._again.items(), number))
        timed = [(2 * position, work) for position, work in enumerate(self.works)]
        timed += [(again.time, again.work) for again in chosen.values()]
        found = []
        for time, work in sorted(timed, key=lambda one: one[0]):
            made = [chosen.get(v) for v in work.reads]
            pairs = zip(work.reads, made, strict=True)
            reads = tuple(v if again is None or time < again.time else again.work.writes[0] for v, again in pairs)
            found.append(work if reads == work.reads else replace(work, reads=reads))
        return found, sum(again.price for again in chosen.values())


def _longest(times: list[int]) -> tuple[int, int]:
    """The longest time that a value waits: from when to when."""
    return max(itertools.pairwise(times), key=lambda pair: pair[1] - pair[0])


def _part(node: Node, result: int) -> tuple[Node, list[int]] | None:
    """The part of a fused node that leads to one result from its operands and its other results, and the numbers of
    these, operands first. None if it isn't cheap, or if its numbers could be others than those of the whole."""
    inner: Graph = node.attrs["graph"]
    root = inner.outputs[result]
    numbers = {x: i for i, x in enumerate((*inner.inputs, *inner.outputs)) if x is not root}
    order = topological([root], stop=set(numbers))
    access = Accesses()
    own = [access(x) for x in order if x not in numbers and x.op is not CONSTANT]
    alone = len(inner.outputs) == 1  # only the same kernel adds in the same order
    if any(a.compute.check is not None or not (a.kind == "map" or (alone and a.kind == "fold")) for a in own):
        return None
    if alone:
        return node, list(range(len(node.inputs)))
    made: dict[Node, Node] = {}
    operands: list[int] = []
    for x in order:
        if x in numbers:
            made[x] = parameter(len(operands), x.type)
            operands.append(numbers[x])
        else:
            made[x] = make(x.op, [made[y] for y in x.inputs], x.attrs, x.origin)
    inside = Graph([made[x] for x in order if x in numbers], [made[root]])
    values = [*node.inputs, *(make(ITEM, (node,), {"index": i}) for i in range(len(inner.outputs)))]
    attrs = {"graph": inside, "full": node.attrs["full"], "outer": node.attrs["outer"]}
    return make(FUSED, [values[i] for i in operands], attrs, node.origin), operands


def effort(nest: Nest) -> float:
    """Cycles of a nest times the lanes of a vector, roughly."""
    points = prod(axis.extent for axis in nest.outer)
    return START + sum(_effort(stage, points * prod(a.extent for a in stage.axes)) for stage in nest.stages)


def _effort(stage: Stage, points: int) -> float:
    """A stage's arithmetic at so many points, and what it reads and writes."""
    if contraction(stage) is not None:
        return PRODUCT * points
    cycles, buffers = 0.0, {store.buffer for store in stage.stores}
    for expression in expressions(stage):
        for part in parts(expression):
            if isinstance(part, Load):
                buffers.add(part.buffer)
            elif isinstance(part, Call):
                cycles += ARITHMETIC.get(part.op, SIMPLE)
    return cycles * points + STREAM * sum(min(points, buffer.size) for buffer in buffers)
