"""The tape's shorter ways to NumPy give what the ordinary ways give, to the bit."""

from __future__ import annotations

import math

import numpy as np
import pytest

import graphc as gc
from graphc import autodiff, dispatch
from graphc.bare import SINGLES
from graphc.ops import elementwise as ew
from graphc.primitive import Primitive
from graphc.sweeps import Numbers

PREPARED = [p for p in ew.PRIMITIVES if p.numeric is not None and any(p.numeric)]


def test_the_usual_operations_are_prepared() -> None:
    assert {ew.ADD, ew.MULTIPLY, ew.DIVIDE, ew.TANH, ew.EXP, ew.SIN, ew.POWER, ew.MAXIMUM} <= set(PREPARED)
    assert ew.WHERE.numeric is None
    assert ew.STRONG_MULTIPLY.numeric is None


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("primitive", PREPARED, ids=lambda p: p.name)
def test_numeric_rules_are_the_partials(primitive: Primitive, dtype: type[np.floating]) -> None:
    assert primitive.partials is not None and primitive.numeric is not None
    arrays = [np.array([0.3, 0.7, 1.2, 2.0], dtype), np.array([0.9, 0.7, 2.5, 0.4], dtype)]
    xs = arrays[: len(primitive.partials)]
    y = primitive.eval(np, *xs)
    for written, numeric in zip(primitive.partials, primitive.numeric, strict=True):
        if written is None or numeric is None:
            assert written is numeric
            continue
        with dispatch.numbers():
            expected, got = written(y, *xs), numeric(y, *xs)
        assert type(got) is type(expected)
        np.testing.assert_array_equal(got, expected)
        assert np.asarray(got).dtype == np.asarray(expected).dtype


@pytest.mark.parametrize("number", [2.0, 3, -1, 1, 0.0, -0.0, 0, 1e-40, 1e39, math.inf, 2**30 + 1, 1 / 3])
@pytest.mark.parametrize("name", ["add", "subtract", "multiply", "divide", "power", "maximum", "remainder"])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("first", [True, False])
def test_a_sweep_with_python_numbers_is_that_of_the_rules(
    name: str, number: float, dtype: str, first: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    def gradient() -> tuple[np.ndarray, np.ndarray]:
        x = gc.tensor(np.array([0.5, 1.5, 3.0], dtype), requires_grad=True)
        operation = getattr(gc, name)
        y = operation(number, x) if first else operation(x, number)
        gc.sum(y).backward()
        assert x.grad is not None
        return y.detach().numpy(), x.grad.numpy()

    y, short = gradient()
    monkeypatch.setattr(Numbers, "ahead", autodiff.Carrier.ahead)
    long = gradient()[1]
    assert short.dtype == long.dtype == y.dtype == np.dtype(dtype)
    np.testing.assert_array_equal(short, long)
    with np.errstate(all="ignore"):
        array = np.array([0.5, 1.5, 3.0], dtype)
        expected = getattr(np, name)(*((number, array) if first else (array, number)))
    np.testing.assert_array_equal(y, expected)
    np.testing.assert_array_equal(np.signbit(y), np.signbit(expected))


def test_numbers_float32_has_no_plain_counterpart_of_stay_python_numbers() -> None:
    for number in (0.0, -0.0, 1e-40, 1e39, math.inf, 2**24 + 1):
        assert SINGLES[number] is number
    assert math.isnan(SINGLES[math.nan])
    assert SINGLES[1.5].dtype == np.float32 and SINGLES[1.5].shape == ()
    with pytest.raises(ValueError, match="read-only"):
        SINGLES[1.5][...] = 2.0


def test_the_memory_of_numbers_is_bounded() -> None:
    for k in range(2000):
        assert SINGLES[1.0 + k / 7] == np.float32(1.0 + k / 7)
    assert len(SINGLES) <= 256


def test_broadcast_operands_and_active_vertices_go_the_short_way_too() -> None:
    assert Numbers.ahead is not autodiff.Carrier.ahead
    x = gc.tensor(np.ones((2, 3), np.float32))
    w = gc.tensor(np.arange(3, dtype=np.float32))
    gx, gw = gc.grad(lambda a, b: gc.sum(gc.tanh(a * b + 1.0) * b), argnums=(0, 1))(x, w)
    t = np.tanh(x.numpy() * w.numpy() + 1)
    np.testing.assert_allclose(gx.numpy(), (1 - t * t) * w.numpy() ** 2, rtol=1e-5)
    np.testing.assert_allclose(gw.numpy(), (t + (1 - t * t) * w.numpy() * x.numpy()).sum(0), rtol=1e-5)
