"""Runs printed kernels beside the interpreter, on copies of the same arrays, and compares element by element."""

from __future__ import annotations

import ctypes
from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any

import numpy as np
import numpy.typing as npt

from graphc.runtime.cpu import jit
from graphc.runtime.cpu.elf import Code
from graphc.runtime.cpu.llvm import print_kernel
from graphc.runtime.cpu.target import Target, by_name
from graphc.runtime.loop import interp
from graphc.runtime.loop.ir import Kernel
from graphc.runtime.loop.verify import verify

Array = npt.NDArray[Any]
RUNNABLE = [name for name in ("host", "x86-64-v3", "x86-64") if by_name(name).runs_here()]
GUARD = 64  # bytes before and after each array that must stay as they are
CANARY = 0xA5

_TASK = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_int64, ctypes.c_int64)
_PARALLEL = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int64, ctypes.c_int64)


@_PARALLEL
def _in_ranges(task: int, arguments: int, count: int, grain: int) -> None:
    """graphc_parallel on one thread: many short ranges, the last first, so that each must stand alone."""
    step = max(1, min(grain, -(-count // 3)))
    for start in reversed(range(0, count, step)):
        _TASK(task)(arguments, start, min(count, start + step))


SYMBOLS = {"graphc_parallel": ctypes.cast(_in_ranges, ctypes.c_void_p).value or 0}


@cache
def _loaded(text: str, target: Target) -> Code:
    return Code(jit.compile_text(text, target), SYMBOLS)


def guarded(array: Array) -> tuple[Array, Array]:
    """A copy that starts one element after a 64-byte line, and the raw bytes around and under it."""
    size = array.nbytes
    raw = np.full(size + 2 * GUARD + 64, CANARY, np.uint8)
    start = -raw.ctypes.data % 64 + GUARD - array.dtype.itemsize
    inside = raw[start : start + size].view(array.dtype)
    inside[...] = array
    return inside, raw


def run_native(kernel: Kernel, arrays: Mapping[str, Array], target: str = "host") -> tuple[int, dict[str, Array]]:
    """The status and the arrays after running the machine code. Fails if it wrote outside of them."""
    chosen = by_name(target)
    code = _loaded(print_kernel(kernel, chosen), chosen)
    places = {name: guarded(array) for name, array in arrays.items()}
    before = {name: raw.copy() for name, (_, raw) in places.items()}
    status = ctypes.c_int64(0)
    pointers = [places[buffer.name][0].ctypes.data for buffer in kernel.params]
    prototype = ctypes.CFUNCTYPE(None, *[ctypes.c_void_p] * (len(pointers) + 1))
    prototype(code.address(kernel.name))(*pointers, ctypes.addressof(status))
    for name, (inside, raw) in places.items():
        start = inside.ctypes.data - raw.ctypes.data
        untouched = np.ones(raw.size, bool)
        untouched[start : start + inside.nbytes] = False
        assert np.array_equal(raw[untouched], before[name][untouched]), f"wrote outside of {name}"
    return status.value, {name: inside.copy() for name, (inside, _) in places.items()}


def expect(
    kernel: Kernel, arrays: Mapping[str, Array], ulps: float = 0, targets: Sequence[str] = RUNNABLE
) -> dict[str, Array]:
    """Every runnable target gives what the interpreter gives, within `ulps` units in the last place. Gives that."""
    verify(kernel)
    wanted = {name: array.copy() for name, array in arrays.items()}
    code = interp.run(kernel, wanted)
    for target in targets:
        status, found = run_native(kernel, arrays, target)
        assert status == code, f"{target}: status {status}, must be {code}"
        for name, array in wanted.items():
            compare(found[name], array, ulps, f"{kernel.name} on {target}: {name}")
    return wanted


def compare(found: Array, wanted: Array, ulps: float, what: str) -> None:
    """Equal NaNs and infinities; bits if ulps is 0, else a distance of at most so many units of the wanted value."""
    if wanted.dtype.kind != "f":
        np.testing.assert_array_equal(found, wanted, what)
        return
    if ulps == 0:
        bits = np.dtype(f"i{wanted.itemsize}")
        same = (found.view(bits) == wanted.view(bits)) | (np.isnan(found) & np.isnan(wanted))
    else:
        with np.errstate(all="ignore"):
            distance = np.abs(found.astype(np.float64) - wanted) / np.spacing(np.abs(wanted)).astype(np.float64)
        same = (found == wanted) | (np.isnan(found) & np.isnan(wanted)) | (distance <= ulps)
    wrong = np.flatnonzero(~same)
    assert not wrong.size, (
        f"{what}[{wrong[0]}] is {found[wrong[0]]!r}, must be {wanted[wrong[0]]!r} ({wrong.size} wrong)"
    )
