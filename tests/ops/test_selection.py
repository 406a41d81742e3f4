"""where() without branches: NumPy's bits, for every kind of memory."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from graphc.ops import selection

rng = np.random.default_rng(0)
SHAPE = (64, 9, 8)  # more than selection._LEAST elements
DTYPES = (np.float32, np.float64, np.int32, np.int64, np.bool_)


def numbers(dtype: Any, shape: tuple[int, ...] = SHAPE) -> Any:
    """With what comparisons and arithmetic lose: -0.0, infinities, NaN with bits of its own."""
    found = (rng.standard_normal(shape) * 100).astype(dtype)
    if found.dtype.kind == "f" and found.size > 4:
        flat = found.reshape(-1)
        flat[:4] = -0.0, np.inf, -np.inf, np.nan
        flat[4:5].view(np.int32 if dtype is np.float32 else np.int64)[:] = -3  # a NaN too
    return found


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shapes", [(SHAPE, SHAPE), ((), SHAPE), (SHAPE, ()), ((), ()), ((8,), SHAPE), (SHAPE, (9, 1))])
def test_as_numpy(dtype: Any, shapes: tuple[tuple[int, ...], ...]) -> None:
    x, y = (numbers(dtype, shape) for shape in shapes)
    before = x.tobytes(), y.tobytes()
    for condition in (rng.random(SHAPE) < 0.5, np.zeros(SHAPE, bool), np.ones(SHAPE, bool)):
        found = selection.select(np, condition, x, y)
        assert (found.shape, found.dtype) == (SHAPE, np.dtype(dtype))
        assert found.tobytes() == np.where(condition, x, y).tobytes()
    assert before == (x.tobytes(), y.tobytes())


@pytest.mark.parametrize("dtype", DTYPES)
def test_in_any_memory_order(dtype: Any) -> None:
    wide = numbers(dtype, (64, 18, 8))
    condition = (rng.random((8, 9, 64)) < 0.5).T
    for x, y in ((wide[:, ::2], wide[:, 1::2]), (np.asfortranarray(numbers(dtype)), numbers(dtype)), (wide[:, :9], 1)):
        found = selection.select(np, condition, x, np.asarray(y, dtype))
        assert found.tobytes() == np.where(condition, x, np.asarray(y, dtype)).tobytes()


def test_the_result_is_no_operand() -> None:
    x, y = numbers(np.float32), numbers(np.float32)
    found = selection.select(np, np.ones(SHAPE, bool), x, y)
    assert not np.shares_memory(found, x)
    assert found.flags.writeable
    assert found.flags.c_contiguous


def test_small_and_mixed_operands_are_numpys() -> None:
    assert selection.select(np, np.array([True, False]), np.float32(1), np.float32(2)).tolist() == [1, 2]
    mixed = selection.select(np, np.ones(SHAPE, bool), numbers(np.float32), numbers(np.float64))
    assert mixed.dtype == np.float64
    assert selection.select(np, np.ones(SHAPE, np.int64), numbers(np.float32), numbers(np.float32)).shape == SHAPE
