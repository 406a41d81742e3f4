"""Formulas as LLVM IR text: values with operators, and the few building blocks that all functions share.

    b = Builder(host(), float32, lanes=8)
    x = b.parameter("x")
    y = b.fma(x, x, 1.0)                 # a Python number is a splat constant of the other operand's type
    z = (y < 2.0).select(y, x * 0.5)     # comparisons are ordered: false where a lane is NaN

One lane is a plain scalar (`float`, not `<1 x float>`). Nothing carries a fast-math flag, so every operation
rounds once as IEEE 754 says and error-free transformations survive the optimiser. No function emitted here
may become a library call: rounding and powers of two are made by bit arithmetic where the hardware lacks them.
"""

from __future__ import annotations

import copy
import math
import struct
from collections.abc import Callable, Sequence
from itertools import count
from typing import Literal as OneOf
from typing import TypeAlias

from graphc.frozen import dataclass
from graphc.runtime.cpu.target import Target
from graphc.types import DType, float32, float64

NAN = math.nan
INF = math.inf


@dataclass(frozen=True, slots=True)
class Type:
    """`lanes` numbers of `bits` bits: floating (kind f) or integer (kind i; one bit: a mask)."""

    kind: OneOf["f", "i"]
    bits: int
    lanes: int

    @property
    def element(self) -> str:
        return f"i{self.bits}" if self.kind == "i" else {32: "float", 64: "double"}[self.bits]

    @property
    def text(self) -> str:
        return self.element if self.lanes == 1 else f"<{self.lanes} x {self.element}>"

    @property
    def suffix(self) -> str:
        """As it stands in the name of an intrinsic: f32, v8i64."""
        scalar = f"{self.kind}{self.bits}"
        return scalar if self.lanes == 1 else f"v{self.lanes}{scalar}"

    def __str__(self) -> str:
        return self.text


class Value:
    """An SSA value. Operators emit one instruction each; `>>` on integers is the logical shift."""

    __slots__ = ("builder", "name", "type")

    def __init__(self, builder: Builder, name: str, type: Type) -> None:
        self.builder = builder
        self.name = name
        self.type = type

    def _binary(self, operation: str, other: Operand, swapped: bool = False) -> Value:
        other = self.builder.value(other, self.type)
        left, right = (other, self) if swapped else (self, other)
        prefix = "f" if self.type.kind == "f" else ""
        return self.builder.emit(f"{prefix}{operation} {self.type} {left.name}, {right.name}", self.type)

    def _compare(self, predicate: str, other: Operand) -> Value:
        other = self.builder.value(other, self.type)
        if self.type.kind == "f":
            operation = f"fcmp o{predicate}"
        else:
            operation = "icmp eq" if predicate == "eq" else f"icmp s{predicate}"
        mask = Type("i", 1, self.type.lanes)
        return self.builder.emit(f"{operation} {self.type} {self.name}, {other.name}", mask)

    def __add__(self, other: Operand) -> Value:
        return self._binary("add", other)

    def __radd__(self, other: Operand) -> Value:
        return self._binary("add", other, swapped=True)

    def __sub__(self, other: Operand) -> Value:
        return self._binary("sub", other)

    def __rsub__(self, other: Operand) -> Value:
        return self._binary("sub", other, swapped=True)

    def __mul__(self, other: Operand) -> Value:
        return self._binary("mul", other)

    def __rmul__(self, other: Operand) -> Value:
        return self._binary("mul", other, swapped=True)

    def __truediv__(self, other: Operand) -> Value:
        return self._binary("div", other)

    def __rtruediv__(self, other: Operand) -> Value:
        return self._binary("div", other, swapped=True)

    def __neg__(self) -> Value:
        return self.builder.emit(f"fneg {self.type} {self.name}", self.type)

    def __lt__(self, other: Operand) -> Value:
        return self._compare("lt", other)

    def __gt__(self, other: Operand) -> Value:
        return self._compare("gt", other)

    def __ge__(self, other: Operand) -> Value:
        return self._compare("ge", other)

    def equals(self, other: Operand) -> Value:
        return self._compare("eq", other)

    def ordered(self, other: Value) -> Value:
        """Neither is NaN."""
        return self._compare("rd", other)

    def __invert__(self) -> Value:
        return self ^ -1

    def __and__(self, other: Operand) -> Value:
        return self._binary("and", other)

    def __or__(self, other: Operand) -> Value:
        return self._binary("or", other)

    def __xor__(self, other: Operand) -> Value:
        return self._binary("xor", other)

    def __lshift__(self, count: int) -> Value:
        return self._binary("shl", count)

    def __rshift__(self, count: int) -> Value:
        return self._binary("lshr", count)

    def bits(self) -> Value:
        """The same bits as integers."""
        return self.cast("bitcast", Type("i", self.type.bits, self.type.lanes))

    def floating(self) -> Value:
        """The same bits as floating numbers."""
        return self.cast("bitcast", Type("f", self.type.bits, self.type.lanes))

    def cast(self, operation: str, type: Type) -> Value:
        return self.builder.emit(f"{operation} {self.type} {self.name} to {type}", type)

    def select(self, chosen: Value, other: Operand) -> Value:
        """Of a mask: `chosen` where it holds, else `other`."""
        other = self.builder.value(other, chosen.type)
        operands = f"{self.type} {self.name}, {chosen.type} {chosen.name}, {chosen.type} {other.name}"
        return self.builder.emit(f"select {operands}", chosen.type)


