"""The two sweeps of automatic differentiation, each once: `pull` (reverse mode) and `push` (forward mode).

They walk any recorded computation. On the tape the values are numbers and the result is a gradient; in the
`differentiate` pass the values are graph nodes and the result is the derivative's formula. Nothing else
differs, so dynamic and static mode agree by construction.

Zero cotangents and tangents are symbolic: an absent entry, never an array of zeros.

Below a `where` a cotangent holds exact zeros for the branch that wasn't chosen. From there on the sweep
multiplies with `strong_multiply`, in which 0 * inf and 0 * nan are 0, so that branch can't poison the
gradient; everywhere else products are IEEE's.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Hashable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any, ClassVar, Generic, Protocol, TypeVar

from graphc.dispatch import dtype_of_value, number_like, shape_of
from graphc.errors import AutodiffError
from graphc.ops.elementwise import add, multiply, negative, strong_multiply
from graphc.ops.movement import broadcast_to, sum_to
from graphc.primitive import Primitive, Value


class Vertex(Hashable, Protocol):
    """One recorded operation: a Node, or a Record of the tape."""

    @property
    def op(self) -> Primitive | None: ...
    @property
    def attrs(self) -> Mapping[str, Any]: ...


V = TypeVar("V", bound=Vertex)


class Carrier(Generic[V]):
    """How a sweep reads a recorded computation, and what it adds and multiplies with."""

    add: ClassVar[Callable[..., Value]] = staticmethod(add)
    multiply: ClassVar[Callable[..., Value]] = staticmethod(multiply)
    # (vertex) -> a context that is entered while the vertex's rule runs (provenance); None for nothing
    deriving: Callable[[V], AbstractContextManager[object]] | None = None

    def ahead(
        self,
        rest: Iterator[V],
        cotangents: dict[V, Value],
        wanted: Collection[V],
        strong: Collection[V],
        active: Collection[V] | None,
    ) -> V | None:
        """The next vertex of `rest` that pull() must see to; None at the end.

        A carrier may know a shorter way for some vertices and go ahead through them: those that are neither wanted
        nor strong, each of which takes its own cotangent out of `cotangents` and adds what it means to its sources'.
        """
        return next(rest, None)

    def sources(self, vertex: V) -> Sequence[V | None]:
        """The vertices of its operands, None for a constant operand."""
        raise NotImplementedError

    def values(self, vertex: V) -> tuple[Value, Sequence[Value]]:
        """(y, xs): the result and the operands, as values that rules can compute with."""
        raise NotImplementedError

    def arrived(self, vertex: V, cotangent: Value) -> Value:
        """Called once a vertex's cotangent is complete; hooks may replace it."""
        return cotangent


def cotangent_of_operand(
    op: Primitive,
    number: int,
    g: Value,
    y: Value,
    xs: Sequence[Value],
    attrs: Mapping[str, Any],
    product: Callable[..., Value] = multiply,
) -> Value | None:
    """The cotangent that `op` hands to operand `number`, of that operand's shape; None for zero.

    product: what a cotangent is multiplied with a local derivative by.
    """
    if op.partials is not None:
        rule = op.partials[number]
        if rule is None:
            return None
        # written out: a call with *xs takes as long as a small product
        partial = rule(y, xs[0], xs[1]) if len(xs) == 2 else rule(y, *xs)
        if type(partial) is int and abs(partial) == 1:  # not 0: the user's 0 * inf is nan
            result = g if partial == 1 else negative(g)
        else:
            result = product(g, partial)
        x = xs[number]
        if type(result) is type(x) and result.shape == x.shape:
            return result
    else:
        rule = op.vjp(number) if callable(op.vjp) else op.vjp[number] if op.vjp is not None else None
        if rule is None:
            return None
        result = rule(g, y, *xs, **attrs)
        if result is None:
            return None
    if op.elementwise:
        result = sum_to(result, shape_of(xs[number]))
    return result


