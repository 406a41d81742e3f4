"""Calling a program: what arrays it takes, what it gives, errors, threads and forks."""

from __future__ import annotations

import dataclasses
import os
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest

from graphc.errors import AliasError, ArgumentError, DTypeError, IndexingError, ShapeError
from graphc.runtime import blocks
from graphc.runtime.executable import Executable, build
from graphc.runtime.loop.ir import Buffer
from graphc.runtime.program import Program
from graphc.types import DTYPES, TensorType, float32, float64, int64
from tests.runtime.executables import SHAPE, Array, adding, built, expect, operands


@pytest.fixture(scope="module", params=["gate", "python"])
def run(request: pytest.FixtureRequest) -> Executable:
    made = built()
    if request.param == "gate":
        assert made._gate is not None, "this build of Python and NumPy isn't read natively"
    else:
        made._gate = None  # as where the gate can't read arrays
    return made


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

    def work(seed: int) -> None:
        rng = np.random.default_rng(seed)
        for _ in range(15):
            a = rng.random(big, np.float32)
            b, state = rng.random(big, np.float32), np.zeros(big, np.float32)
            expect(slow, a, b, state)

    with ThreadPoolExecutor(4) as callers:
        assert list(callers.map(work, range(4))) == [None] * 4
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
