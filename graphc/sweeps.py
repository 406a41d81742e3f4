"""The tape's side of differentiation: records read as numbers, or as Tensors that are recorded in turn.

Either reading is handed to autodiff.pull and autodiff.push. On numbers, plain stretches of the tape run in one loop.
"""

from __future__ import annotations

import operator
from collections.abc import Collection, Iterator, Sequence
from typing import Any

import numpy as np
from numpy import ndarray

from graphc import dispatch
from graphc.autodiff import Carrier, cotangent_of_operand, pull
from graphc.bare import FLOAT32, SINGLES
from graphc.errors import (
    AnomalyError,
    AutodiffError,
)
from graphc.interpreter import Hook
from graphc.ops.movement import sum_to
from graphc.primitive import Value
from graphc.records import (
    Leaf,
    Overwritten,
    Record,
    Vertex,
    clock,
    enable_grad,
    sweeps_begun,
    thread,
)
from graphc.tensor import Tensor, wrap


class Numbers(Carrier[Vertex]):
    """Reads records as raw arrays: the gradient is numbers, and nothing more is recorded."""

    add = np.add
    multiply = np.multiply
    sources = staticmethod(operator.attrgetter("sources"))  # type: ignore[assignment]

    def __init__(self, anomaly: bool) -> None:
        self.anomaly = _Anomaly() if anomaly else None

    def values(self, vertex: Vertex) -> tuple[Value, Sequence[Value]]:
        arrays = vertex.arrays  # type: ignore[union-attr]
        if arrays is not None and vertex.stamp > clock.last_write:
            return vertex.y, arrays  # type: ignore[union-attr]
        assert type(vertex) is Record
        arrays = _present(vertex)
        y = vertex.y
        if vertex.overwritten is not None:
            y = Overwritten(y, vertex.op, vertex.overwritten)  # type: ignore[arg-type]
        return y, [_current(vertex, x, array) for x, array in zip(vertex.operands or (), arrays, strict=True)]

    def ahead(
        self,
        rest: Iterator[Vertex],
        cotangents: dict[Vertex, Value],
        wanted: Collection[Vertex],
        strong: Collection[Vertex],
        active: Collection[Vertex] | None,
    ) -> Vertex | None:
        """Hands down through elementwise operations and those of one operand, on NumPy arrays: see pull().

        Everything that isn't plain is left to pull(): hooks, what was overwritten or freed, other array libraries.
        """
        if self.anomaly is not None:
            return next(rest, None)
        numbers = dispatch.NUMBERS
        product: Any = np.multiply
        plus: Any = np.add
        for vertex in rest:
            g = cotangents.get(vertex)
            if g is None:
                continue
            op: Any = vertex.op
            if op is None or vertex.hooks or vertex.stamp <= clock.last_write or vertex in wanted or vertex in strong:
                return vertex
            rules = op.numeric
            xs = vertex.arrays  # type: ignore[union-attr]
            if xs is None or type(g) not in numbers:
                return vertex
            c: Any  # what an operand is handed
            y, dtype, number, pair = vertex.y, g.dtype, -1, len(xs) == 2  # type: ignore[union-attr]
            if rules is None:
                if len(xs) != 1 or op.selects or op.pullback is not None:
                    return vertex
                (source,) = vertex.sources
                del cotangents[vertex]
                if source is not None and (active is None or source in active):
                    c = cotangent_of_operand(op, 0, g, y, xs, vertex.attrs, product)
                    if c is not None:
                        before = cotangents.get(source)
                        cotangents[source] = c if before is None else plus(before, c)
                continue
            del cotangents[vertex]
            for source in vertex.sources:
                number += 1
                if source is None or (active is not None and source not in active):
                    continue
                rule = rules[number]
                if rule is None:
                    continue
                # written out: a call with *xs takes as long as a small product
                partial = rule(y, xs[0], xs[1]) if pair else rule(y, *xs)
                kind = type(partial)
                if kind is ndarray:
                    c = product(g, partial)
                elif kind is int and (partial == 1 or partial == -1):
                    c = g if partial == 1 else np.negative(g)
                else:
                    c = product(g, SINGLES[partial] if kind is float and dtype is FLOAT32 else partial)
                if c.dtype is not dtype:  # Python numbers became NumPy's double on the way: then as it is written
                    c = cotangent_of_operand(op, number, g, y, xs, vertex.attrs, product)
                elif c.shape != xs[number].shape:
                    c = sum_to(c, xs[number].shape)
                before = cotangents.get(source)
                cotangents[source] = c if before is None else plus(before, c)
        return None

    def arrived(self, vertex: Vertex, cotangent: Value) -> Value:
        if self.anomaly is not None:
            self.anomaly.check(vertex, cotangent)
        if vertex.hooks:
            g = wrap(np.array(cotangent))  # hooks may keep it: their own copy
            for hook in tuple(vertex.hooks):
                g = _hooked(hook, g)
            return g._data.copy()
        return cotangent


