"""How a scheduled kernel is launched: which parts, by groups of how many threads, in blocks of how many groups.

All of it follows from the kernel by fixed rules (the page of runtime/loop/ir.py); nothing is chosen here by what a
kernel computes.
"""

from __future__ import annotations

from collections.abc import Iterator
from math import prod

from graphc.errors import CompileError, VerifyError
from graphc.frozen import dataclass
from graphc.ir.expr import Axis
from graphc.runtime.loop.ir import Block, Buffer, For, Kernel, Offset, Stmt

from .access import Access, accesses, allocations, has_check, vector_loops

BLOCK = 256  # threads of a block, where a group is a thread or a warp
MAX_BLOCKS = 1 << 16  # beyond, blocks take several groups each
WORKSPACE_BLOCKS = 528  # four a multiprocessor of an H100: what the slices of a workspace are reserved for
SHARED_BYTES = 48 * 1024  # static __shared__ memory of a block
FOLD_BYTES = 1024  # of which the folds over a block may take so much
GROUP_WIDTHS = (1, 32, 64, 128, 256, 512, 1024)


@dataclass(frozen=True, slots=True)
class Launch:
    """One launch: a function, its geometry and its arguments.

    The arguments are, in order: the params of the kernel numbered `params`; one pointer into the workspace for each
    of `workspace` (bytes); the error word if `checks`.
    """

    function: str
    grid: int
    block: int
    params: tuple[int, ...]
    workspace: tuple[int, ...] = ()
    checks: bool = False


@dataclass(frozen=True, slots=True)
class Plan:
    """One part of a kernel, and all that its printer must know about it.

    axes: of the parallel nest (none: one group runs it). width: threads of a group. groups: iterations of the nest.
    threads: of a block. per_block: groups of a block. grid: blocks. spread: registers of which each thread holds the
    elements of its own lanes. private: registers allocated inside of vector loops. written: names of buffers that
    are written. aliases: params that may be the same memory, each by the name of one of them. scratch: what the
    threads of a group share. in_workspace: names of those that lie in global memory.
    """

    kernel: Kernel
    axes: tuple[Axis, ...]
    body: Block
    width: int
    groups: int
    threads: int
    per_block: int
    grid: int
    spread: frozenset[str]
    private: frozenset[str]
    written: frozenset[str]
    aliases: dict[str, str]
    scratch: dict[str, Buffer]
    in_workspace: frozenset[str]
    launch: Launch


def plan_launches(kernel: Kernel, name: str) -> list[Plan]:
    """The parts of `kernel`, in order; those with nothing to do are left out. Raises CompileError."""
    plans = []
    for number, (axes, body) in enumerate(_segments(kernel.body)):
        if all(axis.extent for axis in axes):
            plans.append(_plan(kernel, f"{name}_{number}" if number else name, axes, body))
    return plans


def _segments(body: Block) -> Iterator[tuple[tuple[Axis, ...], Block]]:
    """The parts of a kernel that are launched one after the other: (axes of the parallel nest, what it runs)."""
    run: list[Stmt] = []
    for statement in body:
        if not (isinstance(statement, For) and statement.kind == "parallel"):
            run.append(statement)
            continue
        if run:
            yield (), tuple(run)
            run = []
        axes = []
        inner: Block = (statement,)
        while len(inner) == 1 and isinstance(inner[0], For) and inner[0].kind == "parallel":
            axes.append(inner[0].axis)
            inner = inner[0].body
        yield tuple(axes), inner
    if run:
        yield (), tuple(run)


def _plan(kernel: Kernel, name: str, axes: tuple[Axis, ...], body: Block) -> Plan:
    width = _width(kernel, body)
    groups = prod(axis.extent for axis in axes)
    found = list(accesses(body))
    touched = {a.buffer.name for a in found}
    allocated = list(allocations(body))
    private = frozenset(b.name for b, in_vector in allocated if in_vector)
    spread = frozenset(a.buffer.name for a in found if a.buffer.space == "register" and uses_lanes(a)) - private
    for access in found:
        if access.buffer.name in spread and not uses_lanes(access):
            raise VerifyError(f"{kernel.name}: register {access.buffer.name} is spread over lanes, but used by none")
    scratch = {b.name: b for b, _ in allocated if b.space == "scratch"} if width > 1 else {}

    threads = BLOCK if width == 32 else width
    if width == 1:
        threads = min(BLOCK, _up(groups, 32))
    per_block = threads // width
    in_workspace = _outside(scratch)
    inside = sum(_up(_nbytes(b), 16) for b in scratch.values() if b.name not in in_workspace)
    if width == 32:
        per_block = min(per_block, groups)
        if inside:
            per_block = max(1, min(per_block, (SHARED_BYTES - FOLD_BYTES) // inside))
        threads = per_block * width
    grid = min(WORKSPACE_BLOCKS if in_workspace else MAX_BLOCKS, -(-groups // per_block))
    launch = Launch(
        name,
        grid,
        threads,
        tuple(i for i, b in enumerate(kernel.params) if b.name in touched),
        tuple(_nbytes(b) * grid * per_block for b in scratch.values() if b.name in in_workspace),
        has_check(body),
    )
    written = frozenset(a.buffer.name for a in found if a.writes)
    return Plan(
        kernel, axes, body, width, groups, threads, per_block, grid, spread, private, written, _aliases(kernel),
        scratch, in_workspace, launch,
    )  # fmt: skip


def _width(kernel: Kernel, body: Block) -> int:
    """Threads of a group: the width that the vector loops share."""
    widths = {loop.width for loop in vector_loops(body)}
    if len(widths) > 1:
        raise CompileError(f"{kernel.name}: vector loops of widths {sorted(widths)} share a parallel iteration")
    width = widths.pop() if widths else 1
    if width not in GROUP_WIDTHS:
        raise CompileError(
            f"{kernel.name}: {width} lanes are no group of CUDA threads; schedule for the GPU with one of "
            f"{', '.join(map(str, GROUP_WIDTHS))}"
        )
    return width


def _outside(scratch: dict[str, Buffer]) -> frozenset[str]:
    """The scratch buffers that don't fit into the shared memory of a block; the smallest ones go in first."""
    room = SHARED_BYTES - FOLD_BYTES
    outside = set()
    for buffer in sorted(scratch.values(), key=_nbytes):
        nbytes = _up(_nbytes(buffer), 16)
        if nbytes > room:
            outside.add(buffer.name)
        else:
            room -= nbytes
    return frozenset(outside)


def _aliases(kernel: Kernel) -> dict[str, str]:
    leader = {buffer.name: buffer.name for buffer in kernel.params}
    for a, b in kernel.inplace:
        old, new = leader[b], leader[a]
        leader = {name: new if found == old else found for name, found in leader.items()}
    return leader


def uses_lanes(access: Access) -> bool:
    return addresses(access.offset, tuple(loop.axis for loop in access.vector))


def addresses(offset: Offset, axes: tuple[Axis, ...]) -> bool:
    """Whether the element may be another one for each lane. axes: those of the vector nest."""
    return bool(offset.dynamic) or any(offset.affine.coefficient(axis) for axis in axes)


def _nbytes(buffer: Buffer) -> int:
    return buffer.size * buffer.dtype.itemsize


def _up(n: int, multiple: int) -> int:
    return -(-n // multiple) * multiple
