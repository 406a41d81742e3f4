"""Writes the instructions of one LLVM function: values, scopes, and code moved out of loops as it is written.

Every value knows its `level`: the depth of the innermost scope (loop or branch) that it depends on. A pure
instruction is written at the level of its operands, once: what doesn't change in a loop stands before the loop,
and the same instruction is never written twice in one scope. So the text needs no clean-up passes.

Loads take part too, within limits: not out of a loop that writes their memory, not more than HOISTED_LOADS out of each
loop, and of one scope's loads only the RECENT_LOADS last used are kept: what doesn't fit in registers is better
read again where it is used.
"""

from __future__ import annotations

import math
import struct
from collections import Counter
from collections.abc import Iterable
from dataclasses import field
from typing import Literal as OneOf

from graphc.frozen import dataclass
from graphc.runtime.cpu.math import MathFunction
from graphc.runtime.cpu.target import Target
from graphc.types import DType, Scalar, bool_, float32, float64, int32, int64

HOISTED_LOADS = 8
RECENT_LOADS = 8

SCALAR_TYPES = {bool_: "i1", int32: "i32", int64: "i64", float32: "float", float64: "double"}
SUFFIXES = {bool_: "i1", int32: "i32", int64: "i64", float32: "f32", float64: "f64"}


@dataclass(frozen=True, slots=True)
class Value:
    """A number for each lane (lanes > 1) or one for all (lanes == 1).

    text: the operand as LLVM writes it: a name, a literal, or for vectors also `splat (...)`.
    const: the number, where it is known while printing (a literal, scalar then).
    """

    text: str
    dtype: DType
    lanes: int = 1
    level: int = 0
    const: Scalar | None = None

    @property
    def type(self) -> str:
        return type_of(self.dtype, self.lanes)


@dataclass(slots=True)
class Scope:
    """A stretch of code: the function's body, a loop's or a branch's.

    block: label of the basic block being written. written: buffers that the scope writes. opening: for a loop, its
    label, index, begin, end and step; for a branch, the label where it joins. memo: pure instruction -> its name.
    loads: load instruction -> (its name, the buffer), the last used at the end. hoisted: loads moved out.
    steps: (type, pointer, factor) -> the name of the pointer that many elements of the type times a loop's index
    further on. around: whether another loop stands in it.
    """

    kind: OneOf["function", "loop", "branch"]
    block: str
    written: frozenset[str] = frozenset()
    opening: tuple[str, ...] = ()
    lines: list[str] = field(default_factory=list)
    memo: dict[str, str] = field(default_factory=dict)
    loads: dict[str, tuple[str, str]] = field(default_factory=dict)
    hoisted: int = 0
    steps: dict[tuple[str, str, int], str] = field(default_factory=dict)
    around: bool = False


@dataclass(slots=True)
class Module:
    """What the functions of a module share: declarations of what lies outside, and helpers defined when first used."""

    target: Target
    declarations: dict[str, str] = field(default_factory=dict)
    helpers: dict[str, str] = field(default_factory=dict)

    def declare(self, name: str, result: str, *arguments: str) -> None:
        if name not in self.declarations:
            self.declarations[name] = f"declare {result} @{name}({', '.join(arguments)})"

    def include(self, function: MathFunction) -> None:
        """Define a function of runtime.cpu.math and what it needs."""
        if function.name in self.helpers:
            return
        self.helpers[function.name] = function.text
        for line in sorted(function.declarations):
            self.declarations.setdefault(line.partition("@")[2].partition("(")[0], line)
        for required in function.requires:
            self.include(required)


