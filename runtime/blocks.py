"""Large memory that is used again and again: arenas of programs, and big results whose arrays have died.

A fresh page costs the system about as much time as a kernel needs to fill it; memory that was touched before
costs nothing. Blocks start on a page and ask for huge pages.
"""

from __future__ import annotations

import ctypes
import mmap
import sys
from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np
import numpy.typing as npt

from graphc.types import Shape

HUGE_PAGE = 2 * 2**20
LENT = 2**20  # results of so many bytes and more are kept for reuse; below, malloc does that itself
KEEP = 4  # blocks that wait for their next use, of one size
_POPULATE_WRITE = 23  # of madvise, since Linux 5.14; an older one says that it doesn't know it


@cache
def _madvise() -> Callable[[int, int, int], int]:
    """The system's. (mmap's own keeps the interpreter lock.)"""
    place, number = ctypes.c_void_p, ctypes.c_int
    return ctypes.CFUNCTYPE(number, place, ctypes.c_size_t, number)(("madvise", ctypes.CDLL(None)))


class Block:
    """Private anonymous memory of `size` bytes, at least one, zeroed at first, given back when the block dies.

    huge: whether to ask for huge pages. They are fewer, but where the system has none at hand it looks for them, which
    takes far longer than small ones do.
    """

    __slots__ = ("_memory", "_view", "address", "size")

    def __init__(self, size: int, huge: bool = True) -> None:
        flags = {}
        if hasattr(mmap, "MAP_PRIVATE"):  # the default is shared: a forked child would write into our results
            flags = {"flags": mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS}
        self.size = max(size, 1)
        self._memory = mmap.mmap(-1, self.size, **flags)
        if huge and size >= HUGE_PAGE and hasattr(mmap, "MADV_HUGEPAGE"):
            try:
                self._memory.madvise(mmap.MADV_HUGEPAGE)
            except OSError:
                pass  # a kernel without huge pages: the same memory, somewhat slower
        self._view = ctypes.c_char.from_buffer(self._memory)
        self.address = ctypes.addressof(self._view)

    def populate(self) -> None:
        """Have the system give pages now rather than when they are first written to. Another thread may use the memory
        and the interpreter lock meanwhile. Does nothing where the system can't be told."""
        if sys.platform == "linux":  # in one call: after each the thread would wait for the interpreter lock
            _madvise()(self.address, self.size, _POPULATE_WRITE)

    def forget(self) -> None:
        """Give the memory back to the system, but not its place: what was in it may be zeros now."""
        if hasattr(mmap, "MADV_DONTNEED"):
            self._memory.madvise(mmap.MADV_DONTNEED)


class _Lease:
    """The base of a lent array. NumPy holds it as long as any view of the array lives; then the block goes home."""

    __slots__ = ("__array_interface__", "_block", "_home")

    def __init__(self, home: list[Block], block: Block, shape: Shape, dtype: np.dtype[Any]) -> None:
        self._home = home
        self._block = block
        self.__array_interface__ = {
            "version": 3,
            "shape": shape,
            "typestr": dtype.str,
            "data": (block.address, False),
        }

    def __del__(self) -> None:
        if len(self._home) < KEEP:
            self._home.append(self._block)


class Lender:
    """Gives out arrays of one shape and dtype, uninitialised, in the memory of such arrays that have died.

    Threads may share it: taking from and adding to a list is atomic.
    """

    __slots__ = ("_dtype", "_home", "_shape", "_size")

    def __init__(self, shape: Shape, dtype: np.dtype[Any]) -> None:
        self._shape = shape
        self._dtype = dtype
        self._size = int(np.prod(shape, dtype=np.int64)) * dtype.itemsize
        self._home: list[Block] = []

    def take(self) -> npt.NDArray[Any]:
        try:
            block = self._home.pop()
        except IndexError:
            block = Block(self._size)
        return np.asarray(_Lease(self._home, block, self._shape, self._dtype))
