"""The CPU's compiler: passes, plan, schedule, LLVM text. Imported only when something must be compiled."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial

from graphc.ir.graph import Graph
from graphc.passes import pipeline
from graphc.runtime.layout import assign
from graphc.runtime.loop.schedule.cpu import schedule_cpu
from graphc.runtime.plan import plan
from graphc.runtime.program import Program
from graphc.runtime.timing import Times, timed
from graphc.types import float32

from .llvm import print_program
from .target import host


def program(graph: Graph, state: Mapping[int, int]) -> Program:
    """What a call of a fused graph runs. state: output number -> number of the input that it overwrites."""
    target = host()
    layouts = assign(graph, target.lanes(float32))
    return plan(graph, state, schedule=partial(schedule_cpu, target=target), layouts=layouts)


def make(graph: Graph, state: Mapping[int, int], seconds: Times) -> tuple[Program, str]:
    """The program of a traced graph, and its LLVM text."""
    with timed(seconds, "passes"):
        fused = pipeline.run(graph)[-1].graph
    with timed(seconds, "plan and schedule"):
        planned = program(fused, state)
    with timed(seconds, "print"):
        text = print_program(planned, host())
    return planned, text
