"""The CPU's compiler: passes, plan, schedule, LLVM text. Imported only when something must be compiled."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial

from graphc.collector import paused
from graphc.ir.graph import Graph
from graphc.passes import pipeline
from graphc.runtime.layout import assign
from graphc.runtime.loop.schedule.cpu import cost_cpu, schedule_cpu
from graphc.runtime.plan import plan
from graphc.runtime.program import Program, Step
from graphc.runtime.stream import worth_streaming
from graphc.runtime.timing import Times, timed
from graphc.types import float32

from .jit import Compilation
from .llvm import ProgramPrinter
from .search import Search
from .target import host


def program(
    graph: Graph,
    state: Mapping[int, int],
    search: float = 0.0,
    planned: Callable[[Step], object] = lambda step: None,
) -> Program:
    """What a call of a fused graph runs. state: output number -> number of the input that it overwrites.

    search: seconds for measuring which schedules are fastest; 0 leaves it to the cost model. planned: is told each
    step as soon as it is known.
    """
    target = host()
    layouts = assign(graph, target.lanes(float32))
    schedule = Search(target, search).schedule if search else partial(schedule_cpu, target=target)
    cost = partial(cost_cpu, target=target)
    return plan(graph, state, schedule=schedule, layouts=layouts, planned=planned, cost=cost, stream=worth_streaming)


def make(graph: Graph, state: Mapping[int, int], seconds: Times, search: float, compilation: Compilation) -> Program:
    """The program of a traced graph, its modules given to `compilation` while it is being planned."""
    with timed(seconds, "passes"):
        fused = pipeline.run(graph)[-1].graph
    with timed(seconds, "plan, schedule and print"), paused():
        printer = ProgramPrinter(host(), compilation.add)
        planned = program(fused, state, search, printer.step)
        printer.entry(planned)
    return planned
