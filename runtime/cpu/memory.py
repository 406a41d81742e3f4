"""Prints loads and stores: an offset of the loop IR becomes a pointer, and the way in which lanes lie from there.

Lanes that share an element are read once, as a scalar. Neighbours are one vector load; neighbours in reverse, one
and a shuffle; lanes a few elements apart some of either, with what lies between them; anything else is a gather.
Lanes beyond the loop's end, and those that a mask leaves out, don't touch memory.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from math import gcd

from graphc.frozen import dataclass
from graphc.types import DType, Scalar, bool_, int64

from . import scalars
from .emitter import Emitter, Value, lane_mask, lane_numbers, literal, type_of
from .target import APART

MOST_PARTS = 3  # plain stores that take less time than one with a mask


@dataclass(frozen=True, slots=True)
class Memory:
    """A buffer that has addresses. overlapping: its name first, then buffers that may be the same memory.

    copies: lanes of the vector loop that it was allocated in; element k of lane l then lies at k * copies + l.
    """

    pointer: str
    dtype: DType
    size: int
    align: int
    overlapping: tuple[str, ...]
    copies: int = 1


@dataclass(frozen=True, slots=True)
class Lanes:
    """How many lanes values have, and how many of them exist: fewer in the last chunk of a loop."""

    count: int = 1
    live: int = 1

    @property
    def full(self) -> bool:
        return self.live == self.count


@dataclass(frozen=True, slots=True)
class Term:
    """One addend of an offset: factor * value. multiple: a number that divides the value."""

    value: Value
    factor: int
    multiple: int = 1


@dataclass(frozen=True, slots=True)
class Address:
    """Lane l's element lies `stride` * l + `index`[l] elements after `pointer`.

    index: int64 numbers that differ between lanes, or None. align: bytes that divide the pointer.
    """

    pointer: str
    level: int
    stride: int
    index: Value | None
    align: int

    @property
    def shared(self) -> bool:
        """Whether all lanes have the same element."""
        return not self.stride and self.index is None


def stored_type(dtype: DType, lanes: int) -> str:
    """The LLVM type in memory: a bool is a byte, 0 or 1."""
    if dtype is bool_:
        return "i8" if lanes == 1 else f"<{lanes} x i8>"
    return type_of(dtype, lanes)


def _suffix(dtype: DType, lanes: int) -> str:
    return f"v{lanes}{'i8' if dtype is bool_ else dtype.short}"


def address(e: Emitter, memory: Memory, const: int, terms: Sequence[Term], stride: int) -> Address:
    """const + sum of terms + stride * lane, in elements. Terms from outer loops are added first, so that what
    doesn't change in a loop is computed before it; the constant comes last, where the instruction holds it."""
    index: Value | None = None
    outer: list[Term] = []
    copies, itemsize = memory.copies, memory.dtype.itemsize
    element = stored_type(memory.dtype, 1)
    for term in terms:
        factor = term.factor * copies
        if term.value.lanes > 1:
            scaled = e.op("mul", term.value, literal(factor, int64)) if factor != 1 else term.value
            index = scaled if index is None else e.op("add", index, scaled)
        else:
            outer.append(Term(term.value, factor, term.multiple))
    pointer, level, align = memory.pointer, 0, memory.align
    for term in sorted(outer, key=lambda t: t.value.level):
        pointer, level = e.offset(element, pointer, level, term.value, term.factor), term.value.level
        align = gcd(align, term.factor * term.multiple * itemsize)
    if const:
        pointer = e.pure(f"getelementptr {element}, ptr {pointer}, i64 {const * copies}", level)
        align = gcd(align, const * copies * itemsize)
    return Address(pointer, level, stride * copies + (copies > 1), index, align)


def prefetch(e: Emitter, at: Address) -> None:
    """Ask for the line of an address; any address will do."""
    e.module.declare("llvm.prefetch.p0", "void", "ptr", "i32", "i32", "i32")
    second_level = 2  # of 3 (the first level), 2, 1, 0 (used only once)
    e.line(f"call void @llvm.prefetch.p0(ptr {at.pointer}, i32 0, i32 {second_level}, i32 1)")


# ------------------------------------------------------------------------------------------- loads


