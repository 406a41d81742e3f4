"""What was written step by step, joined: sums of many terms, and products of many pieces with one factor.

The derivative of a loop adds up a term for each step. Terms that lie side by side (the gradients of slices) are joined
instead of padded and added; products become one product along all steps. And products of all slices of a value with
one factor are slices of one product. What is joined is written in place by whoever computes its parts (fuse.py,
plan.py), so joining costs nothing, unless a part is wanted in two places.

Each walk is linear in the graph, but for sorting.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import field
from functools import partial, reduce
from itertools import pairwise

from graphc.frozen import dataclass
from graphc.ir import origin
from graphc.ir.graph import Graph
from graphc.ir.node import CONSTANT, Node
from graphc.ir.rewrite import Reason, applied
from graphc.ops import elementwise as ew
from graphc.ops import linalg
from graphc.ops import movement as mv
from graphc.ops import reduction as red
from graphc.types import TensorType

from .contract import folded_axes

MOST_ROWS = 512  # of a slice: products of larger ones gain nothing by being joined

PARTS = Reason("sum of parts", "what lies side by side is joined, not padded with zeros and added", exact=False)
PRODUCTS = Reason("sum of products", "one product along all terms: sums are taken in another order", exact=False)
SUMS = Reason("sum of sums", "one sum over what lies side by side anyway, in another order", exact=False)
SLICES = Reason("products of slices", "one product of the whole, in one kernel")
REASONS = (PARTS, PRODUCTS, SUMS, SLICES)

Maker = Callable[[dict[Node, Node]], Node | None]  # from what nodes have become to what one becomes; None: as it was


def join(graph: Graph) -> Graph:
    """The graph with sums and products over steps joined."""
    graph = _remade(graph, _sliced_products(graph))
    return _remade(graph, _Sums(graph).makers())


def _remade(graph: Graph, makers: dict[Node, Maker]) -> Graph:
    """The graph with some nodes made by their makers, and all above them rebuilt."""
    if not makers:
        return graph
    done: dict[Node, Node] = {}
    building = origin.Rewriting()
    building.rule = "join"
    with origin.during(building):
        for node in graph.nodes:
            building.node = node
            maker = makers.get(node)
            made = None if maker is None else maker(done)
            if made is None:
                made = node.replace(tuple([done[x] for x in node.inputs])) if node.inputs else node
            done[node] = made
    outputs = tuple([done[n] for n in graph.outputs])
    return graph if outputs == graph.outputs else Graph(graph.inputs, outputs)


# ------------------------------------------------------------------------------- products of slices


def _rows_of(node: Node) -> tuple[Node, int, int] | None:
    """(x, begin, end): node is the matrix of these rows of x, seen as a matrix of x.shape[-1] columns."""
    width, part = node.shape[-1], node
    if part.op is mv.RESHAPE:
        part = part.inputs[0]
    if part.op is not mv.SLICE or part.ndim < 2 or any(s != 1 for s in part.attrs["step"]):
        return None
    x = part.inputs[0]
    if part.shape[1:] != x.shape[1:] or x.shape[-1] != width or not x.type.size:
        return None
    inner = x.type.size // x.shape[0] // width
    return x, part.attrs["start"][0] * inner, part.attrs["stop"][0] * inner


def _sliced_products(graph: Graph) -> dict[Node, Maker]:
    """Makers for the products of all slices of one value with the same right factor."""
    found: dict[tuple[Node, Node], list[tuple[int, int, Node]]] = {}
    for node in graph.nodes:
        if node.op is linalg.MATMUL and node.ndim == 2 and node.shape[0] <= MOST_ROWS:
            rows = _rows_of(node.inputs[0])
            if rows is not None:
                x, begin, end = rows
                found.setdefault((x, node.inputs[1]), []).append((begin, end, node))
    makers: dict[Node, Maker] = {}
    for (x, factor), parts in found.items():
        parts.sort(key=lambda part: part[0])
        height = x.type.size // x.shape[-1]
        ends = [0, *(end for _, end, _ in parts)]
        if len(parts) > 1 and [begin for begin, _, _ in parts] == ends[:-1] and ends[-1] == height:
            for begin, end, node in parts:
                makers[node] = partial(_slice_of_product, x, factor, begin, end)
    return makers


def _slice_of_product(x: Node, factor: Node, begin: int, end: int, done: dict[Node, Node]) -> Node:
    applied(SLICES)
    whole = linalg.matmul(mv.reshape(done[x], (-1, x.shape[-1])), done[factor])
    return mv.narrow(whole, 0, begin, end - begin)  # type: ignore[no-any-return]


# --------------------------------------------------------------------------------------------- sums


@dataclass(slots=True)
class _Sums:
    """places: for what has been joined along its first dimension, by whom and as which part. alone: products that are
    read once, to be padded."""

    graph: Graph
    places: dict[Node, tuple[Node, int]] = field(default_factory=dict)
    alone: set[Node] = field(default_factory=set)

    def makers(self) -> dict[Node, Maker]:
        """Makers for the sums of several terms, which aren't terms of another sum."""
        if sum(node.op in _JOINED for node in self.graph.nodes) < 2:
            return {}  # most graphs; who uses what needn't be found out
        users, wanted = self.graph.users, set(self.graph.outputs)

        def inner(node: Node, kind: object) -> bool:
            return node.op is ew.ADD and node.type == kind and len(users[node]) == 1 and node not in wanted

        makers: dict[Node, Maker] = {}
        for node in self.graph.nodes:
            if node.op is not ew.ADD or node.dtype.kind != "f":
                continue
            if inner(node, node.type) and users[node][0].op is ew.ADD and users[node][0].type == node.type:
                continue
            terms: list[Node] = []
            stack = [*reversed(node.inputs)]
            while stack:
                term = stack.pop()
                if inner(term, node.type):
                    stack += reversed(term.inputs)
                else:
                    terms.append(term)
            if sum(term.op in _JOINED for term in terms) > 1:
                makers[node] = partial(self.sum, terms)
        return makers

    def sum(self, terms: Sequence[Node], done: dict[Node, Node]) -> Node | None:
        """The sum of terms, with what can be joined joined; None if nothing can."""
        rest = [done[term] for term in terms]
        self.alone |= {done[x] for term in terms for x in self.padded_alone(term)}
        before = len(rest)
        for joined in (self.parts, self.products, self.sums):
            rest = joined(rest)
        return None if len(rest) == before else reduce(ew.add, rest)

    def padded_alone(self, term: Node) -> Iterator[Node]:
        """The product that is read by nothing else than a padded term, if it is one."""
        users, x = self.graph.users, term
        while x.op in (mv.PAD, mv.RESHAPE):
            x = x.inputs[0]
            if len(users[x]) != 1:
                return
        if x.op is linalg.MATMUL:
            yield x

    def parts(self, terms: list[Node]) -> list[Node]:
        """Gradients of slices along one dimension that lie side by side are joined."""
        alike: dict[tuple[int, TensorType], list[tuple[int, Node]]] = {}
        rest: list[Node] = []
        for term in terms:
            axis = _padded_axis(term)
            if axis is None:
                rest.append(term)
            else:
                alike.setdefault((axis, term.type), []).append((term.attrs["low"][axis], term))
        for (axis, _), padded in alike.items():
            padded.sort(key=lambda part: part[0])
            runs: list[list[Node]] = []
            end = -1
            for low, term in padded:
                runs = runs if low == end else [*runs, []]
                runs[-1].append(term)
                end = low + term.inputs[0].shape[axis]
            for run in runs:
                rest.append(run[0] if len(run) == 1 else self.run(run, axis))
        return rest

    def run(self, padded: list[Node], axis: int) -> Node:
        applied(PARTS)
        whole = self.concat([term.inputs[0] for term in padded], axis)
        first, last = padded[0], padded[-1]
        low, high = (
            [w if a == axis else 0 for a, w in enumerate(side)] for side in (first.attrs["low"], last.attrs["high"])
        )
        return mv.pad(whole, low, high, None, 0)  # type: ignore[no-any-return]

    def products(self, terms: list[Node]) -> list[Node]:
        """sum a_i @ b_i = [a_1 a_2 ...] @ [b_1; b_2; ...], where that moves less than adding up the products."""
        chosen = [t for t in terms if t.op is linalg.MATMUL and t.ndim == 2]
        if len(chosen) < 2:
            return terms
        lefts, rights = ([t.inputs[k] for t in chosen] for k in (0, 1))
        turned_left, turned_right = _turned(lefts), _turned(rights)
        a, b = turned_left or lefts, turned_right or rights
        moved = sum(x.type.size for x in (*a, *b) if x not in self.places and _rows_of(x) is None)
        if moved > (len(chosen) - 1) * chosen[0].type.size:
            return terms
        applied(PRODUCTS)
        order = self.order(a if turned_left else (), () if turned_right else b) or _by_age(a, b)
        left = self.concat([a[i] for i in order], 0 if turned_left else 1)
        right = self.concat([b[i] for i in order], 1 if turned_right else 0)
        left = mv.matrix_transpose(left) if turned_left else left
        right = mv.matrix_transpose(right) if turned_right else right
        return [t for t in terms if t not in chosen] + [linalg.matmul(left, right)]

    def order(self, *sides: Sequence[Node]) -> list[int] | None:
        """The order in which one of the sides lies in memory already."""
        for side in sides:
            rows = [_rows_of(x) for x in side]
            if side and all(r is not None and rows[0] is not None and r[0] is rows[0][0] for r in rows):
                return sorted(range(len(side)), key=lambda i: rows[i][1])  # type: ignore[index]
        for side in sides:
            places = [self.places.get(x) for x in side]
            if side and all(p is not None and places[0] is not None and p[0] is places[0][0] for p in places):
                return sorted(range(len(side)), key=lambda i: places[i][1])  # type: ignore[index]
        return None

    def sums(self, terms: list[Node]) -> list[Node]:
        """Sums along a dimension of values that are joined there in any case are one sum."""
        alike: dict[object, list[Node]] = {}
        for term in terms:
            if term.op in (red.SUM, mv.UNBROADCAST) and term.inputs[0] in self.places and 0 in folded_axes(term):
                whole = self.places[term.inputs[0]][0]
                alike.setdefault((term.op, tuple(term.attrs.items()), whole), []).append(term)
        for same in alike.values():
            if len(same) > 1:
                applied(SUMS)
                values = sorted((t.inputs[0] for t in same), key=lambda x: self.places[x][1])
                terms = [t for t in terms if t not in same] + [same[0].replace((self.concat(values, 0),))]
        return terms

    def concat(self, parts: list[Node], axis: int) -> Node:
        """The parts joined: rows of a value that lie in it so, what was joined before, or anew."""
        if axis != 0:
            return mv.concat(parts, axis)  # type: ignore[no-any-return]
        inner = _without_first(parts)
        if inner is not None:
            return mv.reshape(self.concat(inner, 0), (len(parts), *inner[0].shape))  # type: ignore[no-any-return]
        known = _run_of_rows(parts) or self.run_of_parts(parts) or self.product(parts)
        if known is not None:
            return known
        whole: Node = mv.concat(parts, 0)
        if len(set(parts)) == len(parts):
            self.places |= {part: (whole, i) for i, part in enumerate(parts)}
        return whole

    def run_of_parts(self, parts: list[Node]) -> Node | None:
        """The rows of what the parts are joined to already, one behind the other."""
        if any(x not in self.places for x in parts):
            return None
        whole, first = self.places[parts[0]]
        if any(self.places[x] != (whole, first + i) for i, x in enumerate(parts)):
            return None
        before = sum(x.shape[0] for x in whole.inputs[:first])
        return mv.narrow(whole, 0, before, sum(x.shape[0] for x in parts))  # type: ignore[no-any-return]

    def product(self, parts: list[Node]) -> Node | None:
        """[a_1 @ b; a_2 @ b; ...] = [a_1; a_2; ...] @ b, where no other than the joined products is wanted."""
        if any(x not in self.alone or x.ndim != 2 or x.shape[0] > MOST_ROWS for x in parts):
            return None
        lefts, factor = [x.inputs[0] for x in parts], parts[0].inputs[1]
        if any(x.inputs[1] is not factor for x in parts):
            return None
        applied(SLICES)
        return linalg.matmul(self.concat(lefts, 0), factor)  # type: ignore[no-any-return]


