"""Results written past the caches: an array larger than the last of them is gone from it before anyone reads it.

An ordinary store first fetches the line that it writes to, and throws another one out of the caches. Of an array that
won't be read for long neither is wanted: streaming stores write whole lines to memory, two transfers instead of three
for a copy, and what is read stays where it is. Of an array that fits, they would lose what a reader finds there.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

from .loop.ir import Accumulate, Block, For, If, Kernel, Prefetch, Stmt, Store
from .program import Place

LEAST = 40 << 20  # bytes that a kernel moves, from which on streaming was measured to pay: a large cache, and some
SHARE = 8  # a result of less than one in so many of them isn't worth a wait at the kernel's end


def worth_streaming(kernel: Kernel, places: Sequence[Place], least: int = LEAST) -> frozenset[str]:
    """The params that a kernel had better stream to.

    They are only written, in memory of their own (what is updated in place has been fetched to be read), which is known
    to be aligned. An intermediate result, which a kernel to come will read, must be too large for the caches by itself.
    """
    nbytes = {buffer.name: buffer.size * buffer.dtype.itemsize for buffer in kernel.params}
    total = sum(nbytes.values())
    if total < least:
        return frozenset()
    written = {s.buffer.name for s in _innermost(kernel.body) if isinstance(s, Store)}
    written -= {s.buffer.name for s in _innermost(kernel.body) if isinstance(s, Accumulate)}
    found = set()
    for buffer, place in zip(kernel.params, places, strict=True):
        size = nbytes[buffer.name]
        apart = sum(_overlap(place, size, p, nbytes[b.name]) for b, p in zip(kernel.params, places, strict=True)) == 1
        large = size * SHARE >= total if place.lent else place.kind == "arena" and size >= least
        if buffer.name in written and apart and large:
            found.add(buffer.name)
    return frozenset(found)


def streamed(kernel: Kernel, names: frozenset[str]) -> Kernel:
    """The kernel with all its stores to these params streaming."""
    return replace(kernel, body=_streamed(kernel.body, names))


def _streamed(block: Block, names: frozenset[str]) -> Block:
    made: Block = ()
    for statement in block:
        match statement:
            case For(body=body) | If(body=body):
                made += (replace(statement, body=_streamed(body, names)),)
            case Store(buffer=buffer) if buffer.name in names:
                made += (replace(statement, streaming=True),)
            case Prefetch(buffer=buffer) if buffer.name in names:
                pass  # what goes past the caches isn't brought into them
            case _:
                made += (statement,)
    return made


def _innermost(block: Block) -> Iterator[Stmt]:
    """All statements that hold no others."""
    for statement in block:
        if isinstance(statement, For | If):
            yield from _innermost(statement.body)
        else:
            yield statement


def _overlap(a: Place, a_size: int, b: Place, b_size: int) -> bool:
    """Whether two params share memory."""
    same = (a.kind, a.index) == (b.kind, b.index)
    return same and a.offset < b.offset + b_size and b.offset < a.offset + a_size
