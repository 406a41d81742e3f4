"""Arrays of a heap: never two of them in the same memory, whatever views live on; and memory is used again."""

from __future__ import annotations

import threading
from typing import Any

import numpy as np
import pytest

from graphc.runtime import blocks
from graphc.runtime.blocks import Block
from graphc.runtime.heap import BLOCK, LEAST, Heap

F32, BOOL = np.dtype(np.float32), np.dtype(np.bool_)


@pytest.mark.parametrize("shape", [(), (3,), (0, 5), (100, 50), (4096,), (3, 4097), (17, 1000, 1000)])
@pytest.mark.parametrize("dtype", [F32, BOOL, np.dtype(np.int64)])
def test_arrays_are_as_numpys(shape: tuple[int, ...], dtype: np.dtype[Any]) -> None:
    array = Heap().empty(shape, dtype)
    assert (array.shape, array.dtype) == (shape, dtype)
    assert array.flags.c_contiguous
    assert array.flags.writeable
    assert array.flags.aligned
    if array.nbytes >= LEAST:
        assert array.ctypes.data % 64 == 0
    array[...] = 1
    assert array.sum() == array.size


def test_living_arrays_are_apart() -> None:
    heap, rng = Heap(), np.random.default_rng(0)
    living: list[tuple[int, Any]] = []
    for number in range(400):
        array = heap.empty((int(rng.integers(LEAST // 4, 200_000)),), F32)
        array.fill(number)
        view = array[::2][1:].reshape(-1, 1) if number % 3 else array
        del array  # a view keeps the memory
        living.append((number, view))
        if len(living) > 20:
            told, oldest = living.pop(int(rng.integers(len(living))))
            assert (oldest == told).all()
    assert all((view == told).all() for told, view in living)


def test_memory_is_used_again() -> None:
    heap = Heap()
    first = heap.empty((100_000,), F32)
    place, taken = first.ctypes.data, heap.nbytes
    view = first[10:]
    del first
    assert heap.empty((100_000,), F32).ctypes.data != place
    del view
    assert {heap.empty((100_000,), F32).ctypes.data, heap.empty((99_000,), F32).ctypes.data} == {place}
    for _ in range(1000):
        heap.empty((300, 400), F32)
    assert heap.nbytes == taken == BLOCK


def test_what_is_larger_than_a_block() -> None:
    heap = Heap()
    kept = [heap.empty((BLOCK // 4 + n,), F32) for n in (1, 100_000)]
    small = heap.empty((5000,), F32)
    for number, array in enumerate((*kept, small)):
        array.fill(number)
    assert [float(a.mean()) for a in (*kept, small)] == [0, 1, 2]


def test_an_array_outlives_its_heap() -> None:
    array = Heap().empty((300_000,), F32)
    array.fill(3)
    others = [Heap().empty((300_000,), F32) for _ in range(4)]
    for other in others:
        other.fill(4)
    assert (array == 3).all()


def test_populating_leaves_what_is_written() -> None:
    block = Block(3 * 2**20 + 5, huge=False)
    array = np.frombuffer(block._memory, np.uint8)
    array[:] = 7
    block.populate()
    assert (array == 7).all()


def test_where_pages_cant_be_made_ready(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(blocks.sys, "platform", "darwin")
    heap = Heap()
    heap.prepare(BLOCK)
    array = heap.empty((BLOCK // 8,), F32)
    array.fill(1)
    heap.release()
    assert array.sum() == array.size


def test_what_was_made_ready_is_used_first() -> None:
    heap = Heap()
    heap.prepare(BLOCK - 1)  # too little
    assert heap._next is None
    heap.prepare(3 * BLOCK)
    kept = [heap.empty((BLOCK // 8,), F32) for _ in range(4)]
    assert heap.nbytes == 3 * BLOCK
    kept += [heap.empty((BLOCK // 8,), F32) for _ in range(4)]
    for number, array in enumerate(kept):
        array.fill(number)
    assert [float(array.mean()) for array in kept] == list(range(8))
    assert heap.nbytes == 4 * BLOCK


def test_threads() -> None:
    heap, wrong = Heap(), []

    def work(number: int) -> None:
        for k in range(300):
            arrays = [heap.empty((5000 + 700 * (k % 5),), F32) for _ in range(3)]
            for i, array in enumerate(arrays):
                array.fill(number * 10 + i)
            wrong.extend(i for i, array in enumerate(arrays) if not (array == number * 10 + i).all())

    threads = [threading.Thread(target=work, args=(i,)) for i in range(5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []
