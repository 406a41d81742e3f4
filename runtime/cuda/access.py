"""Which memory a statement touches: what barriers between lanes, and the kinds of pointers, are decided from."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import field
from typing import assert_never

from graphc.frozen import dataclass
from graphc.ir.expr import Call
from graphc.runtime.loop.ir import (
    Accumulate,
    Alloc,
    Block,
    Buffer,
    Check,
    Expr,
    For,
    If,
    Let,
    Load,
    Offset,
    Prefetch,
    Store,
)


@dataclass(frozen=True, slots=True)
class Access:
    """One place where a statement reads or writes memory. vector: the vector loops around, outermost first."""

    buffer: Buffer
    offset: Offset
    writes: bool
    vector: tuple[For, ...] = ()


def accesses(block: Block, vector: tuple[For, ...] = ()) -> Iterator[Access]:
    """Every load, store and accumulation in `block`, in the order of the text."""
    for statement in block:
        match statement:
            case For(kind=kind, body=body):
                yield from accesses(body, (*vector, statement) if kind == "vector" else vector)
            case If(condition, body):
                yield from _loads(condition, vector)
                yield from accesses(body, vector)
            case Alloc() | Prefetch():
                pass
            case Let(_, value):
                yield from _loads(value, vector)
            case Store(buffer, offset, value, mask) | Accumulate(buffer, offset, _, value, mask):
                for e in (value, mask, *(index for index, _ in offset.dynamic)):
                    if e is not None:
                        yield from _loads(e, vector)
                if isinstance(statement, Accumulate):
                    yield Access(buffer, offset, False, vector)
                yield Access(buffer, offset, True, vector)
            case Check(condition, _):
                yield from _loads(condition, vector)
            case _:
                assert_never(statement)


def _loads(expr: Expr, vector: tuple[For, ...]) -> Iterator[Access]:
    match expr:
        case Call(args=args):
            for argument in args:
                yield from _loads(argument, vector)
        case Load(buffer, offset, mask, _):
            for index, _ in offset.dynamic:
                yield from _loads(index, vector)
            if mask is not None:
                yield from _loads(mask, vector)
            yield Access(buffer, offset, False, vector)


def allocations(block: Block, in_vector: bool = False) -> Iterator[tuple[Buffer, bool]]:
    """Every allocated buffer, and whether its Alloc stands in a vector loop."""
    for statement in block:
        match statement:
            case Alloc(buffer):
                yield buffer, in_vector
            case For(kind=kind, body=body):
                yield from allocations(body, in_vector or kind == "vector")
            case If(body=body):
                yield from allocations(body, in_vector)


def vector_loops(block: Block) -> Iterator[For]:
    """Every vector loop, the nested ones too."""
    for statement in block:
        match statement:
            case For(kind="vector", body=body):
                yield statement
                yield from vector_loops(body)
            case For(body=body) | If(body=body):
                yield from vector_loops(body)


def has_check(block: Block) -> bool:
    for statement in block:
        match statement:
            case Check():
                return True
            case For(body=body) | If(body=body) if has_check(body):
                return True
    return False


@dataclass(slots=True)
class Pending:
    """What a group of threads touched since its last barrier, by name of the memory."""

    reads: set[str] = field(default_factory=set)
    writes: set[str] = field(default_factory=set)

    def conflicts(self, reads: set[str], writes: set[str]) -> bool:
        return bool(self.writes & (reads | writes) or self.reads & writes)

    def clear(self) -> None:
        self.reads.clear()
        self.writes.clear()

    def add(self, reads: set[str], writes: set[str]) -> None:
        self.reads |= reads
        self.writes |= writes

    def copy(self) -> Pending:
        return Pending(set(self.reads), set(self.writes))
