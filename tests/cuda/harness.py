"""Kernels on a device against the interpreter of the loop IR, many in one compilation."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from graphc.errors import GraphcError
from graphc.runtime.cuda.device import Device
from graphc.runtime.cuda.prelude import PRELUDE
from graphc.runtime.cuda.source import CudaKernel, print_kernel
from graphc.runtime.cuda.toolchain import Compiled, compile_cuda
from graphc.runtime.loop.interp import run
from graphc.runtime.loop.ir import Kernel
from graphc.runtime.loop.verify import verify

Array = npt.NDArray[Any]


@dataclass(frozen=True)
class Case:
    """A kernel and what it runs on. arrays: param name -> contents before; a missing one is uninitialised output.

    ulps: how far floats may differ from the interpreter's, in eps times the largest magnitude of the array;
    relative: and in eps times each element's own.
    """

    name: str
    kernel: Kernel
    arrays: Mapping[str, Array]
    ulps: float = 4.0
    relative: float = 0.0
    error: int = 0


@dataclass
class Suite:
    """Cases that are compiled together."""

    cases: Sequence[Case]
    _loaded: dict[int, Mapping[str, Any]] = field(default_factory=dict)

    @cached_property
    def printed(self) -> dict[str, CudaKernel]:
        for case in self.cases:
            verify(case.kernel)
        return {c.name: print_kernel(c.kernel, f"case{i}_{c.name}") for i, c in enumerate(self.cases)}

    @cached_property
    def text(self) -> str:
        return "\n".join([PRELUDE, *(kernel.text for kernel in self.printed.values())])

    @property
    def names(self) -> list[str]:
        return [case.name for case in self.cases]

    def compiled(self) -> Compiled:
        return compile_cuda(self.text)

    def check(self, name: str, device: Device) -> None:
        """One case on one device: every array as the interpreter leaves it, and the same failed Check."""
        case = self.cases[self.names.index(name)]
        if id(device) not in self._loaded:
            functions = [launch.function for k in self.printed.values() for launch in k.launches]
            self._loaded[id(device)] = device.load(self.text, functions)
        code, got = run_kernel(device, self._loaded[id(device)], case.kernel, self.printed[name], case.arrays)
        wanted_code, wanted = interpreted(case.kernel, case.arrays)
        assert (code, wanted_code) == (case.error, case.error)
        for param in case.kernel.params:
            compare(param.name, got[param.name], wanted[param.name], case.ulps, case.relative)

    def check_all(self, device: Device) -> None:
        """Every case; raises an ExceptionGroup of those that failed."""
        failures = []
        for name in self.names:
            try:
                self.check(name, device)
            except (AssertionError, GraphcError) as error:
                error.add_note(f"case {name}")
                failures.append(error)
        if failures:
            raise ExceptionGroup(f"{len(failures)} of {len(self.names)} cases failed on {device.name}", failures)


def interpreted(kernel: Kernel, arrays: Mapping[str, Array]) -> tuple[int, dict[str, Array]]:
    memory = {p.name: np.full(p.size, 77, p.dtype.numpy) for p in kernel.params}
    memory |= {name: array.reshape(-1).copy() for name, array in arrays.items()}
    for read, written in shared(kernel):
        memory[written] = memory[read]
    return run(kernel, memory), memory


def shared(kernel: Kernel) -> Iterator[tuple[str, str]]:
    """In-place pairs that can all be taken at once: each is tried, no memory is promised twice."""
    used: set[str] = set()
    for pair in kernel.inplace:
        if used.isdisjoint(pair):
            used.update(pair)
            yield pair


def run_kernel(
    device: Device, functions: Mapping[str, Any], kernel: Kernel, printed: CudaKernel, arrays: Mapping[str, Array]
) -> tuple[int, dict[str, Array]]:
    """The failed Check's code and the contents of every param after a run."""
    views = {p.name: device.allocate(p.size * p.dtype.itemsize) for p in kernel.params}
    for read, written in shared(kernel):
        views[written] = views[read]
    for name, array in arrays.items():
        if array.size:
            device.upload(views[name], np.ascontiguousarray(array))
    error = device.allocate(4)
    device.clear(error)
    for launch in printed.launches:
        arguments = [views[kernel.params[i].name] for i in launch.params]
        arguments += [device.allocate(nbytes) for nbytes in launch.workspace]
        device.launch(functions[launch.function], launch.grid, launch.block, arguments + [error] * launch.checks)
    code = np.zeros(1, np.int32)
    device.download(error, code)
    result = {}
    for p in kernel.params:
        result[p.name] = np.empty(p.size, p.dtype.numpy)
        if p.size:
            device.download(views[p.name], result[p.name])
    return int(code[0]), result


def compare(name: str, got: Array, wanted: Array, ulps: float, relative: float = 0.0) -> None:
    if got.dtype.kind != "f":
        np.testing.assert_array_equal(got, wanted, err_msg=name)
        return
    finite = wanted[np.isfinite(wanted)]
    limits = np.finfo(wanted.dtype)
    scale = float(np.abs(finite).max()) if finite.size and ulps else 0.0
    tolerance = ulps * scale * float(limits.eps) + relative * float(limits.smallest_subnormal)
    np.testing.assert_allclose(got, wanted, rtol=relative * float(limits.eps), atol=tolerance, err_msg=name)


def assert_lean(compiled: Compiled, may_use_stack: Callable[[str], bool] = lambda name: False) -> None:
    """No function spills or uses local memory."""
    assert compiled.resources
    for name, used in compiled.resources.items():
        assert (used.spill_stores, used.spill_loads) == (0, 0), f"{name} spills: {used}"
        assert used.stack == 0 or may_use_stack(name), f"{name} uses local memory: {used}"
        assert used.registers <= 128, f"{name}: {used}"
