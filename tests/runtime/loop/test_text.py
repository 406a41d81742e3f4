"""Text of kernels, nests and programs: goldens, and that different kernels never print alike."""

from __future__ import annotations

import math
from dataclasses import replace

from graphc.ir.expr import Affine, Axis, Index, Literal, affine, call
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
    Prefetch,
    Store,
    Var,
)
from graphc.runtime.loop.naive import naive
from graphc.runtime.loop.nest import Fold, Nest, Stage
from graphc.runtime.loop.text import expr_text, kernel_text, nest_text, program_text
from graphc.runtime.program import KernelCall, MatmulCall, Place, Program
from graphc.types import bool_, float32, float64, int32, int64

P, Q = Axis("i", 4), Axis("j", 8)
X, Y = Buffer("x", float32, 32), Buffer("y", float32, 4)
TOTAL = Var("t", float32)
NEST = Nest(
    "rows",
    (X, Y),
    (P,),
    (
        Stage((Q,), folds=(Fold(TOTAL, "sum", Load(X, Offset(P * 8 + Q))),)),
        Stage(stores=(Store(Y, Offset(affine(P)), call("sqrt", TOTAL)),)),
    ),
)


def test_a_nest() -> None:
    assert nest_text(NEST) == (
        "nest rows(x: f32[32], y: f32[4])\n"
        "  for i < 4\n"
        "  stage j < 8\n"
        "    t: f32 = sum x[8*i + j]\n"
        "  stage \n"
        "    y[i] = sqrt(t)"
    )


def test_a_kernel() -> None:
    assert kernel_text(naive(NEST)) == (
        "kernel rows(x: f32[32], y: f32[4])\n"
        "  parallel i < 4\n"
        "    alloc t_acc: register f32[1]\n"
        "    t_acc[0] = 0.0:f32\n"
        "    serial j < 8\n"
        "      t_acc[0] += x[8*i + j]\n"
        "    t: f32 = t_acc[0]\n"
        "    y[i] = sqrt(t)"
    )


def test_a_program() -> None:
    place = Place("arena", offset=64)
    product = MatmulCall(float32, 2, 2, 8, False, True, 8, 8, 2, place, place, Place("argument", 1), batch=3)
    call_ = KernelCall(naive(NEST), (Place("argument", 0), place))
    text = program_text(Program((call_, product), (X, Y), ((float64, bytes(16)),), 128, ("wrong",)))
    assert "rows(x=argument#0, y=arena@64)" in text
    assert "matmul f32 2x2x8: argument#1+0 by 2 = 0.0 * c + (arena@64+0 by 8) @ (arena@64+0 by 8 transposed)" in text
    assert text.count("kernel rows") == 1
    assert "message 1: wrong" in text


def test_every_statement_and_expression() -> None:
    load = Load(X, Offset(Q - 1, ((Var("k", int64), 4),)), Literal(True, bool_), -0.0)
    body = (
        Alloc(Buffer("r", float32, 4, "scratch")),
        Let(Var("k", int64), Index(Q * -2 + 3)),
        If(call("lt", Var("k", int64), Literal(3, int64)), (Check(Literal(False, bool_), 2),)),
        Prefetch(X, Q * 4 + 99),
        Accumulate(Y, Offset(Affine()), "max", load, call("not", Literal(True, bool_))),
        Store(Y, Offset(affine(2)), call("cast", call("select", Literal(True, bool_), load, load), dtype=float32)),
    )
    assert kernel_text(Kernel("all", (X, Y), (For(Q, "vector", body, 4),), (("x", "y"),))) == (
        "kernel all(x: f32[32], y: f32[4]), y in place of x\n"
        "  vector j < 8 by 4\n"
        "    alloc r: scratch f32[4]\n"
        "    k: i64 = <-2*j + 3>\n"
        "    if (k < 3:i64)\n"
        "      check False:b else 2\n"
        "    prefetch x[4*j + 99]\n"
        "    y[0] max= (x[j - 1 + 4*[k]] if True:b else -0.0) if not(True:b)\n"
        "    y[2] = f32(select(True:b, (x[j - 1 + 4*[k]] if True:b else -0.0), (x[j - 1 + 4*[k]] if True:b else -0.0)))"
    )


def test_different_kernels_print_differently() -> None:
    kernel = naive(NEST)
    variants = [
        kernel,
        replace(kernel, name="columns"),
        replace(kernel, inplace=(("x", "y"),)),
        replace(kernel, params=(X, replace(Y, size=5))),
        replace(kernel, body=(replace(kernel.body[0], kind="serial"),)),  # type: ignore[type-var]
        replace(kernel, body=(*kernel.body, Store(Y, Offset(Affine()), Literal(0.0, float32)))),
        replace(kernel, body=(*kernel.body, Store(Y, Offset(Affine()), Literal(-0.0, float32)))),
    ]
    assert len({kernel_text(k) for k in variants}) == len(variants)


def test_literals_keep_dtype_and_every_bit() -> None:
    literals = [
        Literal(1, int64), Literal(1, int32), Literal(1.0, float32), Literal(1.0, float64), Literal(True, bool_),
        Literal(0.1, float64), Literal(0.1 + 2**-56, float64), Literal(math.nan, float32), Literal(-math.inf, float32),
        Literal(0.0, float32), Literal(-0.0, float32),
    ]  # fmt: skip
    assert len({expr_text(x) for x in literals}) == len(literals)
