"""Calling a program: what arrays it takes, what it gives, errors, threads, forks, and the cache behind it.

The program under test, for n float32 elements: state += a; result = a * constant + b, and the result's number of
elements in the arena; it fails with code 2 if a[0] is negative.
"""

from __future__ import annotations

import ctypes
import dataclasses
import gc
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from graphc.errors import AliasError, ArgumentError, CompileError, DTypeError, IndexingError, ShapeError
from graphc.runtime import blocks, executable
from graphc.runtime.cache import DiskCache
from graphc.runtime.cpu import gate, jit
from graphc.runtime.cpu.library import library
from graphc.runtime.cpu.target import by_name
from graphc.runtime.executable import Argument, Executable, Interface, build
from graphc.runtime.loop.ir import Buffer
from graphc.runtime.program import Program
from graphc.types import DTYPES, TensorType, bool_, float32, float64, int64

Array = npt.NDArray[Any]

TEXT = """
define i64 @graphc_entry(ptr %table, ptr %arena, ptr %constants) nounwind {
entry:
  %a = load ptr, ptr %table
  %b_cell = getelementptr ptr, ptr %table, i64 1
  %b = load ptr, ptr %b_cell
  %state_cell = getelementptr ptr, ptr %table, i64 2
  %state = load ptr, ptr %state_cell
  %result_cell = getelementptr ptr, ptr %table, i64 3
  %result = load ptr, ptr %result_cell
  %constant_cell = getelementptr ptr, ptr %constants, i64 1
  %constant = load ptr, ptr %constant_cell
  %factor = load float, ptr %constant, align 64
  store i64 0, ptr %arena, align 64
  br label %next
next:
  %i = phi i64 [ 0, %entry ], [ %more, %next ]
  %a_at = getelementptr float, ptr %a, i64 %i
  %b_at = getelementptr float, ptr %b, i64 %i
  %s_at = getelementptr float, ptr %state, i64 %i
  %r_at = getelementptr float, ptr %result, i64 %i
  %x = load float, ptr %a_at
  %y = load float, ptr %b_at
  %s = load float, ptr %s_at
  %t = fadd float %s, %x
  store float %t, ptr %s_at
  %p = fmul float %x, %factor
  %q = fadd float %p, %y
  store float %q, ptr %r_at
  %done = load i64, ptr %arena
  %done_more = add i64 %done, 1
  store i64 %done_more, ptr %arena
  %more = add i64 %i, 1
  %left = icmp slt i64 %more, N
  br i1 %left, label %next, label %out
out:
  %count = load i64, ptr %arena
  %whole = icmp eq i64 %count, N
  %first = load float, ptr %a
  %negative = fcmp olt float %first, 0.0
  %code = select i1 %negative, i64 2, i64 0
  %status = select i1 %whole, i64 %code, i64 1
  ret i64 %status
}
"""

SHAPE = (2, 3)
F = TensorType(SHAPE, float32)
MESSAGES = ("the arena was shared", "index out of bounds in gather, model.py:7")


def program(shape: tuple[int, ...], factor: float) -> Program:
    n = int(np.prod(shape))
    constants = ((int64, b""), (float32, np.float32(factor).tobytes()))
    return Program((), tuple(Buffer(name, float32, n) for name in "abcd"), constants, 1000, MESSAGES)


def make(compilation: jit.Compilation, shape: tuple[int, ...] = SHAPE, factor: float = 10) -> Program:
    compilation.add(TEXT.replace("N\n", f"{int(np.prod(shape))}\n"))
    return program(shape, factor)


def adding(program: Program, text: str) -> Callable[[jit.Compilation], Program]:
    """A `make` that adds one module."""

    def make(compilation: jit.Compilation) -> Program:
        compilation.add(text)
        return program

    return make


def built(cache: DiskCache | None = None, shape: tuple[int, ...] = SHAPE, factor: float = 10) -> Executable:
    """Inputs a, b, state; outputs (state, result)."""
    t = TensorType(shape, float32)
    return build(
        f"test {shape} {factor}",
        [t, t, t],
        [t, t],
        {0: 2},
        lambda compilation: make(compilation, shape, factor),
        cache=cache,
    )


