"""Whole programs: kernels and products in order over an arena, arguments and constants, through the one entry."""

from __future__ import annotations

import ctypes
from typing import Any

import numpy as np
import pytest

from graphc.errors import CompileError
from graphc.ir.expr import Axis, Index, Literal, affine, call
from graphc.runtime.cpu import jit
from graphc.runtime.cpu.elf import Code
from graphc.runtime.cpu.llvm import print_program
from graphc.runtime.cpu.target import by_name
from graphc.runtime.executable import ENTRY
from graphc.runtime.loop.ir import Buffer, Check, For, Kernel, Load, Offset, Store
from graphc.runtime.program import KernelCall, MatmulCall, Place, Program
from graphc.types import DType, float32, float64
from tests.runtime.cpu.harness import RUNNABLE, SYMBOLS

_I, _P = ctypes.c_int64, ctypes.c_void_p


def _gemm(dtype: DType) -> Any:
    """graphc_gemm as a Python function."""
    real = ctypes.c_float if dtype is float32 else ctypes.c_double

    @ctypes.CFUNCTYPE(None, *[_I] * 5, _P, _I, _P, _I, real, _P, _I, *[_I] * 4)
    def gemm(*given: Any) -> None:
        ta, tb, m, n, k, a, lda, b, ldb, beta, c, ldc, batch, step_a, step_b, step_c = given

        def matrix(pointer: int, after: int, rows: int, columns: int, stride: int) -> Any:
            base = ctypes.cast(pointer + after * dtype.itemsize, ctypes.POINTER(real))
            flat = np.ctypeslib.as_array(base, (max(0, (rows - 1) * stride + columns),))
            return np.lib.stride_tricks.as_strided(flat, (rows, columns), (stride * dtype.itemsize, dtype.itemsize))

        for i in range(batch):
            x = matrix(a, i * step_a, k, m, lda).T if ta else matrix(a, i * step_a, m, k, lda)
            y = matrix(b, i * step_b, n, k, ldb).T if tb else matrix(b, i * step_b, k, n, ldb)
            z = matrix(c, i * step_c, m, n, ldc)
            z[...] = x @ y + (beta * z if beta else 0)

    return gemm


_GEMMS = {f"graphc_gemm_{d.short}": _gemm(d) for d in (float32, float64)}
_ALL = SYMBOLS | {name: ctypes.cast(f, _P).value or 0 for name, f in _GEMMS.items()}


def pointers(arrays: list[Any]) -> Any:
    return (_P * max(1, len(arrays)))(*[a.ctypes.data for a in arrays])


def run(program: Program, arguments: list[Any], target: str) -> int:
    """Call the entry on these argument arrays; gives its result."""
    chosen = by_name(target)
    code = Code(jit.compile_text(print_program(program, chosen), chosen), _ALL)
    raw = np.full(program.arena_size + 64, 0xA5, np.uint8)
    arena = raw[-raw.ctypes.data % 64 :]
    constants = [np.frombuffer(data, dtype.numpy) for dtype, data in program.constants]
    entry = ctypes.CFUNCTYPE(_I, _P, _P, _P)(code.address(ENTRY))
    result: int = entry(pointers(arguments), arena.ctypes.data, pointers(constants))
    return result


def scale(n: int, factor: float, dtype: DType, name: str = "scale") -> Kernel:
    i, x, out = Axis("i", n), Buffer("x", dtype, n), Buffer("out", dtype, n)
    here = Offset(affine(i))
    value = call("mul", Load(x, here), Literal(factor, dtype))
    return Kernel(name, (x, out), (For(i, "vector", (Store(out, here, value),), 8),))


