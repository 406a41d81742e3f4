"""Another size of arrays: called at once, compiled in the background.

A function that was compiled for a batch of 64 and is called with one of 32 needs another program: sizes are part of
what is planned, tiled and unrolled. Nobody waits for it. The call is traced (which decides what it means), its graph
rewritten as far as its numbers need it and computed node by node (nodewise.py); while further calls are computed in
this way, a process beside this one (worker.py), or else a thread, compiles the program, which takes over as soon as it
is there. Of sizes in quick succession, as texts of any length have, those are compiled that come back. Where NumPy
would take longer than compiling does, the call waits for the program instead.

    call:         first of a size        others, until it is ready      from then on
    computed by   NumPy, node by node    NumPy, node by node            the program

What else was thought of, with measurements on two cores (LeNet, MLP, GPT steps and Black-Scholes; a second size took
900, 320, 1,200 and 50 ms; `python -m tests.bench --latency` measures calls, `explain().seconds` tells their parts):

  sizes as parameters of the program: passes and planning alone, without LLVM, take 450 ms for a GPT step, so the plan
      itself would have to be a function of sizes; but layouts, tiles, splits of reductions and shared memory are chosen
      by the sizes, and a program that leaves them open is slower at each.
  a program for the largest batch with a mask over smaller ones: one more program to compile before the first such call,
      and a small batch costs as much as a large one.
  calling the function uncompiled: 26 to 59, 12, 170 and 5 ms at the first call, more at the next ones, while eager
      kernels are compiled for that size; and what it wrote before an error stays written.
  computing node by node: 22, 17, 49 and 4 ms at the first call; of a GPT step's, tracing takes 12, the passes that
      numbers need 14 and NumPy most of the rest.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy.typing as npt

from graphc.collector import paused
from graphc.errors import CompileError
from graphc.forking import import_module
from graphc.ir.graph import Graph
from graphc.ir.node import Node

from .backend import Backend, Order, Run
from .background import Task, busy
from .heap import Heap
from .nodewise import Nodewise
from .timing import Times, timed

if TYPE_CHECKING:
    from graphc.passes.pipeline import Step

Array = npt.NDArray[Any]

# Seconds, roughly: what decides between waiting and NumPy may be wrong by a factor, but not depend on time.
_COMPILING = 2e-3  # of a node
_CALL = 5e-6  # of a NumPy function
_ELEMENT = 1e-9  # read or written
_PRODUCT = 5e-11  # a multiplication and an addition in a contraction
# Of the bytes of all values that are traced, what a training step has alive at once at least, derivatives included
_ALIVE = 0.35
_MOST = 2**26  # bytes of memory that are made ready before it is known what is needed


class Meanwhile:
    """A Run that computes node by node until its program is compiled. seconds: is told how long the parts took.

    calls: how many were computed node by node.
    """

    def __init__(self, order: Order, seconds: Times) -> None:
        pipeline = import_module("graphc.passes.pipeline")
        heap = Heap()
        heap.prepare(min(_MOST, int(_ALIVE * sum([node.type.nbytes for node in order.graph.nodes]))))
        with timed(seconds, "passes that numbers need"), paused():
            # kept for a while: to free thousands of nodes takes milliseconds, which the first call needn't wait for
            self._steps: Sequence[Step] = pipeline.run(order.graph, pipeline.NUMBERS, check=False)
            self._nodewise: Nodewise | None = Nodewise(self._steps[-1].graph, order.state, heap)
        self._order = order
        self._seconds = seconds
        self._task: Task[Run] = Task(self._compiled)
        self._begun = 0  # the process whose thread was told to compile
        self.calls = 0

    @property
    def done(self) -> bool:
        """Whether there is a program, or a reason why there can't be one."""
        return self._task.done

    def program(self) -> Run:
        """The program; waits for it. Raises what compiling it raised, each time."""
        program = self._task.result()
        self._nodewise = None
        return program

    def __call__(self, *arrays: Array) -> list[Array]:
        """As the program. Raises what that raises, and what compiling it raised once that is known."""
        nodewise = self._nodewise
        if nodewise is None or self.done:
            return self.program()(*arrays)
        try:
            found = nodewise(*arrays)
        except Exception:  # nothing is written yet: let the program say what is wrong
            return self.program()(*arrays)
        self.calls += 1
        if self._begun != os.getpid():
            recurs = self.calls > 1
            # Not before: the first call has the machine to itself. Of sizes that come in quick succession each may
            # be the last of its kind: those that find the thread busy are compiled when they come back.
            if recurs or not busy():
                self._begun = os.getpid()
                self._task.begin(urgent=recurs)
        return found

    def _compiled(self) -> Run:
        self._steps = ()
        worker = import_module("graphc.runtime.worker").worker  # imported here, where nobody waits
        if not (self._order.ready or worker.compile(self._order)) and worker.closed:
            raise CompileError("the program ended before this was compiled.")
        return self._order.build(self._seconds)


def begun(backend: Backend, graph: Graph, state: Mapping[int, int], seconds: Times) -> tuple[Run, Meanwhile | None]:
    """What computes a traced graph; and the same again while it is compiled in the background, if it is."""
    order = backend.order(graph, state)
    if order is None:
        return backend.build(graph, state, seconds), None
    if order.ready or seconds_of(graph) > _COMPILING * len(graph.nodes):
        return order.build(seconds), None
    waiting = Meanwhile(order, seconds)
    return waiting, waiting


def maker(backend: Backend) -> Callable[[Graph], Run]:
    """What gives the computation of a graph without state, compiled in the background if it pays."""
    return lambda graph: begun(backend, graph, {}, {})[0]


def seconds_of(graph: Graph) -> float:
    """About how long NumPy takes for a traced graph and the derivatives that it asks for."""
    total = 0.0
    sizes: dict[Node, int] = {}
    for node in graph.nodes:
        sizes[node] = node.type.size
        if node.inputs:
            total += _CALL + _ELEMENT * (sizes[node] + sum([sizes[x] for x in node.inputs]))
            if node.op.contraction and node.op.body is not None:
                formula = node.op.body(*[x.type for x in node.inputs], **node.attrs)
                products = math.prod([axis.extent for axis in (*formula.axes, *formula.reduce)])
                total += 3 * _PRODUCT * products  # each has two derivatives
    return total
