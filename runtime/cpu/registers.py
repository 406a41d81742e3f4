"""Register buffers as they are printed: an alloca for each machine register, which LLVM's SROA makes one of."""

from __future__ import annotations

from dataclasses import field

from graphc.errors import CompileError
from graphc.frozen import dataclass
from graphc.types import DType

from .access import Slot
from .emitter import Emitter, Scope, Value, type_of
from .transpose import transpose


@dataclass(frozen=True, slots=True)
class Registers:
    """A register buffer: an alloca for each slot. copies: lanes of the vector loop it was allocated in, else 1.

    turned: transposed squares of slots, as long as the scope they were made in is open and no slot is written.
    """

    dtype: DType
    slots: dict[Slot, str]
    copies: int
    turned: dict[tuple[Slot | None, ...], tuple[Scope, list[Value]]] = field(default_factory=dict)

    def live(self, slot: Slot) -> int:
        """How many lanes the register of a slot has that exist."""
        return next((s.live for s in self.slots if s == slot), slot.live)


@dataclass(frozen=True, slots=True)
class Column:
    """Elements of a register buffer, one for each lane that exists: start, start + step, ..."""

    start: int
    step: int
    count: int


def read_slot(e: Emitter, place: Registers, slot: Slot) -> Value:
    """A whole register."""
    lanes = max(slot.lanes, place.copies)
    name = e.here(f"load {type_of(place.dtype, lanes)}, ptr {place.slots[slot]}")
    return Value(name, place.dtype, lanes, e.level)


def read_column(e: Emitter, place: Registers, column: Column, lanes: int) -> Value:
    """One lane of each of several registers. All columns of a square are found together, and kept."""
    held: list[Slot | None] = [None] * lanes
    lane = 0
    for i in range(column.count):
        at = column.start + i * column.step
        slot = next((s for s in place.slots if s.start <= at < s.start + s.live), None)
        if slot is None or slot.lanes != lanes or (i and at - slot.start != lane):
            raise CompileError(f"{column} isn't one lane of registers that were stored to")
        held[i], lane = slot, at - slot.start
    scope, columns = place.turned.get(tuple(held), (None, []))
    if not any(scope is one for one in e.scopes):
        blank = Value("poison", place.dtype, lanes)
        columns = transpose(e, [blank if slot is None else read_slot(e, place, slot) for slot in held])
        place.turned[tuple(held)] = e.scopes[-1], columns
    return columns[lane]
