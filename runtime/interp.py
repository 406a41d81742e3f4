"""A whole Program in NumPy: the oracle of the backends. Kernels by the loop interpreter, products by numpy.matmul."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, assert_never

import numpy as np
import numpy.typing as npt

from graphc.errors import VerifyError
from graphc.types import DType

from .loop.interp import run
from .program import KernelCall, MatmulCall, Place, Program

Array = npt.NDArray[Any]


def run_program(program: Program, arguments: Sequence[Array]) -> int:
    """Run `program` on its arguments (C-contiguous arrays, in order), in place.

    Returns 0 or the code of the first Check that failed. The arena starts as garbage.
    """
    if len(arguments) != len(program.arguments):
        raise VerifyError(f"the program has {len(program.arguments)} arguments, given {len(arguments)}")
    memory = _Memory(program, arguments)
    failed = 0
    for step in program.steps:
        match step:
            case KernelCall(kernel, places):
                arrays = {b.name: memory.view(p, b.dtype, b.size) for b, p in zip(kernel.params, places, strict=True)}
                code = run(kernel, arrays)
                failed = failed or code
            case MatmulCall():
                _matmul(step, memory)
            case _:
                assert_never(step)
    return failed


class _Memory:
    def __init__(self, program: Program, arguments: Sequence[Array]) -> None:
        self._arguments = []
        for buffer, array in zip(program.arguments, arguments, strict=True):
            if array.size != buffer.size or array.dtype != buffer.dtype.numpy or not array.flags.c_contiguous:
                raise VerifyError(f"argument {buffer.name} must be {buffer.size} dense {buffer.dtype.name} numbers")
            self._arguments.append(array.reshape(-1))
        self._constants = [np.frombuffer(d, t.numpy.newbyteorder("<")).astype(t.numpy) for t, d in program.constants]
        self._arena = np.full(program.arena_size, 0xA5, np.uint8)

    def whole(self, place: Place, dtype: DType) -> Array:
        """The memory from `place` to the end of what it lies in."""
        match place.kind:
            case "argument":
                return self._arguments[place.index][place.offset // dtype.itemsize :]
            case "constant":
                return self._constants[place.index][place.offset // dtype.itemsize :]
            case "arena":
                rest = self._arena[place.offset :]
                return rest[: rest.size // dtype.itemsize * dtype.itemsize].view(dtype.numpy)
            case _:
                assert_never(place.kind)

    def view(self, place: Place, dtype: DType, size: int) -> Array:
        return self.whole(place, dtype)[:size]


def _matmul(step: MatmulCall, memory: _Memory) -> None:
    def matrix(place: Place, offset: int, rows: int, columns: int, stride: int) -> Array:
        flat = memory.whole(place, step.dtype)[offset:]
        return np.lib.stride_tricks.as_strided(flat, (rows, columns), (stride * flat.itemsize, flat.itemsize))

    for i in range(step.batch):
        a_shape = (step.k, step.m) if step.transpose_a else (step.m, step.k)
        b_shape = (step.n, step.k) if step.transpose_b else (step.k, step.n)
        a = matrix(step.a, step.a_offset + i * step.batch_a, *a_shape, step.lda)
        b = matrix(step.b, step.b_offset + i * step.batch_b, *b_shape, step.ldb)
        c = matrix(step.c, step.c_offset + i * step.batch_c, step.m, step.n, step.ldc)
        product = (a.T if step.transpose_a else a) @ (b.T if step.transpose_b else b)
        c[...] = product if step.beta == 0 else product + step.beta * c
