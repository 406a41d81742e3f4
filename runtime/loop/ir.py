"""The loop IR, the language between the scheduler and the printers. The whole grammar:

    program := Program(kernels, steps)                       what one compiled call runs, in order
    kernel  := Kernel(name, params, body)
    buffer  := Buffer(name, dtype, size, space)              flat; space: global | register | scratch
    stmt    := For(axis, kind, body, width)                  kind: serial | parallel | unroll | vector
             | Alloc(buffer)                                 register or scratch memory, scoped to the block
             | Let(var, expr)
             | Store(buffer, offset, expr, mask, streaming)
             | Accumulate(buffer, offset, op, expr, mask)    buffer[offset] = op(buffer[offset], expr)
             | Prefetch(buffer, affine)                      this element will soon be read: a hint, it changes nothing
             | If(condition, body)                           the condition is the same for all lanes
             | Check(condition, code)                        false: the call returns `code`, and raises
    expr    := Literal | Index | Call                        shared with graphc.ir.expr
             | Var(name, dtype)                              bound by a Let
             | Load(buffer, offset, mask, other)
    offset  := Offset(affine, ((expr, coefficient), ...))    flat element offset

The `width` of a `parallel` loop is its grain: how many iterations, one after the other, are worth a thread's while.
Meaning. A `vector` loop computes all its iterations side by side, in chunks of `width` lanes with a
masked remainder; nothing but Accumulate may carry a value between lanes. `unroll` is a serial loop
that printers write out. `parallel` loops stand outermost only, their iterations are independent, and a
barrier follows each. Scratch memory belongs to one iteration of the parallel loop, and its lanes share it;
what is allocated before the loop is shared by all iterations.
Register buffers are addressed by axes of `unroll` and `vector` loops and constants only; where the vector axis
appears in a register offset its coefficient is 1 and lanes beyond the loop's extent do not exist. A Load may have
another coefficient, the distance of registers that were stored to: it reads one lane of each, a transposition.
Accumulate op "sum" of a Call("mul") is a fused multiply-add.
Printers decide nothing: what is written here is what runs.

For a GPU one iteration of the parallel loop is the work of a group of threads, one for each lane of its vector
loops (all of one width): a single thread where there are none, a warp (32), or a block (64, 128, ... 1024).
What stands outside of vector loops is computed by every thread and stored once. `parallel` loops directly inside
each other, and so `vector` loops, are one loop over the row-major product of their extents; only the schedule for
GPUs writes such nests.
"""

from __future__ import annotations

from typing import Literal as OneOf
from typing import TypeAlias

from graphc.frozen import dataclass
from graphc.ir.expr import Affine, Axis, Call, Index, Literal
from graphc.types import DType, Scalar

Space: TypeAlias = OneOf["global", "register", "scratch"]
Kind: TypeAlias = OneOf["serial", "parallel", "unroll", "vector"]


@dataclass(frozen=True, slots=True)
class Buffer:
    """Flat memory of `size` elements. `register`: small, lives in registers. `scratch`: per-thread memory."""

    name: str
    dtype: DType
    size: int
    space: Space = "global"


@dataclass(frozen=True, slots=True)
class Var:
    name: str
    dtype: DType


@dataclass(frozen=True, slots=True)
class Offset:
    """affine + sum(coefficient * expr); the dynamic part holds data-dependent indices (gather, scatter)."""

    affine: Affine
    dynamic: tuple[tuple[Expr, int], ...] = ()


@dataclass(frozen=True, slots=True)
class Load:
    """buffer[offset]; where `mask` is false, memory is not touched and the value is `other`."""

    buffer: Buffer
    offset: Offset
    mask: Expr | None = None
    other: Scalar = 0

    @property
    def dtype(self) -> DType:
        return self.buffer.dtype


# Call.args may hold Var and Load here as well; a Read never appears in the loop IR.
Expr: TypeAlias = Literal | Index | Call | Var | Load


@dataclass(frozen=True, slots=True)
class For:
    axis: Axis
    kind: Kind
    body: Block
    width: int = 1  # lanes, for kind "vector"; grain, for kind "parallel"


@dataclass(frozen=True, slots=True)
class Alloc:
    """The memory starts undefined."""

    buffer: Buffer


@dataclass(frozen=True, slots=True)
class Let:
    var: Var
    value: Expr


@dataclass(frozen=True, slots=True)
class Store:
    """streaming: whole vectors that lie on their boundaries may go past the caches, which would keep them in vain."""

    buffer: Buffer
    offset: Offset
    value: Expr
    mask: Expr | None = None
    streaming: bool = False


@dataclass(frozen=True, slots=True)
class Accumulate:
    """op: sum | max | min (NaN propagates in max and min). In a vector loop whose axis isn't in the
    offset, the lanes are folded together; where a global buffer may be hit twice by lanes (scatter),
    the loop must be serial, or the sum `atomic`: then lanes and iterations of the parallel loop may hit one
    element, in an order that is open (so for floats the last bits are). CPU schedules don't use it."""

    buffer: Buffer
    offset: Offset
    op: OneOf["sum", "max", "min"]
    value: Expr
    mask: Expr | None = None
    atomic: bool = False


@dataclass(frozen=True, slots=True)
class Prefetch:
    """The line of an element of global memory is brought nearer, to the second-level cache. The element may lie
    outside of the buffer: nothing is read."""

    buffer: Buffer
    at: Affine


@dataclass(frozen=True, slots=True)
class If:
    condition: Expr
    body: Block


@dataclass(frozen=True, slots=True)
class Check:
    """Record error number `code` (first one wins) when the condition is false; execution goes on."""

    condition: Expr
    code: int


Stmt: TypeAlias = For | Alloc | Let | Store | Accumulate | Prefetch | If | Check
Block: TypeAlias = tuple[Stmt, ...]


@dataclass(frozen=True, slots=True)
class Kernel:
    """params: the global buffers, in the order of the arguments. Distinct params never overlap, unless
    `inplace` names pairs (read, written) that may be the same memory, element for element."""

    name: str
    params: tuple[Buffer, ...]
    body: Block
    inplace: tuple[tuple[str, str], ...] = ()
