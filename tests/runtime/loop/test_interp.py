"""The interpreter's own semantics: side-by-side loops, registers, masks, folds, and what it refuses."""

from __future__ import annotations

import numpy as np
import pytest

from graphc.errors import VerifyError
from graphc.ir.expr import Affine, Axis, Index, Literal, affine, call
from graphc.runtime.loop.interp import run, run_nest
from graphc.runtime.loop.ir import (
    Accumulate,
    Alloc,
    Buffer,
    Check,
    For,
    If,
    Kernel,
    Let,
    Load,
    Offset,
    Store,
    Var,
)
from graphc.runtime.loop.naive import naive
from graphc.runtime.loop.nest import Fold, Nest, Stage
from graphc.types import float32, int64
from tests.runtime.loop.shorthand import at

P, Q, K = Axis("i", 5), Axis("j", 7), Axis("k", 3)
X, Y = Buffer("x", float32, 35), Buffer("y", float32, 35)
ROW = Buffer("s", float32, 5)
FIRST = Offset(Affine())


def numbers(size: int = 35) -> np.ndarray:
    return np.random.default_rng(0).standard_normal(size).astype(np.float32)


@pytest.mark.parametrize("outer", ["parallel", "serial"])
@pytest.mark.parametrize("inner", ["serial", "unroll", "vector"])
def test_a_register_sums_a_row_under_every_kind_of_loop(outer: str, inner: str) -> None:
    total = Buffer("t", float32, 1, "register")
    add = Accumulate(total, FIRST, "sum", Load(X, at((P, 7), (Q, 1))))
    body = (
        Alloc(total),
        Store(total, FIRST, Literal(0.0, float32)),
        For(Q, inner, (add,), 4 if inner == "vector" else 1),
        Store(ROW, at((P, 1)), Load(total, FIRST)),
    )
    x, s = numbers(), np.zeros(5, np.float32)
    assert run(Kernel("rows", (X, ROW), (For(P, outer, body),)), {"x": x, "s": s}) == 0
    np.testing.assert_allclose(s, x.reshape(5, 7).sum(1), rtol=1e-6)


def test_registers_of_a_tile_are_addressed_by_vector_lanes() -> None:
    tile = Buffer("t", float32, 7, "register")
    body = (
        Alloc(tile),
        For(Q, "vector", (Store(tile, at((Q, 1)), Literal(0.0, float32)),), 4),
        For(P, "serial", (For(Q, "vector", (Accumulate(tile, at((Q, 1)), "max", Load(X, at((P, 7), (Q, 1)))),), 4),)),
        For(Q, "vector", (Store(Y, at((Q, 1)), Load(tile, at((Q, 1)))),), 4),
    )
    x, y = numbers(), np.zeros(35, np.float32)
    run(Kernel("columns", (X, Y), body), {"x": x, "y": y})
    np.testing.assert_array_equal(y[:7], np.maximum(x.reshape(5, 7).max(0), 0))


def test_masks_and_conditions_keep_memory_untouched() -> None:
    small = call("lt", Index(affine(Q)), Literal(3, int64))
    load = Load(X, Offset(Q + 30), small, 9.0)  # out of range where the mask is false
    inside = If(call("ge", Index(affine(P)), Literal(2, int64)), (Store(Y, at((P, 7), (Q, 1)), load),))
    y = np.full(35, 5, np.float32)
    x = numbers()
    run(Kernel("masked", (X, Y), (For(P, "parallel", (For(Q, "vector", (inside,), 8),)),)), {"x": x, "y": y})
    y = y.reshape(5, 7)
    assert (y[:2] == 5).all()
    np.testing.assert_array_equal(y[2:, :3], np.broadcast_to(x[30:33], (3, 3)))
    assert (y[2:, 3:] == 9).all()


def test_checks_report_the_first_code_and_go_on() -> None:
    body = (
        Check(call("lt", Index(affine(P)), Literal(9, int64)), 1),
        Check(call("lt", Index(affine(P)), Literal(3, int64)), 2),
        Store(ROW, at((P, 1)), Literal(1.0, float32)),
    )
    s = np.zeros(5, np.float32)
    assert run(Kernel("checks", (ROW,), (For(P, "parallel", body),)), {"s": s}) == 2
    assert (s == 1).all()