class Emitter:
    """The body of one function."""

    def __init__(self, module: Module) -> None:
        self.module = module
        self.scopes = [Scope("function", "entry")]
        self._allocas: list[str] = []
        self._count = 0

    # ------------------------------------------------------------------ lines

    @property
    def level(self) -> int:
        return len(self.scopes) - 1

    def name(self, prefix: str = "t") -> str:
        self._count += 1
        return f"%{prefix}{self._count}"

    def label(self, prefix: str) -> str:
        self._count += 1
        return f"{prefix}{self._count}"

    def line(self, text: str) -> None:
        """An instruction with an effect, here and now."""
        self.scopes[-1].lines.append(f"  {text}")

    def here(self, instruction: str) -> str:
        """The result of an instruction that must stand here (reads of registers, for one)."""
        name = self.name()
        self.scopes[-1].lines.append(f"  {name} = {instruction}")
        return name

    def pure(self, instruction: str, level: int) -> str:
        """The result of a pure instruction whose operands are known at scope `level`."""
        scope = self.scopes[level]
        found = scope.memo.get(instruction)
        if found is None:
            found = scope.memo[instruction] = self.name()
            scope.lines.append(f"  {found} = {instruction}")
        return found

    def read(self, instruction: str, buffers: Iterable[str], level: int) -> tuple[str, int]:
        """The result of a load from the first of `buffers`, which the others may overlap, and its level.

        The address is known at `level`. The memory must be readable whether or not a loop's body runs again.
        """
        overlapping = tuple(buffers)
        buffer = overlapping[0]
        for depth in range(self.level, level, -1):
            scope = self.scopes[depth]
            if scope.kind == "branch" or not scope.written.isdisjoint(overlapping):
                level = depth
                break
        for depth in range(level, self.level + 1):
            loads = self.scopes[depth].loads
            if instruction in loads:
                loads[instruction] = loads.pop(instruction)
                return loads[instruction][0], depth
        crossed = self.scopes[level + 1 :]
        if any(scope.hoisted >= HOISTED_LOADS for scope in crossed):
            level = self.level
        else:
            for scope in crossed:
                scope.hoisted += 1
        scope = self.scopes[level]
        name = self.name()
        scope.lines.append(f"  {name} = {instruction}")
        scope.loads[instruction] = name, buffer
        if len(scope.loads) > RECENT_LOADS:
            del scope.loads[next(iter(scope.loads))]
        return name, level

    def forget(self, buffers: Iterable[str]) -> None:
        """The memory of `buffers` changes: loads seen so far no longer tell what it holds."""
        changed = frozenset(buffers)
        for scope in self.scopes:
            for instruction in [i for i, (_, buffer) in scope.loads.items() if buffer in changed]:
                del scope.loads[instruction]

    def alloca(self, type_: str, count: int = 1, align: int = 64) -> str:
        """Memory of this function's frame; SROA turns what is only loaded and stored whole into registers."""
        name = self.name("m")
        many = f", i64 {count}" if count != 1 else ""
        self._allocas.append(f"  {name} = alloca {type_}{many}, align {align}")
        return name

    def offset(self, element: str, pointer: str, level: int, value: Value, factor: int) -> str:
        """`pointer`, known at `level`, moved by factor * value elements. value: an int64, known there or further in.

        What moves with a loop's index is stepped from iteration to iteration, as _stepped says.
        """
        scope = self.scopes[value.level]
        if scope.kind == "loop" and value.text == scope.opening[1] and level < value.level:
            key = element, pointer, factor
            if key not in scope.steps:
                scope.steps[key] = self.name()
            return scope.steps[key]
        steps = value.text if factor == 1 else self.pure(f"mul nsw i64 {value.text}, {factor}", value.level)
        return self.pure(f"getelementptr {element}, ptr {pointer}, i64 {steps}", value.level)

    # ------------------------------------------------------------------ control flow

    def open_loop(self, written: frozenset[str], begin: str, end: str, step: int = 1) -> str:
        """Start a loop over begin, begin + step, ... below end; it runs at least once. Gives the index's name."""
        self.forget(sorted(written))
        index, header = self.name("i"), self.label("loop")
        self.scopes.append(Scope("loop", header, written, (header, index, begin, end, str(step))))
        return index

    def close_loop(self) -> None:
        scope = self.scopes.pop()
        outer, done = self.scopes[-1], self.label("done")
        header, index, begin, end, step = scope.opening
        after, more = self.name(), self.name()
        outer.around = True
        begins, ends = self._stepped(scope)
        outer.lines += [
            f"  br label %{header}",
            f"{header}:",
            f"  {index} = phi i64 [ {begin}, %{outer.block} ], [ {after}, %{scope.block} ]",
            *begins,
            *scope.lines,
            *ends,
            f"  {after} = add nuw nsw i64 {index}, {step}",
            f"  {more} = icmp slt i64 {after}, {end}",
            f"  br i1 {more}, label %{header}, label %{done}",
            f"{done}:",
        ]
        outer.block = done
        self.forget(sorted(scope.written))

    def _stepped(self, scope: Scope) -> tuple[list[str], list[str]]:
        """What computes a closed loop's `steps`, at the start and at the end of its body.

        A pointer is kept from iteration to iteration. In an innermost loop several that move alike share an offset
        instead, which the instructions add: the index itself, or a multiple of it.
        """
        _, index, begin, _, step = scope.opening
        before, alike = self.scopes[-1].block, Counter(factor for _, _, factor in scope.steps)
        phis, additions, ends = [], [], []

        def kept(name: str, kind: str, first: str, further: str) -> None:
            phis.append(f"  {name} = phi {kind} [ {first}, %{before} ], [ {name}.next, %{scope.block} ]")
            ends.append(f"  {name}.next = {further}")

        shared = {1: index}
        for (element, pointer, factor), name in scope.steps.items():
            start = begin if begin == "0" or factor == 1 else self.pure(f"mul nsw i64 {begin}, {factor}", self.level)
            by = factor * int(step)
            if scope.around or (factor != 1 and alike[factor] == 1):
                first = pointer
                if begin != "0":
                    first = self.pure(f"getelementptr {element}, ptr {pointer}, i64 {start}", self.level)
                kept(name, "ptr", first, f"getelementptr {element}, ptr {name}, i64 {by}")
                continue
            if factor not in shared:
                offset = shared[factor] = self.name()
                kept(offset, "i64", start, f"add nsw i64 {offset}, {by}")
            additions.append(f"  {name} = getelementptr {element}, ptr {pointer}, i64 {shared[factor]}")
        return [*phis, *additions], ends

    def open_branch(self, condition: str, written: frozenset[str] = frozenset()) -> None:
        """Start code that runs where the scalar `condition` holds."""
        then, join = self.label("then"), self.label("join")
        self.scopes.append(Scope("branch", then, written, (condition, then, join)))

    def close_branch(self) -> None:
        scope = self.scopes.pop()
        outer, (condition, then, join) = self.scopes[-1], scope.opening
        outer.around |= scope.around
        # The branch stands behind what its body hoisted.
        outer.lines += [f"  br i1 {condition}, label %{then}, label %{join}", f"{then}:"]
        outer.lines += [*scope.lines, f"  br label %{join}", f"{join}:"]
        outer.block = join
        self.forget(sorted(scope.written))

    def text(self, header: str, result: Value | None = None) -> str:
        """The whole function. header: `define ... {`."""
        (body,) = self.scopes
        end = "  ret void" if result is None else f"  ret {result.type} {result.text}"
        return "\n".join([header, "entry:", *self._allocas, *body.lines, end, "}"])

    # ------------------------------------------------------------------ values

    def operand(self, value: Value, lanes: int) -> str:
        """The text of `value` as an operand of `lanes` lanes."""
        return value.text if value.lanes == lanes else self.wide(value, lanes).text

    def wide(self, value: Value, lanes: int) -> Value:
        """`value` in every lane."""
        if value.lanes == lanes:
            return value
        assert value.lanes == 1, (value, lanes)
        if value.const is not None:
            return Value(f"splat ({value.type} {value.text})", value.dtype, lanes)
        wide, level = type_of(value.dtype, lanes), value.level
        one = self.pure(f"insertelement {wide} poison, {value.type} {value.text}, i64 0", level)
        many = self.pure(f"shufflevector {wide} {one}, {wide} poison, <{lanes} x i32> zeroinitializer", level)
        return Value(many, value.dtype, lanes, level)

    def op(self, opcode: str, *operands: Value, result: DType | None = None) -> Value:
        """`opcode type a, b` of operands of one dtype, each splat to the widest; result: its dtype if another."""
        lanes, level = widest(operands)
        texts = ", ".join([self.operand(v, lanes) for v in operands])
        name = self.pure(f"{opcode} {type_of(operands[0].dtype, lanes)} {texts}", level)
        return Value(name, result or operands[0].dtype, lanes, level)

    def convert(self, opcode: str, value: Value, dtype: DType) -> Value:
        """`opcode type value to type`."""
        name = self.pure(f"{opcode} {value.type} {value.text} to {type_of(dtype, value.lanes)}", value.level)
        return Value(name, dtype, value.lanes, value.level)

    def select(self, condition: Value, x: Value, y: Value) -> Value:
        """x where the condition holds, else y; a scalar condition stays a scalar."""
        if condition.const is not None:
            return x if condition.const else y
        if x == y:
            return x
        lanes, level = widest((condition, x, y))
        wide = type_of(x.dtype, lanes)
        name = self.pure(
            f"select {condition.type} {condition.text}, "
            f"{wide} {self.operand(x, lanes)}, {wide} {self.operand(y, lanes)}",
            level,
        )
        return Value(name, x.dtype, lanes, level)

    def intrinsic(self, name: str, *operands: Value, extra: tuple[str, ...] = ()) -> Value:
        """@llvm.name of operands of one dtype; extra: immediate arguments, as `i1 false`."""
        lanes, level = widest(operands)
        dtype = operands[0].dtype
        wide, function = type_of(dtype, lanes), f"llvm.{name}.{suffix_of(dtype, lanes)}"
        self.module.declare(function, wide, *[wide] * len(operands), *[e.split()[0] for e in extra])
        arguments = ", ".join([*(f"{wide} {self.operand(v, lanes)}" for v in operands), *extra])
        return Value(self.pure(f"call {wide} @{function}({arguments})", level), dtype, lanes, level)

    def call(self, function: str, dtype: DType, lanes: int, *operands: Value) -> Value:
        """A pure helper function of `operands`, given as they are, returning `lanes` lanes of `dtype`."""
        arguments = ", ".join([f"{v.type} {v.text}" for v in operands])
        level = max(v.level for v in operands)
        return Value(self.pure(f"call {type_of(dtype, lanes)} @{function}({arguments})", level), dtype, lanes, level)

    def lane(self, value: Value, index: int) -> Value:
        """One lane of a vector, as a scalar."""
        if value.lanes == 1:
            return value
        name = self.pure(f"extractelement {value.type} {value.text}, i64 {index}", value.level)
        return Value(name, value.dtype, 1, value.level)

    def shuffle(self, value: Value, lanes: list[int]) -> Value:
        """The lanes of `value` named, in that order; -1 for a lane of no value."""
        picked = ", ".join("i32 poison" if i < 0 else f"i32 {i}" for i in lanes)
        mask = f"<{len(lanes)} x i32> <{picked}>"
        name = self.pure(f"shufflevector {value.type} {value.text}, {value.type} poison, {mask}", value.level)
        return Value(name, value.dtype, len(lanes), value.level)

    def merge(self, a: Value, b: Value, lanes: list[int]) -> Value:
        """Lanes of two vectors of one type, in that order; those of b are counted on from a's."""
        level, picked = max(a.level, b.level), ", ".join(f"i32 {i}" for i in lanes)
        text = f"shufflevector {a.type} {a.text}, {b.type} {b.text}, <{len(lanes)} x i32> <{picked}>"
        return Value(self.pure(text, level), a.dtype, len(lanes), level)

    def joined(self, pieces: list[Value]) -> Value:
        """The lanes of `pieces`, vectors of one dtype, one after the other."""
        whole = pieces[0]
        for piece in pieces[1:]:
            longer = max(whole.lanes, piece.lanes)
            a, b = (self.shuffle(v, [*range(v.lanes), *[-1] * (longer - v.lanes)]) for v in (whole, piece))
            whole = self.merge(a, b, [*range(whole.lanes), *range(longer, longer + piece.lanes)])
        return whole

    def any(self, condition: Value) -> Value:
        """Whether a bool holds in any lane."""
        if condition.lanes == 1:
            return condition
        function = f"llvm.vector.reduce.or.{suffix_of(bool_, condition.lanes)}"
        self.module.declare(function, "i1", condition.type)
        name = self.pure(f"call i1 @{function}({condition.type} {condition.text})", condition.level)
        return Value(name, bool_, 1, condition.level)


