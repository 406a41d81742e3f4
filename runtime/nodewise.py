"""A graph computed node by node in NumPy: what a compiled function runs while its program isn't ready yet.

Slower than a program by several times, but ready at once: a program takes tenths of a second to be planned and
compiled, the nodes of a training step take hundredths to be computed. It is called as an Executable is, refuses what
that refuses, and leaves the same state behind; results differ by rounding.

What keeps it quick: elementwise results are written over operands that nobody reads again, other large ones into memory
that was used before (see heap.py; fresh memory costs more than the arithmetic does), and products of matrices run on
graphc's own threads (see arrays.py).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from graphc.ir.graph import Graph
from graphc.ir.node import CONSTANT, INPUT, Node
from graphc.primitive import Primitive
from graphc.records import thread
from graphc.types import Shape

from .arrays import Namespace
from .cpu import arguments
from .executable import Argument, checked_arguments, refuse_shared
from .heap import LEAST, Heap

Array = npt.NDArray[Any]


class _Step(NamedTuple):
    """One node. operands, result: slots of values. over: the slot of a dying operand that the result may be written
    over, -1 for none. new: shape and dtype of a result that is written into the heap, else None. dead: slots that
    nobody reads after this."""

    function: Callable[..., Any]
    operands: tuple[int, ...]
    attrs: Mapping[str, Any]
    result: int
    over: int
    new: tuple[Shape, np.dtype[Any]] | None
    dead: tuple[int, ...]


class Nodewise:
    """A callable on the arrays of a graph's inputs that gives its outputs' arrays. The graph has no marks left.

    state: output number -> number of the input that it overwrites. Any number of threads may call it at once.
    """

    def __init__(self, graph: Graph, state: Mapping[int, int], heap: Heap | None = None) -> None:
        """heap: for its intermediate results."""
        written = set(state.values())
        self._arguments = [
            Argument(node.dtype, node.shape, arguments.STATE if i in written else arguments.INPUT)
            for i, node in enumerate(graph.inputs)
        ]
        self._state = dict(state)
        slots: dict[Node, int] = {}
        for node in (*graph.inputs, *graph.nodes):
            slots.setdefault(node, len(slots))
        self._slots = len(slots)
        self._constants = [(slots[n], n.attrs["value"].array) for n in graph.nodes if n.op is CONSTANT]
        self._heap = heap or Heap()
        given_out = {n for i, n in enumerate(graph.outputs) if i not in state}  # must have memory of their own
        self._steps = _steps(graph, slots, given_out, Namespace(self._heap))
        self._outputs = [slots[n] for n in graph.outputs]

    def __call__(self, *arrays: Any) -> list[Array]:
        """As Executable.__call__, and raises what that raises. Nothing is written before all is computed."""
        given = checked_arguments(self._arguments, arrays)
        refuse_shared({i: given[i] for i in self._state.values()})
        values: list[Any] = [*given, *[None] * (self._slots - len(given))]
        for slot, array in self._constants:
            values[slot] = array
        thread.modes.quiet.copy().run(_run, self._steps, values, self._heap.empty)
        found = self._apart(given, [np.asarray(values[slot]) for slot in self._outputs])
        for output, source in self._state.items():
            given[source][...] = found[output]
            found[output] = given[source]
        self._heap.release()
        return found

    def _apart(self, given: Sequence[Array], found: Sequence[Array]) -> list[Array]:
        """The results, each dense, in memory that neither an argument nor a constant nor another result has; but what
        is written to a state may lie in any memory that no argument has."""
        taken, owners = {id(x) for x in given}, {id(_owner(x)) for x in given}
        results: list[Array] = []
        for output, array in enumerate(found):
            if output in self._state:
                results.append(array.copy() if id(_owner(array)) in owners else array)
                continue
            own = array.flags.owndata and array.flags.writeable and array.flags.c_contiguous
            results.append(array if own and id(array) not in taken else array.copy("C"))
            taken.add(id(array))
        return results


def _owner(array: Array) -> Array:
    """The array whose memory this one is a view of; itself if it is none."""
    while isinstance(array.base, np.ndarray):
        array = array.base
    return array


def _run(steps: Sequence[_Step], values: list[Any], empty: Callable[[Shape, np.dtype[Any]], Array]) -> None:
    for function, operands, attrs, result, over, new, dead in steps:
        read = [values[slot] for slot in operands]
        if over >= 0:
            values[result] = function(*read, out=values[over])
        elif new is not None:
            values[result] = function(*read, out=empty(*new))
        else:
            values[result] = function(*read, **attrs)
        for slot in dead:
            values[slot] = None


def _steps(graph: Graph, slots: Mapping[Node, int], given_out: set[Node], namespace: Namespace) -> list[_Step]:
    last: dict[Node, Node] = {}
    for node in graph.nodes:
        for x in node.inputs:
            last[x] = node
    lasting = {*graph.inputs, *graph.outputs}
    own: set[Node] = set()  # results of ufuncs, of which no view can have been taken
    functions: dict[Primitive, tuple[bool, Callable[..., Any]]] = {}  # whether it is a ufunc
    steps: list[_Step] = []
    for node in graph.nodes:
        op = node.op
        if op is INPUT or op is CONSTANT:
            lasting.add(node)
            continue
        dying = [x for x in node.inputs if last[x] is node and x not in lasting]
        if op not in functions:
            ufunc = None if op.contraction else op.ufunc
            functions[op] = ufunc is not None, ufunc or partial(op.eval, namespace)
        plain, function = functions[op]
        over, new = -1, None
        if not plain:
            own.difference_update(node.inputs)
        elif node.type.shape:  # a ufunc's result without dimensions is no array
            for x in dying:
                if x in own and x.type == node.type:
                    over = slots[x]
                    break
            if over < 0 and node not in given_out and node.type.nbytes >= LEAST:
                new = node.shape, node.dtype.numpy
            own.add(node)
        operands, dead = tuple([slots[x] for x in node.inputs]), tuple([slots[x] for x in dying])
        steps.append(_Step(function, operands, node.attrs, slots[node], over, new, dead))
    return steps
