"""A heap of arrays: large intermediate results in memory that is used again as soon as they have died.

A fresh page costs the system more than a NumPy function takes to fill it, and malloc gives large arrays fresh pages
time and again. Here memory comes in chunks of a few sizes, and a chunk is free again when the last view of its array
dies, whatever views NumPy took: it is the base of them all. Another core has the system make the pages ready, before
they are needed.
"""

from __future__ import annotations

import threading
from typing import Any

import numpy as np
import numpy.typing as npt

from graphc.types import Shape

from .blocks import Block

LEAST = 2**14  # bytes of an array worth its lease; malloc uses smaller ones again by itself
BLOCK = 8 * 2**20  # bytes taken from the system at once; larger arrays get more
_STEPS = 8  # sizes of chunks between one power of two and the next: at most an eighth is wasted


class _Lease:
    """The base of an array: NumPy holds it as long as any view of the array lives."""

    __slots__ = ("__array_interface__", "_chunks", "_heap", "_place")

    def __init__(self, heap: Heap, chunks: list[int], place: int, shape: Shape, dtype: np.dtype[Any]) -> None:
        self._heap = heap  # whose blocks must outlive the array
        self._chunks = chunks
        self._place = place
        self.__array_interface__ = {"version": 3, "shape": shape, "typestr": dtype.str, "data": (place, False)}

    def __del__(self) -> None:
        self._chunks.append(self._place)


class Heap:
    """Gives out uninitialised arrays. Threads may share it: taking from and adding to a list is atomic."""

    def __init__(self) -> None:
        self._free: dict[int, list[int]] = {}  # size of a chunk -> addresses
        self._growing = threading.Lock()
        self._blocks: list[Block] = []  # chunks are cut from the last one
        self._used = 0  # bytes of that
        self._next: Block | None = None

    @property
    def nbytes(self) -> int:
        """What was taken from the system."""
        return sum(block.size for block in self._blocks)

    def empty(self, shape: Shape, dtype: np.dtype[Any]) -> npt.NDArray[Any]:
        """An array in C order, on a boundary of 64 bytes; a small one is NumPy's own."""
        nbytes = dtype.itemsize
        for extent in shape:
            nbytes *= extent
        if nbytes < LEAST:
            return np.empty(shape, dtype)
        step = 1 << ((nbytes - 1).bit_length() - _STEPS.bit_length())
        size = -(-nbytes // step) * step
        chunks = self._free.get(size)
        if chunks is None:
            chunks = self._free.setdefault(size, [])
        try:
            place = chunks.pop()
        except IndexError:
            place = self._grown(size)
        return np.asarray(_Lease(self, chunks, place, shape, dtype))

    def _grown(self, size: int) -> int:
        """The address of a new chunk."""
        with self._growing:
            if not self._blocks or self._used + size > self._blocks[-1].size:
                block, self._next = self._next, None
                if block is None or size > block.size:
                    block = Block(max(size, BLOCK), huge=False)
                self._blocks.append(block)
                self._used = 0
            self._used += size
            return self._blocks[-1].address + self._used - size

    def prepare(self, nbytes: int) -> None:
        """Have the first so many bytes made ready, some time before they are needed; less than a block isn't worth a
        thread, which would still be at it when products want its core."""
        with self._growing:
            if self._next is None and nbytes >= BLOCK:
                self._next = _prepared(nbytes)

    def release(self) -> None:
        """Give back what is ready, but wasn't needed."""
        with self._growing:
            self._next = None


def _prepared(nbytes: int) -> Block:
    """A block whose pages another thread makes ready."""
    block = Block(nbytes, huge=False)
    threading.Thread(target=block.populate, name="graphc-pages", daemon=True).start()
    return block