def load(e: Emitter, memory: Memory, at: Address, mask: Value | None, other: Scalar, lanes: Lanes) -> Value:
    """The elements at an address; `other` where the mask is false."""
    default = literal(other, memory.dtype)
    if memory.size == 0:
        return default
    if at.shared:
        return _load_shared(e, memory, at, mask, default, lanes)
    if at.stride == -1 and at.index is None:
        last = lanes.count - 1
        pointer = e.pure(f"getelementptr {stored_type(memory.dtype, 1)}, ptr {at.pointer}, i64 {-last}", at.level)
        back = Address(pointer, at.level, 1, None, memory.dtype.itemsize)
        live = acting(e, mask, lanes)
        return _reversed(e, _load_row(e, memory, back, live and _reversed(e, live), default, lanes.count))
    if at.stride == 1 and at.index is None:
        if mask is not None and mask.lanes == 1 and lanes.full and memory.size * memory.copies >= lanes.count:
            found = _load_row(e, memory, _guarded(e, memory, at, mask), None, default, lanes.count)
            return e.select(mask, found, default)
        return _load_row(e, memory, at, acting(e, mask, lanes), default, lanes.count)
    if mask is None and _apart(e, memory, at, lanes):
        return _load_apart(e, memory, at, default, lanes)
    return _gather(e, memory, at, mask, default, lanes)


def _apart(e: Emitter, memory: Memory, at: Address, lanes: Lanes) -> bool:
    """Whether lanes lie so near to each other, in order, that rows with what lies between them are worth moving.

    Where one instruction picks lanes of two registers, a row for almost each lane is less than the lanes one by one.
    """
    target = e.module.target
    most = target.lanes(memory.dtype) - 1 if target.vector_bits == 512 else APART
    return 1 < at.stride <= most and at.stride < lanes.count and at.index is None


def _load_shared(e: Emitter, memory: Memory, at: Address, mask: Value | None, default: Value, lanes: Lanes) -> Value:
    if mask is None:
        return _load_scalar(e, memory, at)
    some = mask if mask.lanes == 1 else e.any(acting(e, mask, lanes) or mask)
    return e.select(mask, _load_scalar(e, memory, _guarded(e, memory, at, some)), default)


def _guarded(e: Emitter, memory: Memory, at: Address, condition: Value) -> Address:
    """The address where the scalar condition holds, else the buffer's start: always readable, with no branch."""
    level = max(at.level, condition.level)
    if at.pointer == memory.pointer:
        return at
    pointer = e.pure(f"select i1 {condition.text}, ptr {at.pointer}, ptr {memory.pointer}", level)
    return replace(at, pointer=pointer, level=level)


def _load_scalar(e: Emitter, memory: Memory, at: Address) -> Value:
    element = stored_type(memory.dtype, 1)
    align = gcd(at.align, memory.dtype.itemsize)
    name, level = e.read(f"load {element}, ptr {at.pointer}, align {align}", memory.overlapping, at.level)
    return _as_value(e, name, level, memory.dtype, 1)


def _load_row(e: Emitter, memory: Memory, at: Address, mask: Value | None, default: Value, lanes: int) -> Value:
    """A vector of neighbours."""
    row = stored_type(memory.dtype, lanes)
    if mask is None:
        align = gcd(at.align, lanes * memory.dtype.itemsize)
        name, level = e.read(f"load {row}, ptr {at.pointer}, align {align}", memory.overlapping, at.level)
        return _as_value(e, name, level, memory.dtype, lanes)
    function, flags = f"llvm.masked.load.{_suffix(memory.dtype, lanes)}.p0", type_of(bool_, lanes)
    e.module.declare(function, row, "ptr", flags, row)
    name, level = e.read(
        f"call {row} @{function}(ptr align {gcd(at.align, memory.dtype.itemsize)} {at.pointer}, "
        f"{flags} {e.wide(mask, lanes).text}, {row} {_stored_default(default)})",
        memory.overlapping,
        max(at.level, mask.level),
    )
    return _as_value(e, name, level, memory.dtype, lanes)


def _load_apart(e: Emitter, memory: Memory, at: Address, default: Value, lanes: Lanes) -> Value:
    """Lanes a few elements apart: picked from rows, of which the last ends with the last lane's element."""
    count, end = lanes.count, at.stride * (lanes.live - 1) + 1  # elements from the first lane's to the last one's
    found: Value | None = None
    for first in range(0, end, count):
        mask = None if first + count <= end else lane_mask(end - first, count)
        row = _load_row(e, memory, beside(e, memory, at, first), mask, default, count)
        here = {lane: lane * at.stride - first for lane in range(count) if first <= lane * at.stride < first + count}
        if found is None:
            found = e.shuffle(row, [here.get(lane, 0) for lane in range(count)])
        else:
            found = e.merge(found, row, [count + here[lane] if lane in here else lane for lane in range(count)])
    assert found is not None
    return found


