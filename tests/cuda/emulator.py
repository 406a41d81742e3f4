"""A device of the tests: runs CUDA C++ on the host, by g++ and gcemu.hpp, and forgives nothing. Test equipment.

What gcemu.hpp checks inside a kernel, EmulatedDevice adds to around it: reading memory that was never written,
arguments that overlap without leave, results fetched from nowhere.
"""

from __future__ import annotations

import ctypes
import hashlib
import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from graphc.errors import CompileError, DeviceError
from graphc.runtime.cuda.device import View
from graphc.runtime.program import MatmulCall
from graphc.types import TensorType

HEADER = Path(__file__).with_name("gcemu.hpp")
# No contraction and no assumption about signs and NaN: the rounding of NVRTC's --fmad=false.
FLAGS = ("-std=c++17", "-O1", "-fPIC", "-shared", "-w", "-fno-strict-aliasing", "-ffp-contract=off", "-fwrapv")
POISON = 0xFF  # NaN as a float, -1 as an integer
Array = npt.NDArray[Any]

_SIGNATURE = re.compile(r'extern "C" __global__ void (?:__launch_bounds__\(\d+\) )?(\w+)\(([^{]*)\)\s*\{')


class _Argument(ctypes.Structure):
    _fields_ = (
        ("data", ctypes.c_void_p),
        ("written", ctypes.c_void_p),
        ("nbytes", ctypes.c_int64),
        ("name", ctypes.c_char_p),
    )


class _Config(ctypes.Structure):
    _fields_ = (("grid", ctypes.c_int32), ("block", ctypes.c_int32), ("backwards", ctypes.c_int32))


@dataclass(eq=False)
class Memory:
    """One allocation. written: one byte for each, 1 where something was written."""

    data: npt.NDArray[np.uint8]
    written: npt.NDArray[np.uint8]


@dataclass(frozen=True)
class EmulatedArray:
    """An array that lies on the emulated device."""

    view: View
    shape: tuple[int, ...]
    dtype: np.dtype[Any]

    @property
    def nbytes(self) -> int:
        return self.view.nbytes


@dataclass(frozen=True)
class Function:
    name: str
    entry: Any
    params: tuple[tuple[str, str], ...]  # kind (READ, WRITE, ALIASED) and name


@dataclass
class EmulatedDevice:
    """Like a GPU, but slow and strict. backwards: run blocks and threads from the last to the first. portable: switch
    between threads as on processors other than x86-64, more slowly."""

    backwards: bool = False
    portable: bool = False
    name: str = "host emulator"
    launches: list[str] = field(default_factory=list)

    def allocate(self, nbytes: int) -> View:
        size = max(nbytes, 1)
        return View(Memory(np.full(size, POISON, np.uint8), np.zeros(size, np.uint8)), 0, nbytes)

    def borrow(self, array: Any) -> View | None:
        return array.view if isinstance(array, EmulatedArray) else None

    def empty(self, want: TensorType) -> tuple[EmulatedArray, View]:
        view = self.allocate(want.nbytes)
        return EmulatedArray(view, want.shape, want.dtype.numpy), view

    def address(self, view: View) -> int:
        return int(view.memory.data.ctypes.data) + view.offset

    def upload(self, view: View, array: Array) -> None:
        data, written = _bytes(view)
        _same_size(view, array)
        data[:] = np.frombuffer(array.tobytes(), np.uint8)
        written[:] = 1

    def download(self, view: View, array: Array) -> None:
        _same_size(view, array)
        data, written = _bytes(view)
        if not written.all():
            raise DeviceError(f"{int((written == 0).sum())} of {view.nbytes} bytes fetched were never written")
        array[...] = data.view(array.dtype).reshape(array.shape)

    def clear(self, view: View) -> None:
        data, written = _bytes(view)
        data[:] = 0
        written[:] = 1

    def load(self, text: str, functions: Sequence[str]) -> Mapping[str, Function]:
        library = _library(text, tuple(functions), ("-DGCEMU_PORTABLE",) if self.portable else ())
        signatures = {match[1]: _params(match[2]) for match in _SIGNATURE.finditer(text)}
        return {name: Function(name, library[f"gcemu_run_{name}"], signatures[name]) for name in functions}

    def launch(self, function: Function, grid: int, block: int, arguments: Sequence[View]) -> None:
        self.launches.append(function.name)
        _no_overlap(function, arguments)
        passed = (_Argument * max(1, len(arguments)))()
        for i, view in enumerate(arguments):
            data, written = _bytes(view)
            name = function.params[i][1] if i < len(function.params) else "?"
            passed[i] = _Argument(data.ctypes.data, written.ctypes.data, view.nbytes, name.encode())
        error = ctypes.create_string_buffer(512)
        config = _Config(grid, block, int(self.backwards))
        if function.entry(ctypes.byref(config), passed, len(arguments), error):
            raise DeviceError(error.value.decode())

    def matmul(self, call: MatmulCall, a: View, b: View, c: View) -> None:
        """In the arithmetic of NumPy. Strides as in MatmulCall."""
        self.launches.append("matmul")
        left = _matrices(a, call, call.batch_a, call.lda, (call.k, call.m) if call.transpose_a else (call.m, call.k))
        right = _matrices(b, call, call.batch_b, call.ldb, (call.n, call.k) if call.transpose_b else (call.k, call.n))
        result = _matrices(c, call, call.batch_c, call.ldc, (call.m, call.n), writes=not call.beta)
        left = left.swapaxes(1, 2) if call.transpose_a else left
        right = right.swapaxes(1, 2) if call.transpose_b else right
        product = left @ right
        result[...] = product if call.beta == 0 else product + call.beta * result

    def synchronize(self) -> None:
        """Everything is done when it is asked for."""


