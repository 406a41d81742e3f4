"""Modules compiled by threads of their own, bundled, and loaded as one program."""

from __future__ import annotations

import ctypes
import sys
import threading

import numpy as np
import pytest

from graphc.errors import CompileError
from graphc.ir.expr import Axis, affine, call
from graphc.runtime.cpu import jit
from graphc.runtime.cpu.bundle import bundle, objects
from graphc.runtime.cpu.library import load
from graphc.runtime.cpu.llvm import ProgramPrinter, print_program
from graphc.runtime.cpu.target import host
from graphc.runtime.executable import ENTRY
from graphc.runtime.loop.ir import Buffer, For, Kernel, Load, Offset, Store
from graphc.runtime.program import KernelCall, Place, Program
from graphc.types import float32


def returns(name: str, value: str) -> str:
    return f"define i64 @{name}() {{\n  ret i64 {value}\n}}\n"


def calls(name: str, *others: str) -> str:
    """A function that adds up what others return."""
    lines = [f"  %v{i} = call i64 @{other}()" for i, other in enumerate(others)]
    total = "0"
    for i in range(len(others)):
        lines.append(f"  %s{i} = add i64 {total}, %v{i}")
        total = f"%s{i}"
    declared = "".join(f"declare i64 @{other}()\n" for other in others)
    return declared + f"define i64 @{name}() {{\n" + "\n".join(lines) + f"\n  ret i64 {total}\n}}\n"


def compiled(*texts: str) -> bytes:
    with jit.Compilation(host(), jit.Options()) as compilation:
        for text in texts:
            compilation.add(text)
        return compilation.result()


def run(data: bytes, name: str) -> int:
    code = load(data, {})
    try:
        return int(ctypes.CFUNCTYPE(ctypes.c_int64)(code.address(name))())
    finally:
        code.close()


def test_modules_call_what_those_before_define() -> None:
    names = [f"f{i}" for i in range(7)]
    data = compiled(*(returns(name, str(10**i)) for i, name in enumerate(names)), calls("total", *names))
    assert run(data, "total") == 1111111
    assert len(objects(data)) == 8
    linked = jit.LinkedCode(data, {})
    assert ctypes.CFUNCTYPE(ctypes.c_int64)(linked.address("total"))() == 1111111
    linked.close()


def test_one_module_is_a_plain_object() -> None:
    data = compiled(returns("f", "5"))
    assert objects(data) == [data]
    assert data == jit.compile_text(returns("f", "5"))
    assert run(data, "f") == 5


def test_the_order_is_that_of_adding_whoever_is_ready_first() -> None:
    slow = print_program(program(40), host())
    texts = [slow, returns("a", "1"), returns("b", "2")]
    assert objects(compiled(*texts)) == [jit.compile_text(text) for text in texts]


def test_a_module_that_llvm_refuses_ends_the_compilation() -> None:
    before, interval = threading.active_count(), sys.getswitchinterval()
    with pytest.raises(CompileError, match="nonsense"):
        compiled(returns("a", "1"), "nonsense", returns("b", "2"))
    assert threading.active_count() == before
    assert sys.getswitchinterval() == interval


def test_where_planning_fails_the_threads_end() -> None:
    before, interval = threading.active_count(), sys.getswitchinterval()

    def plan() -> None:
        with jit.Compilation(host(), jit.Options()) as compilation:
            compilation.warm_up()
            assert sys.getswitchinterval() <= jit._Fair.INTERVAL
            for i in range(20):
                compilation.add(returns(f"f{i}", "1"))
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        plan()
    assert threading.active_count() == before
    assert sys.getswitchinterval() == interval


def test_preparing_happens_once_and_its_errors_are_told() -> None:
    prepared = []
    with jit.Compilation(host(), jit.Options(), lambda: prepared.append(1)) as compilation:
        for i in range(3):
            compilation.add(returns(f"f{i}", "1"))
        compilation.result()
    assert prepared == [1]

    def fails() -> None:
        raise CompileError("no library")

    compilation = jit.Compilation(host(), jit.Options(), fails)
    compilation.add(returns("f", "1"))
    with pytest.raises(CompileError, match="no library"):
        compilation.result()


def test_without_the_unlocked_function_the_result_is_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    texts = [returns("a", "1"), calls("b", "a")]
    fast = compiled(*texts)
    assert jit._emit_unlocked() is not None
    monkeypatch.setattr(jit, "_emit_unlocked", lambda: None)
    assert compiled(*texts) == fast


def test_compilations_at_the_same_time() -> None:
    found: dict[int, int] = {}

    def work(number: int) -> None:
        names = [f"f{number}_{i}" for i in range(4)]
        texts = [returns(name, str(number)) for name in names]
        found[number] = run(compiled(*texts, calls("total", *names)), "total")

    threads = [threading.Thread(target=work, args=(n,)) for n in range(5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == {n: 4 * n for n in range(5)}


@pytest.mark.parametrize("damage", [slice(0, 10), slice(0, -1), slice(0, 20)])
def test_damaged_bundles_are_refused(damage: slice) -> None:
    data = bundle([b"one", b"second"])
    assert objects(data) == [b"one", b"second"]
    with pytest.raises(CompileError, match="damaged"):
        objects(data[damage])


def program(count: int) -> Program:
    """x += 1, x *= 2, ... by kernels of their own."""
    x, i = Buffer("x", float32, 37), Axis("i", 37)
    here = Offset(affine(i))
    steps = []
    for n in range(count):
        value = call("add", Load(x, here), Load(x, here)) if n % 2 else call("mul", Load(x, here), Load(x, here))
        kernel = Kernel(f"k{n}", (x,), (For(i, "serial", (Store(x, here, value),)),))
        steps.append(KernelCall(kernel, (Place("argument", 0),)))
    return Program((*steps, *steps[:2]), (x,), (), 0)


@pytest.mark.parametrize("lines", [1, 60, 10**6])
def test_a_program_in_modules_computes_what_it_does_as_one(lines: int) -> None:
    told = program(7)
    texts: list[str] = []
    printer = ProgramPrinter(host(), texts.append, lines)
    for step in told.steps:
        printer.step(step)
    printer.entry(told)
    assert (len(texts) == 8) == (lines == 1)
    assert (len(texts) == 1) == (lines == 10**6)
    start = np.linspace(0, 1.5, 37).astype(np.float32)
    results = []
    for data in (compiled(*texts), jit.compile_text(print_program(told, host()))):
        x = start.copy()
        table = (ctypes.c_void_p * 1)(x.ctypes.data)
        code = load(data, {})
        entry = ctypes.CFUNCTYPE(ctypes.c_int64, *[ctypes.c_void_p] * 3)(code.address(ENTRY))
        assert entry(ctypes.addressof(table), None, None) == 0
        results.append(x)
        code.close()
    np.testing.assert_array_equal(results[0], results[1])
    expected = start
    for n in (*range(7), 0, 1):
        expected = expected + expected if n % 2 else expected * expected
    np.testing.assert_array_equal(results[0], expected)
