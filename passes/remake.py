"""Values that a later kernel makes again from what it reads anyway, instead of fetching them from memory.

A derivative needs much of what was computed on the way to the result, and by then no cache holds it. An array that it
reads anyhow (the gates of a recurrent layer, the operand of a GELU) often gives the rest by a function or two: cheaper
than writing each value, and reading it back, and the memory itself is free meanwhile.
"""

from __future__ import annotations

from collections.abc import Mapping

from graphc.ir.graph import Graph
from graphc.ir.node import Node

from .access import Access, Accesses
from .groups import Group

CACHED = 4 << 20  # bytes of results that stay in a cache from a formula to its derivative
MOST_STEPS = 12  # operations that make a value again,
MOST_COSTLY = 1  # of them costly: the time in which memory moves an element to and fro
STRETCHED = 32  # an operand of so many times fewer elements (a row's mean) is read again for nothing
LOOKED_AT = 8  # operations behind an array that are looked at for one of the later kernel's


class Remade:
    """Which values the later of their two kernels makes again. homes: for each node that was decided, its groups.
    number: a topological order, in whose reverse nodes are decided."""

    def __init__(
        self, graph: Graph, access: Accesses, homes: Mapping[Node, list[Group]], number: Mapping[Node, int]
    ) -> None:
        self._graph = graph
        self._access = access
        self._homes = homes
        self._number = number
        self._parts: dict[Node, frozenset[Group]] = {}  # what a remade value is made of -> the groups that do it
        products = (n for n in graph.nodes if n.op.body is not None and access(n).kind in ("contraction", "fold"))
        self._large = sum(n.type.nbytes for n in products) > CACHED

    def again(self, node: Node, readers: Mapping[Group, list[Node]]) -> bool:
        """Whether each of two kernels that read `node` computes it."""
        if len(readers) != 2 or not self._large:
            return False
        if self._parts.get(node) == frozenset(readers):
            return True
        own = self._access(node)
        if own.view or not self._repeatable(own):
            return False
        later = max(readers, key=lambda home: self._number[home.root])
        parts = self._made_of(node, later, readers)
        for part in parts:
            self._parts[part] = frozenset(readers)
        return bool(parts)

    def _made_of(self, node: Node, later: Group, readers: Mapping[Group, list[Node]]) -> dict[Node, None]:
        """`node` and the steps to it from one array that `later` reads anyway; empty where there is no such array."""
        parts: dict[Node, None] = {}
        waiting = {node: None}
        costly = 0
        while waiting:
            here = max(waiting, key=self._number.__getitem__)
            if len(waiting) == 1 and here is not node and self._at_hand(here, parts, later, readers):
                return parts
            del waiting[here]
            own = self._access(here) if here.op.body is not None else None
            if own is None or not self._repeatable(own) or here.type.size != node.type.size:
                return {}
            costly += own.costly
            if len(parts) == MOST_STEPS or costly > MOST_COSTLY:
                return {}
            parts[here] = None
            waiting.update((x, None) for x in here.inputs if x.type.size * STRETCHED > node.type.size)
        return {}

    @staticmethod
    def _repeatable(own: Access) -> bool:
        return own.kind == "map" and own.compute.check is None and not own.computed_index

    def _at_hand(
        self, array: Node, parts: Mapping[Node, None], later: Group, readers: Mapping[Group, list[Node]]
    ) -> bool:
        """Whether `later` reads the array in any case, or others do, so that it is stored."""
        waiting = [user for user in self._graph.users[array] if user not in parts]
        for _ in range(LOOKED_AT):
            if not waiting:
                return False
            user = waiting.pop()
            homes = self._homes.get(user)
            if homes is None:  # decided later: as its users are, if it only moves or maps
                own = self._access(user)
                if own.kind == "map":
                    waiting.extend(u for u in self._graph.users[user] if u not in parts)
            elif later in homes or any(home not in readers for home in homes):
                return True
        return False