Operand: TypeAlias = Value | float | int


class Builder:
    """Collects the instructions of one function on `lanes` numbers of `dtype`, and what it refers to.

    T, I: the types of its floats, and of integers of the same width. helpers: other functions that it calls.
    """

    def __init__(self, target: Target, dtype: DType, lanes: int) -> None:
        self.target = target
        self.fused = target.fma
        self.avx512 = target.x86 and target.vector_bits == 512
        self.lanes = lanes
        self._set(dtype)
        self.lines: list[str] = []
        self.parameters: list[Value] = []
        self.declarations: set[str] = set()
        self.helpers: set[str] = set()
        self.block = "entry"
        self._serial = count(1)

    def _set(self, dtype: DType) -> None:
        self.dtype = dtype
        self.T = Type("f", dtype.itemsize * 8, self.lanes)
        self.I = Type("i", dtype.itemsize * 8, self.lanes)
        self.mantissa = 23 if dtype is float32 else 52
        self.bias = 127 if dtype is float32 else 1023
        # Adding this leaves an integer, rounded to nearest even, in the low bits of the sum.
        self.magic = 1.5 * 2.0**self.mantissa

    def double(self) -> Builder:
        """Writes into the same function, on float64."""
        wide = copy.copy(self)
        wide._set(float64)
        return wide

    # -- text ---------------------------------------------------------------------------------------------

    def parameter(self, name: str, type: Type | None = None) -> Value:
        self.parameters.append(Value(self, f"%{name}", type or self.T))
        return self.parameters[-1]

    def result(self, value: Value) -> None:
        self.returned = value

    def emit(self, instruction: str, type: Type) -> Value:
        """Append an instruction and name its result."""
        name = f"%t{next(self._serial)}"
        self.lines.append(f"  {name} = {instruction}")
        return Value(self, name, type)

    def definition(self, name: str, attributes: str) -> str:
        """The text of the whole function."""
        parameters = ", ".join(f"{p.type} {p.name}" for p in self.parameters)
        head = f"define internal {self.returned.type} @{name}({parameters}) {attributes} {{"
        return "\n".join([head, "entry:", *self.lines, f"  ret {self.returned.type} {self.returned.name}", "}", ""])

    def value(self, operand: Operand, type: Type | None = None) -> Value:
        """`operand`, or the splat constant that a Python number stands for."""
        if isinstance(operand, Value):
            return operand
        type = type or self.T
        if type.kind == "i":
            word = str(int(operand))
        else:
            # LLVM writes a float constant as the double of the same value.
            number = float(operand) if type.bits == 64 else struct.unpack("f", struct.pack("f", operand))[0]
            word = f"0x{struct.unpack('Q', struct.pack('d', number))[0]:016X}"
        return Value(self, word if type.lanes == 1 else f"splat ({type.element} {word})", type)

    def integer(self, word: int) -> Value:
        return self.value(word, self.I)

    def call(self, name: str, result: Type, operands: Sequence[Value], extra: Sequence[str] = ()) -> Value:
        """A call of an intrinsic. extra: constant operands with their types, as text."""
        types = ", ".join([str(o.type) for o in operands] + [e.rsplit(" ", 1)[0] for e in extra])
        self.declarations.add(f"declare {result} @{name}({types})")
        actual = ", ".join([f"{o.type} {o.name}" for o in operands] + list(extra))
        return self.emit(f"call {result} @{name}({actual})", result)

    def call_helper(self, name: str, result: Type, operands: Sequence[Value]) -> Value:
        """A call of a function that is not inlined, of the table HELPERS."""
        self.helpers.add(name)
        actual = ", ".join(f"{o.type} {o.name}" for o in operands)
        return self.emit(f"call {result} @{name}({actual})", result)

    def load(self, table: str, index: Value) -> Value:
        """Word number `index` of a constant table of 64-bit integers."""
        pointer = self.emit(f"getelementptr inbounds i64, ptr {table}, i64 {index.name}", index.type)
        return self.emit(f"load i64, ptr {pointer.name}, align 8", index.type)

    def insert(self, x: Value, number: Value, lane: int) -> Value:
        if x.type.lanes == 1:
            return number
        return self.emit(f"insertelement {x.type} {x.name}, {number.type} {number.name}, i32 {lane}", x.type)

    def rarely(self, condition: Value, usual: Sequence[Value], compute: Callable[[], Sequence[Value]]) -> list[Value]:
        """`usual`, or what compute() gives if the scalar condition holds: a branch, predicted not taken."""
        at = next(self._serial)
        weights = '!prof !{!"branch_weights", i32 1, i32 4000}'
        self.lines += [f"  br i1 {condition.name}, label %rare{at}, label %join{at}, {weights}", f"rare{at}:"]
        before, self.block = self.block, f"rare{at}"
        special = compute()
        self.lines += [f"  br label %join{at}", f"join{at}:"]
        rare, self.block = self.block, f"join{at}"
        return [
            self.emit(f"phi {u.type} [ {u.name}, %{before} ], [ {s.name}, %{rare} ]", u.type)
            for u, s in zip(usual, special, strict=True)
        ]

    def any(self, mask: Value) -> Value:
        """Whether the mask holds in any lane."""
        if mask.type.lanes == 1:
            return mask
        return self.call(f"llvm.vector.reduce.or.{mask.type.suffix}", Type("i", 1, 1), [mask])

    def part(self, x: Value, start: int, part: Type) -> Value:
        """The lanes of x from `start` on, as many as `part` has."""
        if x.type.lanes == part.lanes:
            return x
        if part.lanes == 1:
            return self.emit(f"extractelement {x.type} {x.name}, i32 {start}", part)
        order = ", ".join(f"i32 {start + i}" for i in range(part.lanes))
        return self.emit(f"shufflevector {x.type} {x.name}, {x.type} poison, <{part.lanes} x i32> <{order}>", part)

    # -- arithmetic ---------------------------------------------------------------------------------------

    def fma(self, a: Operand, b: Operand, c: Operand) -> Value:
        """a * b + c, rounded once where the hardware has it, else twice. For exact residues see `two_product`."""
        type = next(o.type for o in (a, b, c) if isinstance(o, Value))
        x, y, z = (self.value(o, type) for o in (a, b, c))
        if not self.fused:
            return x * y + z
        return self.call(f"llvm.fma.{type.suffix}", type, (x, y, z))

    def polynomial(self, x: Value, coefficients: Sequence[float]) -> Value:
        """sum(c[k] * x^k), by Estrin's scheme: the operations of Horner's in about half the latency."""
        terms: list[Operand] = list(coefficients)
        power = x
        while len(terms) > 1:
            pairs: list[Operand] = [self.fma(terms[i + 1], power, terms[i]) for i in range(0, len(terms) - 1, 2)]
            terms = pairs + terms[len(pairs) * 2 :]
            if len(terms) > 1:
                power = power * power
        return self.value(terms[0], x.type)

    def abs(self, x: Value) -> Value:
        return self.call(f"llvm.fabs.{x.type.suffix}", x.type, [x])

    def copysign(self, magnitude: Value, sign: Value) -> Value:
        return self.call(f"llvm.copysign.{sign.type.suffix}", sign.type, [magnitude, sign])

    def at_most(self, limit: float, x: Value) -> Value:
        """The smaller of both; a NaN passes (the constant stands first, which is one `vmin`)."""
        return (self.value(limit, x.type) < x).select(self.value(limit, x.type), x)

    def at_least(self, limit: float, x: Value) -> Value:
        """The larger of both; a NaN passes."""
        return (self.value(limit, x.type) > x).select(self.value(limit, x.type), x)

    def floor(self, x: Value) -> Value:
        """Without SSE4.1 `llvm.floor` is a library call: there, round by adding 2^mantissa to the magnitude."""
        if self.target.rounding:
            return self.call(f"llvm.floor.{x.type.suffix}", x.type, [x])
        limit = 2.0**self.mantissa
        magnitude = self.abs(x)
        rounded = self.copysign((magnitude + limit) - limit, x)
        down = self.copysign((rounded > x).select(rounded - 1.0, rounded), x)
        return (magnitude < limit).select(down, x)

    def fast_two_sum(self, a: Value, b: Value) -> tuple[Value, Value]:
        """(s, e) with s + e = a + b exactly, given abs(a) >= abs(b) or a = 0. (Dekker 1971)"""
        s = a + b
        return s, b - (s - a)

    def two_sum(self, a: Value, b: Value) -> tuple[Value, Value]:
        """(s, e) with s + e = a + b exactly. (Knuth)"""
        s = a + b
        t = s - a
        return s, (a - (s - t)) + (b - t)

    def two_product(self, a: Value, b: Value) -> tuple[Value, Value]:
        """(p, e) with p + e = a * b exactly, barring underflow (and overflow of a * 2^27). (Dekker 1971)"""
        p = a * b
        if self.fused:
            return p, self.fma(a, b, -p)
        a_high, a_low = self.split(a)
        b_high, b_low = self.split(b)
        return p, ((a_high * b_high - p) + a_high * b_low + a_low * b_high) + a_low * b_low

    def split(self, a: Value) -> tuple[Value, Value]:
        """a as the sum of two numbers of half its precision. (Veltkamp 1968)"""
        t = a * float(2 ** ((self.mantissa + 2) // 2) + 1)
        high = t - (t - a)
        return high, a - high
