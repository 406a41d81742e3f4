"""What is written, and what is refused: names, 32-bit indices, pointers, barriers, the shape of launches."""

from __future__ import annotations

import pytest

from graphc.errors import CompileError, VerifyError
from graphc.ir.expr import Affine, Axis, Call, Index, Literal, affine, call
from graphc.runtime.cuda.groups import MAX_BLOCKS
from graphc.runtime.cuda.scalar import literal
from graphc.runtime.cuda.source import print_kernel
from graphc.runtime.loop.ir import Accumulate, Alloc, Block, Buffer, For, Kernel, Let, Load, Offset, Store, Var
from graphc.types import bool_, float32, float64, int32, int64
from tests.cuda.cases import vector
from tests.runtime.loop.shorthand import at, number, parallel

X, Y = Buffer("x", float32, 100), Buffer("y", float32, 100)
ROW, COLUMN = Axis("i", 10), Axis("j", 10)
HERE = at((ROW, 10), COLUMN)


def text(*body: object, params: tuple[Buffer, ...] = (X, Y)) -> str:
    return print_kernel(Kernel("k", params, body)).text  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("value", "dtype", "written"),
    [
        (0.1, float32, "1.0e-01f"),
        (-0.0, float32, "(-0.0f)"),
        (2.5, float64, "2.5"),
        (1e300, float64, "1.0e+300"),
        (float("nan"), float32, "(float)GC_NAN"),
        (float("-inf"), float64, "((double)-GC_INFINITY)"),
        (-(2**31), int32, "(-2147483647 - 1)"),
        (-(2**63), int64, "(-9223372036854775807LL - 1)"),
        (7, int64, "7LL"),
        (True, bool_, "true"),
        (3, float32, "3.0f"),
    ],
)
def test_literals(value: float, dtype: object, written: str) -> None:
    assert literal(value, dtype) == written  # type: ignore[arg-type]


def test_whole_function() -> None:
    body = parallel(ROW, parallel(COLUMN, Store(Y, HERE, call("exp", Load(X, HERE)))))
    assert text(body).splitlines() == [
        'extern "C" __global__ void __launch_bounds__(128) kernel_k(GC_READ(float) x, GC_WRITE(float) y) {',
        "  const int gc_group = blockIdx.x * 128 + threadIdx.x;",
        "  if (gc_group < 100) {",
        "    const int i = gc_group / 10;",
        "    const int j = gc_group % 10;",
        "    y[10 * i + j] = expf(x[10 * i + j]);",
        "  }",
        "}",
    ]


def test_a_parameter_that_is_not_used_is_not_passed() -> None:
    kernel = print_kernel(
        Kernel("k", (X, Buffer("unused", int64, 5), Y), (parallel(ROW, Store(Y, at(ROW), number(1.0))),))
    )
    assert kernel.launches[0].params == (2,)
    assert "unused" not in kernel.text


def test_pointers_that_may_be_equal_are_not_restricted() -> None:
    body = (parallel(ROW, Store(Y, at(ROW), Load(X, at(ROW)))),)
    assert "GC_ALIASED(float) x, GC_ALIASED(float) y" in print_kernel(Kernel("k", (X, Y), body, (("x", "y"),))).text


def test_names() -> None:
    odd, axis, var = Buffer("a.b-1", float32, 10), Axis("for", 10), Var("exp", float32)
    printed = text(parallel(axis, Let(var, call("exp", Load(odd, at(axis)))), Store(Y, at(axis), var)), params=(odd, Y))
    assert "const float v_exp = expf(a_b_1[v_for]);" in printed
    same = (Buffer("a b", float32, 10), Buffer("a_b", float32, 10))
    assert "a_b[i] = a_b_[i];" in text(parallel(ROW, Store(same[1], at(ROW), Load(same[0], at(ROW)))), params=same)


def test_indices_are_narrow_where_that_is_exact() -> None:
    far = Axis("far", 3_000_000_000)
    wide, out = Buffer("wide", float32, far.extent), Buffer("out", int64, 10)
    assert "for (gc_i64 far = 0; far < 3000000000; far++)" in text(
        For(far, "serial", (Store(wide, at(far), number(0.0)),)), params=(wide,)
    )
    row = call("floordiv", Index(affine(ROW) * 3), number(7, int64))
    assert "out[i] = (gc_i64)((3 * i) / 7);" in text(parallel(ROW, Store(out, at(ROW), row)), params=(out,))
    below = call("mod", Index(affine(ROW) - 5), number(7, int64))
    assert "out[i] = (gc_i64)gc_mod((i - 5), 7);" in text(parallel(ROW, Store(out, at(ROW), below)), params=(out,))
    big = Index(affine(ROW) * 2**40)
    assert "out[i] = (1099511627776LL * i);" in text(parallel(ROW, Store(out, at(ROW), big)), params=(out,))
    product = call("mul", Index(affine(ROW) * 2**27), number(2, int64))
    assert "gc_mul((gc_i64)(134217728 * i), 2LL)" in text(parallel(ROW, Store(out, at(ROW), product)), params=(out,))


