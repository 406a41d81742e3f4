"""Backends: from a traced graph to something that runs. The CPU's and CUDA's differ only here.

The compilers themselves (passes, schedules, printers) are imported when something must be compiled: a call whose
machine code is in the cache takes milliseconds, importing a compiler takes a tenth of a second.
"""

from __future__ import annotations

import abc
import importlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import ModuleType
from typing import TYPE_CHECKING, Any

import numpy.typing as npt

from graphc.errors import DeviceError
from graphc.ir.graph import Graph
from graphc.ir.text import print_graph

from .cpu.jit import Compilation
from .executable import build
from .timing import Times, timed

if TYPE_CHECKING:
    from .program import Program

Array = npt.NDArray[Any]
Run = Callable[..., list[Array]]


class Backend(abc.ABC):
    """How a device compiles and runs graphs."""

    name: str

    @property
    @abc.abstractmethod
    def compiler(self) -> ModuleType:
        """The module that compiles for this device, imported when first asked for."""

    @abc.abstractmethod
    def program(self, graph: Graph, state: Mapping[int, int]) -> Program:
        """What a call of this (fused) graph runs. state: output number -> number of the input it overwrites."""

    @abc.abstractmethod
    def build(self, graph: Graph, state: Mapping[int, int], seconds: Times) -> Run:
        """A callable on the traced graph's input arrays that gives its outputs' arrays.

        seconds is told how long each part took.
        """


@dataclass(frozen=True, slots=True)
class CpuBackend(Backend):
    """LLVM, through the cache on disk: a graph that was compiled before needs neither passes nor LLVM.

    search: seconds allowed for measuring which schedules are fastest (runtime/cpu/search.py); 0: none is measured.
    """

    search: float = 0.0
    name = "cpu"

    @property
    def compiler(self) -> ModuleType:
        return importlib.import_module("graphc.runtime.cpu.build")

    def program(self, graph: Graph, state: Mapping[int, int]) -> Program:
        planned: Program = self.compiler.program(graph, state, self.search)
        return planned

    def build(self, graph: Graph, state: Mapping[int, int], seconds: Times) -> Run:
        with timed(seconds, "build"):
            inputs, outputs = [n.type for n in graph.inputs], [n.type for n in graph.outputs]
            content = print_graph(graph) + (f"\nsearch {self.search}" if self.search else "")

            def make(compilation: Compilation) -> Program:
                planned: Program = self.compiler.make(graph, state, seconds, self.search, compilation)
                return planned

            return build(content, inputs, outputs, state, make)


class CudaBackend(Backend):
    """CUDA C++, compiled by NVRTC for the GPU that is there."""

    name = "cuda"

    @property
    def compiler(self) -> ModuleType:
        return importlib.import_module("graphc.runtime.cuda.build")

    def program(self, graph: Graph, state: Mapping[int, int]) -> Program:
        planned: Program = self.compiler.program(graph, state)
        return planned

    def build(self, graph: Graph, state: Mapping[int, int], seconds: Times) -> Run:
        run: Run = self.compiler.build(graph, state, seconds)
        return run


def backend_for(device: str, search: float = 0.0) -> Backend:
    """The backend of a device. search: as in CpuBackend; only the CPU's kernels are searched for.

    Raises DeviceError if there is no such backend, or if it takes no search.
    """
    if device == "cpu":
        return CpuBackend(search)
    if device != "cuda":
        raise DeviceError(f"compile: device must be 'cpu' or 'cuda', not {device!r}.")
    if search:
        raise DeviceError("compile: search is for the CPU; CUDA kernels have no candidates to measure yet.")
    return CudaBackend()
