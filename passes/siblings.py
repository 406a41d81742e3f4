"""Results that loop over the same points, side by side in one kernel: what they have in common is computed and read
once.

Forces in three directions fold three products with one distance; a norm's gradients fold one cotangent twice; a
normalised x and its gradient run over x. None reads the other, so no kernel would hold both by itself, and what they
share would be stored for all points, or read again.

Kernels in the making that turn out to want one value are united likewise: a loss is the sum of what its gradient is
made of.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Mapping
from itertools import pairwise

from graphc.ir.graph import Graph
from graphc.ir.node import Node
from graphc.types import Shape

from .access import Accesses
from .groups import MAX_MEMBERS, Admission, Group

LOOKED_AT = 16  # nodes behind a result that are looked at for what it has in common with another
CANDIDATES = 4  # groups over the same points that are tried, the latest first
MAX_STREAMS = 6  # results for all points, of a group that takes in what it doesn't read
MAX_REACHED = 32  # groups that are looked through for a circle


class Siblings:
    """The groups of rows or elements, by what they loop over. homes: for each node that was decided, its groups."""

    def __init__(self, graph: Graph, access: Accesses, homes: dict[Node, list[Group]]) -> None:
        self._graph = graph
        self._access = access
        self._homes = homes
        self._groups: dict[Shape, list[Group]] = {}
        self._known: dict[Group, list[Group]] = {}  # the list that a group stands in
        self._behind: dict[Node, frozenset[Node]] = {}

    def add(self, group: Group) -> None:
        """A group that results over the same points may join."""
        if not group.closed and not group.product:
            self._known[group] = self._groups.setdefault(group.full, [])
            self._known[group].append(group)

    def adopt(self, node: Node, number: int, readers: Collection[Group]) -> Group | None:
        """The group that computes `node`, which no reader could compute, beside its own results; None: there is none
        with which it has anything in common.

        All members of any group come after `node` in topological order, so it depends on none of them; and none of
        the group's operands depends on it if all that other groups store of them come before it, or if what reads
        `node` leads to other groups only.
        """
        own = self._access(node)
        full = node.shape if own.regular is None else own.regular[0]
        if node.type.size == 0 or own.kind not in ("map", "fold") or (own.kind == "fold" and own.regular is None):
            return None
        for home in self._groups.get(full, [])[: -CANDIDATES - 1 : -1]:
            if home in readers:
                continue  # it declined: beside it, a stencil's step would be computed again for each neighbour
            admission = self.admission(node, home)
            if admission is None or not self.related(node, home) or not home.may_store(node, admission):
                continue
            if home.newest_input < number or not self.reaches(readers, home):
                home.join(node, admission, store=True)
                return home
        return None

    def unite(self, node: Node, readers: Mapping[Group, list[Node]]) -> bool:
        """Make one group of two that read `node` point by point in the same order, and neither of which needs the
        other's results: what would be stored by one and read by the other then never leaves the registers."""
        in_order = [home for home, consumers in readers.items() if self.in_order(node, home, consumers)]
        for later, home in pairwise(sorted(in_order, key=lambda home: home.by_rows())):
            moved = later.moved_to(home) if self.room(later, home) else None
            if moved is None or self.leads(later, home) or self.leads(home, later):
                continue
            for member in later.flat:
                self._homes[member] = list(dict.fromkeys(home if h is later else h for h in self._homes[member]))
            home.take_in(later, moved)
            if later in self._known:
                self._known.pop(later).remove(later)
            return True
        return False

    def in_order(self, node: Node, home: Group, consumers: list[Node]) -> bool:
        """Whether a group without a product reads each element of `node` at the point of its number."""
        if home.closed or home.product or home.in_parts:
            return False
        admission = home.admit(node, consumers)
        whole = admission is not None and (admission.full, admission.outer) == (home.full, home.outer)
        return whole and admission is not None and home.in_order(node, admission.flat)

    def room(self, one: Group, other: Group) -> bool:
        """Whether a kernel could do what two groups do."""
        size = math.prod(other.full)
        streams = sum(result.type.size == size for home in (one, other) for result in home.outputs)
        return one.has_room(other) and streams <= MAX_STREAMS

    def leads(self, home: Group, other: Group) -> bool:
        """Whether `other` may depend on results of `home`."""
        users = {user: None for result in home.outputs for user in self._graph.users[result]}
        readers = {group: None for user in users for group in self._homes.get(user, ()) if group is not home}
        return self.reaches(readers, other)

    def admission(self, node: Node, home: Group) -> Admission | None:
        """How `node` would join: it loops exactly as the group does."""
        own = self._access(node)
        if home.closed or home.product or len(home.flat) >= MAX_MEMBERS:
            return None
        if own.regular is not None:
            if own.regular != (home.full, home.outer) or not home.folds:
                return None
            return Admission(home.row_flat(), node.type.size, 0, False, home.full, home.outer, fold=True)
        streams = sum(result.type.size == node.type.size for result in home.outputs)
        if own.view or home.full != node.shape or streams >= MAX_STREAMS:
            return None
        return Admission(home.full_flat(), node.type.size, 0, False, home.full, home.outer)

    def related(self, node: Node, home: Group) -> bool:
        """Whether some value of the size of all points stands behind both `node` and a result of the group."""
        mine = self.behind(node, home.full)
        return any(not mine.isdisjoint(self.behind(other, home.full)) for other in home.outputs)

    def behind(self, node: Node, full: Shape) -> frozenset[Node]:
        """Values with as many elements as there are points, a few steps behind a result."""
        found = self._behind.get(node)
        if found is None:
            size = math.prod(full)
            reached: dict[Node, None] = {}
            waiting = list(node.inputs)
            while waiting and len(reached) < LOOKED_AT:
                here = waiting.pop(0)
                if here.type.size == size and here not in reached:
                    reached[here] = None
                    if here.op.body is not None and self._access(here).kind == "map":
                        waiting.extend(here.inputs)
            found = self._behind[node] = frozenset(reached)
        return found

    def reaches(self, readers: Iterable[Group], home: Group) -> bool:
        """Whether `home` may depend on what `readers` compute; True too if finding out would take long."""
        found = dict.fromkeys(readers)
        waiting = list(found)
        while waiting and home not in found and len(found) <= MAX_REACHED:
            for user in {user: None for result in waiting.pop().outputs for user in self._graph.users[result]}:
                new = [group for group in self._homes.get(user, ()) if group not in found]
                waiting += new
                found.update(dict.fromkeys(new))
        return home in found or len(found) > MAX_REACHED
