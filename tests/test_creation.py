"""Tensors made of lists that hold tensors: their numbers and their dtype are kept; devices there are not."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import graphc as gc

THIRD = gc.tensor(1 / 3, dtype=gc.float64)
LONG = gc.tensor(2**40 + 1)
TRUE = gc.tensor(True)


@pytest.mark.parametrize("make", [gc.tensor, gc.asarray])
@pytest.mark.parametrize(
    ("data", "dtype", "expected"),
    [
        ([THIRD, THIRD], gc.float64, [1 / 3, 1 / 3]),
        ([[THIRD], (LONG,)], gc.float64, [[1 / 3], [2**40 + 1]]),
        ([LONG, 3], gc.int64, [2**40 + 1, 3]),
        ([TRUE, False], gc.bool, [True, False]),
        ([TRUE, 2], gc.int64, [1, 2]),
        ([gc.tensor(0.5), 0.25], gc.float32, [0.5, 0.25]),
        ([gc.tensor(3, dtype=gc.int32), 0.5], gc.float32, [3.0, 0.5]),
        ([gc.tensor([1.0, 2.0]), gc.tensor([3.0, 4.0])], gc.float32, [[1.0, 2.0], [3.0, 4.0]]),
    ],
)
def test_lists_of_tensors_keep_their_numbers(make: Any, data: Any, dtype: gc.DType, expected: Any) -> None:
    made = make(data)
    assert made.dtype == dtype
    assert made.tolist() == expected


def test_lists_of_tensors_take_a_dtype_and_leave_history() -> None:
    x = gc.tensor(0.5, requires_grad=True)
    made = gc.tensor([x, 0.1], dtype=gc.float64)
    assert made.tolist() == [0.5, 0.1]
    assert not made.requires_grad
    assert gc.tensor([x * 3, 2], dtype=gc.int64).tolist() == [1, 2]


def test_a_list_of_traced_tensors_asks_for_stack() -> None:
    with pytest.raises(gc.TraceError, match=r"graphc\.stack"):
        gc.compile(lambda x: gc.tensor([x.sum(), 1.0]))(gc.ones(2))
    stacked = gc.compile(lambda x: gc.stack([x.sum(), x[0]]))(gc.ones(2))
    np.testing.assert_array_equal(stacked.numpy(), [2, 1])


@pytest.mark.parametrize(("device", "mend"), [("cuda", "compile for 'cuda'"), ("tpu", "tensors are made on the 'cpu'")])
def test_devices_that_hold_no_tensors_are_refused(device: str, mend: str) -> None:
    with pytest.raises(gc.DeviceError, match=f"'{device}' isn't supported here.*{mend}"):
        gc.tensor([1.0], device=device)


def test_numbers_everywhere_inside_of_a_compiled_function() -> None:
    """They are spread where they are used, can be written to, and each call's are its own."""

    def f(x: gc.Tensor) -> tuple[gc.Tensor, ...]:
        count = gc.zeros_like(x)
        count += x > 0
        board = gc.full((3, 4), 2.5, np.float64)
        board[1:, 1:-1] = gc.ones((2, 2), np.float64)
        return count, board, gc.full_like(x, -0.0), gc.zeros((0, 3)), gc.ones(())

    compiled = gc.compile(f)
    x = gc.asarray(np.array([[1.0, -2.0], [0.5, 0.0]], np.float32))
    for _ in range(2):
        for got, want in zip(compiled(x), f(x), strict=True):
            assert got.dtype == want.dtype
            np.testing.assert_array_equal(got.numpy(), want.numpy())
            np.testing.assert_array_equal(np.signbit(got.numpy()), np.signbit(want.numpy()))
    assert compiled.explain().captured == ("argument 0: f32[2,2]",)
    first, second = compiled(x)[1], compiled(x)[1]
    first[0, 0] = 77.0
    assert second.numpy()[0, 0] == 2.5