@pytest.mark.parametrize("target", RUNNABLE)
@pytest.mark.parametrize("dtype", [float32, float64])
def test_kernels_and_products_share_an_arena(dtype: DType, target: str) -> None:
    rng = np.random.default_rng(0)
    x, w = rng.standard_normal((2, 3, 5)).astype(dtype.numpy), rng.standard_normal((4, 5)).astype(dtype.numpy)
    out = rng.standard_normal((2, 3, 4)).astype(dtype.numpy)
    before = out.copy()
    double, triple = scale(30, 2.0, dtype), scale(20, 3.0, dtype)
    left, right, result = Place("arena", offset=64), Place("arena", offset=512), Place("argument", 1)
    product = MatmulCall(
        dtype, 3, 4, 5, False, True, 5, 5, 4, left, right, result,
        batch=2, batch_a=15, batch_b=0, batch_c=12, beta=1.0,
    )  # fmt: skip
    program = Program(
        (
            KernelCall(double, (Place("argument", 0), Place("arena", offset=64))),
            KernelCall(triple, (Place("constant", 0), Place("arena", offset=512))),
            product,
            KernelCall(scale(24, -1.0, dtype), (Place("argument", 1), Place("argument", 2))),
            KernelCall(double, (Place("arena", offset=64), Place("arena", offset=1024))),
            KernelCall(double, (Place("arena", offset=1024), Place("argument", 0))),
        ),
        (Buffer("x", dtype, 30), Buffer("out", dtype, 24), Buffer("minus", dtype, 24)),
        ((dtype, w.tobytes()),),
        1024 + 30 * dtype.itemsize,
    )
    minus, given = np.zeros_like(out), x.copy()
    assert run(program, [given, out, minus], target) == 0
    wanted = before + (2 * x) @ (3 * w).T
    np.testing.assert_allclose(out, wanted, rtol=1e-5)
    np.testing.assert_array_equal(minus, -out)
    np.testing.assert_array_equal(given, 8 * x)
    text = print_program(program, by_name(target))
    assert text.count("@scale(") >= 2, "one kernel called twice with equal alignment is printed once"


@pytest.mark.parametrize("target", RUNNABLE)
def test_a_failed_check_ends_the_call(target: str) -> None:
    i, x = Axis("i", 9), Buffer("x", float32, 9)
    here = Offset(affine(i))
    check = Kernel("check", (x,), (For(i, "parallel", (Check(call("lt", Load(x, here), Literal(5.0, float32)), 7),)),))
    program = Program(
        (
            KernelCall(check, (Place("argument", 0),)),
            KernelCall(scale(9, 2.0, float32), (Place("argument", 0), Place("argument", 1))),
        ),
        (x, Buffer("out", float32, 9)),
        (),
        0,
        ("one",) * 7,
    )
    good, out = np.arange(9, dtype=np.float32) / 2, np.zeros(9, np.float32)
    assert run(program, [good, out], target) == 0
    np.testing.assert_array_equal(out, good * 2)
    bad, out = good + 3, np.zeros(9, np.float32)
    assert run(program, [bad, out], target) == 7
    assert not out.any()


def test_an_empty_program_and_names_that_collide() -> None:
    assert run(Program((), (), (), 0), [], "host") == 0
    odd = [scale(4, factor, float32, name) for factor, name in ((2.0, "a b"), (3.0, "a_b"), (5.0, "graphc_entry"))]
    calls = tuple(KernelCall(k, (Place("argument", 0), Place("argument", 0))) for k in odd)
    assert len(print_program(Program(calls, (Buffer("x", float32, 4),), (), 0), by_name("host")).split("define ")) == 5


def test_machine_code_holds_no_addresses() -> None:
    """The object is the same whatever the process: what it calls is named, not known."""
    i, out = Axis("i", 50), Buffer("out", float32, 50)
    number = call("cast", Index(affine(i)), dtype=float32)
    kernel = Kernel("fill", (out,), (For(i, "parallel", (Store(out, Offset(affine(i)), number),)),))
    program = Program((KernelCall(kernel, (Place("arena", offset=0),)),), (), (), 200)
    data = jit.compile_text(print_program(program, by_name("host")), by_name("host"))
    assert b"graphc_parallel" in data
    assert data == jit.compile_text(print_program(program, by_name("host")), by_name("host"))
    with pytest.raises(CompileError, match="graphc_parallel"):
        Code(data, {})


def test_programs_compile_for_another_processor() -> None:
    """LLVM makes code of a program for aarch64, which can only be looked at here."""
    x = Buffer("x", float32, 8)
    program = Program((KernelCall(scale(8, 2.0, float32), (Place("argument", 0), Place("argument", 0))),), (x,), (), 0)
    target = by_name("aarch64")
    assert b"graphc_entry" in jit.compile_text(print_program(program, target), target)
