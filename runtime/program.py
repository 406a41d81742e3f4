"""Program: everything that one compiled call does, in order, and where its memory lies.

A program is what the scheduler hands to a backend. Memory is placed before anything is printed: every
buffer is an argument of the call (inputs, state, outputs), a constant, or a fixed offset in one arena.
"""

from __future__ import annotations

from typing import Literal as OneOf
from typing import TypeAlias

from graphc.frozen import dataclass
from graphc.runtime.loop.ir import Block, Buffer, For, If, Kernel
from graphc.types import DType


@dataclass(frozen=True, slots=True)
class Place:
    """Where a buffer's first element lies.

    kind "argument": entry `index` of the call's pointer table. "arena": the arena. "constant": entry `index` of
    Program.constants. offset: bytes after its start; both arena and constants are aligned to 64 bytes, and so are
    arguments that are `lent`.
    """

    kind: OneOf["argument", "arena", "constant"]
    index: int = 0
    offset: int = 0
    lent: bool = False


@dataclass(frozen=True, slots=True)
class KernelCall:
    """Run a kernel; places[i] is where kernel.params[i] lies."""

    kernel: Kernel
    places: tuple[Place, ...]


@dataclass(frozen=True, slots=True)
class MatmulCall:
    """C = A @ B by the platform's BLAS (row-major gemm), for `batch` matrices with strides in elements.

    a: (m, k), or (k, m) if transpose_a; lda etc. are row strides. beta 0 overwrites C, 1 adds to it.
    """

    dtype: DType
    m: int
    n: int
    k: int
    transpose_a: bool
    transpose_b: bool
    lda: int
    ldb: int
    ldc: int
    a: Place
    b: Place
    c: Place
    a_offset: int = 0
    b_offset: int = 0
    c_offset: int = 0
    batch: int = 1
    batch_a: int = 0
    batch_b: int = 0
    batch_c: int = 0
    beta: float = 0.0


Step: TypeAlias = KernelCall | MatmulCall


@dataclass(frozen=True, slots=True)
class Program:
    """steps run in order, each seeing the writes of those before.

    arguments: the buffers of the call's pointer table (inputs, then state, then outputs; all dense, C order,
        aligned to at least their itemsize). constants: literal arrays as little-endian bytes with dtype.
    arena_size: bytes. messages: text for the codes of Check statements (code k raises messages[k - 1]).
    """

    steps: tuple[Step, ...]
    arguments: tuple[Buffer, ...]
    constants: tuple[tuple[DType, bytes], ...]
    arena_size: int
    messages: tuple[str, ...] = ()

    def points(self) -> int:
        """How often statements of kernels run, and multiply-adds of products: roughly, how much work a call is."""
        return sum(
            step.m * step.n * step.k * step.batch if isinstance(step, MatmulCall) else _points(step.kernel.body)
            for step in self.steps
        )


def _points(block: Block) -> int:
    total = 0
    for statement in block:
        match statement:
            case For():
                total += statement.axis.extent * _points(statement.body)
            case If():
                total += _points(statement.body)
            case _:
                total += 1
    return total