_JOINED = (mv.PAD, linalg.MATMUL, red.SUM, mv.UNBROADCAST)


def _padded_axis(node: Node) -> int | None:
    """The one dimension along which node puts zeros around its operand."""
    if node.op is not mv.PAD or node.attrs["value"] != 0 or any(node.attrs["interior"]):
        return None
    axes = [a for a, (low, high) in enumerate(zip(node.attrs["low"], node.attrs["high"], strict=True)) if low or high]
    return axes[0] if len(axes) == 1 and node.inputs[0].type.size else None


def _run_of_rows(parts: list[Node]) -> Node | None:
    """The rows of one value that the parts are, one behind the other."""
    found = [_rows_of(x) if x.ndim == 2 else None for x in parts]
    rows = [r for r in found if r is not None]
    if len(rows) < len(parts) or any(a[0] is not b[0] or a[2] != b[1] for a, b in pairwise(rows)):
        return None
    x = rows[0][0]
    return mv.narrow(mv.reshape(x, (-1, x.shape[-1])), 0, rows[0][1], rows[-1][2] - rows[0][1])  # type: ignore[no-any-return]


def _without_first(parts: list[Node]) -> list[Node] | None:
    """x_i, where every part is x_i under a new first dimension of size 1."""
    if any(p.op is not mv.RESHAPE or p.shape != (1, *p.inputs[0].shape) or p.ndim < 2 for p in parts):
        return None
    return [p.inputs[0] for p in parts]


def _turned(matrices: list[Node]) -> list[Node] | None:
    """The transposes of matrices, if they are transposes themselves (or of one number, as states start)."""
    found = [_transposed(x) for x in matrices]
    if all(x is None for x in found):
        return None
    plain = [x.op is CONSTANT or (x.op is mv.BROADCAST_TO and x.inputs[0].type.size == 1) for x in matrices]
    if any(t is None and not p for t, p in zip(found, plain, strict=True)):
        return None
    return [mv.matrix_transpose(x) if t is None else t for x, t in zip(matrices, found, strict=True)]


def _transposed(node: Node) -> Node | None:
    """y of y.mT, also where sizes 1 were moved along with it."""
    turned = node.inputs[0] if node.op is mv.RESHAPE else node
    if turned.op is not mv.PERMUTE_DIMS:
        return None
    x = turned.inputs[0]
    moved = [a for a in turned.attrs["axes"] if x.shape[a] != 1]
    kept = sorted(moved)
    if len(kept) < 2 or moved != [kept[-1], *kept[:-1]] or x.shape[kept[-1]] != node.shape[0]:
        return None
    return mv.reshape(x, node.shape[::-1])  # type: ignore[no-any-return]


def _by_age(a: list[Node], b: list[Node]) -> list[int]:
    """The order in which the older side's values were made: that of the loop."""
    older = min(a, b, key=lambda side: max(x.serial for x in side))
    return sorted(range(len(older)), key=lambda i: older[i].serial)