def test_fused_multiply_add_only_where_the_ir_accumulates() -> None:
    acc = Buffer("acc", float32, 1, "register")
    product = call("mul", Load(X, at(ROW)), number(3.0))
    printed = text(
        parallel(
            ROW,
            Alloc(acc),
            Store(acc, at(), number(0.0)),
            Accumulate(acc, at(), "sum", product),
            Store(Y, at(ROW), call("add", product, Load(acc, at()))),
        )
    )
    assert "acc[0] = fmaf(x[i], 3.0f, acc[0]);" in printed
    assert "y[i] = ((x[i] * 3.0f) + acc[0]);" in printed


# ---------------------------------------------------------------- barriers


def barriers(width: int, *body: object) -> int:
    row = Buffer("row", float32, 10, "scratch")
    return text(parallel(ROW, Alloc(row), *body)).count("__syncwarp()" if width == 32 else "__syncthreads()")


@pytest.mark.parametrize("width", [32, 64])
def test_barriers_stand_where_lanes_meet(width: int) -> None:
    row = Buffer("row", float32, 10, "scratch")
    write = vector(COLUMN, width, Store(row, at(COLUMN), Load(X, HERE)))
    read = vector(COLUMN, width, Store(Y, HERE, Load(row, at((COLUMN, -1), 9))))
    other = vector(COLUMN, width, Store(Y, HERE, number(1.0)))
    twice = Axis("twice", 2)
    assert barriers(width, write) == 0
    assert barriers(width, write, read) == 1  # read after write
    assert barriers(width, write, other) == 0
    assert barriers(width, write, read, write) == 2  # and write after read
    assert barriers(width, For(twice, "serial", (write, read))) == 2  # the next round writes what is still read
    assert barriers(width, other, Store(row, at(), number(1.0)), Let(Var("v", float32), Load(row, at()))) == 1


def test_groups_that_follow_each_other_do_not_share_scratch_memory_too_early() -> None:
    many = Axis("many", MAX_BLOCKS + 5)
    x, row = Buffer("x", float32, many.extent * 10), Buffer("row", float32, 10, "scratch")
    place = at((many, 10), COLUMN)
    body: Block = (
        Alloc(row),
        vector(COLUMN, 64, Store(row, at(COLUMN), Load(x, place))),
        vector(COLUMN, 64, Store(x, place, Load(row, at((COLUMN, -1), 9)))),
    )
    printed = print_kernel(Kernel("k", (x,), (parallel(many, *body),)))
    assert printed.launches[0].grid == MAX_BLOCKS
    assert f"gc_group < {many.extent}; gc_group += {MAX_BLOCKS}" in printed.text
    assert printed.text.count("__syncthreads()") == 2


# ---------------------------------------------------------------- refusals


def test_widths() -> None:
    with pytest.raises(CompileError, match="16 lanes are no group of CUDA threads"):
        text(parallel(ROW, vector(COLUMN, 16, Store(Y, HERE, number(1.0)))))
    store = Store(Y, HERE, number(1.0))
    with pytest.raises(CompileError, match=r"vector loops of widths \[32, 64\] share a parallel iteration"):
        text(parallel(ROW, vector(COLUMN, 32, store), vector(COLUMN, 64, store)))


def test_registers() -> None:
    own, total = Buffer("own", float32, 32, "register"), Buffer("total", float32, 1, "register")
    fill = vector(COLUMN, 32, Store(own, at(COLUMN), number(1.0)))
    with pytest.raises(VerifyError, match="register own is spread over lanes, but used by none"):
        text(parallel(ROW, Alloc(own), fill, Store(Y, at(ROW), Load(own, at()))))
    with pytest.raises(VerifyError, match="own: strides must be multiples of 32"):
        text(parallel(ROW, Alloc(own), vector(COLUMN, 32, Store(own, at(COLUMN, 3), number(1.0)))))
    with pytest.raises(VerifyError, match="total is read in the vector loop that accumulates it"):
        text(parallel(ROW, Alloc(total), vector(COLUMN, 32, Accumulate(total, at(), "sum", Load(total, at())))))
    add, top = (Accumulate(total, at(), op, Load(X, HERE)) for op in ("sum", "max"))  # type: ignore[arg-type]
    with pytest.raises(VerifyError, match="one vector loop accumulates total by several operations"):
        text(parallel(ROW, Alloc(total), vector(COLUMN, 32, add, top)))


def test_what_is_no_kernel() -> None:
    with pytest.raises(VerifyError, match="parallel loop i isn't outermost"):
        text(For(COLUMN, "serial", (parallel(ROW, Store(Y, HERE, number(1.0))),)))
    with pytest.raises(VerifyError, match="axis j is used outside of its loop"):
        text(parallel(ROW, Store(Y, at(COLUMN), number(1.0))))
    with pytest.raises(VerifyError, match="v is read where no Let binds it"):
        text(parallel(ROW, Store(Y, at(ROW), Var("v", float32))))
    with pytest.raises(VerifyError, match="'div' has no meaning for int32"):
        text(parallel(ROW, Store(Y, at(ROW), Call("div", (Literal(1, int32), Literal(2, int32)), int32))))


def test_offsets_without_terms() -> None:
    assert "y[0] = x[7];" in text(Store(Y, at(), Load(X, Offset(Affine((), 7)))))
