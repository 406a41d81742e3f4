"""Backends: from a traced graph to something that runs. The CPU's and CUDA's differ only here.

The compilers themselves (passes, schedules, printers) are imported when something must be compiled: a call whose
machine code is in the cache takes milliseconds, importing a compiler takes a tenth of a second.
"""

from __future__ import annotations

import abc
from collections.abc import Callable, Mapping
from types import ModuleType
from typing import TYPE_CHECKING, Any

import numpy.typing as npt

from graphc.errors import DeviceError
from graphc.forking import import_module
from graphc.frozen import dataclass
from graphc.ir.graph import Graph
from graphc.ir.text import print_graph

from .cache import disk_cache
from .cpu.jit import Compilation
from .cpu.library import begin_library
from .executable import build, key_of
from .timing import Times, timed

if TYPE_CHECKING:
    from .program import Program

Array = npt.NDArray[Any]
Run = Callable[..., list[Array]]


class Order(abc.ABC):
    """A traced graph to be compiled, now or later. state: output number -> number of the input that it overwrites."""

    def __init__(self, graph: Graph, state: Mapping[int, int]) -> None:
        self.graph = graph
        self.state = dict(state)

    @property
    @abc.abstractmethod
    def ready(self) -> bool:
        """Whether its machine code seems to be in the cache, so that build() takes milliseconds."""

    @abc.abstractmethod
    def build(self, seconds: Times) -> Run:
        """As Backend.build."""


class Backend(abc.ABC):
    """How a device compiles and runs graphs."""

    name: str

    @property
    @abc.abstractmethod
    def compiler(self) -> ModuleType:
        """The module that compiles for this device, imported when first asked for."""

    @abc.abstractmethod
    def begin(self) -> None:
        """Told before a function is traced: something may be started that compiling it will need."""

    @abc.abstractmethod
    def program(self, graph: Graph, state: Mapping[int, int]) -> Program:
        """What a call of this (fused) graph runs. state: output number -> number of the input it overwrites."""

    @abc.abstractmethod
    def build(self, graph: Graph, state: Mapping[int, int], seconds: Times) -> Run:
        """A callable on the traced graph's input arrays that gives its outputs' arrays.

        seconds is told how long each part took.
        """

    def order(self, graph: Graph, state: Mapping[int, int]) -> Order | None:
        """What build() would make, to be made in the background. None where that can't be, or shouldn't."""
        return None


@dataclass(frozen=True, slots=True)
class CpuBackend(Backend):
    """LLVM, through the cache on disk: a graph that was compiled before needs neither passes nor LLVM.

    search: seconds allowed for measuring which schedules are fastest (runtime/cpu/search.py); 0: none is measured.
    """

    search: float = 0.0
    name = "cpu"

    @property
    def compiler(self) -> ModuleType:
        return import_module("graphc.runtime.cpu.build")

    def begin(self) -> None:
        begin_library()

    def program(self, graph: Graph, state: Mapping[int, int]) -> Program:
        planned: Program = self.compiler.program(graph, state, self.search)
        return planned

    def build(self, graph: Graph, state: Mapping[int, int], seconds: Times) -> Run:
        with timed(seconds, "build"):
            return _CpuOrder(graph, state, self).made(seconds)

    def order(self, graph: Graph, state: Mapping[int, int]) -> Order | None:
        return None if self.search else _CpuOrder(graph, state, self)  # what measures wants the machine to itself


class _CpuOrder(Order):
    """The CPU's. The text that decides the machine code is written once."""

    def __init__(self, graph: Graph, state: Mapping[int, int], backend: CpuBackend) -> None:
        super().__init__(graph, state)
        self._backend = backend
        search = f"\nsearch {backend.search}" if backend.search else ""
        inputs, outputs = [n.type for n in graph.inputs], [n.type for n in graph.outputs]
        self._told = (print_graph(graph) + search, inputs, outputs, state)

    @property
    def ready(self) -> bool:
        return disk_cache().has(key_of(*self._told))

    def build(self, seconds: Times) -> Run:
        with timed(seconds, "build"):
            return self.made(seconds)

    def made(self, seconds: Times) -> Run:
        """The program, not timed as a whole."""
        backend = self._backend

        def make(compilation: Compilation) -> Program:
            planned: Program = backend.compiler.make(self.graph, self.state, seconds, backend.search, compilation)
            return planned

        return build(*self._told, make)


class CudaBackend(Backend):
    """CUDA C++, compiled by NVRTC for the GPU that is there."""

    name = "cuda"

    @property
    def compiler(self) -> ModuleType:
        return import_module("graphc.runtime.cuda.build")

    def begin(self) -> None:
        """Nothing takes long enough."""

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
