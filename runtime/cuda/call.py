"""A compiled graph on a GPU: arrays in, arrays out.

Where a value lies is the user's choice. An array of the host is copied to the device for the call, and state that
is written is copied back; an array that already lies on the device (cupy) is used where it is. Results are arrays of
the host, unless some argument lies on the device.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from typing import Any

import numpy as np
from numpy.lib.array_utils import byte_bounds

from graphc.errors import AliasError, ArgumentError, DTypeError, ShapeError
from graphc.ir.graph import Graph
from graphc.runtime.program import Program
from graphc.types import TensorType

from .device import CupyDevice, Device, View
from .launch import CudaExecutable


@cache
def default_device() -> Device:
    """The first GPU, opened once. Raises DeviceError where there is none."""
    return CupyDevice()


class CudaCall:
    """Call it with an array for each input; it gives an array for each output. State is written in place."""

    def __init__(self, graph: Graph, program: Program, state: Mapping[int, int], device: Device | None = None) -> None:
        """program: that of `graph`. device None: the first GPU.

        Raises DeviceError where there is none, CompileError where NVRTC refuses the code.
        """
        self.device = device or default_device()
        self.executable = CudaExecutable(program, self.device)
        count = len(graph.inputs)
        self._inputs = tuple(n.type for n in graph.inputs)
        self._fresh = tuple(n.type for k, n in enumerate(graph.outputs) if k not in state)
        numbers = iter(range(count, count + len(self._fresh)))
        self._results = tuple(state[k] if k in state else next(numbers) for k in range(len(graph.outputs)))
        self._written = frozenset(state.values())
        self._buffers: dict[int, View] = {}  # for what comes from the host, by number of the argument

    @property
    def source(self) -> str:
        """The CUDA C++ that runs."""
        return self.executable.source.text

    def __call__(self, *arrays: Any) -> list[Any]:
        """Run. Numbers stand for inputs of shape ().

        Raises ArgumentError, ShapeError or DTypeError for arrays that don't fit, IndexingError for an index that is
        out of bounds (state may then be partly written), AliasError for state that shares memory with other state, or
        on the device with any argument.
        """
        if len(arrays) != len(self._inputs):
            raise ArgumentError(f"the compiled function takes {len(self._inputs)} arrays, not {len(arrays)}.")
        given = [_fitting(i, x, want) for i, (x, want) in enumerate(zip(arrays, self._inputs, strict=True))]
        borrowed = [self.device.borrow(array) for array in given]
        self._check_apart(given, borrowed)
        resident = any(view is not None for view in borrowed)
        views = [self._uploaded(i, given[i]) if view is None else view for i, view in enumerate(borrowed)]
        for i, want in enumerate(self._fresh, len(given)):
            if resident:
                array, view = self.device.empty(want)
            else:
                array, view = np.empty(want.shape, want.dtype.numpy), self._buffer(i, want.nbytes)
            given.append(array)
            views.append(view)
        self.executable(views)
        for i in (*sorted(self._written), *range(len(arrays), len(given))):
            if self.device.borrow(given[i]) is None:
                self._downloaded(views[i], given[i])
        return [given[i] for i in self._results]

    def _check_apart(self, given: list[Any], borrowed: list[View | None]) -> None:
        """Raise AliasError if two states, or state and another argument on the device, are the same memory."""
        if not self._written:
            return
        # (first byte, end, number); what is only read of the host is copied before anything is written
        spans = []
        for i, (array, view) in enumerate(zip(given, borrowed, strict=True)):
            if view is not None:
                spans.append((self.device.address(view), self.device.address(view) + view.nbytes, i))
            elif i in self._written:
                spans.append((*byte_bounds(array), i))
        spans = sorted(span for span in spans if span[0] < span[1])
        reach, owner = 0, -1
        for start, end, i in spans:
            both = start < reach and not self._written.isdisjoint((i, owner))
            if both and (borrowed[i] is not None or np.shares_memory(given[i], given[owner])):
                raise AliasError(
                    f"arguments {min(i, owner)} and {max(i, owner)} of the compiled function share memory, and one is "
                    "written. Give each its own array."
                )
            if end > reach:
                reach, owner = end, i

    def _uploaded(self, i: int, array: Any) -> View:
        view = self._buffer(i, array.nbytes)
        if array.nbytes:
            self.device.upload(view, np.ascontiguousarray(array))
        return view

    def _downloaded(self, view: View, array: Any) -> None:
        if not array.nbytes:
            return
        dense = array if array.flags.c_contiguous else np.empty_like(array, order="C")
        self.device.download(view, dense)
        if dense is not array:
            np.copyto(array, dense)

    def _buffer(self, i: int, nbytes: int) -> View:
        """Device memory for an argument of the host: allocated at the first call, and kept."""
        if i not in self._buffers:
            self._buffers[i] = self.device.allocate(nbytes)
        return self._buffers[i]


def _fitting(i: int, value: Any, want: TensorType) -> Any:
    """The argument as an array of the declared type. Raises as CudaCall.__call__ says."""
    if isinstance(value, bool | int | float) and not want.shape:
        return np.asarray(value, want.dtype.numpy)
    who = f"argument {i} of the compiled function"
    if value.shape != want.shape:
        raise ShapeError(f"{who}: shape {value.shape} instead of {want.shape}.")
    if value.dtype != want.dtype.numpy:
        raise DTypeError(f"{who}: dtype {value.dtype} instead of {want.dtype.name}. Convert with .astype(...).")
    return value
