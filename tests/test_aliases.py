"""compile() and memory that several names share: what is written, returned or refused is what eager mode does."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import graphc as gc


def T(a: Any) -> gc.Tensor:
    return gc.tensor(np.array(a, dtype=np.float64))


def eager(f: Callable[..., Any]) -> Callable[..., Any]:
    return f


each_mode = pytest.mark.parametrize("mode", [eager, gc.compile], ids=["eager", "compiled"])


def doubled_and_added(a: gc.Tensor, b: gc.Tensor) -> gc.Tensor:
    """Changes a, and reads b, which may be the same memory."""
    a.mul_(2.0)
    return a + b


@each_mode
@pytest.mark.parametrize("other", [lambda x: x, lambda x: x[:]], ids=["itself", "a view"])
def test_one_memory_given_twice(mode: Any, other: Callable[[gc.Tensor], gc.Tensor]) -> None:
    x = T([1.0, 2.0, 3.0])
    result = mode(doubled_and_added)(x, other(x))
    np.testing.assert_array_equal(result.numpy(), [4, 8, 12])
    np.testing.assert_array_equal(x.numpy(), [2, 4, 6])


def test_one_memory_given_twice_without_a_tie_is_refused() -> None:
    """Nothing tells a trace that the two are one: the array has another owner."""
    x = T([1.0, 2.0, 3.0])
    with pytest.raises(gc.AliasError, match=r"shares memory with another input .* Pass x\.clone\(\)"):
        gc.compile(doubled_and_added)(x, x.detach())
    np.testing.assert_array_equal(x.numpy(), [1, 2, 3])


@each_mode
def test_a_captured_view_sees_its_base_written(mode: Any) -> None:
    w = T([1.0, 2.0, 3.0])
    v = w[0:1]

    def f(a: gc.Tensor) -> gc.Tensor:
        w.mul_(2.0)
        return a + v

    np.testing.assert_array_equal(mode(f)(T([0.0, 0.0, 0.0])).numpy(), [2, 2, 2])
    np.testing.assert_array_equal(w.numpy(), [2, 4, 6])


@each_mode
def test_a_captured_base_sees_its_view_written(mode: Any) -> None:
    w = T([1.0, 2.0, 3.0])
    v = w[0:1]

    def f(a: gc.Tensor) -> gc.Tensor:
        v.mul_(2.0)
        return a + w

    np.testing.assert_array_equal(mode(f)(T([0.0, 0.0, 0.0])).numpy(), [2, 2, 3])
    np.testing.assert_array_equal(w.numpy(), [2, 2, 3])
    np.testing.assert_array_equal(v.numpy(), [2])


@each_mode
def test_an_argument_that_is_a_view_is_written_in_its_base(mode: Any) -> None:
    def f(a: gc.Tensor) -> gc.Tensor:
        a.mul_(2.0)
        return a.sum()

    w = T([1.0, 2.0, 3.0])
    assert mode(f)(w[1:]).item() == 10
    np.testing.assert_array_equal(w.numpy(), [1, 4, 6])
    w = T(np.arange(6.0).reshape(2, 3))
    assert mode(f)(w.permute(1, 0)).item() == 30
    np.testing.assert_array_equal(w.numpy(), 2 * np.arange(6.0).reshape(2, 3))


@each_mode
def test_numpy_arrays_are_read_and_written_in_place(mode: Any) -> None:
    def f(a: Any) -> Any:
        a += 1
        return a * 2

    a = np.array([1.0, 2.0])
    assert np.asarray(mode(f)(a)).tolist() == [4, 6]
    assert a.tolist() == [2, 3]


@each_mode
def test_what_came_in_is_given_back_itself(mode: Any) -> None:
    w, x = T([1.0, 2.0]), T([1.0, 1.0])

    def captured(x: gc.Tensor) -> gc.Tensor:
        w.add_(x)
        return w

    def written(x: gc.Tensor) -> gc.Tensor:
        x.add_(1.0)
        return x

    assert mode(captured)(x) is w
    np.testing.assert_array_equal(w.numpy(), [2, 3])
    assert mode(lambda x: x)(x) is x
    assert mode(written)(x) is x
    np.testing.assert_array_equal(x.numpy(), [2, 2])
    first, second = mode(lambda x: (x, x))(x)
    assert first is x
    assert second is x


def test_results_of_a_compiled_function_have_memory_of_their_own() -> None:
    def twice(x: gc.Tensor) -> tuple[gc.Tensor, gc.Tensor, gc.Tensor]:
        y = x * 2
        return y, y, y.reshape(1, 1)

    first, second, view = gc.compile(twice)(T([1.0]))
    first.add_(1.0)
    assert [first.item(), second.item(), view.item()] == [3, 2, 2]


def test_memory_that_may_not_be_written_is_refused() -> None:
    a = np.ones(3)
    a.flags.writeable = False
    with pytest.raises(gc.InplaceError, match="mul_: the memory of this tensor is read-only"):
        gc.asarray(a).mul_(2.0)
    with pytest.raises(gc.GraphcError, match=r"argument 0 .* is written in place, but its memory is read-only\. Give"):
        gc.compile(lambda x: x.mul_(2.0))(gc.asarray(a))
    np.testing.assert_array_equal(a, 1)


def test_a_captured_tensor_that_is_changed_and_given_is_refused() -> None:
    w = T([1.0, 2.0, 3.0])

    def f(a):
        w.mul_(2.0)
        return a + w

    c = gc.compile(f)
    np.testing.assert_array_equal(c(T([0.0, 0.0, 0.0])).numpy(), [2, 4, 6])
    with pytest.raises(gc.AliasError, match="also closes over and changes"):
        c(w)
    np.testing.assert_array_equal(w.numpy(), [2, 4, 6])
