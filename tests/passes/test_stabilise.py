"""Formulas as people write them, compiled: value, gradient and curvature within a few ulps of mpmath."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import mpmath
import numpy as np
import pytest

import graphc as gc
from graphc.ir.evaluate import evaluate
from graphc.ir.graph import Graph
from graphc.ir.node import fresh_input
from graphc.ir.rewrite import counting
from graphc.passes.stabilise import RULES, stabilise
from graphc.types import TensorType, float64

Formula = Callable[[Any, Any], Any]

# The formula, written for graphc and mpmath alike; where it is taken; most ulps of (value, gradient, curvature).
CASES: dict[str, tuple[Formula, tuple[float, ...], tuple[float, float, float]]] = {
    "log(1+exp)": (lambda m, x: m.log(1 + m.exp(x)), (1000, -700, 0, 3, -30, 40), (2, 2, 4)),
    "log(exp)": (lambda m, x: m.log(m.exp(x)), (800, -900, 3.25), (0, 0, 0)),
    "(exp-1)/x": (lambda m, x: (m.exp(x) - 1) / x, (1e-9, -1e-9, 0.5, -0.99, 1, 1.01, -3, 5), (2, 4, 8)),
    "x/(exp-1)": (lambda m, x: x / (m.exp(x) - 1), (1e-9, -1e-9, 0.5, -0.99, -3, 5), (2, 6, 40)),
    "log(1-exp)": (lambda m, x: m.log(1 - m.exp(x)), (-1e-10, -0.5, -0.69, -0.7, -2, -50), (2, 3, 4)),
    "(1-cos)/x^2": (lambda m, x: (1 - m.cos(x)) / x**2, (1e-5, 1e-9, 1, 2, 3), (3, 4, 12)),
    "(1-cos)/(x*x)": (lambda m, x: (1 - m.cos(x)) / (x * x), (1e-5, -1e-7), (3, 4, 12)),
    "1-cos": (lambda m, x: 1 - m.cos(x), (1e-9, 1, 3, -6.28), (3, 3, 3)),
    "cos-1": (lambda m, x: m.cos(x) - 1, (1e-9, 1, 3), (3, 3, 3)),
    "tanh by exp": (
        lambda m, x: (m.exp(x) - m.exp(-x)) / (m.exp(x) + m.exp(-x)),
        (400, -400, 20, 1e-9, 0.5, -3, 5),
        (2, 4, 5),
    ),
    "tanh": (lambda m, x: m.tanh(x), (20, 5, 0.1, -3), (2, 4, 5)),
    "1+tanh": (lambda m, x: 1 + m.tanh(x), (-20, -5, 0.1, 3), (3, 4, 10)),
    "1-tanh": (lambda m, x: 1 - m.tanh(x), (20, 5, 0.1, -3), (3, 4, 10)),
    "exp-exp(-)": (lambda m, x: m.exp(x) - m.exp(-x), (1e-9, 1, -30), (2, 2, 2)),
    "sqrt(x+1)-sqrt(x)": (lambda m, x: m.sqrt(x + 1) - m.sqrt(x), (1e14, 1e-9, 1, 0.3), (2, 3, 4)),
    "sqrt(x)-sqrt(x-2)": (lambda m, x: m.sqrt(x) - m.sqrt(x - 2), (2.0**40, 3), (2, 3, 4)),
    "sigmoid": (lambda m, x: 1 / (1 + m.exp(-x)), (-800, -700, 0.5, 30, -30, 3), (2, 4, 6)),
    "exp/(1+exp)": (lambda m, x: m.exp(x) / (m.exp(x) + 1), (800, -700, 0.5, 30, -30, 3), (2, 4, 6)),
    "silu": (lambda m, x: x / (1 + m.exp(-x)), (-800, -700, 0.5, 30, -30, 3), (3, 4, 8)),
    "log sigmoid": (lambda m, x: m.log(1 / (1 + m.exp(-x))), (-800, -700, 0.5, 30, -30), (2, 3, 4)),
    "log(1-sigmoid)": (lambda m, x: m.log(1 - 1 / (1 + m.exp(-x))), (700, -700, 0.5, 30, -30), (2, 3, 4)),
    "exp-1": (lambda m, x: m.exp(x) - 1, (1e-12, -40, 1), (2, 2, 2)),
    "1-exp": (lambda m, x: 1 - m.exp(x), (1e-12, -40, 1), (2, 2, 2)),
    "log(1+x)": (lambda m, x: m.log(1 + x), (1e-12, -0.4, 1), (2, 2, 3)),
    "log(1-x)": (lambda m, x: m.log(1 - x), (1e-12, -0.4, 0.9), (2, 2, 3)),
    "log(1+x)/x": (lambda m, x: m.log(1 + x) / x, (1e-12, -0.45, -0.6, 0.9, 1.2), (2, 5, 10)),
    "sin/x": (lambda m, x: m.sin(x) / x, (1e-12, 0.1, -1.4, 1.6, 2), (2, 8, 20)),
    "log(exp+exp)": (lambda m, x: m.log(m.exp(x) + m.exp(2 * x)), (1000, -1000, 1e-3, 3), (2, 3, 4)),
    "sqrt(x*x)": (lambda m, x: m.sqrt(x * x), (3.5, -2.0, 1e30), (0, 0, 0)),
}  # fmt: skip


def _truth(f: Formula, x: float, order: int) -> Any:
    with mpmath.workdps(900 if abs(x) > 100 else 300):
        at = mpmath.mpf(x)
        if order == 0:
            return f(mpmath, at)
        # a central difference with a step far below x, and digits to spare
        h = mpmath.mpf(10) ** (-80) * max(abs(at), mpmath.mpf(10) ** -20)
        if order == 1:
            return (f(mpmath, at + h) - f(mpmath, at - h)) / (2 * h)
        return (f(mpmath, at + h) - 2 * f(mpmath, at) + f(mpmath, at - h)) / (h * h)


def _ulps(got: Any, want: Any, dtype: Any) -> float:
    if not np.isfinite(got):
        return math.inf
    info = np.finfo(dtype)
    unit = max(abs(want) * float(info.eps) / 2, mpmath.mpf(float(info.smallest_subnormal)))
    return float(abs(mpmath.mpf(float(got)) - want) / unit)


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize("name", CASES)
def test_naive_formulas(name: str, dtype: Any) -> None:
    formula, places, most = CASES[name]
    limit = float(np.sqrt(np.finfo(dtype).max))
    points = np.array([x for x in places if (dtype is np.float64 or abs(x) < 300) and abs(x) < limit], dtype)

    def value(x: Any) -> Any:
        return formula(gc, x)

    def slope(x: Any) -> Any:
        return gc.grad(lambda t: gc.sum(value(t)))(x)

    def curvature(x: Any) -> Any:
        return gc.grad(lambda t: gc.sum(slope(t)))(x)

    results = gc.compile(lambda x: (value(x), slope(x), curvature(x)))(gc.tensor(points))
    for order, (result, bound) in enumerate(zip(results, most, strict=True)):
        for x, got in zip(points, result.numpy(), strict=True):
            want = _truth(formula, float(x), order)
            # twice the bound: an ulp of the result's own binade may be half of what `_ulps` takes for one
            about = f"{name}, derivative {order} at {x}: {got} is not {want}"
            assert _ulps(got, want, dtype) <= 2 * bound + 1e-9, about


def test_sums_of_exponentials() -> None:
    x = gc.tensor(np.array([[1000.0, 1001.0, 999.0], [-1000.0, -1001.0, -1002.0]]))
    shifted = np.exp(x.numpy() - x.numpy().max(1, keepdims=True))
    softmax = shifted / shifted.sum(1, keepdims=True)
    total = x.numpy().max(1) + np.log(shifted.sum(1))

    def logsumexp(x: Any) -> Any:
        return gc.log(gc.sum(gc.exp(x), 1))

    np.testing.assert_allclose(gc.compile(logsumexp)(x).numpy(), total, rtol=1e-15)
    np.testing.assert_allclose(gc.compile(gc.grad(lambda t: gc.sum(logsumexp(t))))(x).numpy(), softmax, rtol=1e-13)

    for keep in (True, False):

        def naive(x: Any, keep: bool = keep) -> Any:
            below = gc.sum(gc.exp(x), 1, keepdims=keep)
            return gc.exp(x) / (below if keep else gc.reshape(below, (2, 1)))

        np.testing.assert_allclose(gc.compile(naive)(x).numpy(), softmax, rtol=1e-14)
        logs = gc.compile(lambda x, naive=naive: gc.log(naive(x)))(x).numpy()
        np.testing.assert_allclose(logs, x.numpy() - total[:, None], rtol=1e-12)
    # against a sum over another axis nothing is to be done
    other = gc.compile(lambda x: gc.exp(x) / gc.sum(gc.exp(x), 0))(gc.tensor(np.arange(9.0).reshape(3, 3)))
    e = np.exp(np.arange(9.0).reshape(3, 3))
    np.testing.assert_allclose(other.numpy(), e / e.sum(0), rtol=1e-14)


def test_what_is_stable_already_is_left_alone() -> None:
    for formula in (
        gc.sigmoid,
        gc.softplus,
        lambda x: gc.logsumexp(x, 0),
        lambda x: gc.nn.functional.log_softmax(x, 0),
        lambda x: gc.nn.functional.softmax(x, 0),
        lambda x: gc.log1p(gc.exp(gc.negative(gc.abs(x)))),
    ):
        x = fresh_input("x", TensorType((4,), float64))
        graph = Graph((x,), (formula(x),))
        assert stabilise(graph) is graph


EDGES = np.array([0.0, -0.0, 1.0, -1.0, 700.0, -700.0, 1e308, -1e308, 5e-324, np.inf, -np.inf, np.nan])


@pytest.mark.parametrize("name", CASES)
def test_edges_are_those_of_the_formula_or_its_limits(name: str) -> None:
    """Where the formula as written gives a number or an infinity, the stable one agrees; nan may become the limit."""
    x = fresh_input("x", TensorType(EDGES.shape, float64))
    graph = Graph((x,), (CASES[name][0](_NodeFunctions(), _Carried(x)).node,))
    (written,), (stable,) = evaluate(graph, [EDGES]), evaluate(stabilise(graph), [EDGES])
    for place, a, b in zip(EDGES, written, stable, strict=True):
        if np.isnan(a):
            continue  # inf / inf, inf - inf, 0 / 0
        overflowed = np.isinf(a) and abs(place) in (700.0, 1e308)
        cancelled = abs(place) in (5e-324, 1e308, 700.0)
        assert overflowed or cancelled or np.isclose(a, b, rtol=1e-9, atol=0) or a == b, (place, a, b)
    assert np.isnan(stable[-1])


class _Carried:
    """A node with operators, as formulas are written."""

    def __init__(self, node: Any) -> None:
        self.node = node

    def _with(self, function: Any, *operands: Any) -> _Carried:
        return _Carried(function(*(o.node if isinstance(o, _Carried) else o for o in operands)))

    def __add__(self, other: Any) -> _Carried:
        return self._with(gc.add, self, other)

    def __radd__(self, other: Any) -> _Carried:
        return self._with(gc.add, other, self)

    def __sub__(self, other: Any) -> _Carried:
        return self._with(gc.subtract, self, other)

    def __rsub__(self, other: Any) -> _Carried:
        return self._with(gc.subtract, other, self)

    def __mul__(self, other: Any) -> _Carried:
        return self._with(gc.multiply, self, other)

    def __rmul__(self, other: Any) -> _Carried:
        return self._with(gc.multiply, other, self)

    def __truediv__(self, other: Any) -> _Carried:
        return self._with(gc.divide, self, other)

    def __rtruediv__(self, other: Any) -> _Carried:
        return self._with(gc.divide, other, self)

    def __pow__(self, other: Any) -> _Carried:
        return self._with(gc.pow, self, other)

    def __neg__(self) -> _Carried:
        return self._with(gc.negative, self)


class _NodeFunctions:
    """The functions that formulas call, on carried nodes."""

    def __getattr__(self, name: str) -> Any:
        return lambda x: _Carried(getattr(gc, name)(x.node))


def test_every_rule_is_reached_and_says_why() -> None:
    """Each is applied to some formula above, or to the sums of exponentials."""
    x = fresh_input("x", TensorType((3,), float64))
    formulas = [formula(_NodeFunctions(), _Carried(x)).node for formula, _, _ in CASES.values()]
    e = gc.exp(x)
    formulas += [gc.log(gc.sum(e)), gc.log(gc.divide(e, gc.sum(e)))]
    formulas += [gc.subtract(1, gc.multiply(gc.tanh(x), gc.tanh(x)))]
    formulas += [gc.add(gc.expm1(x), 1), gc.divide(e, gc.sum(e, 0, True))]
    with counting() as applied:
        stabilise(Graph((x,), formulas))
    assert {r.name for r in RULES} <= set(applied)
    assert all(r.reason and not r.exact for r in RULES)


def test_explain_says_what_changes_rounding() -> None:
    f = gc.compile(lambda x: gc.log(gc.exp(x)) + gc.log(1 + gc.exp(x)))
    f(gc.tensor(np.ones(3)))
    told = f.explain()
    assert dict(told.rewrites)["log of exp"] == 1
    line = next(line for line in str(told).splitlines() if "log of exp" in line)
    assert "* exp overflows" in line