@pytest.fixture(scope="module", params=["gate", "python"])
def run(request: pytest.FixtureRequest) -> Executable:
    made = built()
    if request.param == "gate":
        assert made._gate is not None, "this build of Python and NumPy isn't read natively"
    else:
        made._gate = None  # as where the gate can't read arrays
    return made


def operands(shape: tuple[int, ...] = SHAPE) -> tuple[Array, Array, Array]:
    n = int(np.prod(shape))
    a = np.arange(n, dtype=np.float32).reshape(shape)
    return a, a * 100, np.ones(shape, np.float32)


def expect(run: Executable, a: Any, b: Any, state: Array) -> list[Array]:
    """Call, and check the results against the operands' values from before."""
    wanted_state = np.array(state) + a
    wanted = np.asarray(a, np.float32) * np.float32(10) + b
    found = run(a, b, state)
    assert found[0] is state
    np.testing.assert_array_equal(state, wanted_state)
    np.testing.assert_array_equal(found[1], wanted)
    assert found[1].dtype == np.float32
    assert found[1].shape == wanted.shape
    return found


def test_state_is_written_in_place_and_results_are_fresh(run: Executable) -> None:
    a, b, state = operands()
    first = expect(run, a, b, state)[1].copy()
    kept = run(a, b, state)[1]
    a[:] = 5
    second = expect(run, a, b, state)[1]
    assert second is not kept
    np.testing.assert_array_equal(kept, first)
    assert not np.array_equal(second, first)


def test_other_arrays_and_the_same_arrays_in_turn(run: Executable) -> None:
    pairs = [operands() for _ in range(3)]
    for i in (0, 0, 1, 0, 2, 1, 1, 0):
        expect(run, *pairs[i])
    a, b, _ = pairs[0]
    expect(run, a, a, pairs[1][2])
    expect(run, b, a, pairs[0][2])


def turned(x: Array) -> Array:
    return np.asfortranarray(x)


def strided(x: Array) -> Array:
    wide = np.full((*x.shape[:-1], 2 * x.shape[-1]), 9, x.dtype)
    wide[..., ::2] = x
    return wide[..., ::2]


def reversed_(x: Array) -> Array:
    return x[::-1].copy()[::-1]


def unaligned(x: Array) -> Array:
    raw = np.zeros(x.nbytes + 1, np.uint8)
    found = raw[1:].view(x.dtype).reshape(x.shape)
    found[...] = x
    assert not found.flags.aligned
    return found


def subclassed(x: Array) -> Array:
    class Own(np.ndarray[Any, Any]):
        pass

    return x.view(Own)


@pytest.mark.parametrize("order", [turned, strided, reversed_, unaligned, subclassed])
def test_other_memory_orders_are_copied_and_state_comes_home(run: Executable, order: Callable[[Array], Array]) -> None:
    a, b, state = operands()
    expect(run, order(a), b, state)
    expect(run, a, order(b), order(state))
    expect(run, order(a), order(a), order(state))


def test_what_lies_between_the_elements_of_state_stays(run: Executable) -> None:
    a, b, state = operands()
    other = strided(state)
    expect(run, a, b, other)
    assert (other.base[..., 1::2] == 9).all()  # type: ignore[index]


def test_read_only_inputs_are_fine_and_read_only_state_is_refused(run: Executable) -> None:
    a, b, state = operands()
    a.flags.writeable = False
    expect(run, a, b, state)
    state.flags.writeable = False
    before = state.copy()
    with pytest.raises(ArgumentError, match="argument 2 .* read-only"):
        run(a, b, state)
    np.testing.assert_array_equal(state, before)


def test_inputs_that_share_memory_with_state_keep_their_values(run: Executable) -> None:
    a, b, state = operands()
    for _ in range(2):
        expect(run, state, b, state)
        expect(run, a, state, state)
        expect(run, state, state, state)
    memory = np.arange(20, dtype=np.float32)
    for start in range(10):
        expect(run, memory[start : start + 6].reshape(SHAPE), b, memory[4:10].reshape(SHAPE))
        expect(run, a, memory[start : start + 6].reshape(SHAPE), memory[4:10].reshape(SHAPE))
    state = memory[4:10].reshape(SHAPE)  # and once they don't any more
    expect(run, a, b, state)
    expect(run, a, b, state)


