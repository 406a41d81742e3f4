"""A schedule found by measuring: where the cost model sees little between a few kernels, run them and take the fastest.

Off unless asked for (`compile(search=seconds)`): it compiles each candidate, some hundredths of a second a kernel, and
which kernel wins can differ from machine to machine, and with it the rounding of sums. What was found is kept in the
cache on disk, by the nest, the target and graphc's own source: paid for once a machine, and then always the same.
"""

from __future__ import annotations

import ctypes
import statistics
import time
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from graphc.runtime.cache import DiskCache, content_key, disk_cache, source_digest
from graphc.runtime.cpu import jit
from graphc.runtime.cpu.library import library, load
from graphc.runtime.loop.ir import Kernel
from graphc.runtime.loop.nest import Nest
from graphc.runtime.loop.schedule.cpu import alternatives
from graphc.runtime.loop.text import nest_text

from .llvm import print_kernel
from .target import Target

MOST = 4  # kernels tried for one nest
WITHIN = 1.5  # times the cost of the cheapest: what the model can't tell apart
WORTH_SEARCHING = 20_000.0  # cycles; below, a kernel is a matter of microseconds
ROUNDS = 7
_BYTES = 1 << 30  # of a kernel's buffers: more isn't set aside only to measure


class Search:
    """`schedule` is a Schedule for plan(). seconds: how long all its measuring may take; when they are over, or
    below WORTH_SEARCHING, the cost model decides."""

    def __init__(self, target: Target, seconds: float, cache: DiskCache | None = None) -> None:
        self._target = target
        self._left = seconds
        self._cache = cache if cache is not None else disk_cache()

    def schedule(self, nest: Nest) -> Kernel:
        """The fastest of the kernels tried for this nest."""
        found = alternatives(nest, self._target, MOST, WITHIN)
        kernels = [kernel for _, kernel in found]
        if len(kernels) == 1 or found[0][0] < WORTH_SEARCHING or _bytes(kernels[0]) > _BYTES:
            return kernels[0]
        told = nest_text(replace(nest, name=""))
        key = content_key("search", told, source_digest(), jit.version(), self._target.key)
        entry = self._cache.get(key)
        if entry is not None:
            return kernels[int(entry.metadata["fastest"])]
        if self._left <= 0:
            return kernels[0]
        start = time.perf_counter()
        times = measure(kernels, self._target)
        self._left -= time.perf_counter() - start
        fastest = min(range(len(kernels)), key=times.__getitem__)
        self._cache.put(key, {"fastest": fastest, "seconds": times}, b"")
        return kernels[fastest]


def measure(kernels: Sequence[Kernel], target: Target) -> list[float]:
    """Seconds of one run of each kernel: medians of interleaved rounds, on as many threads as graphc uses.

    The kernels are of one nest, so they share their params. Floats are drawn from [0.5, 1), all other numbers are 0:
    an index that is in bounds whatever it indexes.
    """
    generator = np.random.default_rng(0)
    arrays = {
        buffer.name: generator.uniform(0.5, 1.0, buffer.size).astype(buffer.dtype.numpy)
        if buffer.dtype.kind == "f"
        else np.zeros(buffer.size, buffer.dtype.numpy)
        for buffer in kernels[0].params
    }
    for read, written in kernels[0].inplace:
        arrays[written] = arrays[read]
    status = ctypes.c_int64(0)
    table = [arrays[buffer.name].ctypes.data for buffer in kernels[0].params]
    codes = [load(jit.compile_text(print_kernel(kernel, target), target), library().symbols) for kernel in kernels]
    try:
        kind = ctypes.CFUNCTYPE(None, *[ctypes.c_void_p] * (len(table) + 1))
        calls = [kind(code.address(kernel.name)) for code, kernel in zip(codes, kernels, strict=True)]
        times: list[list[float]] = [[] for _ in kernels]
        for _ in range(ROUNDS):
            for call, taken in zip(calls, times, strict=True):
                start = time.perf_counter()
                call(*table, ctypes.addressof(status))
                taken.append(time.perf_counter() - start)
        return [statistics.median(taken[1:]) for taken in times]  # the first round touches fresh pages
    finally:
        for code in codes:
            code.close()


def _bytes(kernel: Kernel) -> int:
    return sum(buffer.size * buffer.dtype.itemsize for buffer in kernel.params)
