"""Reductions of the same rows, side by side in one kernel: what they have in common is computed and read once.

Forces in three directions fold three products with one distance; a norm's gradients fold one cotangent twice. Neither
reads the other, so no kernel would hold both by itself, and what they share would be stored for all points.
"""

from __future__ import annotations

from graphc.ir.node import Node
from graphc.types import Shape

from .access import Accesses
from .groups import MAX_MEMBERS, Admission, Group

LOOKED_AT = 16  # nodes behind a reduction that are looked at for what it has in common with another
CANDIDATES = 4  # groups over the same rows that are tried, the latest first


class Siblings:
    """The groups that fold rows, by what they loop over."""

    def __init__(self, access: Accesses) -> None:
        self._access = access
        self._groups: dict[Shape, list[Group]] = {}
        self._behind: dict[Node, frozenset[Node]] = {}

    def add(self, group: Group) -> None:
        """A group that reductions over the same rows may join."""
        if not group.closed and not group.product:
            self._groups.setdefault(group.full, []).append(group)

    def adopt(self, node: Node, number: int) -> Group | None:
        """The group that computes `node`, a reduction of rows that no reader could compute, beside its own; None:
        there is none with which it has anything in common.

        All members of any group come after `node` in topological order, so it depends on none of them; and none of
        the group's operands depends on it if all that other groups store of them come before it.
        """
        own = self._access(node)
        if own.regular is None or node.type.size == 0:
            return None
        full, kept = own.regular
        for home in self._groups.get(full, [])[: -CANDIDATES - 1 : -1]:
            if home.full != full or home.outer != kept or not home.folds or home.product:
                continue
            if home.newest_input >= number or len(home.flat) >= MAX_MEMBERS:
                continue
            if any(not self.behind(node).isdisjoint(self.behind(other)) for other in self.folds(home)):
                flat = home.row_flat()
                home.join(node, Admission(flat, node.type.size, 0, False, full, kept, fold=True), store=True)
                return home
        return None

    def folds(self, group: Group) -> list[Node]:
        """The reductions that a group stores."""
        return [n for n in group.outputs if self._access(n).regular == (group.full, group.outer)]

    def behind(self, node: Node) -> frozenset[Node]:
        """Values of the size of all that a reduction folds, a few steps behind it."""
        found = self._behind.get(node)
        if found is None:
            size = node.inputs[0].type.size
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
