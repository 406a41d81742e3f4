"""Values that lie in parts of others' memory.

A joined value (concat) is written in place by the kernels that compute its parts, instead of by one that chooses
between them for each element; a window of a value (some rows of it) is read where it lies. Both stay nodes of their
own in the fused graph; runtime/plan.py places them. A kernel that reads a window sees an array of its own, so that the
kernels of all steps of a loop are one, called with other pointers.
"""

from __future__ import annotations

from collections.abc import Mapping

from graphc.ir.graph import Graph
from graphc.ir.node import CONSTANT, INPUT, Node
from graphc.primitive import Fact

from .access import Accesses, flat_of
from .groups import MAX_MEMBERS, Admission, Group

MOST_CHOSEN = 4  # parts that a kernel may choose between, where it alone reads the joined value


def lies_in_parts(graph: Graph, node: Node, readers: Mapping[Group, list[Node]], access: Accesses) -> bool:
    """Whether the parts of a joined value had better be stored where they lie in it.

    Not where a few are copies in any case, nor where one kernel can choose between a few instead of reading memory.
    Each element would ask all of many; so these are copied, if they are nothing else.
    """
    if Fact.JOINS not in node.op.facts or not node.type.size:
        return False
    computed = sum(x.type.size for x in node.inputs if x.op is not INPUT and x.op is not CONSTANT)
    if 2 * computed < node.type.size and len(node.inputs) <= MOST_CHOSEN:
        return False
    multiplied = any(access(c).kind == "contraction" for consumers in readers.values() for c in consumers)
    return multiplied or len(readers) != 1 or node in graph.outputs or len(node.inputs) > MOST_CHOSEN


def beside_other_parts(
    node: Node, readers: Mapping[Group, list[Node]], number: int, homes: Mapping[Node, list[Group]], access: Accesses
) -> Group | None:
    """The group that stores another part of what `node` is a part of, made to store it too: they have much in common.

    Its members come after `node`, so it depends on none of them; and none of what it reads of other groups depends on
    `node` if all that comes before it.
    """
    if access(node).kind != "map":
        return None
    for joined in readers:
        if not joined.in_parts:
            continue
        for part in joined.root.inputs:
            if part is node or part not in homes or part.shape != node.shape:
                continue
            home = homes[part][0]
            if home.closed or home.by_rows() or home.full != node.shape or len(home.flat) >= MAX_MEMBERS:
                continue
            admission = Admission(home.full_flat(), node.type.size, 0, False, home.full, home.outer)
            if home.newest_input < number and home.may_store(node, admission):
                home.join(node, admission, store=True)
                return home
    return None


def window(node: Node, access: Accesses) -> int | None:
    """At which element of its operand `node` starts, if it is nothing but so many neighbours in memory; else None."""
    own = access(node)
    if not own.view or own.computed_index or len(own.reads) != 1 or own.reads[0].mask is not None:
        return None
    source = flat_of(own.reads[0].index, node.inputs[0].shape)
    target = flat_of(own.compute.target, node.shape)
    if source is None or target is None or source.terms != target.terms or target.const:
        return None
    return source.const


def is_part(node: Node, access: Accesses) -> bool:
    """Whether `node` is a window of at most half of its operand: rows of a loop's step rather than neighbours of a
    stencil, which are better read through one pointer."""
    return 0 < 2 * node.type.size <= node.inputs[0].type.size and window(node, access) is not None
