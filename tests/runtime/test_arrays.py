"""Products of matrices for what is computed in NumPy: the same numbers, whatever the operands' memory looks like."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import graphc as gc
from graphc.runtime import arrays
from graphc.runtime.heap import Heap

rng = np.random.default_rng(0)


def integers(*shape: int, dtype: Any = np.float32) -> Any:
    """Small ones: their products and sums are exact in any order."""
    return rng.integers(-8, 9, shape).astype(dtype)


OPERANDS = {
    "dense": lambda: (integers(50, 40), integers(40, 70)),
    "transposed": lambda: (integers(40, 50).T, integers(70, 40).T),
    "rows apart": lambda: (integers(50, 90)[:, 3:43], integers(80, 70)[::2]),
    "columns apart": lambda: (integers(50, 80)[:, ::2], integers(40, 140)[:, ::2]),
    "backwards": lambda: (integers(50, 40)[::-1], integers(40, 70)[:, ::-1]),
    "broadcast rows": lambda: (np.broadcast_to(integers(40), (50, 40)), np.broadcast_to(integers(40, 1), (40, 70))),
    "one row": lambda: (integers(1, 400), integers(400, 300)),
    "one column": lambda: (integers(400, 300), integers(300, 1)),
    "batch": lambda: (integers(5, 50, 40), integers(5, 40, 70)),
    "batches": lambda: (integers(2, 3, 50, 40), integers(2, 3, 40, 70)),
    "batch on one side": lambda: (integers(50, 40), integers(5, 40, 70)),
    "batch on the other": lambda: (integers(5, 50, 40), integers(40, 70)),
    "batch of one": lambda: (integers(1, 50, 40), integers(5, 40, 70)),
    "broadcast along one of two": lambda: (integers(2, 1, 50, 40), integers(2, 3, 40, 70)),
    "broadcast against each other": lambda: (integers(2, 1, 50, 40), integers(1, 3, 40, 70)),
    "heads": lambda: (integers(2, 30, 4, 16).transpose(0, 2, 1, 3), integers(2, 30, 4, 16).transpose(0, 2, 3, 1)),
    "batch backwards": lambda: (integers(5, 50, 40)[::-1], integers(5, 40, 70)),
    "empty batch": lambda: (integers(0, 50, 40), integers(0, 40, 70)),
    "nothing to sum": lambda: (integers(500, 0), integers(0, 700)),
    "int64": lambda: (integers(50, 40, dtype=np.int64), integers(40, 70, dtype=np.int64)),
}


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("name", OPERANDS)
def test_as_numpy(name: str, dtype: Any) -> None:
    a, b = OPERANDS[name]()
    if a.dtype.kind == "f":
        a, b = (x if dtype is x.dtype.type else x.astype(dtype, order="K") for x in (a, b))
    found = arrays.matmul(a, b)
    expected = a @ b
    assert found.dtype == expected.dtype
    assert found.flags.c_contiguous
    np.testing.assert_array_equal(found, expected)


def test_misaligned_operands() -> None:
    memory = np.empty(4 * 50 * 40 + 1, np.uint8)[1:]
    a = memory.view(np.float32).reshape(50, 40)
    a[...] = integers(50, 40)
    b = integers(40, 70)
    np.testing.assert_array_equal(arrays.matmul(a, b), a.copy() @ b)


def test_bits_dont_depend_on_the_number_of_threads() -> None:
    a, b = rng.standard_normal((700, 500)), rng.standard_normal((500, 600))
    before, found = gc.get_num_threads(), []
    try:
        for threads in (1, 2, 5):
            gc.set_num_threads(threads)
            found.append(arrays.matmul(a, b))
    finally:
        gc.set_num_threads(before)
    assert found[0].tobytes() == found[1].tobytes() == found[2].tobytes()
    np.testing.assert_allclose(found[0], a @ b, rtol=1e-12, atol=1e-11)


def test_the_rest_is_numpy() -> None:
    namespace = arrays.Namespace(Heap())
    for _ in range(2):
        assert namespace.add is np.add
        assert namespace.lib.stride_tricks is np.lib.stride_tricks
        with pytest.raises(AttributeError, match="no_such_function"):
            _ = namespace.no_such_function


@pytest.mark.parametrize("shape", [(2, 3), (100, 200)])
def test_large_results_lie_in_the_heap(shape: tuple[int, int]) -> None:
    heap = Heap()
    namespace, large = arrays.Namespace(heap), shape[0] * shape[1] > 1000
    found = [
        namespace.full(shape, 2.5, dtype=np.dtype(np.float32)),
        namespace.zeros(shape, dtype=np.dtype(np.int64)),
        namespace.matmul(integers(shape[0], 50), integers(50, shape[1])),
        namespace.empty_like(integers(*shape)),
    ]
    assert (found[0] == 2.5).all()
    assert not found[1].any()
    assert [a.shape for a in found] == [shape] * 4
    assert [a.dtype for a in found] == [np.float32, np.int64, np.float32, np.float32]
    assert [a.flags.owndata for a in found] == [not large] * 4
    assert (heap.nbytes > 0) is large