def pull(
    order: Sequence[V],
    cotangents: dict[V, Value],
    carrier: Carrier[V],
    wanted: Collection[V],
    active: Collection[V] | None = None,
    masked: Collection[V] = (),
) -> dict[V, Value]:
    """Reverse sweep: from cotangents of outputs to the cotangents of the `wanted` vertices.

    order: vertices, operands before users. cotangents: of the outputs; consumed. active: the vertices on a
    path to a wanted one (None: all). masked: outputs whose cotangent has been below a `where` already. A wanted
    vertex that gets no entry has derivative zero.
    """
    strong: set[V] = set(masked)
    found: dict[V, Value] = {}
    plus, times, deriving = carrier.add, carrier.multiply, carrier.deriving
    arrived, values_of, sources_of = carrier.arrived, carrier.values, carrier.sources
    ahead = carrier.ahead

    def hand_down(vertex: V, op: Primitive, g: Value) -> None:
        """Add what one vertex's cotangent means to those of its operands."""
        y, xs = values_of(vertex)
        attrs = vertex.attrs
        masks = vertex in strong
        product = strong_multiply if masks else times
        sources = sources_of(vertex)
        together: Sequence[Value | None] | None = None
        if op.pullback is not None:
            wants = tuple([s is not None and (active is None or s in active) for s in sources])
            together = op.pullback(g, y, *xs, wanted=wants, masked=masks, **attrs)
        for number, source in enumerate(sources):
            if source is None or (active is not None and source not in active):
                continue
            if together is not None:
                c = together[number]
            else:
                c = cotangent_of_operand(op, number, g, y, xs, attrs, product)
            if c is None:
                continue
            before = cotangents.get(source)
            cotangents[source] = c if before is None else plus(before, c)
            if masks or op.selects:
                strong.add(source)

    rest = reversed(order)
    while (vertex := ahead(rest, cotangents, wanted, strong, active)) is not None:
        g = cotangents.pop(vertex, None)
        if g is None:
            continue
        g = arrived(vertex, g)
        if vertex in wanted:
            found[vertex] = g
        op = vertex.op
        if op is None:
            continue
        if deriving is None:
            hand_down(vertex, op, g)
        else:
            with deriving(vertex):
                hand_down(vertex, op, g)
    return found


def tangent_of_result(
    op: Primitive, tangents: Sequence[Value | None], y: Value, xs: Sequence[Value], attrs: Mapping[str, Any]
) -> Value | None:
    """The tangent of y from those of the operands (None: zero), of y's shape; None for zero."""
    if op.partials is None:
        if op.jvp is None:
            return None
        result = op.jvp(tuple(tangents), y, *xs, **attrs)
    else:
        result = None
        for t, rule in zip(tangents, op.partials, strict=True):
            if t is None or rule is None:
                continue
            partial = rule(y, *xs)
            if type(partial) is int and abs(partial) == 1:
                term = t if partial == 1 else negative(t)
            else:
                term = multiply(t, partial)
            result = term if result is None else add(result, term)
    if result is not None and op.elementwise:
        result = broadcast_to(result, shape_of(y))
    return result


def push(order: Sequence[V], tangents: dict[V, Value], carrier: Carrier[V]) -> dict[V, Value]:
    """Forward sweep: from tangents of inputs to those of every vertex that depends on them."""
    for vertex in order:
        op = vertex.op
        if op is None or vertex in tangents:
            continue
        incoming = [None if s is None else tangents.get(s) for s in carrier.sources(vertex)]
        if all(t is None for t in incoming):
            continue
        y, xs = carrier.values(vertex)
        with nullcontext() if carrier.deriving is None else carrier.deriving(vertex):
            t = tangent_of_result(op, incoming, y, xs, vertex.attrs)
        if t is not None:
            tangents[vertex] = t
    return tangents


def default_seed(y: Value, what: str = "backward()") -> Value:
    """The cotangent 1 of a scalar result. Raises AutodiffError if y isn't a floating scalar."""
    dtype = dtype_of_value(y)
    if dtype.kind != "f":
        raise AutodiffError(f"{what}: the result is {dtype.name}; only floating results have a derivative.")
    if shape_of(y) != ():
        raise AutodiffError(
            f"{what}: the result has shape {shape_of(y)}; a derivative without a seed needs a scalar. "
            "Reduce it (.sum() or .mean()) or give the cotangent."
        )
    return number_like(y, 1.0, dtype)
