"""The GPU's compiler, joined to what runs it. Imported only when a function is compiled for CUDA."""

from __future__ import annotations

from collections.abc import Mapping

from graphc.ir.graph import Graph
from graphc.passes import pipeline
from graphc.runtime.plan import plan
from graphc.runtime.program import Program
from graphc.runtime.timing import Times, timed

from .call import CudaCall, default_device
from .schedule import schedule

# Results of a plain product from which on cuBLAS computes it; below, a launch costs more than it saves.
BLAS_RESULT = 1 << 14


def program(graph: Graph, state: Mapping[int, int]) -> Program:
    """What a call of a fused graph runs. state: output number -> number of the input that it overwrites."""
    return plan(graph, state, schedule=schedule, blas_result=BLAS_RESULT)


def build(graph: Graph, state: Mapping[int, int], seconds: Times) -> CudaCall:
    """A traced graph, ready to run. Raises DeviceError where there is no GPU."""
    with timed(seconds, "find the GPU"):
        device = default_device()
    with timed(seconds, "passes"):
        fused = pipeline.run(graph)[-1].graph
    with timed(seconds, "plan and schedule"):
        planned = program(fused, state)
    with timed(seconds, "build"):
        return CudaCall(fused, planned, state, device)
