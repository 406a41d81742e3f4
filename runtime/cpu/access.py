"""What a block does to memory: found once, before it is printed, to plan registers and folds."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import field
from itertools import product
from math import ceil
from typing import assert_never

from graphc.frozen import dataclass
from graphc.ir.expr import Affine, Call, Index, Literal
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
    Var,
)


@dataclass(frozen=True, slots=True)
class Access:
    """One Load, Store or Accumulate. loops: those around it within the block walked, outermost first."""

    buffer: Buffer
    offset: Offset
    by: Load | Store | Accumulate
    loops: tuple[For, ...]

    @property
    def vector(self) -> For | None:
        return next((loop for loop in self.loops if loop.kind == "vector"), None)


def accesses(block: Block, loops: tuple[For, ...] = ()) -> Iterator[Access]:
    """Every access of `block`, which stands inside `loops`."""
    for statement in block:
        match statement:
            case For(body=body):
                yield from accesses(body, (*loops, statement))
            case If(condition, body):
                yield from _reads((condition,), loops)
                yield from accesses(body, loops)
            case Store(buffer, offset, value, mask) | Accumulate(buffer, offset, _, value, mask):
                indices = tuple(index for index, _ in offset.dynamic)
                yield from _reads((value, *indices) if mask is None else (value, mask, *indices), loops)
                yield Access(buffer, offset, statement, loops)
            case Let(_, value) | Check(value, _):
                yield from _reads((value,), loops)
            case Alloc() | Prefetch():
                pass
            case _:
                assert_never(statement)


def _reads(exprs: tuple[Expr, ...], loops: tuple[For, ...]) -> Iterator[Access]:
    stack: list[Expr] = list(exprs)
    while stack:
        expr = stack.pop()
        match expr:
            case Call(args=args):
                stack.extend(args)
            case Load(buffer, offset, mask):
                stack.extend(index for index, _ in offset.dynamic)
                if mask is not None:
                    stack.append(mask)
                yield Access(buffer, offset, expr, loops)
            case Literal() | Index() | Var():
                pass
            case _:
                assert_never(expr)


def written(block: Block) -> frozenset[str]:
    """Names of the buffers that `block` stores to or accumulates in."""
    names: set[str] = set()
    stack = list(block)
    while stack:
        statement = stack.pop()
        match statement:
            case For(body=body) | If(body=body):
                stack.extend(body)
            case Store(buffer) | Accumulate(buffer):
                names.add(buffer.name)
    return frozenset(names)


@dataclass(frozen=True, slots=True)
class Slot:
    """Elements [start, start + live) of a register buffer, held by the first `live` of `lanes` lanes.

    Two that start together are one register, of which some access may use fewer lanes.
    """

    start: int
    live: int = field(compare=False)
    lanes: int


def slots(buffer: Buffer, block: Block, axes: Mapping[str, int]) -> tuple[Slot, ...] | None:
    """How `block` divides a register buffer, allocated outside of vector loops, among machine registers.

    axes: numbers of the written-out axes around. None if two accesses overlap without being equal: then the
    buffer must be addressable memory.
    """
    found: dict[Slot, Slot] = {}
    for access in accesses(block):
        if access.buffer.name == buffer.name:
            for slot in _slots_of(access, axes):
                if slot not in found or found[slot].live < slot.live:
                    found[slot] = slot
    ordered = sorted(found.values(), key=lambda slot: slot.start)
    end = 0
    for slot in ordered:
        if slot.start < end:
            return None
        end = slot.start + slot.live
    return tuple(ordered) if end <= buffer.size else None


def _slots_of(access: Access, axes: Mapping[str, int]) -> Iterator[Slot]:
    """The slots that one access touches as its unrolled loops run; none for lanes out of several registers."""
    start, ranges, lanes, extent = access.offset.affine.const, [], 1, 0
    around = {loop.axis.name: loop for loop in access.loops}
    for axis, coefficient in access.offset.affine.terms:
        loop = around.get(axis.name)
        if loop is None:
            start += coefficient * axes[axis.name]
        elif loop.kind == "vector" and loop.width > 1:
            if coefficient != 1:
                return
            lanes, extent = loop.width, axis.extent
        else:
            ranges.append(range(0, coefficient * axis.extent, coefficient) if axis.extent else range(0))
    for offsets in product(*ranges):
        first = start + sum(offsets)
        if lanes == 1:
            yield Slot(first, 1, 1)
        for chunk in range(0, extent, lanes):
            yield Slot(first + chunk, min(lanes, extent - chunk), lanes)


def is_carried(affine: Affine, loops: tuple[For, ...]) -> bool:
    """Whether an element's address changes with one of `loops` in a way not known while printing."""
    return any(affine.coefficient(loop.axis) for loop in loops if loop.kind != "unroll")


def folds(loop: For, around: For | None) -> dict[str, str]:
    """Buffers that `loop` only folds lanes into, with the operation: name -> sum, max or min.

    around: the vector loop that `loop` itself stands in. One vector of partial results can then be kept for the whole
    loop, and its lanes folded once, after it.
    """
    found: dict[str, str] = {}
    refused: set[str] = set()
    for access in accesses((loop,)):
        vector, name = access.vector or around, access.buffer.name
        match access.by:
            case Accumulate(op=op, atomic=False) if (
                vector is not None
                and vector.width > 1
                and not access.offset.dynamic
                and not access.offset.affine.coefficient(vector.axis)
                and not is_carried(access.offset.affine, access.loops)
                and found.get(name, op) == op
            ):
                found[name] = op
            case _:
                refused.add(name)
    return {name: op for name, op in found.items() if name not in refused}


# Rough cycles of a scalar function on one vector; those not listed take one.
_CYCLES = {
    **dict.fromkeys(("exp", "expm1", "log", "log1p", "tanh", "erf", "sin", "cos"), 15),
    **dict.fromkeys(("div", "sqrt", "rsqrt"), 5),
    **dict.fromkeys(("pow", "floordiv", "mod", "philox32", "philox64"), 50),
}  # fmt: skip


def cycles(block: Block) -> int:
    """A rough estimate of the processor cycles that `block` takes, good to a factor of ten."""
    total = 0
    for statement in block:
        match statement:
            case For(axis, _, body, width):
                total += ceil(axis.extent / width) * cycles(body)
            case If(condition, body):
                total += _expr_cycles(condition) + cycles(body)
            case Store(_, _, value) | Accumulate(_, _, _, value):
                total += 1 + _expr_cycles(value)
            case Let(_, value) | Check(value, _):
                total += _expr_cycles(value)
            case Prefetch():
                total += 1
    return total


def _expr_cycles(expr: Expr) -> int:
    total, stack = 0, [expr]
    while stack:
        e = stack.pop()
        match e:
            case Call(op, args):
                total += _CYCLES.get(op, 1)
                stack.extend(args)
            case Load():
                total += 1
    return total