def test_two_states_that_share_memory_are_refused() -> None:
    t = TensorType((4,), float32)
    text = "define i64 @graphc_entry(ptr %t, ptr %a, ptr %c) nounwind {\n  ret i64 0\n}\n"
    told = Program((), (Buffer("a", float32, 4), Buffer("b", float32, 4)), (), 0)
    run = build("two states", [t, t], [t, t], {0: 0, 1: 1}, adding(told, text))
    memory = np.zeros(10, np.float32)
    run(memory[:4], memory[4:8])
    for _ in range(2):
        with pytest.raises(AliasError, match="arguments 0 and 1"):
            run(memory[:4], memory[3:7])
    with pytest.raises(AliasError):
        run(memory[:4], memory[:4])
    run(memory[0:8:2], memory[1:9:2])  # between each other, but no element in common
    run(memory[:4], memory[4:8])


@pytest.mark.parametrize(
    ("changed", "error", "message"),
    [
        (lambda a: a.astype(np.float64), DTypeError, "argument 0 .*float64 instead of float32"),
        (lambda a: a.astype(">f4"), DTypeError, "argument 0"),
        (lambda a: a.astype(object), DTypeError, "object"),
        (lambda a: a[:1], ShapeError, r"argument 0 .*\(1, 3\) instead of \(2, 3\)"),
        (lambda a: a.ravel(), ShapeError, r"\(6,\)"),
        (lambda a: a[None], ShapeError, r"\(1, 2, 3\)"),
        (lambda a: 1.0, DTypeError, "argument 0"),
        (lambda a: None, DTypeError, "argument 0"),
        (lambda a: "text", DTypeError, "argument 0"),
    ],
)
def test_what_doesn_t_fit_is_refused_before_anything_runs(
    run: Executable, changed: Callable[[Array], Any], error: type[Exception], message: str
) -> None:
    a, b, state = operands()
    before = state.copy()
    with pytest.raises(error, match=message):
        run(changed(a), b, state)
    np.testing.assert_array_equal(state, before)
    expect(run, a, b, state)


def test_the_number_of_arguments_is_checked(run: Executable) -> None:
    a, b, state = operands()
    for wrong in ((), (a, b), (a, b, state, a)):
        with pytest.raises(ArgumentError, match=f"takes 3 arrays, not {len(wrong)}"):
            run(*wrong)
    with pytest.raises(ArgumentError, match="argument 2 .* must be an array, not list"):
        run(a, b, [[1, 2, 3], [4, 5, 6]])  # type: ignore[arg-type]


def test_an_equal_dtype_that_isn_t_the_same_object_is_taken(run: Executable) -> None:
    a, b, state = operands()
    told = np.dtype("f4", metadata={"unit": "m"})
    expect(run, a.astype(told), b, state)


def test_lists_stand_for_inputs(run: Executable) -> None:
    _, b, state = operands()
    with pytest.raises(DTypeError, match="int64"):
        run([[1, 2, 3], [4, 5, 6]], b, state)  # type: ignore[arg-type]
    expect(run, np.asarray([[1, 2, 3], [4, 5, 6]], np.float32), b, state)


def test_a_failed_check_raises_the_program_s_message(run: Executable) -> None:
    a, b, state = operands()
    a[0, 0] = -1
    for _ in range(3):
        with pytest.raises(IndexingError, match=r"gather, model\.py:7"):
            run(a, b, state)
    a[0, 0] = 0
    expect(run, a, b, state)


