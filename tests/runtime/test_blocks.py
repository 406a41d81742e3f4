"""Memory of results and arenas: used again when nobody has it any more, and shared with nobody."""

from __future__ import annotations

import ctypes
import gc

import numpy as np

from graphc.runtime import blocks
from graphc.types import TensorType, float32
from tests.runtime.executables import built, operands


def test_big_results_reuse_memory_of_dead_ones_only() -> None:
    lender = blocks.Lender((1000, 300), np.dtype(np.float32))
    first = lender.take()
    first[:] = 1
    address = first.ctypes.data
    second = lender.take()
    assert second.ctypes.data != address
    view = first[10:, 5]
    del first
    third = lender.take()  # the view still holds the first
    assert third.ctypes.data not in (address, second.ctypes.data)
    third[:] = 3
    assert (view == 1).all()
    del view
    gc.collect()
    fourth = lender.take()
    assert fourth.ctypes.data == address
    assert fourth.flags.writeable
    assert fourth.shape == (1000, 300)
    assert fourth.dtype == np.float32


def test_a_program_s_big_results_stay_apart() -> None:
    shape = (600, 500)
    assert TensorType(shape, float32).nbytes >= blocks.LENT
    run = built(shape=shape)
    a, b, state = operands(shape)
    kept = [run(a + np.float32(i), b, state)[1] for i in range(8)]
    for i, found in enumerate(kept):
        np.testing.assert_array_equal(found, (a + np.float32(i)) * np.float32(10) + b)
    addresses = {x.ctypes.data for x in kept}
    assert len(addresses) == 8
    del found, kept
    assert run(a, b, state)[1].ctypes.data in addresses


def test_blocks_are_private_and_zeroed() -> None:
    for size in (0, 1, 5000, 3 * blocks.HUGE_PAGE):
        block = blocks.Block(size)
        assert block.address % 4096 == 0
        assert ctypes.string_at(block.address, min(block.size, 100)) == bytes(min(block.size, 100))
        ctypes.memset(block.address, 7, block.size)
