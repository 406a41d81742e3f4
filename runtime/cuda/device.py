"""A GPU, as little of it as the launches need. Nothing above this module knows cupy.

`Device` is the interface; `CupyDevice` drives the real thing. The tests have another implementation, which runs the
same text on the host (tests/cuda/emulator.py).
"""

from __future__ import annotations

import ctypes
from collections.abc import Mapping, Sequence
from functools import cache, cached_property
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from graphc.errors import DeviceError
from graphc.frozen import dataclass
from graphc.runtime.program import MatmulCall
from graphc.types import TensorType, float32, float64

from .toolchain import cubin, nvidia_library

INSTALL = "pip install 'graphc[cuda]' (or: pip install cupy-cuda13x nvidia-cublas nvidia-cuda-nvrtc cuda-pathfinder)"
Array = npt.NDArray[Any]


@dataclass(frozen=True, slots=True)
class View:
    """`nbytes` of device memory, from byte `offset` of an allocation on. memory: the device's own object."""

    memory: Any
    offset: int
    nbytes: int

    def part(self, offset: int, nbytes: int) -> View:
        """A part of it. Raises DeviceError if it isn't one."""
        if offset < 0 or nbytes < 0 or offset + nbytes > self.nbytes:
            raise DeviceError(f"bytes {offset}..{offset + nbytes} of a view of {self.nbytes}")
        return View(self.memory, self.offset + offset, nbytes)

    def part_from(self, offset: int) -> View:
        """All of it from byte `offset` on."""
        return self.part(offset, self.nbytes - offset)


class Device(Protocol):
    """One GPU and one stream on it: what is asked for happens in that order."""

    name: str

    def allocate(self, nbytes: int) -> View:
        """Memory with undefined contents, aligned to 256 bytes; freed when no View holds it."""

    def borrow(self, array: Any) -> View | None:
        """The memory of an array that lies on this device, None for one of the host. Raises DeviceError otherwise."""

    def empty(self, want: TensorType) -> tuple[Any, View]:
        """A fresh array on this device, dense, and its memory."""

    def address(self, view: View) -> int:
        """Where its first byte lies."""

    def upload(self, view: View, array: Array) -> None:
        """Copy a C-contiguous array of exactly the view's size to the device."""

    def download(self, view: View, array: Array) -> None:
        """Copy to a C-contiguous array of exactly the view's size; waits until that is done."""

    def clear(self, view: View) -> None:
        """Set all bytes to zero."""

    def load(self, text: str, functions: Sequence[str]) -> Mapping[str, Any]:
        """The compiled functions of a source text, by name. Raises CompileError."""

    def launch(self, function: Any, grid: int, block: int, arguments: Sequence[View]) -> None:
        """Run `grid` blocks of `block` threads; every argument is a pointer."""

    def matmul(self, call: MatmulCall, a: View, b: View, c: View) -> None:
        """Run a product; the views begin at the operands' first elements (offsets of the call included)."""

    def synchronize(self) -> None:
        """Wait until all is done."""


class CupyDevice:
    """The GPU that cupy sees. Raises DeviceError, saying what is missing, where there is none."""

    def __init__(self, ordinal: int = 0) -> None:
        self.cupy = load_cupy()
        try:
            count = self.cupy.cuda.runtime.getDeviceCount()
        except self.cupy.cuda.runtime.CUDARuntimeError as error:
            raise DeviceError(
                f"there is no GPU that CUDA can use: {error}. Run on the CPU with device='cpu'."
            ) from error
        if ordinal >= count:
            raise DeviceError(f"there is no GPU number {ordinal}: CUDA sees {count}.")
        self.device = self.cupy.cuda.Device(ordinal)
        self.architecture: str = self.device.compute_capability
        properties = self.cupy.cuda.runtime.getDeviceProperties(ordinal)
        self.name = f"{properties['name'].decode()} (sm_{self.architecture})"
        self.stream = self.cupy.cuda.Stream.null  # cupy's own, so that arrays made there are ready here

    @cached_property
    def blas(self) -> _Cublas:
        """Opened with the first product. Raises DeviceError if it isn't installed."""
        with self.device:
            return _Cublas(self.cupy, self.stream.ptr)

    def allocate(self, nbytes: int) -> View:
        with self.device:
            return View(self.cupy.cuda.alloc(max(nbytes, 1)), 0, nbytes)

    def borrow(self, array: Any) -> View | None:
        if not isinstance(array, self.cupy.ndarray):
            return None
        if array.device.id != self.device.id:
            raise DeviceError(f"an array lies on GPU {array.device.id}, the compiled function on GPU {self.device.id}.")
        if not array.flags.c_contiguous:
            raise DeviceError("an array on the GPU isn't dense: call .copy() on it.")
        return View(array.data, 0, array.nbytes)

    def empty(self, want: TensorType) -> tuple[Any, View]:
        with self.device:
            array = self.cupy.empty(want.shape, want.dtype.numpy)
        return array, View(array.data, 0, array.nbytes)

    def address(self, view: View) -> int:
        return int(view.memory.ptr) + view.offset

    def upload(self, view: View, array: Array) -> None:
        _same_size(view, array)
        # 1: host to device. Pageable memory: CUDA has read it when the call returns.
        self.cupy.cuda.runtime.memcpyAsync(self.address(view), array.ctypes.data, view.nbytes, 1, self.stream.ptr)

    def download(self, view: View, array: Array) -> None:
        _same_size(view, array)
        # 2: device to host
        self.cupy.cuda.runtime.memcpyAsync(array.ctypes.data, self.address(view), view.nbytes, 2, self.stream.ptr)
        self.stream.synchronize()

    def clear(self, view: View) -> None:
        self.cupy.cuda.runtime.memsetAsync(self.address(view), 0, view.nbytes, self.stream.ptr)

    def load(self, text: str, functions: Sequence[str]) -> Mapping[str, Any]:
        # Not cupy.RawModule: it adds -ftz=true, which flushes the denormals that eager mode keeps.
        image = cubin(text, self.architecture)
        with self.device:
            module = self.cupy.cuda.function.Module()
            module.load(image)
            return {name: module.get_function(name) for name in functions}

    def launch(self, function: Any, grid: int, block: int, arguments: Sequence[View]) -> None:
        pointers = tuple(np.uint64(self.address(view)) for view in arguments)
        function((grid,), (block,), pointers, stream=self.stream)

    def matmul(self, call: MatmulCall, a: View, b: View, c: View) -> None:
        self.blas.matmul(call, self.address(a), self.address(b), self.address(c))

    def synchronize(self) -> None:
        self.stream.synchronize()


@cache
def load_cupy() -> Any:
    """cupy. Raises DeviceError, saying what to install, where it can't be imported."""
    try:
        import cupy  # an extra of 200 MB and a second: only who computes on a GPU pays
    except ImportError as error:
        raise DeviceError(f"device='cuda' needs cupy ({error}). Install it: {INSTALL}") from error
    return cupy


def _same_size(view: View, array: Array) -> None:
    if array.nbytes != view.nbytes or not array.flags.c_contiguous:
        raise DeviceError(f"a view of {view.nbytes} bytes can't be copied from or to {array.dtype}{array.shape}")


class _Cublas:
    """Products through cuBLAS itself: cupy's wrappers refuse to run while a stream is being captured (cupy #6290).

    The default mathematics of cuBLAS: float32 products in float32, never in TF32.
    """

    def __init__(self, cupy: Any, stream: int) -> None:
        try:
            self.library = nvidia_library("cublas")
        except OSError as error:
            raise DeviceError(f"cuBLAS isn't there ({error}). Install it: {INSTALL}") from error
        self.handle = ctypes.c_void_p()
        self._check(self.library.cublasCreate_v2(ctypes.byref(self.handle)))
        self._check(self.library.cublasSetStream_v2(self.handle, ctypes.c_void_p(stream)))
        self.workspace = cupy.cuda.alloc(32 << 20)  # cuBLAS would allocate for itself, which no capture allows
        pointer = ctypes.c_void_p(self.workspace.ptr)
        self._check(self.library.cublasSetWorkspace_v2(self.handle, pointer, ctypes.c_size_t(32 << 20)))

    def _check(self, status: int) -> None:
        if status:
            raise DeviceError(f"cuBLAS failed with status {status}")

    def matmul(self, call: MatmulCall, a: int, b: int, c: int) -> None:
        """C = A @ B row by row is C' = B' @ A' column by column, which is how cuBLAS counts."""
        number: Any
        if call.dtype is float32:
            gemm, number = self.library.cublasSgemmStridedBatched, ctypes.c_float
        elif call.dtype is float64:
            gemm, number = self.library.cublasDgemmStridedBatched, ctypes.c_double
        else:
            raise DeviceError(f"cuBLAS multiplies no {call.dtype.name}")
        integer, pointer, stride = ctypes.c_int, ctypes.c_void_p, ctypes.c_longlong
        self._check(
            gemm(
                self.handle,
                integer(int(call.transpose_b)),
                integer(int(call.transpose_a)),
                *map(integer, (call.n, call.m, call.k)),
                ctypes.byref(number(1.0)),
                *(pointer(b), integer(call.ldb), stride(call.batch_b)),
                *(pointer(a), integer(call.lda), stride(call.batch_a)),
                ctypes.byref(number(call.beta)),
                *(pointer(c), integer(call.ldc), stride(call.batch_c)),
                integer(call.batch),
            )
        )