def type_of(dtype: DType, lanes: int) -> str:
    """The LLVM type in registers."""
    scalar = SCALAR_TYPES[dtype]
    return scalar if lanes == 1 else f"<{lanes} x {scalar}>"


def suffix_of(dtype: DType, lanes: int) -> str:
    """How intrinsics name a type: f32, v16f32."""
    return SUFFIXES[dtype] if lanes == 1 else f"v{lanes}{SUFFIXES[dtype]}"


def widest(values: Iterable[Value]) -> tuple[int, int]:
    """(lanes, level) of a result of `values`."""
    lanes, level = 1, 0
    for value in values:
        lanes, level = max(lanes, value.lanes), max(level, value.level)
    return lanes, level


def literal(value: Scalar, dtype: DType) -> Value:
    """A number known while printing, rounded to `dtype`."""
    if dtype.kind == "b":
        return Value("true" if value else "false", dtype, const=bool(value))
    if dtype.kind == "i":
        return Value(str(int(value)), dtype, const=int(value))
    number = float(value) if dtype is float64 else _rounded(value)
    # LLVM writes a float as the bits of the equal double.
    return Value(f"0x{struct.unpack('<Q', struct.pack('<d', number))[0]:016X}", dtype, const=number)


def _rounded(value: float) -> float:
    """The float32 nearest to a number, as a double."""
    try:
        number: float = struct.unpack("<f", struct.pack("<f", value))[0]
    except OverflowError:  # beyond float32: infinite (numbers that round to its largest are packed)
        number = math.copysign(math.inf, value)
    return number


def lane_mask(live: int, lanes: int) -> Value:
    """A bool vector that holds in the first `live` of `lanes`."""
    if live == lanes:
        return Value("splat (i1 true)", bool_, lanes)
    return Value("<" + ", ".join("i1 true" if i < live else "i1 false" for i in range(lanes)) + ">", bool_, lanes)


def lane_numbers(step: int, lanes: int, bits: int = 64) -> str:
    """The vector constant 0, step, 2 * step, ... of i64 or i32."""
    return "<" + ", ".join(f"i{bits} {i * step}" for i in range(lanes)) + ">"
