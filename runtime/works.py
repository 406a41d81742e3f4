"""Works: the steps of a program before they have an order and places, and when what they write is needed."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from graphc.frozen import dataclass
from graphc.ir.node import Node

from .loop.nest import Nest
from .memory import Lifetime
from .values import Value


@dataclass(frozen=True, slots=True, eq=False)
class Work:
    """One step to be. node: a fused node, or None for a copy. reads: a value for each operand."""

    node: Node | None
    reads: tuple[Value, ...]
    writes: tuple[Value, ...]
    nest: Nest

    def in_place(self, old: Value, new: Value) -> bool:
        """Whether it may write `new` over `old`, which it reads."""
        written = self.nest.params[len(self.reads) + self.writes.index(new)].name
        read = [(p.name, v) for p, v in zip(self.nest.params, self.reads, strict=False) if v.whole is old]
        return all(v is old and (name, written) in self.nest.inplace for name, v in read)


def lifetimes(works: Sequence[Work], counts: Callable[[Value], bool]) -> dict[Value, Lifetime]:
    """When what lies in the arena is written and read for the last time, if the works run in this order.

    counts: whether a value that is no part of another lies there. The result has them in the order of their writing.
    """
    first: dict[Value, int] = {}
    last: dict[Value, int] = {}
    for position, work in enumerate(works):
        for value in (v.whole for v in work.writes):
            if counts(value):
                first.setdefault(value, position)
                last[value] = position
        for value in (v.whole for v in work.reads):
            if value in last:
                last[value] = position
    number = {value: i for i, value in enumerate(first)}
    found: dict[Value, Lifetime] = {}
    for position, work in enumerate(works):
        for value in work.writes:
            whole = value.whole
            if whole not in first or whole in found:
                continue
            over = tuple(
                number[old]
                for old in dict.fromkeys(work.reads)
                if whole is value and old in first and last[old] == position and work.in_place(old, value)
            )
            found[whole] = Lifetime(whole.nbytes, first[whole], last[whole], over)
    return {value: found[value] for value in first}
