"""Prints the statements of the loop IR as the body of one LLVM function.

Register buffers become allocas that LLVM's SROA turns into registers: one for each vector that the kernel addresses.
Where lanes of a vector loop are folded into one element, a vector of partial results is kept for as long as nothing
else looks at the element, and its lanes are folded once at the end, halves onto halves.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import field
from typing import assert_never

from graphc.errors import CompileError
from graphc.frozen import dataclass
from graphc.ir.expr import Affine, Call
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
    Offset,
    Prefetch,
    Store,
)
from graphc.runtime.memory import ALIGNMENT
from graphc.types import int64

from . import memory, scalars
from .access import Slot, accesses, folds, slots, written
from .emitter import Emitter, Value, lane_mask, literal, type_of
from .expressions import Binding, Expressions, Location
from .memory import Address, Lanes, Memory
from .registers import Registers
from .transpose import apart, copy_square, turned

MAX_FRAME = 1 << 20  # bytes of scratch memory in one function's frame; threads have 8 MiB or more


@dataclass(slots=True)
class Fold:
    """Partial results, a vector each, of elements of one buffer. level: the scope around the loop they are for.

    parts: where the element is -> (its alloca, the element, the number of lanes).
    """

    op: str
    level: int
    parts: dict[Slot | str, tuple[str, Slot | Address, int]] = field(default_factory=dict)


class Statements(Expressions):
    """Prints blocks. status: a pointer to the first failed Check's code.

    spawn: prints the call of a parallel loop, where one may stand.
    """

    def __init__(self, e: Emitter, storage: dict[str, Location], status: str) -> None:
        super().__init__(e, storage)
        self.status = status
        self.spawn: Callable[[For], None] | None = None
        self.vector: For | None = None
        self.folds: dict[str, Fold] = {}
        self.frame = 0

    # ------------------------------------------------------------------ statements

    def block(self, block: Block) -> None:
        for position, statement in enumerate(block):
            match statement:
                case For():
                    self.loop(statement)
                case Alloc(buffer):
                    self.alloc(buffer, block[position + 1 :])
                case Let(var, value):
                    self.variables[var.name] = self.value(value)
                case Store():
                    self.store(statement)
                case Accumulate():
                    self.accumulate(statement)
                case Prefetch(buffer, at):
                    self.prefetch(buffer, at)
                case If(condition, body):
                    self.branch(self.value(condition), body)
                case Check(condition, code):
                    self.check(self.value(condition), code)
                case _:
                    assert_never(statement)

    def branch(self, condition: Value, body: Block) -> None:
        if condition.lanes > 1:
            raise CompileError("the condition of an If differs between lanes")
        if condition.const is not None:
            if condition.const:
                self.block(body)
            return
        self.e.open_branch(condition.text, written(body))
        self.block(body)
        self.e.close_branch()

    def check(self, condition: Value, code: int) -> None:
        if condition.const is True:
            return
        wrong = scalars.invert(self.e, condition)
        if wrong.lanes > 1 and not self.lanes.full:
            wrong = self.e.op("and", wrong, lane_mask(self.lanes.live, self.lanes.count))
        self.e.open_branch(self.e.any(wrong).text)
        self.e.here(f"cmpxchg ptr {self.status}, i64 0, i64 {code} monotonic monotonic, align 8")
        self.e.close_branch()

    def alloc(self, buffer: Buffer, rest: Block) -> None:
        copies, name = self.lanes.count, buffer.name
        if buffer.space == "register":
            if copies > 1:
                wide = type_of(buffer.dtype, copies)
                cells = {Slot(i, 1, 1): self.e.alloca(wide) for i in range(buffer.size)}
                self.storage[name] = Registers(buffer.dtype, cells, copies)
                return
            fixed = {axis: b.start.const for axis, b in self.axes.items() if isinstance(b.start.const, int)}
            planned = slots(buffer, rest, fixed)
            if planned is not None:
                cells = {slot: self.e.alloca(type_of(buffer.dtype, slot.lanes)) for slot in planned}
                self.storage[name] = Registers(buffer.dtype, cells, 1)
                return
        size = buffer.size * copies
        self.frame += size * buffer.dtype.itemsize
        if self.frame > MAX_FRAME:
            raise CompileError(f"{name} and the scratch memory before it need {self.frame} bytes; {MAX_FRAME} fit.")
        pointer = self.e.alloca(memory.stored_type(buffer.dtype, 1), size, ALIGNMENT)
        self.storage[name] = Memory(pointer, buffer.dtype, buffer.size, ALIGNMENT, (name,), copies)

    def store(self, statement: Store) -> None:
        value, mask = self.value(statement.value), self.mask(statement.mask)
        if mask is None or mask.const is not False:
            self.put(*self.target(statement.buffer, statement.offset), value, mask, statement.streaming)

    def prefetch(self, buffer: Buffer, at: Affine) -> None:
        _, element = self.element(buffer, Offset(at))
        assert isinstance(element, Address)
        memory.prefetch(self.e, element)

    # ------------------------------------------------------------------ loops

    def loop(self, loop: For) -> None:
        if loop.axis.extent == 0:
            return
        opened = self.open_folds(loop)
        match loop.kind:
            case "serial" if loop.axis.extent > 1:
                start = self.e.open_loop(written(loop.body), "0", str(loop.axis.extent))
                self.axes[loop.axis.name] = Binding(Value(start, int64, 1, self.e.level))
                self.block(loop.body)
                self.e.close_loop()
            case "serial" | "unroll":
                for i in range(loop.axis.extent):
                    self.axes[loop.axis.name] = Binding(literal(i, int64))
                    self.block(loop.body)
            case "vector":
                self.vector_loop(loop)
            case "parallel":
                if self.spawn is None or self.e.level:
                    raise CompileError(f"parallel loop {loop.axis.name} isn't outermost")
                self.spawn(loop)
            case _:
                assert_never(loop.kind)
        for name in opened:
            self.close_fold(self.folds.pop(name), name)

    def vector_loop(self, loop: For) -> None:
        if self.vector is not None:
            raise CompileError(f"vector loop {loop.axis.name} stands in a vector loop; the CPU has one level of lanes")
        width, extent = loop.width, loop.axis.extent
        whole = extent - extent % width
        self.vector = loop if width > 1 else None
        if self.addresses_registers(loop):
            for start in range(0, extent, width):
                self.chunk(loop, Binding(literal(start, int64), lane=True), min(width, extent - start))
        else:
            if whole > width:
                start_ = self.e.open_loop(written(loop.body), "0", str(whole), width)
                self.chunk(loop, Binding(Value(start_, int64, 1, self.e.level), width, lane=True), width)
                self.e.close_loop()
            elif whole:
                self.chunk(loop, Binding(literal(0, int64), lane=True), width)
            if extent > whole:
                self.chunk(loop, Binding(literal(whole, int64), lane=True), extent - whole)
        self.vector = None

    def chunk(self, loop: For, binding: Binding, live: int) -> None:
        """`live` iterations of a vector loop, side by side."""
        self.axes[loop.axis.name] = binding if loop.width > 1 else Binding(binding.start)
        self.lanes = Lanes(loop.width, live)
        if not (self.lanes.full and self.turn(loop)):
            self.block(loop.body)
        self.lanes = Lanes()

    def turn(self, loop: For) -> bool:
        """Print a copy that exchanges rows and columns, if that is what the lanes do."""
        found = turned(loop)
        if found is None:
            return False
        along, store, load = found
        source, target = self.storage[load.buffer.name], self.storage[store.buffer.name]
        if not isinstance(source, Memory) or not isinstance(target, Memory) or not apart(source, target):
            return False
        self.axes[along.name] = Binding(literal(0, int64))
        (_, read), (_, write) = self.element(load.buffer, load.offset), self.element(store.buffer, store.offset)
        assert isinstance(read, Address)
        assert isinstance(write, Address)
        copy_square(self.e, source, read, target, write, store.offset.affine.coefficient(along), self.lanes)
        return True

    def addresses_registers(self, loop: For) -> bool:
        """Whether registers from outside of the loop are chosen by its axis, so that it must be written out."""
        return any(
            isinstance(self.storage.get(access.buffer.name), Registers)
            and access.offset.affine.coefficient(loop.axis) != 0
            for access in accesses(loop.body)
        )

    # ------------------------------------------------------------------ folds

    def open_folds(self, loop: For) -> list[str]:
        if not self.storage.keys() & written(loop.body):
            return []
        opened = []
        for name, op in folds(loop, self.vector).items():
            place = self.storage.get(name)
            if place is not None and place.copies == 1 and name not in self.folds:
                self.folds[name] = Fold(op, self.e.level)
                opened.append(name)
        return opened

    def close_fold(self, fold: Fold, name: str) -> None:
        place, lanes = self.storage[name], self.lanes
        self.lanes = Lanes()
        for cell, element, width in fold.parts.values():
            wide = type_of(place.dtype, width)
            partial = Value(self.e.here(f"load {wide}, ptr {cell}"), place.dtype, width, self.e.level)
            folded = scalars.folded(self.e, fold.op, partial)
            self.put(place, element, scalars.combine(self.e, fold.op, self.get(place, element, None), folded), None)
        self.lanes = lanes

    def partial(self, fold: Fold, place: Location, element: Slot | Address) -> str:
        """The alloca of an element's partial results, filled with the operation's identity before the loop."""
        key = element if isinstance(element, Slot) else element.pointer
        if key not in fold.parts:
            width = self.lanes.count
            wide, cell = type_of(place.dtype, width), self.e.alloca(type_of(place.dtype, width))
            start = self.e.wide(scalars.identity(fold.op, place.dtype), width)
            self.e.scopes[fold.level].lines.append(f"  store {wide} {start.text}, ptr {cell}")
            fold.parts[key] = cell, element, width
        return fold.parts[key][0]

    # ------------------------------------------------------------------ accumulation

    def accumulate(self, statement: Accumulate) -> None:
        buffer, op = statement.buffer, statement.op
        mask = self.mask(statement.mask)
        if mask is not None and mask.const is False:
            return
        place, element = self.target(buffer, statement.offset)
        shared = self.lanes.count > 1 and place.copies == 1
        shared = shared and (element.lanes == 1 if isinstance(element, Slot) else element.shared)
        if statement.atomic or (isinstance(element, Address) and element.index is not None):
            self.accumulate_each(statement, place, element, mask)
        elif shared and buffer.name in self.folds:
            self.accumulate_partial(statement, place, element, mask)
        elif shared:
            value = self.e.wide(self.value(statement.value), self.lanes.count)
            acting = memory.acting(self.e, mask, self.lanes)
            if acting is not None:
                value = self.e.select(acting, value, scalars.identity(op, buffer.dtype))
            folded, lanes = scalars.folded(self.e, op, value), self.lanes
            self.lanes = Lanes()
            self.put(place, element, scalars.combine(self.e, op, self.get(place, element, None), folded), None)
            self.lanes = lanes
        else:
            old = self.get(place, element, mask)
            self.put(place, element, self.step(op, old, statement.value), mask)

    def accumulate_partial(
        self, statement: Accumulate, place: Location, element: Slot | Address, mask: Value | None
    ) -> None:
        width = self.lanes.count
        cell = self.partial(self.folds[statement.buffer.name], place, element)
        old = Value(self.e.here(f"load {type_of(place.dtype, width)}, ptr {cell}"), place.dtype, width, self.e.level)
        new = self.step(statement.op, old, statement.value)
        acting = memory.acting(self.e, mask, self.lanes)
        if acting is not None:
            new = self.e.select(acting, new, old)
        self.e.line(f"store {new.type} {new.text}, ptr {cell}")

    def accumulate_each(
        self, statement: Accumulate, place: Location, element: Slot | Address, mask: Value | None
    ) -> None:
        """One lane after the other: they may hit the same element."""
        if not isinstance(place, Memory) or not isinstance(element, Address):
            raise CompileError(f"register {statement.buffer.name} can't be summed atomically")
        value, lanes, dtype = self.value(statement.value), self.lanes, place.dtype
        self.lanes = Lanes()
        for lane, at in enumerate(memory.each_lane(self.e, place, element, lanes)):
            acting = None if mask is None else self.e.lane(mask, lane)
            if acting is not None:
                self.e.open_branch(acting.text, frozenset((statement.buffer.name,)))
            number = self.e.lane(value, lane)
            if statement.atomic:
                add = "fadd" if dtype.kind == "f" else "add"
                target = f"ptr {at.pointer}, {number.type} {number.text} monotonic, align {dtype.itemsize}"
                self.e.here(f"atomicrmw {add} {target}")
                self.e.forget(place.overlapping)
            else:
                self.put(place, at, scalars.combine(self.e, statement.op, self.get(place, at, None), number), None)
            if acting is not None:
                self.e.close_branch()
        self.lanes = lanes

    def step(self, op: str, old: Value, expr: Expr) -> Value:
        """op(old, expr); the sum of a product is one fused multiply-add, where the machine has it."""
        match op, expr:
            case "sum", Call("mul", (a, b), dtype) if dtype.kind == "f":
                x, y = self.value(a), self.value(b)
                if self.e.module.target.fma:
                    return self.e.intrinsic("fma", x, y, old)
                return self.e.op("fadd", self.e.op("fmul", x, y), old)
        return scalars.combine(self.e, op, old, self.value(expr))