def test_numbers_stand_for_inputs_without_dimensions() -> None:
    text = """
define i64 @graphc_entry(ptr %table, ptr %arena, ptr %constants) nounwind {
  %a = load ptr, ptr %table
  %b_cell = getelementptr ptr, ptr %table, i64 1
  %b = load ptr, ptr %b_cell
  %x = load double, ptr %a
  store double %x, ptr %b
  ret i64 0
}
"""
    t = TensorType((), float64)
    told = Program((), (Buffer("a", float64, 1), Buffer("b", float64, 1)), (), 0)
    run = build("scalar", [t], [t], {}, adding(told, text))
    for value in (2.5, 3, True, np.float64(-1), np.asarray(4.0)):
        found = run(value)  # type: ignore[arg-type]
        assert [x.shape for x in found] == [()]
        assert found[0] == float(value)
    with pytest.raises(DTypeError, match="float32"):
        run(np.float32(1))  # type: ignore[arg-type]
    with pytest.raises(DTypeError):
        run(1j)  # type: ignore[arg-type]


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("shape", [(), (0,), (3,), (2, 0, 3), (1, 1), (2, 3, 4, 5)])
def test_every_dtype_and_any_shape_comes_through(dtype: Any, shape: tuple[int, ...]) -> None:
    """A program that copies its input's bytes."""
    t = TensorType(shape, dtype)
    text = f"""
declare void @llvm.memcpy.p0.p0.i64(ptr, ptr, i64, i1)
define i64 @graphc_entry(ptr %table, ptr %arena, ptr %constants) nounwind {{
  %a = load ptr, ptr %table
  %b_cell = getelementptr ptr, ptr %table, i64 1
  %b = load ptr, ptr %b_cell
  call void @llvm.memcpy.p0.p0.i64(ptr %b, ptr %a, i64 {t.nbytes}, i1 false)
  ret i64 0
}}
"""
    told = Program((), (Buffer("a", dtype, t.size), Buffer("b", dtype, t.size)), (), 0)
    run = build(f"copy {t}", [t], [t], {}, adding(told, text))
    x = np.asarray(np.random.default_rng(0).integers(0, 2, shape)).astype(dtype.numpy)
    (found,) = run(x)
    assert found.dtype == dtype.numpy
    np.testing.assert_array_equal(found, x)


def test_threads_at_once_have_arenas_of_their_own(run: Executable) -> None:
    big = (40_000,)
    slow = built(shape=big)
    slow.interface = dataclasses.replace(slow.interface, long=True)
    slow._gate = run._gate
    failures: list[BaseException] = []

    def work(seed: int) -> None:
        rng = np.random.default_rng(seed)
        try:
            for _ in range(15):
                a = rng.random(big, np.float32)
                b, state = rng.random(big, np.float32), np.zeros(big, np.float32)
                expect(slow, a, b, state)
        except BaseException as error:
            failures.append(error)

    callers = [threading.Thread(target=work, args=(i,)) for i in range(4)]
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join()
    assert failures == []
    assert len(slow._frames) <= blocks.KEEP


def test_a_loop_of_short_calls_starves_nobody() -> None:
    run = built()
    assert not run.interface.long
    a, b, state = (np.ones(SHAPE, np.float32) for _ in range(3))
    done = threading.Event()

    def work() -> None:
        while not done.is_set():
            run(a, b, state)
            sum(range(5000))  # what a program does between its calls

    caller = threading.Thread(target=work)
    caller.start()
    try:
        start = time.perf_counter()
        for _ in range(50):
            os.stat(".")  # drops the lock, and has to get it again
        took = time.perf_counter() - start
    finally:
        done.set()
        caller.join()
    assert took < 50 * 10 * sys.getswitchinterval()


def test_the_interpreter_runs_on_while_native_code_does() -> None:
    """A program that waits until another Python thread has written a 1."""
    text = """
define i64 @graphc_entry(ptr %table, ptr %arena, ptr %constants) nounwind {
entry:
  %a = load ptr, ptr %table
  br label %look
look:
  %i = phi i64 [ 0, %entry ], [ %more, %look ]
  %x = load volatile i64, ptr %a
  %more = add i64 %i, 1
  %written = icmp ne i64 %x, 0
  %enough = icmp sgt i64 %more, 30000000000
  %stop = or i1 %written, %enough
  br i1 %stop, label %out, label %look
out:
  %status = select i1 %written, i64 0, i64 1
  ret i64 %status
}
"""
    t = TensorType((1,), int64)
    run = build("waits", [t], [], {}, adding(Program((), (Buffer("a", int64, 1),), (), 0, ("late",)), text))
    run.interface = dataclasses.replace(run.interface, long=True)
    cell = np.zeros(1, np.int64)
    timer = threading.Timer(0.05, lambda: cell.__setitem__(0, 1))
    timer.start()
    assert run(cell) == []
    timer.join()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
