"""The functions composed of primitives: promotion as PyTorch's, values as NumPy's, alike in both modes."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

import graphc as gc
from graphc.errors import AxisError, DTypeError, ShapeError
from graphc.tensor import Tensor, as_tensor
from graphc.types import DTYPES
from tests.pytorch import pytorch

ARITHMETIC: dict[str, Callable[[Any, Any], Any]] = {
    "add": lambda a, b: a + b,
    "subtract": lambda a, b: a - b,
    "multiply": lambda a, b: a * b,
    "divide": lambda a, b: a / b,
    "floor_divide": lambda a, b: a // b,
    "remainder": lambda a, b: a % b,
    "less": lambda a, b: a < b,
    "equal": lambda a, b: a == b,
}
# graphc computes with booleans as int64, as the array API sums them; PyTorch keeps bool, or refuses.
_BOOLEAN_ONLY = {"add", "subtract", "multiply", "floor_divide", "remainder"}


def _dtype_name(x: Any) -> str:
    return str(x.dtype).split(".")[-1]


@pytest.mark.parametrize("name", ARITHMETIC)
def test_dtypes_promote_as_in_pytorch(name: str) -> None:
    """Every pair of dtypes, and every Python number on either side (weak: it raises the kind, not the width)."""
    torch = pytorch()
    operation = ARITHMETIC[name]
    pairs: list[tuple[Any, Any]] = list(itertools.product(DTYPES, DTYPES))
    pairs += [(d, n) for d in DTYPES for n in (True, 3, 2.5)] + [(n, d) for d in DTYPES for n in (True, 3, 2.5)]
    for pair in pairs:
        kinds = {p.kind if hasattr(p, "kind") else {bool: "b", int: "i", float: "f"}[type(p)] for p in pair}
        if (kinds == {"b"} and name in _BOOLEAN_ONLY) or ("b" in kinds and name == "subtract"):
            continue
        ours = [as_tensor(np.ones(2, p.numpy)) if hasattr(p, "kind") else p for p in pair]
        theirs = [torch.ones(2, dtype=getattr(torch, p.name)) if hasattr(p, "kind") else p for p in pair]
        got, want = operation(*ours), operation(*theirs)
        assert _dtype_name(got) == _dtype_name(want), pair
        np.testing.assert_array_equal(got.numpy(), want.numpy())


def test_compiled_code_promotes_alike() -> None:
    numbers: list[Any] = [True, 3, 2.5]
    values = [as_tensor(np.array([1, 0, 1], d.numpy)) for d in DTYPES]

    def everything(*xs: Any) -> Any:
        found = []
        for operation in ARITHMETIC.values():
            found += [operation(a, b) for a in xs for b in xs]
            found += [operation(a, n) for a in xs for n in numbers] + [operation(n, a) for a in xs for n in numbers]
        return found

    for got, want in zip(gc.compile(everything)(*values), everything(*values), strict=True):
        assert got.dtype == want.dtype
        np.testing.assert_array_equal(got.numpy(), want.numpy())


shapes = arrays.array_shapes(min_dims=0, max_dims=3, min_side=1, max_side=5)
floats = arrays.arrays(np.float64, shapes, elements=st.floats(-4, 4, allow_subnormal=False))


def _axes(data: Any, x: Any) -> Any:
    every = list(range(-x.ndim, x.ndim))
    several = st.lists(st.sampled_from(range(x.ndim)), unique=True).map(tuple) if x.ndim else st.just(())
    return data.draw(st.none() | several | (st.sampled_from(every) if every else st.none()))


@settings(max_examples=100, deadline=None)
@given(floats, st.booleans(), st.data())
def test_reductions_are_numpys(x: Any, keepdims: bool, data: Any) -> None:
    axis = _axes(data, x)
    t = as_tensor(x)
    for name in ("sum", "mean", "max", "min", "var", "std"):
        got = getattr(gc, name)(t, axis=axis, keepdims=keepdims).numpy()
        want = getattr(np, name)(x, axis=axis, keepdims=keepdims)
        assert got.shape == np.shape(want)
        np.testing.assert_allclose(got, want, rtol=1e-12, atol=1e-13)
    np.testing.assert_allclose(
        gc.logsumexp(t, axis=axis, keepdims=keepdims).numpy(),
        np.log(np.sum(np.exp(x), axis=axis, keepdims=keepdims)),
        rtol=1e-12,
        atol=1e-13,
    )
    for name in ("any", "all"):
        got = getattr(gc, name)(t > 0, axis=axis, keepdims=keepdims).numpy()
        np.testing.assert_array_equal(got, getattr(np, name)(x > 0, axis=axis, keepdims=keepdims))


def test_logsumexp_is_stable_and_knows_infinity() -> None:
    x = as_tensor(np.array([[1000.0, 1000.0], [-np.inf, -np.inf], [np.inf, 0.0], [-np.inf, 3.0]]))
    np.testing.assert_allclose(gc.logsumexp(x, axis=1).numpy(), [1000 + math.log(2), -np.inf, np.inf, 3.0])


UNARY: dict[str, tuple[Callable[[Any], Any], Callable[[Any], Any]]] = {
    "reciprocal": (gc.reciprocal, lambda x: 1 / x),
    "square": (gc.square, np.square),
    "sigmoid": (gc.sigmoid, lambda x: 1 / (1 + np.exp(-x))),
    "softplus": (gc.softplus, lambda x: np.logaddexp(0, x)),
    "ceil": (gc.ceil, np.ceil),
    "isnan": (gc.isnan, np.isnan),
    "isinf": (gc.isinf, np.isinf),
    "isfinite": (gc.isfinite, np.isfinite),
    "clip": (lambda x: gc.clip(x, -1, 2), lambda x: np.clip(x, -1, 2)),
}


@pytest.mark.parametrize("name", UNARY)
def test_elementwise_functions_are_numpys_also_far_out(name: str) -> None:
    ours, theirs = UNARY[name]
    x = np.array([-1000.0, -30.0, -1.5, -1e-8, -0.0, 0.0, 0.3, 1.0, 2.0, 40.0, 800.0, np.inf, -np.inf, np.nan])
    with np.errstate(all="ignore"):
        want = theirs(x)
    got = ours(as_tensor(x))
    np.testing.assert_allclose(got.numpy(), want, rtol=1e-14)
    np.testing.assert_allclose(gc.compile(ours)(as_tensor(x)).numpy(), want, rtol=1e-14)


@settings(max_examples=80, deadline=None)
@given(floats, st.data())
def test_movement_is_numpys(x: Any, data: Any) -> None:
    t = as_tensor(x)
    axis = data.draw(st.integers(-x.ndim - 1, x.ndim))
    np.testing.assert_array_equal(gc.expand_dims(t, axis).numpy(), np.expand_dims(x, axis))
    np.testing.assert_array_equal(gc.stack([t, t], axis).numpy(), np.stack([x, x], axis))
    np.testing.assert_array_equal(gc.reshape(t, -1).numpy(), x.reshape(-1))
    np.testing.assert_array_equal(gc.squeeze(t).numpy(), np.squeeze(x))
    if x.ndim:
        a, b = (data.draw(st.integers(-x.ndim, x.ndim - 1)) for _ in range(2))
        np.testing.assert_array_equal(gc.swapaxes(t, a, b).numpy(), np.swapaxes(x, a, b))
        np.testing.assert_array_equal(gc.moveaxis(t, a, b).numpy(), np.moveaxis(x, a, b))
        np.testing.assert_array_equal(gc.flip(t, a).numpy(), np.flip(x, a))
        np.testing.assert_array_equal(gc.concat([t, t], a).numpy(), np.concatenate([x, x], a))
        for piece, want in zip(gc.split(t, 2, a), pytorch().tensor(x).split(2, a), strict=True):
            np.testing.assert_array_equal(piece.numpy(), want.numpy())


def test_concat_promotes() -> None:
    joined = gc.concat([as_tensor(np.array([1])), as_tensor(np.array([0.5], np.float32))])
    assert joined.dtype is gc.float32
    np.testing.assert_array_equal(joined.numpy(), [1, 0.5])


@pytest.mark.parametrize("pair", [((3,), (3,)), ((2, 3), (3,)), ((3,), (3, 2)), ((4, 2, 3), (3,)), ((3,), (4, 3, 2))])
def test_matmul_of_vectors_is_numpys(pair: tuple[tuple[int, ...], tuple[int, ...]]) -> None:
    rng = np.random.default_rng(0)
    a, b = (rng.normal(size=s) for s in pair)
    np.testing.assert_allclose(gc.matmul(as_tensor(a), as_tensor(b)).numpy(), a @ b, rtol=1e-13)


ZEROS = as_tensor(np.zeros((2, 3)))
FLAGS = as_tensor(np.zeros(3, bool))


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: ZEROS + as_tensor(np.zeros(4)), ShapeError, r"\(2, 3\) and \(4,\)"),
        (lambda: gc.matmul(ZEROS, ZEROS), ShapeError, "matmul"),
        (lambda: gc.sum(ZEROS, axis=2), AxisError, "axis 2"),
        (lambda: gc.sum(ZEROS, axis=(0, 0)), AxisError, "twice"),
        (lambda: gc.reshape(ZEROS, (4, 2)), ShapeError, "6 elements"),
        (lambda: gc.reshape(ZEROS, (-1, 4)), ShapeError, "can't fit"),
        (lambda: gc.permute_dims(ZEROS, (0, 0)), AxisError, "once"),
        (lambda: gc.concat([ZEROS, as_tensor(np.zeros((3, 2)))]), ShapeError, "concat"),
        (lambda: gc.squeeze(ZEROS, 0), ShapeError, "size 2, not 1"),
        (lambda: gc.split(ZEROS, [1, 1], 1), ShapeError, "add up to 2"),
        (lambda: gc.max(as_tensor(np.zeros((0, 2))), axis=0), ShapeError, "without elements"),
        (lambda: gc.negative(FLAGS), DTypeError, "bool"),
        (lambda: gc.broadcast_to(ZEROS, (3, 3)), ShapeError, "broadcast"),
        (lambda: gc.astype(ZEROS, "float16"), DTypeError, "float16"),
    ],
)
def test_errors_teach(call: Callable[[], Tensor], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        call()
