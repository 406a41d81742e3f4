"""Prints the expressions of the loop IR, and where the elements of buffers are that they read and statements write."""

from __future__ import annotations

from typing import TypeAlias, assert_never

from graphc.errors import CompileError
from graphc.frozen import dataclass
from graphc.ir.expr import Affine, Axis, Call, Index, Literal
from graphc.runtime.loop.ir import Buffer, Expr, Load, Offset, Var
from graphc.types import DType, bool_, int32, int64

from . import memory, scalars
from .access import Slot
from .emitter import Emitter, Value, lane_mask, lane_numbers, literal, type_of
from .memory import Address, Lanes, Memory, Term
from .registers import Column, Registers, read_column, read_slot

Location: TypeAlias = Memory | Registers  # of a buffer
_COMPARISONS = frozenset({"eq", "ne", "lt", "le", "gt", "ge"})


@dataclass(frozen=True, slots=True)
class Binding:
    """The number of an axis: `start`, a scalar, or in a vector loop start + lane. multiple: divides start."""

    start: Value
    multiple: int = 1
    lane: bool = False


class Expressions:
    """Prints expressions through `e`. storage: where buffers are. axes, variables: what stands for them, by name.
    lanes: of the vector loop around."""

    def __init__(self, e: Emitter, storage: dict[str, Location]) -> None:
        self.e = e
        self.storage = storage
        self.axes: dict[str, Binding] = {}
        self.variables: dict[str, Value] = {}
        self.lanes = Lanes()

    # ------------------------------------------------------------------ elements

    def element(self, buffer: Buffer, offset: Offset) -> tuple[Location, Slot | Column | Address]:
        """Where buffer[offset] is, for each lane."""
        place = self.storage[buffer.name]
        const, terms, stride = self.affine(offset.affine)
        if isinstance(place, Memory):
            for expr, coefficient in offset.dynamic:
                value = scalars.cast(self.e, self.value(expr), int64)
                if isinstance(value.const, int):
                    const += value.const * coefficient
                else:
                    terms.append(Term(value, coefficient))
            return place, memory.address(self.e, place, const, terms, stride)
        if terms or stride < 0 or offset.dynamic or (stride and place.copies > 1):
            raise CompileError(f"register {buffer.name} is addressed by something else than unrolled and vector axes")
        if stride > 1:
            return place, Column(const, stride, self.lanes.live)
        return place, Slot(const, self.lanes.live, self.lanes.count) if stride else Slot(const, 1, 1)

    def target(self, buffer: Buffer, offset: Offset) -> tuple[Location, Slot | Address]:
        """Where each lane writes."""
        place, element = self.element(buffer, offset)
        if isinstance(element, Column):
            raise CompileError(f"lanes can't be stored to several registers of {buffer.name}")
        return place, element

    def affine(self, at: Affine) -> tuple[int, list[Term], int]:
        """at = const + terms + stride * lane."""
        const, stride, terms = at.const, 0, []
        for axis, coefficient in at.terms:
            binding = self.axes[axis.name]
            if binding.lane:
                stride += coefficient
            if isinstance(binding.start.const, int):
                const += coefficient * binding.start.const
            else:
                terms.append(Term(binding.start, coefficient, binding.multiple))
        return const, terms, stride

    def get(self, place: Location, element: Slot | Column | Address, mask: Value | None, other: float = 0) -> Value:
        """The elements' values; `other` where the mask is false."""
        if isinstance(element, Address):
            assert isinstance(place, Memory)
            return memory.load(self.e, place, element, mask, other, self.lanes)
        assert isinstance(place, Registers)
        if isinstance(element, Column):
            found = read_column(self.e, place, element, self.lanes.count)
        else:
            found = read_slot(self.e, place, element)
        return found if mask is None else self.e.select(mask, found, literal(other, place.dtype))

    def put(
        self, place: Location, element: Slot | Address, value: Value, mask: Value | None, streaming: bool = False
    ) -> None:
        """Write the elements where the mask holds. streaming: as of a Store."""
        if isinstance(element, Address):
            assert isinstance(place, Memory)
            memory.store(self.e, place, element, value, mask, self.lanes, streaming)
            return
        assert isinstance(place, Registers)
        place.turned.clear()
        lanes = max(element.lanes, place.copies)
        if mask is not None:
            if lanes == 1 and mask.lanes > 1:
                raise CompileError("lanes store to one register under a mask")
            value = self.e.select(mask, value, self.get(place, element, None))
        if element.live < place.live(element):
            value = self.e.select(lane_mask(element.live, lanes), value, self.get(place, element, None))
        text = self.e.lane(value, self.lanes.live - 1).text if lanes == 1 else self.e.operand(value, lanes)
        self.e.line(f"store {type_of(place.dtype, lanes)} {text}, ptr {place.slots[element]}")

    # ------------------------------------------------------------------ values

    def mask(self, expr: Expr | None) -> Value | None:
        """A condition; None where it always holds."""
        if expr is None:
            return None
        value = self.value(expr)
        return None if value.const is True else value

    def value(self, expr: Expr) -> Value:
        """What an expression is, in each lane, or one number for all of them."""
        match expr:
            case Literal(number, dtype):
                return literal(number, dtype)
            case Index(at):
                return self.index(at, int64)
            case Var(name):
                return self.variables[name]
            case Load(buffer, offset, mask, other):
                acting = self.mask(mask)
                if acting is not None and acting.const is False:
                    return literal(other, buffer.dtype)
                place, element = self.element(buffer, offset)
                return self.get(place, element, acting, other)
            case Call(op, (a, b), dtype) if op in _COMPARISONS and self.narrow(a) and self.narrow(b):
                return scalars.compare(self.e, op, self.narrowed(a), self.narrowed(b))
            case Call("cast", (Index() as a,), dtype) if self.narrow(a) and dtype not in (int64, bool_):
                return scalars.cast(self.e, self.narrowed(a), dtype)
            case Call(op, args, dtype):
                return scalars.apply(self.e, op, [self.value(a) for a in args], dtype)
            case _:
                assert_never(expr)

    def index(self, at: Affine, dtype: DType) -> Value:
        """The number that an affine index has. Lanes of int32 are half as wide as those of int64."""
        const, terms, stride = self.affine(at)
        total: Value | None = None
        for term in sorted(terms, key=lambda t: t.value.level):
            step = term.value
            if term.factor != 1:
                step = self.e.op("mul nsw", step, literal(term.factor, int64))
            total = step if total is None else self.e.op("add nsw", total, step)
        if total is None:
            total = literal(const, dtype)
        else:
            if const:
                total = self.e.op("add nsw", total, literal(const, int64))
            total = scalars.cast(self.e, total, dtype)
        if not stride:
            return total
        count = self.lanes.count
        steps = Value(lane_numbers(stride, count, 8 * dtype.itemsize), dtype, count)
        return self.e.op("add", steps, total)

    def narrow(self, expr: Expr) -> bool:
        """Whether an int64 index or literal, and each lane's distance from the first, fits in int32."""
        match expr:
            case Literal(value, dtype):
                return dtype is int64 and -(2**31) <= value < 2**31
            case Index(at):
                low, high = at.bounds()
                reach = sum(abs(c) for axis, c in at.terms if self.axes[axis.name].lane) * self.lanes.count
                return low >= -(2**31) and high < 2**31 and reach < 2**31
        return False

    def narrowed(self, expr: Expr) -> Value:
        """The int32 form of what is narrow."""
        match expr:
            case Literal(value):
                return literal(value, int32)
            case Index(at):
                return self.index(at, int32)
        raise CompileError(f"{expr} has no int32 form")


def bind_row_major(printer: Expressions, axes: list[Axis], flat: Value) -> None:
    """Bind `axes` to the digits of a row-major number."""
    e, inner = printer.e, 1
    for position, axis in reversed(list(enumerate(axes))):
        digit = flat if inner == 1 else e.op("udiv", flat, literal(inner, int64))
        if position:
            digit = e.op("urem", digit, literal(axis.extent, int64))
        printer.axes[axis.name] = Binding(digit)
        inner *= axis.extent
