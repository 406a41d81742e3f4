"""Backends: from a traced graph to something that runs. The CPU's and CUDA's differ only here."""

from __future__ import annotations

import abc
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import Any

import numpy.typing as npt

from graphc.errors import DeviceError
from graphc.ir.graph import Graph
from graphc.ir.text import print_graph
from graphc.passes import pipeline
from graphc.types import float32

from .cpu.llvm import print_program
from .cpu.target import host
from .cuda.call import CudaCall, cuda_program, default_device
from .executable import build
from .layout import assign
from .loop.schedule.cpu import schedule_cpu
from .plan import plan
from .program import Program

Array = npt.NDArray[Any]
Run = Callable[..., list[Array]]
Times = dict[str, float]


@contextmanager
def _timed(seconds: Times, part: str) -> Iterator[None]:
    start = time.perf_counter()
    yield
    seconds[part] = time.perf_counter() - start


class Backend(abc.ABC):
    """How a device compiles and runs graphs."""

    name: str

    @abc.abstractmethod
    def program(self, graph: Graph, state: Mapping[int, int]) -> Program:
        """What a call of this (fused) graph runs. state: output number -> number of the input it overwrites."""

    @abc.abstractmethod
    def build(self, graph: Graph, state: Mapping[int, int], seconds: Times) -> Run:
        """A callable on the traced graph's input arrays that gives its outputs' arrays.

        seconds is told how long each part took.
        """


class CpuBackend(Backend):
    """LLVM, through the cache on disk: a graph that was compiled before needs neither passes nor LLVM."""

    name = "cpu"

    def program(self, graph: Graph, state: Mapping[int, int]) -> Program:
        target = host()
        layouts = assign(graph, target.lanes(float32))
        return plan(graph, state, schedule=partial(schedule_cpu, target=target), layouts=layouts)

    def build(self, graph: Graph, state: Mapping[int, int], seconds: Times) -> Run:
        def make() -> tuple[Program, str]:
            with _timed(seconds, "passes"):
                fused = pipeline.run(graph)[-1].graph
            with _timed(seconds, "plan and schedule"):
                program = self.program(fused, state)
            with _timed(seconds, "print"):
                text = print_program(program, host())
            return program, text

        with _timed(seconds, "build"):
            inputs, outputs = [n.type for n in graph.inputs], [n.type for n in graph.outputs]
            return build(print_graph(graph), inputs, outputs, state, make)


class CudaBackend(Backend):
    """CUDA C++, compiled by NVRTC for the GPU that is there."""

    name = "cuda"

    def program(self, graph: Graph, state: Mapping[int, int]) -> Program:
        return cuda_program(graph, state)

    def build(self, graph: Graph, state: Mapping[int, int], seconds: Times) -> Run:
        with _timed(seconds, "find the GPU"):
            device = default_device()
        with _timed(seconds, "passes"):
            fused = pipeline.run(graph)[-1].graph
        with _timed(seconds, "plan and schedule"):
            program = self.program(fused, state)
        with _timed(seconds, "build"):
            return CudaCall(fused, program, state, device)


_BACKENDS: dict[str, Backend] = {"cpu": CpuBackend(), "cuda": CudaBackend()}


def backend_for(device: str) -> Backend:
    """The backend of a device. Raises DeviceError if there is none."""
    found = _BACKENDS.get(device)
    if found is None:
        raise DeviceError(f"compile: no backend for device {device!r}; there are {', '.join(sorted(_BACKENDS))}.")
    return found
