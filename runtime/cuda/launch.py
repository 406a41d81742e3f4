"""A Program on a GPU: kernels compiled as one module, arena and constants in device memory, steps run in order."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, assert_never

import numpy as np
import numpy.typing as npt

from graphc.errors import DeviceError, IndexingError
from graphc.frozen import dataclass
from graphc.runtime.loop.ir import Kernel
from graphc.runtime.program import KernelCall, MatmulCall, Place, Program

from .access import accesses
from .device import Device, View
from .groups import Launch
from .prelude import PRELUDE
from .source import CudaKernel, print_kernel

Array = npt.NDArray[Any]


@dataclass(frozen=True, slots=True)
class Source:
    """text: the whole CUDA C++ file of a program. kernels: for each step its kernel as printed, None for a product."""

    text: str
    kernels: tuple[CudaKernel | None, ...]

    @property
    def functions(self) -> tuple[str, ...]:
        """The names of all __global__ functions, each once."""
        launches = [launch for kernel in self.kernels if kernel for launch in kernel.launches]
        return tuple(dict.fromkeys(launch.function for launch in launches))


def print_program(program: Program) -> Source:
    """The CUDA C++ of every kernel of `program`; a kernel that runs twice is printed once."""
    printed: dict[int, CudaKernel] = {}
    names: set[str] = set()
    for step in program.steps:
        if isinstance(step, KernelCall) and id(step.kernel) not in printed:
            name = step.kernel.name if step.kernel.name not in names else f"{step.kernel.name}_{len(printed)}"
            names.add(name)
            printed[id(step.kernel)] = print_kernel(step.kernel, name)
    text = "\n".join([PRELUDE, *(kernel.text for kernel in printed.values())])
    kernels = tuple(printed[id(s.kernel)] if isinstance(s, KernelCall) else None for s in program.steps)
    return Source(text, kernels)


class CudaExecutable:
    """A program loaded on a device. Calls are not thread-safe: they share one arena and one stream."""

    def __init__(self, program: Program, device: Device) -> None:
        self.program = program
        self.device = device
        self.source = print_program(program)
        self._functions = device.load(self.source.text, self.source.functions) if self.source.functions else {}
        self._constants = [self._constant(data) for _, data in program.constants]
        self._arena = device.allocate(program.arena_size)
        launches = [launch for kernel in self.source.kernels if kernel for launch in kernel.launches]
        self._workspace = device.allocate(max((_padded(launch.workspace) for launch in launches), default=0))
        self._error = device.allocate(4) if any(launch.checks for launch in launches) else None
        read, written = _used_arguments(program)
        self.reads = tuple(sorted(read))  # numbers of the arguments that some step reads
        self.writes = tuple(sorted(written))

    def _constant(self, data: bytes) -> View:
        view = self.device.allocate(len(data))
        if data:
            self.device.upload(view, np.frombuffer(data, np.uint8))
        return view

    def __call__(self, arguments: Sequence[View]) -> None:
        """Run all steps on arguments in device memory, one View for each of Program.arguments.

        Returns before the device has finished, unless the program has checks. Raises IndexingError with the
        message of the first check that failed, DeviceError if an argument has the wrong size.
        """
        for buffer, view in zip(self.program.arguments, arguments, strict=True):
            if view.nbytes != buffer.size * buffer.dtype.itemsize:
                raise DeviceError(
                    f"argument {buffer.name} has {view.nbytes} bytes; {buffer.size} x {buffer.dtype.name} are expected"
                )
        if self._error is not None:
            self.device.clear(self._error)
        for step, kernel in zip(self.program.steps, self.source.kernels, strict=True):
            match step:
                case KernelCall():
                    assert kernel is not None
                    self._run_kernel(step, kernel, arguments)
                case MatmulCall():
                    self._run_matmul(step, arguments)
                case _:
                    assert_never(step)
        if self._error is not None:
            code = np.zeros(1, np.int32)
            self.device.download(self._error, code)
            if code[0]:
                raise IndexingError(self.program.messages[int(code[0]) - 1])

    def run(self, arrays: Sequence[Array]) -> None:
        """Run on arrays of the host, in place: what the program reads is uploaded, what it writes fetched back."""
        views = [self.device.allocate(array.nbytes) for array in arrays]
        written = set(self.writes)
        for i, array in enumerate(arrays):
            if array.nbytes and (i in self.reads or i in written):  # written perhaps in part
                self.device.upload(views[i], array)
        self(views)
        for i in self.writes:
            if arrays[i].nbytes:
                self.device.download(views[i], arrays[i])

    def _run_kernel(self, step: KernelCall, printed: CudaKernel, arguments: Sequence[View]) -> None:
        kernel = step.kernel
        for launch in printed.launches:
            views = [
                self._place(step.places[i], arguments, kernel.params[i].size * kernel.params[i].dtype.itemsize)
                for i in launch.params
            ]
            views += self._slices(launch)
            if launch.checks:
                assert self._error is not None
                views.append(self._error)
            self.device.launch(self._functions[launch.function], launch.grid, launch.block, views)

    def _run_matmul(self, call: MatmulCall, arguments: Sequence[View]) -> None:
        itemsize = call.dtype.itemsize
        a = self._place(call.a, arguments).part_from(call.a_offset * itemsize)
        b = self._place(call.b, arguments).part_from(call.b_offset * itemsize)
        c = self._place(call.c, arguments).part_from(call.c_offset * itemsize)
        self.device.matmul(call, a, b, c)

    def _place(self, place: Place, arguments: Sequence[View], nbytes: int | None = None) -> View:
        """Where a buffer lies. nbytes None: all that is known to follow."""
        match place.kind:
            case "argument":
                view = arguments[place.index]
            case "constant":
                view = self._constants[place.index]
            case "arena":
                view = self._arena
            case _:
                assert_never(place.kind)
        view = view.part_from(place.offset) if place.offset else view
        return view if nbytes is None else view.part(0, nbytes)

    def _slices(self, launch: Launch) -> list[View]:
        views, offset = [], 0
        for nbytes in launch.workspace:
            views.append(self._workspace.part(offset, nbytes))
            offset += _padded((nbytes,))
        return views


def _padded(sizes: Sequence[int]) -> int:
    return sum(-(-nbytes // 256) * 256 for nbytes in sizes)


def _used_arguments(program: Program) -> tuple[set[int], set[int]]:
    """The numbers of the arguments that are read, and of those that are written."""
    read: set[int] = set()
    written: set[int] = set()
    for step in program.steps:
        match step:
            case KernelCall(kernel, places):
                reads, writes = _used_params(kernel)
                for buffer, place in zip(kernel.params, places, strict=True):
                    if place.kind == "argument":
                        read |= {place.index} if buffer.name in reads else set()
                        written |= {place.index} if buffer.name in writes else set()
            case MatmulCall():
                read |= {p.index for p in (step.a, step.b) if p.kind == "argument"}
                if step.c.kind == "argument":
                    written.add(step.c.index)
                    read |= {step.c.index} if step.beta else set()
    return read, written


def _used_params(kernel: Kernel) -> tuple[set[str], set[str]]:
    found = list(accesses(kernel.body))
    return {a.buffer.name for a in found if not a.writes}, {a.buffer.name for a in found if a.writes}