@pytest.mark.filterwarnings("ignore:This process.*is multi-threaded:DeprecationWarning")
def test_a_forked_child_calls_on_and_writes_into_its_own_memory(run: Executable) -> None:
    a, b, state = operands()
    expect(run, a, b, state)
    before = state.copy()
    pid = os.fork()
    if pid == 0:
        expect(run, a, b, state)
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    np.testing.assert_array_equal(state, before)
    expect(run, a, b, state)


# ------------------------------------------------------------------ results' memory


def test_big_results_reuse_memory_of_dead_ones_only() -> None:
    lender = blocks.Lender((1000, 300), np.dtype(np.float32))
    first = lender.take()
    first[:] = 1
    address = first.ctypes.data
    second = lender.take()
    assert second.ctypes.data != address
    view = first[10:, 5]
    del first
    third = lender.take()  # the view still holds the first
    assert third.ctypes.data not in (address, second.ctypes.data)
    third[:] = 3
    assert (view == 1).all()
    del view
    gc.collect()
    fourth = lender.take()
    assert fourth.ctypes.data == address
    assert fourth.flags.writeable
    assert fourth.shape == (1000, 300)
    assert fourth.dtype == np.float32


def test_a_program_s_big_results_stay_apart() -> None:
    shape = (600, 500)
    assert TensorType(shape, float32).nbytes >= executable.LENT
    run = built(shape=shape)
    a, b, state = operands(shape)
    kept = [run(a + np.float32(i), b, state)[1] for i in range(8)]
    for i, found in enumerate(kept):
        np.testing.assert_array_equal(found, (a + np.float32(i)) * np.float32(10) + b)
    addresses = {x.ctypes.data for x in kept}
    assert len(addresses) == 8
    del found, kept
    assert run(a, b, state)[1].ctypes.data in addresses


def test_blocks_are_private_and_zeroed() -> None:
    for size in (0, 1, 5000, 3 * blocks.HUGE_PAGE):
        block = blocks.Block(size)
        assert block.address % 4096 == 0
        assert ctypes.string_at(block.address, min(block.size, 100)) == bytes(min(block.size, 100))
        ctypes.memset(block.address, 7, block.size)


# ------------------------------------------------------------------ the cache and the interface


def test_the_second_build_comes_from_the_cache(tmp_path: Path) -> None:
    kept = DiskCache(tmp_path / "cache")
    first = built(kept)
    assert not first.from_cache

    def unneeded(compilation: jit.Compilation) -> Program:
        raise AssertionError("the cache has it")

    t = [F] * 3
    second = build(f"test {SHAPE} 10", t, t[:2], {0: 2}, unneeded, cache=kept)
    assert second.from_cache
    assert second.interface == first.interface
    expect(second, *operands())
    assert not built(kept, factor=11).from_cache  # other content
    other = build(f"test {SHAPE} 10", t, t[:2], {0: 2}, make, cache=kept, options=jit.Options(codegen=2))
    assert not other.from_cache


def test_a_damaged_entry_is_built_anew(tmp_path: Path) -> None:
    kept = DiskCache(tmp_path / "cache")
    built(kept)
    assert kept.folder is not None
    (path,) = kept.folder.glob("*.entry")
    data = bytearray(path.read_bytes())
    data[-100] ^= 1
    path.write_bytes(data)
    again = built(kept)
    assert not again.from_cache
    expect(again, *operands())
    assert built(kept).from_cache


@pytest.mark.parametrize("name", ["x86-64", "x86-64-v3"])
def test_code_for_lesser_cpus_runs_too(name: str) -> None:
    target = by_name(name)
    if not target.runs_here():
        pytest.skip(f"this CPU isn't {name}")
    expect(build("lesser", [F] * 3, [F] * 2, {0: 2}, make, target=target), *operands())


def test_code_for_another_machine_isn_t_built_to_run() -> None:
    other = "aarch64" if by_name("host").x86 else "x86-64"
    with pytest.raises(CompileError, match="can't run on this machine"):
        build("foreign", [F] * 3, [F] * 2, {0: 2}, make, target=by_name(other))


def test_text_without_an_entry_is_refused() -> None:
    text = "define i64 @other(ptr %t, ptr %a, ptr %c) {\n  ret i64 0\n}\n"
    with pytest.raises(CompileError, match="graphc_entry"):
        build("no entry", [F] * 3, [F] * 2, {0: 2}, adding(program(SHAPE, 1), text))


