"""Backends: from a traced graph to something that runs. The CPU's and CUDA's differ only here.

The compilers themselves (passes, schedules, printers) are imported when something must be compiled: a call whose
machine code is in the cache takes milliseconds, importing a compiler takes a tenth of a second.
"""

from __future__ import annotations

import abc
import importlib
from collections.abc import Callable, Mapping
from types import ModuleType
from typing import Any

import numpy.typing as npt

from graphc.errors import DeviceError
from graphc.ir.graph import Graph
from graphc.ir.text import print_graph

from .executable import build
from .program import Program
from .timing import Times, timed

Array = npt.NDArray[Any]
Run = Callable[..., list[Array]]


class Backend(abc.ABC):
    """How a device compiles and runs graphs."""

    name: str

    @property
    @abc.abstractmethod
    def compiler(self) -> ModuleType:
        """The module that compiles for this device, imported when first asked for."""

    def program(self, graph: Graph, state: Mapping[int, int]) -> Program:
        """What a call of this (fused) graph runs. state: output number -> number of the input it overwrites."""
        planned: Program = self.compiler.program(graph, state)
        return planned

    @abc.abstractmethod
    def build(self, graph: Graph, state: Mapping[int, int], seconds: Times) -> Run:
        """A callable on the traced graph's input arrays that gives its outputs' arrays.

        seconds is told how long each part took.
        """


class CpuBackend(Backend):
    """LLVM, through the cache on disk: a graph that was compiled before needs neither passes nor LLVM."""

    name = "cpu"

    @property
    def compiler(self) -> ModuleType:
        return importlib.import_module("graphc.runtime.cpu.build")

    def build(self, graph: Graph, state: Mapping[int, int], seconds: Times) -> Run:
        with timed(seconds, "build"):
            inputs, outputs = [n.type for n in graph.inputs], [n.type for n in graph.outputs]
            content = print_graph(graph)
            return build(content, inputs, outputs, state, lambda: self.compiler.make(graph, state, seconds))


class CudaBackend(Backend):
    """CUDA C++, compiled by NVRTC for the GPU that is there."""

    name = "cuda"

    @property
    def compiler(self) -> ModuleType:
        return importlib.import_module("graphc.runtime.cuda.build")

    def build(self, graph: Graph, state: Mapping[int, int], seconds: Times) -> Run:
        run: Run = self.compiler.build(graph, state, seconds)
        return run


_BACKENDS: dict[str, Backend] = {"cpu": CpuBackend(), "cuda": CudaBackend()}


def backend_for(device: str) -> Backend:
    """The backend of a device. Raises DeviceError if there is none."""
    found = _BACKENDS.get(device)
    if found is None:
        raise DeviceError(f"compile: no backend for device {device!r}; there are {', '.join(sorted(_BACKENDS))}.")
    return found
