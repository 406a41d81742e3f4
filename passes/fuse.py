"""Fusion: every operation goes into a `fused` node, one kernel each. Which ones share a kernel is decided here.

One walk from the outputs to the inputs. A node whose consumers all lie in one group joins it, if its element can be
computed where it is read (groups.py says how): elementwise operations and movement nearly always, a reduction where
it gives one number for each outer point of the group (the rows of a softmax), a contraction where the group is its
epilogue. What other groups need as well is stored: as a further result of one of its consumers' groups where that
keeps the kernels acyclic, or of one that folds the same rows (siblings.py), else by a group of its own; unless
computing it again costs less than reading it back. Costly functions, reductions and random numbers are computed once.

Linear in the number of nodes, without recursion.

A reshape that is no regrouping of factors stays a node of its own: the same memory under another shape.
"""

from __future__ import annotations

import heapq
from collections.abc import Sequence
from dataclasses import replace

from graphc.errors import VerifyError
from graphc.ir.expr import Affine
from graphc.ir.graph import Graph
from graphc.ir.node import CONSTANT, FUSED, INPUT, ITEM, Node, make, parameter, topological

from .access import Accesses, flat_of
from .groups import FEW_POINTS, Admission, Group
from .parts import beside_other_parts, is_part, lies_in_parts
from .remake import Remade
from .siblings import Siblings

MAX_HOMES = 4  # kernels that may compute a cheap value again
MAX_VIEW_HOMES = 64  # kernels that may read through the same view, or compute the same single number
LITTLE = 2  # a value of so many times the elements that it is made of is cheaper made than read
MANY_PRODUCTS = 3  # a matrix that so many would turn over is turned over once
UNCACHED, MANY_COLUMNS = 1 << 20, 128  # elements that are read from afar, for so many columns of a product
MAX_REPEATED = 4  # cheap values that may be computed again one behind the other
FEW_COPIES = 32  # an operand that is stretched so many times (a row's mean) is read again for nothing


def fuse(graph: Graph, few_points: int = FEW_POINTS) -> Graph:
    """The same function with every operation inside of a `fused` node (or an aliasing reshape).

    few_points: rows that a large kernel must have for its reductions to be folded into it: what keeps the machine busy.
    """
    homes = group(graph, few_points)
    return assemble(graph, homes)


# ------------------------------------------------------------------------------------------- decide


def group(graph: Graph, few_points: int = FEW_POINTS) -> dict[Node, list[Group]]:
    """For every operation the groups that compute it. The first has it among its outputs if it is stored."""
    access = Accesses()
    order = by_depth(graph)
    number = {node: i for i, node in enumerate(order)}
    outputs = set(graph.outputs)
    homes: dict[Node, list[Group]] = {}
    siblings = Siblings(graph, access, homes)
    remade = Remade(graph, access, homes, number)
    for node in reversed(order):
        if node.op is INPUT or node.op is CONSTANT:
            continue
        if node.op.body is None:
            raise VerifyError(f"{node!r} reached fusion: a pass must have expanded it. {node.origin}")
        readers = reading(graph, node, homes)
        while len(readers) > 1 and worth_uniting(node, access) and siblings.unite(node, readers):
            readers = reading(graph, node, homes)
        in_parts = lies_in_parts(graph, node, readers, access)
        stored = None
        if not in_parts:
            stored = store_instead(graph, node, readers, number[node], homes) if node not in outputs else None
            if stored is None and node not in outputs and join_all(node, readers, access, homes, remade):
                continue
            stored = stored or store_with_reader(node, readers, number[node])
            stored = stored or siblings.adopt(node, number[node], readers)
            stored = stored or beside_other_parts(node, readers, number[node], homes, access)
        if stored is None:
            stored = Group.of(node, access, few_points)
            own = access(node)
            # The same memory, so its operand must be stored: nothing may join.
            stored.closed |= in_parts or (own.view and own.computed_index and node not in outputs)
            stored.in_parts = in_parts
            siblings.add(stored)
        homes[node] = [stored]
        for home in readers:
            if home is not stored:
                home.newest_input = max(home.newest_input, number[node])
    return homes


def reading(graph: Graph, node: Node, homes: dict[Node, list[Group]]) -> dict[Group, list[Node]]:
    """The groups that read `node`, each with the members that do."""
    readers: dict[Group, list[Node]] = {}
    for consumer in dict.fromkeys(graph.users[node]):
        for home in homes[consumer]:
            readers.setdefault(home, []).append(consumer)
    return readers


def by_depth(graph: Graph) -> list[Node]:
    """The nodes by their distance from the inputs, a topological order. What a result doesn't depend on mostly stands
    before it (an optimiser's scalars before its moments), so that few groups look as if they could be cyclic."""
    depth: dict[Node, int] = {}
    for node in graph.nodes:
        depth[node] = max((depth[x] + 1 for x in node.inputs), default=0)
    return sorted(graph.nodes, key=depth.__getitem__)