def test_a_program_that_doesn_t_fit_its_types_is_refused() -> None:
    with pytest.raises(CompileError, match="don't fit"):
        Interface.of(program(SHAPE, 1), [F, F], [F, F], {0: 1})
    with pytest.raises(CompileError, match="don't fit"):
        Interface.of(program((7,), 1), [F] * 3, [F] * 2, {0: 2})


def test_roles_follow_from_the_state() -> None:
    interface = Interface.of(program(SHAPE, 1), [F] * 3, [F, F], {1: 0})
    assert [a.role for a in interface.arguments] == [gate.STATE, gate.INPUT, gate.INPUT, gate.OUTPUT]
    assert interface.results == (3, 0)
    assert interface.takes == 3


arguments = st.builds(
    Argument,
    dtype=st.sampled_from(DTYPES),
    shape=st.lists(st.integers(0, 2**40), max_size=5).map(tuple),
    role=st.sampled_from([gate.INPUT, gate.STATE, gate.OUTPUT]),
)
interfaces = st.builds(
    Interface,
    arguments=st.lists(arguments, max_size=6).map(tuple),
    results=st.lists(st.integers(0, 9), max_size=4).map(tuple),
    constants=st.lists(st.tuples(st.sampled_from(DTYPES), st.binary(max_size=40)), max_size=4).map(tuple),
    arena_size=st.integers(0, 2**50),
    messages=st.lists(st.text(max_size=20), max_size=3).map(tuple),
)


@settings(deadline=None)
@given(interfaces, st.binary(max_size=100))
def test_an_interface_survives_json(interface: Interface, code: bytes) -> None:
    told, payload = interface.pack(code)
    assert Interface.unpack(json.loads(json.dumps(told)), payload) == (interface, code)
    with pytest.raises(ValueError, match="bytes instead of"):
        Interface.unpack(told, payload + b"x")


def test_constants_are_aligned() -> None:
    held = executable._Constants([(bool_, b"\1"), (float64, bytes(72)), (float32, b"abcd")])
    table = (ctypes.c_uint64 * 3).from_address(held.address)
    assert all(address % executable.ALIGNMENT == 0 for address in table)
    assert [ctypes.string_at(a, 1) for a in table] == [b"\1", b"\0", b"a"]


IN_A_FRESH_PROCESS = """
import sys, time
sys.path[:0] = {path!r}
import numpy as np
from graphc.runtime.executable import build
from graphc.types import TensorType, float32
from graphc.runtime.cpu.library import library
library()
t = TensorType((2, 3), float32)
start = time.perf_counter()
run = build("test (2, 3) 10", [t] * 3, [t] * 2, {{0: 2}}, lambda compilation: 1 / 0)
ms = (time.perf_counter() - start) * 1e3
state = np.zeros((2, 3), np.float32)
run(np.ones((2, 3), np.float32), state + 1, state)
assert (state == 1).all()
loaded = [name for name in ("llvmlite", "networkx") if name in sys.modules]
print(run.from_cache, run.loader, loaded, ms)
"""


def test_a_cached_program_needs_neither_llvm_nor_networkx(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GRAPHC_CACHE_DIR", str(tmp_path / "cache"))
    built()
    assert library().code.loader  # loaded here before, so its entry isn't in this folder yet
    warm = "import sys; sys.path[:0] = {path!r}; from graphc.runtime.cpu.library import library; library()"
    path = [str(Path.cwd()), *sys.path]
    subprocess.run([sys.executable, "-W", "error", "-c", warm.format(path=path)], check=True)
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", IN_A_FRESH_PROCESS.format(path=path)], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    from_cache, loader, loaded, ms = done.stdout.split()
    assert (from_cache, loaded) == ("True", "[]")
    if by_name("host").x86 and by_name("host").linux:
        assert loader == "elf"
    assert float(ms) < 100  # some 10 ms, most of it the digest of the sources


def test_a_call_takes_microseconds() -> None:
    run = built()
    a, b, state = operands()
    times = []
    for _ in range(20):
        start = time.perf_counter()
        for _ in range(100):
            run(a, b, state)
        times.append((time.perf_counter() - start) / 100)
    assert min(times) < 20e-6  # 1 us seen; ten times `array.ctypes.data` alone would be as much as this