def _gather(e: Emitter, memory: Memory, at: Address, mask: Value | None, default: Value, lanes: Lanes) -> Value:
    count = lanes.count
    row, flags, pointers = stored_type(memory.dtype, count), type_of(bool_, count), f"<{count} x ptr>"
    wide = acting(e, mask, lanes) or lane_mask(count, count)
    wide = e.wide(wide, count)
    where, level = _pointers(e, memory, at, count)
    function = f"llvm.masked.gather.{_suffix(memory.dtype, count)}.v{count}p0"
    e.module.declare(function, row, pointers, flags, row)
    name, level = e.read(
        f"call {row} @{function}({pointers} align {memory.dtype.itemsize} {where}, {flags} {wide.text}, "
        f"{row} {_stored_default(default)})",
        memory.overlapping,
        max(level, wide.level),
    )
    return _as_value(e, name, level, memory.dtype, count)


def _pointers(e: Emitter, memory: Memory, at: Address, count: int) -> tuple[str, int]:
    """A vector of pointers, one for each lane, and its level."""
    element, level = stored_type(memory.dtype, 1), at.level
    if at.index is None:
        steps = lane_numbers(at.stride, count)
    else:
        index = at.index
        if at.stride:
            index = e.op("add", index, Value(lane_numbers(at.stride, count), int64, count))
        steps, level = index.text, max(level, index.level)
    return e.pure(f"getelementptr {element}, ptr {at.pointer}, <{count} x i64> {steps}", level), level


def acting(e: Emitter, mask: Value | None, lanes: Lanes) -> Value | None:
    """The mask with the lanes that don't exist left out; None if all lanes act."""
    if lanes.full:
        return mask
    return scalars.both(e, mask, lane_mask(lanes.live, lanes.count))


def _reversed(e: Emitter, value: Value) -> Value:
    return e.shuffle(value, list(range(value.lanes))[::-1]) if value.lanes > 1 else value


def _stored_default(default: Value) -> str:
    """A pass-through operand: the default in every lane, as it stands in memory."""
    if default.dtype is bool_:
        return f"splat (i8 {int(bool(default.const))})"
    return f"splat ({default.type} {default.text})"


def _as_value(e: Emitter, name: str, level: int, dtype: DType, lanes: int) -> Value:
    """What a load gave, as a register value: a byte becomes a bool."""
    if dtype is bool_:
        name = e.pure(f"icmp ne {stored_type(dtype, lanes)} {name}, {'0' if lanes == 1 else 'zeroinitializer'}", level)
    return Value(name, dtype, lanes, level)


def beside(e: Emitter, memory: Memory, at: Address, steps: int) -> Address:
    """The address with all lanes `steps` elements further on."""
    if not steps:
        return at
    element, size = stored_type(memory.dtype, 1), memory.dtype.itemsize
    pointer = e.pure(f"getelementptr {element}, ptr {at.pointer}, i64 {steps}", at.level)
    return replace(at, pointer=pointer, align=gcd(at.align, steps * size))


# ------------------------------------------------------------------------------------------- stores


def store(
    e: Emitter, memory: Memory, at: Address, value: Value, mask: Value | None, lanes: Lanes, streaming: bool = False
) -> None:
    """Write `value` where the mask holds. Lanes that share an element must agree on its value."""
    if memory.size == 0:
        return
    if mask is not None and mask.lanes == 1:
        e.open_branch(mask.text, frozenset((memory.overlapping[0],)))
        store(e, memory, at, value, None, lanes, streaming)
        e.close_branch()
    elif at.shared and mask is None:
        _store_scalar(e, memory, at, e.lane(value, lanes.live - 1))
    elif at.shared:
        for lane in range(lanes.live):
            assert mask is not None
            e.open_branch(e.lane(mask, lane).text)
            _store_scalar(e, memory, at, e.lane(value, lane))
            e.close_branch()
    elif at.stride == 1 and at.index is None and mask is None and lanes.live.bit_count() <= MOST_PARTS:
        _store_parts(e, memory, at, e.wide(value, lanes.count), lanes, streaming)
    elif at.stride == 1 and at.index is None:
        _store_row(e, memory, at, e.wide(value, lanes.count), acting(e, mask, lanes))
    elif mask is None and _apart(e, memory, at, lanes):
        _store_apart(e, memory, at, e.wide(value, lanes.count), lanes)
    else:
        _scatter(e, memory, at, e.wide(value, lanes.count), acting(e, mask, lanes))
    e.forget(memory.overlapping)


