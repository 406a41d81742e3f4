"""A program for the tests of executables, for n float32 elements: state += a; result = a * constant + b, and the
result's number of elements in the arena; it fails with code 2 if a[0] is negative."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from graphc.runtime.cache import DiskCache
from graphc.runtime.cpu import jit
from graphc.runtime.executable import Executable, build
from graphc.runtime.loop.ir import Buffer
from graphc.runtime.program import Program
from graphc.types import TensorType, float32, int64

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
