"""Small computations that recur: their whole reverse sweep as one kernel.

Walking the tape of a few small numbers takes far longer than the arithmetic does. When a tape of the same operations on
operands of the same shapes is differentiated once more, nothing is new about it but the numbers. So its signature is
looked up; once it has been swept often enough, the gradients of its leaves are taken as a formula (the value computed
anew in it: cheaper than handing over what was remembered), and compiled by the runner of `graphc.composed.house`. When
that is depends on the sweeps before it alone, never on time.

What isn't plain is left to the sweep over numbers: hooks, writes in place, anomaly mode, operations without a body.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy.typing as npt
from numpy import ndarray

from graphc.composed import house
from graphc.dispatch import SCALARS, apply
from graphc.ir.graph import Graph
from graphc.ir.node import Node, constant, fresh_input, make
from graphc.ops.marks import GRADIENT
from graphc.primitive import Primitive
from graphc.records import Leaf, Record, Vertex, clock
from graphc.types import TensorType, dtype_of

Array = npt.NDArray[Any]
MOST = 64  # operations of a tape
LARGEST = 2048  # elements of an operand
WORTH = 512  # operations that are swept one by one before a kernel takes over
_SIGNATURES = 1024  # that are remembered at once


class Trail:
    """What was found on the way from a result: see `signature`."""

    __slots__ = ("inputs", "key", "leaves", "order")

    def __init__(self, key: tuple[Any, ...], order: list[Record], leaves: list[Leaf], inputs: list[Array]) -> None:
        self.key = key
        self.order = order
        self.leaves = leaves
        self.inputs = inputs


class Sweep:
    """The reverse sweep over tapes of one signature. run: from their inputs to the gradients of `reached` leaves."""

    __slots__ = ("_kernel", "_refused", "calls", "reached", "run")

    def __init__(self) -> None:
        self.calls = 0
        self.run: Callable[..., Sequence[Array]] | None = None
        self.reached: tuple[int, ...] = ()
        self._kernel: Callable[[], Callable[..., Sequence[Array]] | None] | None = None
        self._refused = False

    def arrives(self, trail: Trail) -> bool:
        """Count a sweep; whether it is to be the kernel's."""
        self.calls += 1
        kernel = self._kernel
        if kernel is not None and self.calls * len(trail.order) >= WORTH:
            self.run = kernel()
            self._refused = self.run is None
            self._kernel = None
        return self.run is not None

    def swept(self, trail: Trail, found: dict[Vertex, Any]) -> None:
        """Told what the sweep over numbers found, which the kernel will find again: about half way, it is begun."""
        if self._kernel is not None or self._refused or 2 * self.calls * len(trail.order) < WORTH:
            return
        runner = house.runner
        if runner is None:
            return
        self.reached = tuple([i for i, leaf in enumerate(trail.leaves) if leaf in found])
        self._kernel = runner.compiled(_formula(trail, self.reached), "backward")


_sweeps: dict[tuple[Any, ...], Sweep] = {}


def lookup(trail: Trail) -> Sweep:
    """The sweep over tapes of this signature."""
    sweep = _sweeps.get(trail.key)
    if sweep is None:
        if len(_sweeps) >= _SIGNATURES:
            _sweeps.clear()
        sweep = _sweeps[trail.key] = Sweep()
    return sweep


def signature(root: Record) -> Trail | None:
    """A walk over the tape from a result: all that decides the formula of its gradients, and the numbers in it.

    Operations are numbered as they are met, so tapes of one key have the same order, and the same inputs: arrays that
    are constants of the tape, and those of its leaves, once each. None for a tape that isn't small and plain.
    """
    written = clock.last_write
    numbers: dict[Vertex, int] = {root: 0}
    order = [root]
    leaves: list[Leaf] = []
    inputs: list[Array] = []
    at: list[int] = []  # which input is the leaf's
    key: list[Any] = []
    tell = key.append
    for record in order:  # which grows
        arrays, op = record.arrays, record.op
        if arrays is None or record.hooks is not None or record.stamp <= written:
            return None
        if op.body is None:  # type: ignore[union-attr]
            return None
        tell(op)
        if record.attrs:
            tell(tuple(record.attrs.items()))
        for source, x in zip(record.sources, arrays):
            if source is None:
                if type(x) is ndarray and x.size <= LARGEST:
                    tell(x.shape)
                    tell(x.dtype.char)
                    inputs.append(x)
                elif type(x) in SCALARS:  # part of the formula
                    tell(type(x))
                    tell(x or repr(x))  # -0.0 == 0.0
                else:
                    return None
                continue
            number = numbers.get(source)
            if number is None:
                if type(source) is Record:
                    tell(len(order))
                    numbers[source] = len(order)
                    order.append(source)
                elif type(x) is not ndarray or x.size > LARGEST:
                    return None
                else:
                    numbers[source] = -1 - len(leaves)
                    tell(numbers[source])
                    tell(x.shape)
                    tell(x.dtype.char)
                    leaves.append(source)  # type: ignore[arg-type]
                    at.append(len(inputs))
                    inputs.append(x)
            elif number < 0 and inputs[at[-1 - number]] is not x:
                return None  # the leaf was given other memory meanwhile
            else:
                tell(number)
        if len(order) > MOST:
            return None
    for leaf in leaves:
        if leaf.hooks is not None:
            return None
    return Trail(tuple(key), order, leaves, inputs)


def _formula(trail: Trail, reached: Sequence[int]) -> Graph:
    """The gradients of the tape's result with respect to the leaves that are reached, from the tape's inputs."""
    inputs: list[Node] = []
    nodes: dict[Vertex, Node] = {}
    operands: dict[Record, list[Any]] = {}
    for record in trail.order:  # inputs are numbered as in signature()
        own = operands[record] = []
        for source, x in zip(record.sources, record.arrays or (), strict=True):
            if source is None and type(x) is not ndarray:
                own.append(x)
            elif source is None or (type(source) is Leaf and source not in nodes):
                inputs.append(fresh_input(f"x{len(inputs)}", TensorType(x.shape, dtype_of(x.dtype))))
                own.append(inputs[-1])
                if source is not None:
                    nodes[source] = inputs[-1]
            else:
                own.append(source)
    for record in sorted(trail.order, key=lambda r: r.stamp):
        assert type(record.op) is Primitive
        given = [nodes[x] if type(x) in (Record, Leaf) else x for x in operands[record]]
        nodes[record] = apply(record.op, *given, **record.attrs)
    y = nodes[trail.order[0]]
    seed = constant(1, y.dtype)
    return Graph(inputs, [make(GRADIENT, (y, seed, nodes[trail.leaves[i]]), {}) for i in reached])