def _stored(e: Emitter, value: Value) -> str:
    """`type text` of a value as it stands in memory."""
    if value.dtype is bool_:
        row = stored_type(bool_, value.lanes)
        return f"{row} {e.pure(f'zext {value.type} {value.text} to {row}', value.level)}"
    return f"{value.type} {value.text}"


def _store_scalar(e: Emitter, memory: Memory, at: Address, value: Value) -> None:
    e.line(f"store {_stored(e, value)}, ptr {at.pointer}, align {gcd(at.align, memory.dtype.itemsize)}")


def _store_parts(e: Emitter, memory: Memory, at: Address, value: Value, lanes: Lanes, streaming: bool) -> None:
    """The lanes that exist, by as few stores of 16, 8, 4, ... as that takes."""
    first = 0
    while first < lanes.live:
        size = 1 << (lanes.live - first).bit_length() - 1
        to = beside(e, memory, at, first)
        if size == 1:
            _store_scalar(e, memory, to, e.lane(value, first))
        elif size == lanes.count:
            _store_row(e, memory, to, value, None, streaming)
        else:
            _store_row(e, memory, to, e.shuffle(value, [*range(first, first + size)]), None)
        first += size


def _store_row(
    e: Emitter, memory: Memory, at: Address, value: Value, mask: Value | None, streaming: bool = False
) -> None:
    lanes, dtype = value.lanes, memory.dtype
    if mask is None:
        align = gcd(at.align, lanes * dtype.itemsize)
        hint = ""
        if streaming and align % min(e.module.target.vector_bits // 8, lanes * dtype.itemsize) == 0:
            e.module.declarations["!0"] = "!0 = !{i32 1}"
            hint = ", !nontemporal !0"  # the instruction faults where a vector doesn't lie on its boundary
        e.line(f"store {_stored(e, value)}, ptr {at.pointer}, align {align}{hint}")
        return
    function, flags = f"llvm.masked.store.{_suffix(dtype, lanes)}.p0", type_of(bool_, lanes)
    e.module.declare(function, "void", stored_type(dtype, lanes), "ptr", flags)
    align = gcd(at.align, dtype.itemsize)
    e.line(f"call void @{function}({_stored(e, value)}, ptr align {align} {at.pointer}, {flags} {mask.text})")


def _store_apart(e: Emitter, memory: Memory, at: Address, value: Value, lanes: Lanes) -> None:
    """Lanes a few elements apart: each is moved to where it stands in some row, and the rows leave out the rest."""
    for first in range(0, at.stride * (lanes.live - 1) + 1, lanes.count):
        places = range(first, first + lanes.count)
        held = [place % at.stride == 0 and place < at.stride * lanes.live for place in places]
        row = e.shuffle(value, [place // at.stride if here else 0 for place, here in zip(places, held, strict=True)])
        mask = "<" + ", ".join(f"i1 {str(here).lower()}" for here in held) + ">"
        _store_row(e, memory, beside(e, memory, at, first), row, Value(mask, bool_, lanes.count))


def _scatter(e: Emitter, memory: Memory, at: Address, value: Value, mask: Value | None) -> None:
    lanes, dtype = value.lanes, memory.dtype
    flags, pointers = type_of(bool_, lanes), f"<{lanes} x ptr>"
    function = f"llvm.masked.scatter.{_suffix(dtype, lanes)}.v{lanes}p0"
    e.module.declare(function, "void", stored_type(dtype, lanes), pointers, flags)
    where, _ = _pointers(e, memory, at, lanes)
    mask = mask or lane_mask(lanes, lanes)
    e.line(
        f"call void @{function}({_stored(e, value)}, {pointers} align {dtype.itemsize} {where}, {flags} {mask.text})"
    )


def each_lane(e: Emitter, memory: Memory, at: Address, lanes: Lanes) -> list[Address]:
    """The addresses of the lanes that exist, one scalar address each."""
    element, size = stored_type(memory.dtype, 1), memory.dtype.itemsize
    found = []
    for lane in range(lanes.live):
        pointer, level = at.pointer, at.level
        if at.index is not None:
            index = e.lane(at.index, lane)
            level = max(level, index.level)
            pointer = e.pure(f"getelementptr {element}, ptr {pointer}, i64 {index.text}", level)
        if at.stride * lane:
            pointer = e.pure(f"getelementptr {element}, ptr {pointer}, i64 {at.stride * lane}", level)
        found.append(Address(pointer, level, 0, None, size))
    return found
