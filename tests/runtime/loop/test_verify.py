"""The verifier: each rule of the grammar is broken once; the message shows the window of text."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from graphc.errors import VerifyError
from graphc.ir.expr import Affine, Axis, Call, Index, Literal, affine, call
from graphc.runtime.loop.ir import (
    Accumulate,
    Alloc,
    Block,
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
from graphc.runtime.loop.verify import verify
from graphc.types import bool_, float32, float64, int64

P, Q = Axis("i", 4), Axis("j", 8)
X, Y = Buffer("x", float32, 32), Buffer("y", float32, 32)
R = Buffer("r", float32, 8, "register")
AT = Offset(P * 8 + Q)
HERE = Load(X, AT)
ONE = Literal(1.0, float32)
TRUE = Literal(True, bool_)
FIRST = Offset(Affine())
V = Var("v", float32)


def loops(*body: object, kind: str = "vector") -> Block:
    inner = For(Q, kind, tuple(body), 4 if kind == "vector" else 1)  # type: ignore[arg-type]
    return (For(P, "parallel", (inner,)),)


GOOD: list[Callable[[], Block]] = [
    lambda: loops(Store(Y, AT, HERE)),
    lambda: loops(Let(V, HERE), Store(Y, AT, call("mul", V, V))),
    lambda: loops(Store(Y, AT, Load(X, Offset(P * 8 + Q - 1), call("ge", Index(affine(Q)), Literal(1, int64))))),
    lambda: (Alloc(R), For(Q, "vector", (Store(R, Offset(affine(Q)), ONE),), 8), Store(Y, FIRST, Load(R, FIRST))),
    lambda: loops(If(call("lt", Index(affine(P)), Literal(2, int64)), (Store(Y, AT, HERE),))),
    lambda: loops(Accumulate(Y, Offset(affine(P)), "sum", HERE)),
]

BAD: list[tuple[str, Callable[[], Block]]] = [
    ("before it is bound", lambda: loops(Store(Y, AT, V))),
    ("bound already", lambda: loops(Let(V, HERE), Let(V, HERE))),
    ("outside of its loop", lambda: (Store(Y, AT, ONE),)),
    ("offsets", lambda: loops(Store(Y, Offset(P * 8 + Q + 1), ONE))),
    ("offsets -1", lambda: loops(Store(Y, AT, Load(X, Offset(P * 8 + Q - 1))))),
    ("is stored to", lambda: loops(Store(Y, AT, Literal(1.0, float64)))),
    ("can't be", lambda: loops(Store(Y, AT, Call("add", (HERE, Literal(1, int64)), float32)))),
    ("can't be", lambda: loops(Store(Y, AT, Call("exp", (Literal(1, int64),), int64)))),
    ("takes 2", lambda: loops(Store(Y, AT, Call("add", (HERE,), float32)))),
    ("unknown scalar", lambda: loops(Store(Y, AT, Call("sinh", (HERE,), float32)))),
    ("is no", lambda: loops(Store(Y, AT, Call("cast", (Literal(1.5, int64),), float32)))),
    ("mask is", lambda: loops(Store(Y, AT, ONE, ONE))),
    ("prefetched r is no param", lambda: loops(Alloc(R), Prefetch(R, affine(P)))),
    ("outside of its loop", lambda: (Prefetch(X, affine(P)),)),
    ("condition is", lambda: loops(Check(ONE, 1))),
    ("not positive", lambda: loops(Check(TRUE, 0))),
    ("differs between lanes", lambda: loops(If(call("lt", Index(affine(Q)), Literal(2, int64)), ()))),
    ("differs between lanes", lambda: loops(Let(V, HERE), If(call("lt", V, ONE), ()))),
    ("not a param", lambda: loops(Store(Buffer("z", float32, 32), AT, ONE))),
    ("not a param", lambda: loops(Store(Buffer("y", float32, 99), AT, ONE))),
    ("addressed by serial", lambda: (Alloc(R), For(Q, "serial", (Store(R, Offset(affine(Q)), ONE),)))),
    ("coefficient 1", lambda: (Alloc(R), For(P, "vector", (Store(R, Offset(P * 2), ONE),), 4))),
    ("data-dependent", lambda: (Alloc(R), Store(R, Offset(Affine(), ((Literal(0, int64), 1),)), ONE))),
    ("outermost", lambda: (For(P, "serial", (For(Q, "parallel", ()),)),)),
    ("vector loop", lambda: (For(P, "vector", (For(Q, "serial", (For(Axis("k", 2), "vector", (), 2),)),), 4),)),
    ("looped over already", lambda: (For(P, "serial", (For(P, "serial", ()),)),)),
    ("width", lambda: (For(P, "serial", (), 4),)),
    ("same element", lambda: loops(Store(Y, Offset(affine(P)), HERE))),
    ("same element", lambda: (For(P, "parallel", (Store(Y, FIRST, ONE),)),)),
    ("allocated already", lambda: (Alloc(R), Alloc(R))),
    ("global memory", lambda: (Alloc(Buffer("g", float32, 4)),)),
    ("extent", lambda: (For(P, "serial", (Store(Y, Offset(affine(Axis("i", 5))), ONE),)),)),
    ("indexed by", lambda: loops(Store(Y, Offset(Affine(), ((ONE, 1),)), ONE))),
]


@pytest.mark.parametrize("body", GOOD)
def test_good_kernels_pass(body: Callable[[], Block]) -> None:
    verify(Kernel("good", (X, Y), body(), (("x", "y"),)))


@pytest.mark.parametrize(("message", "body"), BAD, ids=[f"{i}-{m}" for i, (m, _) in enumerate(BAD)])
def test_each_broken_rule_is_found(message: str, body: Callable[[], Block]) -> None:
    with pytest.raises(VerifyError, match=message):
        verify(Kernel("bad", (X, Y), body()))


@pytest.mark.parametrize(
    ("message", "params", "inplace"),
    [
        ("two params", (X, X), ()),
        ("must be global", (R,), ()),
        ("two params", (X, Y), (("x", "z"),)),
        ("sizes or dtypes", (X, Buffer("y", float32, 8)), (("x", "y"),)),
    ],
)
def test_params(message: str, params: tuple[Buffer, ...], inplace: tuple[tuple[str, str], ...]) -> None:
    with pytest.raises(VerifyError, match=message):
        verify(Kernel("bad", params, (), inplace))


def test_the_message_shows_the_window() -> None:
    body = loops(Let(V, HERE), Store(Y, AT, Literal(1, int64)))
    with pytest.raises(VerifyError) as caught:
        verify(Kernel("bad", (X, Y), body))
    lines = str(caught.value).splitlines()
    marked = [line for line in lines if line.startswith(">>")]
    assert marked == [">>       y[8*i + j] = 1:i64"]
    assert any("parallel i < 4" in line for line in lines)