def test_scattered_sums_meet_repeated_elements() -> None:
    where = Buffer("w", int64, 5)
    add = Accumulate(ROW, Offset(Affine(), ((Load(where, at((P, 1))), 1),)), "sum", Literal(1.0, float32))
    s = np.zeros(5, np.float32)
    run(Kernel("count", (where, ROW), (For(P, "serial", (add,)),)), {"w": np.array([1, 1, 4, 1, 0]), "s": s})
    np.testing.assert_array_equal(s, [1, 3, 0, 0, 1])


def test_out_of_range_and_conflicting_stores_are_errors() -> None:
    with pytest.raises(VerifyError, match="35"):
        run(Kernel("far", (X,), (Store(X, Offset(affine(35)), Literal(0.0, float32)),)), {"x": numbers()})
    clash = For(Q, "vector", (Store(X, FIRST, Load(X, at((Q, 1)))),), 4)
    with pytest.raises(VerifyError, match="two lanes"):
        run(Kernel("clash", (X,), (clash,)), {"x": numbers()})
    with pytest.raises(VerifyError, match="given"):
        run(Kernel("size", (X,), ()), {"x": numbers(3)})


def test_registers_start_undefined() -> None:
    r = Buffer("r", float32, 1, "register")
    s = np.zeros(5, np.float32)
    run(Kernel("poison", (ROW,), (Alloc(r), Store(ROW, FIRST, Load(r, FIRST)))), {"s": s})
    assert np.isnan(s[0])


def test_wide_parallel_loops_are_run_in_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("graphc.runtime.loop.interp.MAX_LANES", 6)
    double = Store(Y, at((P, 7), (Q, 1)), call("add", Load(X, at((P, 7), (Q, 1))), Load(X, at((P, 7), (Q, 1)))))
    x, y = numbers(), np.zeros(35, np.float32)
    run(Kernel("double", (X, Y), (For(P, "parallel", (For(Q, "vector", (double,), 4),)),)), {"x": x, "y": y})
    np.testing.assert_array_equal(y, 2 * x)


def softmax() -> Nest:
    m, t, e = Var("m", float32), Var("t", float32), Var("e", float32)
    row = Buffer("l", float32, 7, "scratch")
    load = Load(X, at((P, 7), (Q, 1)))
    return Nest(
        "softmax",
        (X, Y),
        (P,),
        (
            Stage((Q,), folds=(Fold(m, "max", load),)),
            Stage(
                (Q,),
                lets=(Let(e, call("exp", call("sub", load, m))),),
                folds=(Fold(t, "sum", e),),
                stores=(Store(row, at((Q, 1)), e),),
            ),
            Stage((Q,), stores=(Store(Y, at((P, 7), (Q, 1)), call("div", Load(row, at((Q, 1))), t)),)),
        ),
        locals=(row,),
        inplace=(("x", "y"),),
    )


def test_a_nest_and_its_reference_schedule_agree() -> None:
    x = numbers()
    e = np.exp(x.reshape(5, 7) - x.reshape(5, 7).max(1, keepdims=True))
    for runner in (lambda memory: run_nest(softmax(), memory), lambda memory: run(naive(softmax()), memory)):
        y = np.zeros(35, np.float32)
        assert runner({"x": x, "y": y}) == 0
        np.testing.assert_allclose(y.reshape(5, 7), e / e.sum(1, keepdims=True), rtol=1e-6)
        same = x.copy()
        runner({"x": same, "y": same})
        np.testing.assert_array_equal(same, y)


@pytest.mark.parametrize("reducer", ["argmax", "argmin"])
@pytest.mark.parametrize("special", [None, np.nan, np.inf, -np.inf])
def test_positions_of_extremes(reducer: str, special: float | None) -> None:
    where = Buffer("w", int64, 5)
    at_best = Var("b", int64)
    fold = Stage((Q,), folds=(Fold(at_best, reducer, Load(X, at((P, 7), (Q, 1)))),))  # type: ignore[arg-type]
    nest = Nest("positions", (X, where), (P,), (fold, Stage(stores=(Store(where, at((P, 1)), at_best),))))
    x = numbers().round(0)
    if special is not None:
        x[8:14] = special
        x[17] = x[19] = special
    w = np.zeros(5, np.int64)
    run_nest(nest, {"x": x, "w": w})
    np.testing.assert_array_equal(w, getattr(np, reducer)(x.reshape(5, 7), axis=1))