def join_all(
    node: Node,
    readers: dict[Group, list[Node]],
    access: Accesses,
    homes: dict[Node, list[Group]],
    remade: Remade,
) -> bool:
    """Compute `node` wherever it is read and store it nowhere, if that's worth while."""
    again = len(readers) > 1 and remade.again(node, readers)
    if len(readers) > 1 and not again and not worth_repeating(node, readers, access):
        return False
    if access(node).view and better_turned(node, readers, access):
        return False
    admissions: list[tuple[Group, Admission]] = []
    for home, consumers in readers.items():
        admission = home.admit(node, consumers)
        if admission is None:
            return False
        counted = len(readers) > 1 and not again and not access(node).view
        admissions.append((home, replace(admission, repeated=admission.repeated + counted)))
    for home, admission in admissions:
        home.join(node, admission, store=False)
    homes[node] = list(readers)
    return True


def worth_uniting(node: Node, access: Accesses) -> bool:
    """Whether several kernels that want a value had better be one: it is no view, nor a cheap function of one array
    that lies in memory anyway."""
    if access(node).view or node.type.size == 1:
        return False
    arrays = [x for x in node.inputs if x.type.size > 1]
    return access(node).costly or len(arrays) > 1 or any(x.op.body is not None for x in arrays)


def worth_repeating(node: Node, readers: dict[Group, list[Node]], access: Accesses) -> bool:
    """Whether computing a value in several kernels beats storing it: it's a view, or cheap and reads one array that is
    no smaller; what it reads besides is one number for many elements."""
    own = access(node)
    if own.view:
        return len(readers) <= MAX_VIEW_HOMES
    homes = MAX_VIEW_HOMES if node.type.size == 1 else MAX_HOMES
    if own.kind != "map" or own.costly or own.compute.check is not None or len(readers) > homes:
        return False
    repeats = max(home.repeated[c] for home, consumers in readers.items() for c in consumers)
    if repeats >= MAX_REPEATED:
        return False
    arrays = [x for x in node.inputs if x.type.size > max(1, node.type.size // FEW_COPIES)]
    return len(arrays) <= 1 or of_little(node, access)


def of_little(node: Node, access: Accesses) -> bool:
    """Whether a value is made of much smaller arrays by a few cheap operations: differences of all pairs of points."""
    left = node.type.size // LITTLE
    waiting = [(x, 1) for x in node.inputs]
    while waiting and left >= 0:
        here, steps = waiting.pop()
        own = access(here) if here.op.body is not None else None
        cheap = own is not None and own.kind == "map" and not own.costly and own.compute.check is None
        if cheap and steps < MAX_REPEATED:
            waiting.extend((x, steps + (own is not None and not own.view)) for x in here.inputs)
        else:
            left -= here.type.size
    return left >= 0


def better_turned(node: Node, readers: dict[Group, list[Node]], access: Accesses) -> bool:
    """Whether `node` is a view that all its readers multiply by, and that is better stored as they want it.

    A right factor whose neighbours along the lanes of the result don't lie so would be gathered, or copied by each
    reader (a recurrent layer's weights). Of a left factor that no cache holds, each step along the sum would fetch
    another line, for every block of the result's columns again (the gradients of large weights).
    """
    own = access(node)
    if len(own.reads) != 1 or not own.moves:
        return False
    source = flat_of(own.reads[0].index, node.inputs[0].shape)
    place = {t.terms[0][0]: d for d, t in enumerate(own.compute.target) if isinstance(t, Affine) and len(t.terms) == 1}
    if source is None or len(place) < node.ndim:
        return False
    steps = {d: source.coefficient(axis) for axis, d in place.items()}
    right = left = 0
    for consumer in (c for consumers in readers.values() for c in consumers):
        reader = access(consumer)
        if reader.kind != "contraction" or consumer.ndim < 2 or not isinstance(reader.compute.target[-1], Affine):
            return False
        for read in (r for r in reader.reads if consumer.inputs[r.operand] is node):
            at = [i if isinstance(i, Affine) else Affine() for i in read.index]
            wanted = [axis for axis, step in at[-1].terms if step == 1]  # neighbours, if `node` were stored
            if len(wanted) != 1 or sum(i.coefficient(wanted[0]) * steps[d] for d, i in enumerate(at)) <= 1:
                return False
            right += reader.compute.target[-1].coefficient(wanted[0]) == 1
            left += wanted[0] in reader.compute.reduce and consumer.shape[-1] >= MANY_COLUMNS
    far = left > 0 and node.type.size >= UNCACHED
    return right + left == len(readers) and (far or right >= MANY_PRODUCTS)


def store_instead(
    graph: Graph, node: Node, readers: dict[Group, list[Node]], number: int, homes: dict[Node, list[Group]]
) -> Group | None:
    """The group that stores `node`, where computing it again would only mean that its larger operand is stored.

    The mask of a relu, x <= 0, is wanted by the gradient's kernel, and nothing else of x is: a byte instead of four.
    """
    if len(readers) < 2:
        return None
    arrays = [x for x in dict.fromkeys(node.inputs) if x.type.size > 1 and x.op.body is not None]
    if len(arrays) != 1 or arrays[0].type.nbytes < node.type.nbytes:
        return None
    rest = [user for user in graph.users[arrays[0]] if user is not node]
    if any(user not in homes for user in rest):  # their turn comes later
        return None
    others = [home for user in rest for home in homes[user]]
    if not others or any(home is not others[0] for home in others) or others[0] not in readers:
        return None
    return store_with_reader(node, {others[0]: readers[others[0]]}, number)


def store_with_reader(node: Node, readers: dict[Group, list[Node]], number: int) -> Group | None:
    """The group among the readers' that stores `node` as one more result, if one can.

    It may if all other results that it reads come before `node`, so that none of them can depend on it.
    """
    for home, consumers in readers.items():
        if home.newest_input >= number:
            continue
        admission = home.admit(node, consumers)
        if admission is not None and home.may_store(node, admission):
            home.join(node, admission, store=True)
            return home
    return None


# --------------------------------------------------------------------------------------------- build


def assemble(graph: Graph, homes: dict[Node, list[Group]]) -> Graph:
    """The graph of the groups, operands first; otherwise in the order of their oldest results."""
    results: dict[Node, Node] = {n: n for n in graph.nodes if n.op is INPUT or n.op is CONSTANT}
    writer: dict[Node, Group] = {}
    for node in by_depth(graph):
        for home in homes.get(node, ())[:1]:
            if node in home.outputs:
                writer[node] = home
    for home in side_by_side(in_order(list(dict.fromkeys(writer.values())), writer), writer):
        build(home, results)
    return Graph(graph.inputs, [results[n] for n in graph.outputs])


def read_by(home: Group, writer: dict[Node, Group]) -> dict[Group, None]:
    """The groups whose results a group reads."""
    return dict.fromkeys(writer[x] for n in home.flat for x in n.inputs if x not in home.flat and x in writer)


def in_order(groups: list[Group], writer: dict[Node, Group]) -> list[Group]:
    """The groups, each after those that it reads; otherwise as they are given."""
    number = {home: i for i, home in enumerate(groups)}
    missing: dict[Group, int] = {}
    after: dict[Group, list[Group]] = {home: [] for home in groups}
    for home in groups:
        before = read_by(home, writer)
        missing[home] = len(before)
        for other in before:
            after[other].append(home)
    ready = [number[home] for home in groups if not missing[home]]
    heapq.heapify(ready)
    done: list[Group] = []
    while ready:
        home = groups[heapq.heappop(ready)]
        done.append(home)
        for later in after[home]:
            missing[later] -= 1
            if not missing[later]:
                heapq.heappush(ready, number[later])
    if len(done) < len(groups):
        raise VerifyError("fused kernels depend on each other in a circle")
    return done


def side_by_side(groups: list[Group], writer: dict[Node, Group]) -> list[Group]:
    """Groups of few elements that loop alike and don't depend on each other become one: an optimiser's scalars and
    biases. `groups` and the result are in topological order."""
    level: dict[Group, int] = {}
    hosts: dict[tuple[object, ...], Group] = {}
    kept: dict[Group, int] = {}
    for home in groups:
        level[home] = max((level[w] + 1 for w in read_by(home, writer)), default=0)
    for home in sorted(groups, key=level.__getitem__):
        host = hosts.get((level[home], home.loops())) if home.simple() else None
        if host is not None and host.has_room(home):
            host.absorb(home)
        else:
            kept[home] = level[home]
            if home.simple():
                hosts[level[home], home.loops()] = home
    return list(kept)


def build(home: Group, results: dict[Node, Node]) -> None:
    """The fused node of a group; its items are the results of the group's outputs."""
    root = home.root
    alias = home.closed and root.type.size and home.access(root).computed_index and home.access(root).view
    if alias or home.in_parts:
        results[root] = make(root.op, [results[x] for x in root.inputs], root.attrs, root.origin)
        return
    outputs = list(reversed(home.outputs))
    operands: dict[Node, Node] = {}
    made: dict[Node, Node] = {}
    outside = {x for n in home.flat for x in n.inputs if x not in home.flat}
    inner = [n for n in home.flat if n.inputs and n not in outputs]
    windows = {n for n in inner if n.inputs[0] in outside and is_part(n, home.access)}
    for node in topological(outputs, stop=outside | windows):
        if node in windows:
            results[node] = make(node.op, (results[node.inputs[0]],), node.attrs, node.origin)
            made[node] = operands[node] = parameter(len(operands), node.type)
        elif node in home.flat:
            made[node] = make(node.op, [made[x] for x in node.inputs], node.attrs, node.origin)
        elif node.op is CONSTANT and node.type.size == 1:
            made[node] = node
        else:
            made[node] = operands[node] = parameter(len(operands), node.type)
    inside = Graph(list(operands.values()), [made[n] for n in outputs])
    fused = make(
        FUSED,
        [results[n] for n in operands],
        {"graph": inside, "full": home.full, "outer": home.outer},
        root.origin,
    )
    for index, node in enumerate(outputs):
        results[node] = make(ITEM, (fused,), {"index": index}, node.origin)


def fused_nodes(graph: Graph) -> Sequence[Node]:
    """The kernels of a fused graph, in order."""
    return [n for n in graph.nodes if n.op is FUSED]
