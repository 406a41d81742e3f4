"""Streaming stores: who is written past the caches, and that the numbers are the same."""

from __future__ import annotations

import ctypes
from dataclasses import replace

import numpy as np
import pytest

import graphc as gc
from graphc.ir.expr import Axis, affine, call
from graphc.runtime.blocks import LENT, Lender
from graphc.runtime.cpu import build, jit
from graphc.runtime.cpu.elf import Code
from graphc.runtime.cpu.llvm import print_program
from graphc.runtime.cpu.target import TARGETS, by_name
from graphc.runtime.loop.ir import Accumulate, Buffer, Expr, For, Kernel, Load, Offset, Prefetch, Store
from graphc.runtime.loop.text import kernel_text
from graphc.runtime.program import KernelCall, Place, Program
from graphc.runtime.stream import LEAST, streamed, worth_streaming
from graphc.types import DType, bool_, float32, float64, int32
from tests.runtime.cpu.harness import RUNNABLE, SYMBOLS, expect

SOURCE, RESULT = Place("argument", 0), Place("argument", 1, lent=True)


def doubling(n: int, dtype: DType = float32, start: int = 0, width: int = 16, parallel: int = 1) -> Kernel:
    """o[i + start] = p[i + start] + p[i + start], in so many ranges of a parallel loop."""
    outer, inner = Axis("outer", parallel), Axis("inner", n // parallel)
    at = Offset(affine(outer) * inner.extent + inner + start)
    p, o = Buffer("p", dtype, n + start), Buffer("o", dtype, n + start)
    value: Expr = Load(p, at)
    value = call("or", value, value) if dtype is bool_ else call("add", value, value)
    loop = For(inner, "vector", (Store(o, at, value),), width)
    return Kernel("double", (p, o), (For(outer, "parallel", (loop,)),))


def test_what_no_cache_holds_is_streamed() -> None:
    n = LEAST // 8
    assert worth_streaming(doubling(n), (SOURCE, RESULT)) == {"o"}
    assert worth_streaming(doubling(n // 2), (SOURCE, RESULT)) == frozenset()
    assert worth_streaming(doubling(n // 2), (SOURCE, RESULT), least=4 * n) == {"o"}


def test_what_is_streamed_is_not_fetched_ahead() -> None:
    kernel = doubling(64)
    asked = tuple(Prefetch(buffer, affine(Axis("outer", 1))) for buffer in kernel.params)
    (ranges,) = kernel.body
    assert isinstance(ranges, For)
    kernel = replace(kernel, body=(replace(ranges, body=(*asked, *ranges.body)),))
    lines = kernel_text(streamed(kernel, frozenset({"o"}))).splitlines()
    assert [line.split() for line in lines if "prefetch" in line] == [["prefetch", "p[outer]"]]


def test_only_results_in_aligned_memory_of_their_own_are_streamed() -> None:
    n = LEAST // 8
    for place in (Place("argument", 1), SOURCE, replace(SOURCE, offset=64), Place("arena", offset=0)):
        assert worth_streaming(doubling(n), (SOURCE, place)) == frozenset(), place
    assert worth_streaming(doubling(2 * n), (SOURCE, Place("arena", offset=64))) == {"o"}  # no cache holds it


def test_what_is_added_to_or_small_is_not_streamed() -> None:
    n = LEAST // 8
    kernel = doubling(n)
    (ranges,) = kernel.body
    assert isinstance(ranges, For)
    (loop,) = ranges.body
    assert isinstance(loop, For)
    total = Buffer("total", float32, 16)
    place = Place("argument", 2, lent=True)
    body = (*loop.body, Store(total, Offset(affine(0)), Load(kernel.params[0], Offset(affine(loop.axis)))))
    small = replace(kernel, params=(*kernel.params, total), body=(replace(loop, body=body),))
    assert worth_streaming(small, (SOURCE, RESULT, place)) == {"o"}
    (store,) = loop.body
    assert isinstance(store, Store)
    added = Accumulate(store.buffer, store.offset, "sum", store.value)
    both = replace(kernel, body=(loop, replace(loop, body=(added,))))
    assert worth_streaming(both, (SOURCE, RESULT)) == frozenset()


@pytest.mark.parametrize("dtype", [float32, float64, int32, bool_], ids=str)
@pytest.mark.parametrize(
    ("n", "start", "parallel"), [(64, 0, 1), (333, 0, 1), (96, 16, 1), (96, 5, 1), (960, 0, 3), (30, 0, 3)]
)
def test_streaming_changes_no_number(dtype: DType, n: int, start: int, parallel: int) -> None:
    """Misaligned memory, remainders, and offsets that no vector is aligned at."""
    kernel = streamed(doubling(n, dtype, start, parallel=parallel), frozenset({"o"}))
    assert "stream o" in kernel_text(kernel)
    values = (np.arange(n + start) % 5).astype(dtype.numpy)
    expect(kernel, {"p": values, "o": np.zeros_like(values)})


@pytest.mark.parametrize("target", RUNNABLE)
@pytest.mark.parametrize("width", [8, 16, 32])
@pytest.mark.parametrize("start", [0, 16, 8, 1])
def test_aligned_memory_is_streamed_to(target: str, width: int, start: int) -> None:
    """Of a program, whose lent results are known to lie on a page."""
    n = LENT // 4
    kernel = streamed(doubling(n - start, start=start, width=width, parallel=1), frozenset({"o"}))
    step = KernelCall(kernel, (SOURCE, RESULT))
    program = Program((step,), (Buffer("p", float32, n), Buffer("o", float32, n)), (), 0)
    chosen = by_name(target)
    code = Code(jit.compile_text(print_program(program, chosen), chosen), SYMBOLS)
    p, o = np.random.default_rng(0).random(n, np.float32), Lender((n,), np.dtype(np.float32)).take()
    o[:] = 7
    table = (ctypes.c_void_p * 2)(p.ctypes.data, o.ctypes.data)
    entry = ctypes.CFUNCTYPE(ctypes.c_int64, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_void_p)(
        code.address("graphc_entry")
    )
    assert entry(ctypes.addressof(table), None, None) == 0
    np.testing.assert_array_equal(o[start:], 2 * p[start:])
    assert (o[:start] == 7).all()


@pytest.mark.parametrize("target", ["x86-64", "x86-64-v3", "x86-64-v4", "aarch64"])
def test_machine_code_of_streams(target: str) -> None:
    """Streaming instructions where vectors are aligned, a fence behind them on x86, and neither otherwise."""
    for place, start, wanted in ((RESULT, 0, True), (RESULT, 1, False), (Place("argument", 1), 0, False)):
        kernel = streamed(doubling(1 << 12, start=start, parallel=4), frozenset({"o"}))
        program = Program((KernelCall(kernel, (SOURCE, place)),), kernel.params, (), 0)
        listing = jit.assembly(print_program(program, TARGETS[target]), TARGETS[target])
        instruction = "stnp" if target == "aarch64" else "movntp"
        assert (instruction in listing) == wanted, (place, start)
        if target != "aarch64" and wanted:
            assert listing.count("sfence") == 1  # in the task that streams, not again where it is called


def test_large_results_are_streamed_by_compiled_functions(monkeypatch: pytest.MonkeyPatch, tmp_path: object) -> None:
    monkeypatch.setenv("GRAPHC_CACHE_DIR", str(tmp_path))
    monkeypatch.setattr(build, "worth_streaming", lambda kernel, places: worth_streaming(kernel, places, LENT))
    x = np.random.default_rng(0).random((1024, 512), np.float32)
    function = gc.compile(lambda x: (gc.exp(x) * 2, x - x.sum(axis=1, keepdims=True)))
    before = gc.get_num_threads()
    found = []
    try:
        for threads in (1, 2, 5):
            gc.set_num_threads(threads)
            found.append([y.numpy() for y in function(gc.tensor(x))])
    finally:
        gc.set_num_threads(before)
    assert "stream o" in function.explain().program
    np.testing.assert_allclose(found[0][0], 2 * np.exp(x), rtol=1e-6)
    np.testing.assert_allclose(found[0][1], x - x.sum(axis=1, keepdims=True), rtol=1e-5)
    for other in found[1:]:
        for a, b in zip(found[0], other, strict=True):
            np.testing.assert_array_equal(a, b)