def _bytes(view: View) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.uint8]]:
    end = view.offset + view.nbytes
    return view.memory.data[view.offset : end], view.memory.written[view.offset : end]


def _same_size(view: View, array: Array) -> None:
    if array.nbytes != view.nbytes or not array.flags.c_contiguous:
        raise DeviceError(f"a view of {view.nbytes} bytes can't be copied from or to {array.dtype}{array.shape}")


def _matrices(
    view: View, call: MatmulCall, batch_stride: int, row: int, shape: tuple[int, int], writes: bool = False
) -> Array:
    """(batch, rows, columns) of a view. Every element must lie in it, and have been written unless it will be."""
    data, written = _bytes(view)
    itemsize = call.dtype.itemsize
    rows, columns = shape
    last = (call.batch - 1) * batch_stride + (rows - 1) * row + columns - 1
    if (last + 1) * itemsize > view.nbytes:
        raise DeviceError(f"matmul: element {last} of a view of {view.nbytes // itemsize}")
    strides = (batch_stride * itemsize, row * itemsize, itemsize)
    elements = np.frombuffer(data, call.dtype.numpy, view.nbytes // itemsize)
    flags = np.lib.stride_tricks.as_strided(written, (call.batch, *shape, itemsize), (*strides, 1))
    if writes:
        flags[...] = 1
    elif not flags.all():
        raise DeviceError("matmul: an operand was never written")
    return np.lib.stride_tricks.as_strided(elements, (call.batch, *shape), strides)


def _params(text: str) -> tuple[tuple[str, str], ...]:
    return tuple(re.findall(r"GC_(READ|WRITE|ALIASED)\(\w+\) (\w+)", text))


def _no_overlap(function: Function, arguments: Sequence[View]) -> None:
    """What the kernel's __restrict__ promises: whatever is written overlaps nothing, but for the aliased."""
    for i, (kind, name) in enumerate(function.params[: len(arguments)]):
        for j, (other_kind, other) in enumerate(function.params[:i]):
            if "WRITE" not in (kind, other_kind) and not (kind == other_kind == "ALIASED"):
                continue
            a, b = arguments[i], arguments[j]
            if a.memory is not b.memory or a.offset >= b.offset + b.nbytes or b.offset >= a.offset + a.nbytes:
                continue
            if kind == other_kind == "ALIASED" and (a.offset, a.nbytes) == (b.offset, b.nbytes):
                continue
            raise DeviceError(f"{function.name}: arguments {other} and {name} overlap")


@cache
def _library(text: str, functions: tuple[str, ...], flags: tuple[str, ...]) -> ctypes.CDLL:
    """The kernels as a shared library, built by g++ once for each text."""
    exports = "".join(f"GC_EXPORT({name})\n" for name in functions)
    source = f'#include "gcemu.hpp"\n{text}\n{exports}'
    key = hashlib.sha256("\0".join((source, HEADER.read_text(), *FLAGS, *flags)).encode()).hexdigest()[:32]
    built = _folder() / f"{key}.so"
    if not built.exists():
        with tempfile.TemporaryDirectory(dir=_folder()) as folder:
            path, target = Path(folder, "kernels.cpp"), Path(folder, "kernels.so")
            path.write_text(source)
            command = ["g++", *FLAGS, *flags, f"-I{HEADER.parent}", "-o", str(target), str(path)]
            done = subprocess.run(command, capture_output=True, text=True)
            if done.returncode:
                raise CompileError(f"g++ refused the generated code:\n{done.stderr[:4000]}")
            os.replace(target, built)
    return ctypes.CDLL(str(built))


@cache
def _folder() -> Path:
    folder = Path(tempfile.gettempdir(), f"graphc-gcemu-{os.getuid()}")
    folder.mkdir(mode=0o700, exist_ok=True)
    return folder


def missing() -> str | None:
    """Why kernels can't be emulated here; None if they can."""
    return None if shutil.which("g++") else "g++, which compiles the emulated kernels, isn't there"
