"""Cheaper operations for the same numbers: powers without logarithms, sigmoid and softplus with one exponential."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import graphc as gc
from graphc.ir.graph import Graph
from graphc.ir.node import Node, parameter
from graphc.ops import elementwise as ew
from graphc.passes.cheapen import cheapen
from graphc.passes.simplify import simplify
from graphc.types import DType, TensorType, float32, float64

POWERS = [3, 4, -1, -2, 0.5, -0.5, 1.5, -1.5]


def operations(graph: Graph) -> list[str]:
    return [node.op.name for node in graph.nodes if node.inputs]


def cheap(formula: Callable[[Node], Any], dtype: DType = float32) -> list[str]:
    x = parameter(0, TensorType((5,), dtype))
    return operations(cheapen(Graph([x], [formula(x)])))


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("exponent", POWERS)
def test_constant_powers_are_within_two_ulps(exponent: float, dtype: Any) -> None:
    rng = np.random.default_rng(0)
    info = np.finfo(dtype)
    reach = 0.99 * 126 / max(abs(exponent), 1)
    x = np.concatenate([rng.uniform(0.5, 2, 20_000), 2 ** rng.uniform(-reach, reach, 20_000)]).astype(dtype)
    wanted = np.power(x.astype(np.longdouble), np.longdouble(exponent))
    found = gc.compile(lambda x: x**exponent)(gc.tensor(x)).numpy()
    _, digits = np.frexp(wanted)
    unit = np.ldexp(np.longdouble(1), digits - 1 - info.nmant)
    assert float(np.max(np.abs(found - wanted) / unit)) <= 2


@pytest.mark.parametrize("exponent", POWERS)
def test_powers_of_special_numbers(exponent: float) -> None:
    x = np.array([0.0, -0.0, 1.0, -1.0, -2.0, np.inf, np.nan, 1e-45, -1e-45, 3e38, -3e38, 1e20, 1e-20], np.float32)
    with np.errstate(all="ignore"):
        wanted = np.power(x, np.full_like(x, exponent))  # an array: NumPy has short ways of its own for numbers
    found = gc.compile(lambda x: x**exponent)(gc.tensor(x)).numpy()
    np.testing.assert_allclose(found, wanted, rtol=1e-6)
    np.testing.assert_array_equal(np.signbit(found), np.signbit(wanted))


def test_powers_need_no_logarithm() -> None:
    for exponent in POWERS:
        assert "power" not in cheap(lambda x, p=exponent: ew.power(x, p))
    assert cheap(lambda x: ew.power(x, 3)) == ["multiply", "multiply"]
    assert cheap(lambda x: ew.power(x, 5)) == ["power"]
    assert cheap(lambda x: ew.power(2.0, x)) == ["power"]


@pytest.mark.parametrize("exponent", POWERS)
def test_derivatives_of_powers(exponent: float) -> None:
    x = np.array([0.3, 1.7, 25.0])
    found = gc.compile(gc.grad(lambda x: gc.sum(x**exponent)))(gc.tensor(x)).numpy()
    np.testing.assert_allclose(found, exponent * x ** (exponent - 1), rtol=1e-14)


@pytest.mark.parametrize(
    "formula",
    [gc.sigmoid, gc.softplus, lambda x: x * gc.sigmoid(x), lambda x: gc.sigmoid(x) + gc.softplus(x)],
    ids=["sigmoid", "softplus", "silu", "both"],
)
def test_value_and_gradient_share_one_exponential(formula: Callable[[Any], Any]) -> None:
    step = gc.compile(gc.value_and_grad(lambda x: gc.sum(formula(x))))
    x = gc.tensor(np.array([-800.0, -3.0, -0.0, 0.0, 2.0, 40.0, 800.0]))
    _, gradient = step(x)
    names = operations(step.graphs()[-3].graph)
    assert names.count("exp") == 1
    assert not {"sigmoid", "softplus", "strong_multiply"} & set(names)
    np.testing.assert_allclose(gradient.numpy(), gc.grad(lambda x: gc.sum(formula(x)))(x).numpy(), rtol=1e-13)


@pytest.mark.parametrize("dtype", [float32, float64])
def test_a_sigmoid_and_its_slope_share_one_quotient(dtype: DType) -> None:
    step = gc.compile(gc.value_and_grad(lambda x: gc.sum(gc.sigmoid(x) * gc.sigmoid(x))))
    x = np.linspace(-30, 30, 1201).astype(dtype.numpy)
    _, gradient = step(gc.tensor(x))
    assert operations(step.graphs()[-3].graph).count("divide") == 1
    s, other = (1 / (1 + np.exp(-sign * x.astype(np.longdouble))) for sign in (1, -1))
    np.testing.assert_allclose(gradient.numpy(), 2 * s * s * other, rtol=8 * np.finfo(dtype.numpy).eps)


@pytest.mark.parametrize("dtype", [float32, float64])
def test_a_divisor_of_two_is_a_factor(dtype: DType) -> None:
    assert cheap(lambda x: ew.divide(x, 8.0), dtype) == ["multiply"]
    assert cheap(lambda x: ew.divide(x, -0.25), dtype) == ["multiply"]
    least = 2.0 ** (-126 if dtype is float32 else -1022)
    for divisor in (3.0, 0.0, least, 1 / least):
        assert cheap(lambda x, d=divisor: ew.divide(x, d), dtype) == ["divide"]
    x = np.array([1.5, -0.0, np.finfo(dtype.numpy).tiny, np.finfo(dtype.numpy).max, np.nan], dtype.numpy)
    with np.errstate(over="ignore"):
        wanted = x / dtype.numpy.type(0.5)
    np.testing.assert_array_equal(gc.compile(lambda x: x / 0.5)(gc.tensor(x)).numpy(), wanted)


def test_strong_multiplication_by_a_number_is_plain() -> None:
    x = parameter(0, TensorType((5,), float32))

    def simple(y: Any) -> list[str]:
        return operations(simplify(Graph([x], [y])))

    assert simple(ew.strong_multiply(x, 3.0)) == ["multiply"]
    assert simple(ew.strong_multiply(x, np.inf)) == ["strong_multiply"]
    assert simple(ew.strong_multiply(x, np.nan)) == ["strong_multiply"]


def test_even_functions_drop_the_sign() -> None:
    x = parameter(0, TensorType((5,), float32))
    for function in (ew.abs, ew.cos):
        assert operations(simplify(Graph([x], [function(ew.negative(x))]))) == [function.__name__]
    assert operations(simplify(Graph([x], [ew.sin(ew.negative(x))]))) == ["negative", "sin"]