class Tensors(Carrier[Vertex]):
    """Reads records as Tensors: the gradient is recorded in turn, so it can be differentiated again."""

    def __init__(self, anomaly: bool) -> None:
        self.anomaly = _Anomaly() if anomaly else None

    def sources(self, vertex: Vertex) -> Sequence[Vertex | None]:
        return vertex.sources

    def values(self, vertex: Vertex) -> tuple[Value, Sequence[Value]]:
        assert type(vertex) is Record
        _present(vertex)
        xs = [_current(vertex, x, x) for x in vertex.operands or ()]
        if vertex.overwritten is not None:
            return Overwritten(vertex.y, vertex.op, vertex.overwritten), xs  # type: ignore[arg-type]
        y = wrap(vertex.y)
        y._record = vertex
        return y, xs

    def arrived(self, vertex: Vertex, cotangent: Value) -> Value:
        if self.anomaly is not None:
            self.anomaly.check(vertex, cotangent._data)
        for hook in tuple(vertex.hooks or ()):
            cotangent = _hooked(hook, cotangent)
        return cotangent


def _hooked(hook: Hook, g: Tensor) -> Tensor:
    """What a hook makes of a gradient. Raises AutodiffError if it returns something that can't take its place."""
    replaced = hook(g)
    if replaced is None:
        return g
    if not isinstance(replaced, Tensor) or replaced.shape != g.shape or replaced.dtype is not g.dtype:
        got = f"{replaced.dtype.name}{replaced.shape}" if isinstance(replaced, Tensor) else type(replaced).__name__
        raise AutodiffError(f"a hook must return None or a tensor {g.dtype.name}{g.shape} as it was given, not {got}.")
    return replaced


def _current(record: Record, x: Any, value: Value) -> Value:
    """`value`, which is the operand x's; or a stand-in if x was written to since the record was made."""
    version = x._version if isinstance(x, Tensor) else None
    if version is None or version.stamp <= record.stamp:
        return value
    return Overwritten(x._data, record.op, version)  # type: ignore[arg-type]


def _present(record: Record) -> tuple[Any, ...]:
    if record.arrays is None:
        raise AutodiffError(
            "the tape of this computation was freed by an earlier backward(). To differentiate it twice, call "
            "backward(retain_graph=True) the first time, or compute it again."
        )
    return record.arrays


class _Anomaly:
    """Finds the first nan of a sweep and the operations whose derivative made it."""

    def __init__(self) -> None:
        self._ran: list[Vertex] = []  # each of these has handed its cotangent down

    def check(self, vertex: Vertex, cotangent: Any) -> None:
        """Called with each complete cotangent. Raises AnomalyError for one that has nan."""
        if not np.isnan(cotangent).any():
            self._ran.append(vertex)
            return
        users = [v for v in self._ran if vertex in v.sources and v.op is not None]
        makers = ", ".join(f"{v.op.name} (computed at {getattr(v, 'location', None) or '?'})" for v in users if v.op)
        raise AnomalyError(
            f"backward: the derivative of {makers} is nan."
            if makers
            else "backward: the gradient that backward() was given has nan."
        )


def reachable(roots: Sequence[Vertex]) -> list[Vertex]:
    """Every vertex the roots reach, operands before users. Iterative."""
    seen: set[Vertex | None] = {None, *roots}
    order = list(dict.fromkeys(roots))
    for vertex in order:  # which grows
        for source in vertex.sources:
            if source not in seen:
                seen.add(source)
                order.append(source)  # type: ignore[arg-type]
    order.sort(key=_stamp)
    return order


_stamp = operator.attrgetter("stamp")


def leaves(order: Sequence[Vertex]) -> set[Vertex]:
    """The leaves among what `reachable` gave: their stamp is 0, so they come first."""
    found: set[Vertex] = set()
    for vertex in order:
        if vertex.op is not None:
            break
        found.add(vertex)
    return found


def sweep(
    order: Sequence[Vertex],
    seeds: Sequence[tuple[Vertex, Tensor]],
    wanted: Collection[Vertex],
    active: Collection[Vertex] | None,
    create_graph: bool,
) -> dict[Vertex, Any]:
    """Cotangents of the wanted vertices: Tensors if create_graph, else arrays. order, active: see autodiff.pull."""
    before, thread.modes.sweep = thread.modes.sweep, next(sweeps_begun)
    try:
        cotangents: dict[Vertex, Any] = {}
        for vertex, seed in seeds:
            g = seed if create_graph else seed._data
            cotangents[vertex] = g if vertex not in cotangents else cotangents[vertex] + g
        if create_graph:
            with enable_grad():
                return pull(order, cotangents, Tensors(thread.modes.anomaly), wanted, active)
        # NumPy's errors are silenced by the prepared context; hooks are the user's code, and run in it too
        return thread.modes.quiet.copy().run(_pull_numbers, order, cotangents, wanted, active)
    finally:
        thread.modes.sweep = before


def depends_on_others(roots: Sequence[Vertex], variables: Sequence[Tensor]) -> bool:
    """Whether anything but the variables of this transform could be differentiated by, outside of it."""
    if not thread.modes.recording:
        return False
    own = {id(v._record) for v in variables}
    return any(type(v) is Leaf and id(v) not in own and not v.done for v in reachable(roots))


def _pull_numbers(
    order: Sequence[Vertex],
    cotangents: dict[Vertex, Any],
    wanted: Collection[Vertex],
    active: Collection[Vertex] | None,
) -> dict[Vertex, Any]:
    with dispatch.numbers():
        return pull(order, cotangents, Numbers(thread.modes.anomaly), wanted, active)


def release(order: Sequence[Vertex]) -> None:
    """Free what the records remember."""
    for vertex in order:
        if type(vertex) is Record:
            vertex.operands = vertex.arrays = vertex.y = None
