"""Scalar expressions as CUDA C++ text.

Indices are int64 in the IR, and 64-bit divisions are the slowest arithmetic of a GPU. So an int64 expression whose
value is known to stay within 32 bits, from the extents of its axes, is computed in `int`: the same numbers, cheaper.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from graphc.errors import VerifyError
from graphc.frozen import dataclass
from graphc.ir.expr import Affine, Axis, Call, Index, Literal
from graphc.runtime.loop.ir import Buffer, Expr, Load, Offset, Var
from graphc.types import DType, Scalar, bool_, float32, float64, int32, int64

C_TYPES: dict[DType, str] = {bool_: "bool", int32: "int", int64: "gc_i64", float32: "float", float64: "double"}
INT_MAX = 2**31 - 1

_INFIX = {"eq": "==", "ne": "!=", "lt": "<", "le": "<=", "gt": ">", "ge": ">=", "and": "&&", "or": "||"}
_FLOAT_INFIX = {"add": "+", "sub": "-", "mul": "*", "div": "/"}
_FLOAT_CALLS = {"exp", "expm1", "log", "log1p", "sqrt", "tanh", "erf", "sin", "cos", "floor", "pow"}
_NAMED = {
    "add": "gc_add", "sub": "gc_sub", "mul": "gc_mul", "floordiv": "gc_floordiv", "mod": "gc_mod", "pow": "gc_pow",
    "maximum": "gc_max", "minimum": "gc_min", "sign": "gc_sign", "abs": "gc_abs",
    "philox32": "gc_philox32", "philox64": "gc_philox64",
}  # fmt: skip


def literal(value: Scalar, dtype: DType) -> str:
    """A number as C++ text that reads back to the same bits."""
    if dtype is bool_:
        return "true" if value else "false"
    if dtype.kind == "i":
        suffix = "LL" if dtype is int64 else ""
        number = int(value)
        lowest = -(2**63) if dtype is int64 else -(2**31)
        text = f"{number + 1}{suffix} - 1" if number == lowest else f"{number}{suffix}"
        return f"({text})" if number < 0 else text
    rounded: Any = dtype.numpy.type(value)
    cast = f"({C_TYPES[dtype]})"
    if np.isnan(rounded):
        return f"{cast}GC_NAN"
    if np.isinf(rounded):
        return f"({cast}{'-' if rounded < 0 else ''}GC_INFINITY)"
    text = np.format_float_scientific(rounded, unique=True, trim="0")
    text = text.removesuffix("e+00") + ("f" if dtype is float32 else "")
    return f"({text})" if np.signbit(rounded) else text


@dataclass(frozen=True, slots=True)
class Narrow:
    """An int64 expression computed in `int`: its text and the range that its value can't leave."""

    text: str
    low: int
    high: int


class Scalars:
    """Prints expressions in the scope of one kernel.

    axes: the C++ name of each axis in scope. variables: the C++ name of each Var in scope. load: prints the
    element of a buffer at an offset (where a buffer lies is the statement printer's business).
    """

    def __init__(self, load: Callable[[Buffer, Offset], str]) -> None:
        self.axes: dict[Axis, str] = {}
        self.variables: dict[Var, str] = {}
        self.ranges: dict[Var, tuple[int, int]] = {}
        self._load = load

    def bind(self, var: Var, name: str, value: Expr) -> str:
        """The declaration of `var`, which is in scope from now on."""
        narrow = self.narrow(value)
        text = narrow.text if narrow else self.expr(value)
        ctype = "int" if narrow else C_TYPES[var.dtype]
        self.variables[var] = name
        self.ranges.pop(var, None)
        if narrow:
            self.ranges[var] = narrow.low, narrow.high
        return f"const {ctype} {name} = {text};"

    def expr(self, e: Expr) -> str:
        """`e` as an operand: a name, a call or something in parentheses."""
        if e.dtype is int64 and not isinstance(e, Literal):
            narrow = self.narrow(e)
            if narrow is not None:
                return f"(gc_i64){narrow.text}"
        match e:
            case Literal(value, dtype):
                return literal(value, dtype)
            case Index(at):
                return self.wide(at)
            case Var():
                return self._variable(e)
            case Load(buffer, offset, mask, other):
                element = self._load(buffer, offset)
                if mask is None:
                    return element
                return f"({self.expr(mask)} ? {element} : {literal(other, buffer.dtype)})"
            case Call(op, args, dtype):
                return self._call(op, args, dtype)
        raise VerifyError(f"{e!r} is not an expression of the loop IR")

    def _variable(self, var: Var) -> str:
        try:
            return self.variables[var]
        except KeyError:
            raise VerifyError(f"{var.name} is read where no Let binds it") from None

    def _call(self, op: str, args: tuple[Any, ...], dtype: DType) -> str:
        if op in _INFIX:
            a, b = self._comparable(*args)
            return f"({a} {_INFIX[op]} {b})"
        if op == "cast":
            return self._cast(args[0], dtype)
        a, *rest = [self.expr(x) for x in args]
        match op:
            case "not":
                return f"(!{a})"
            case "select":
                return f"({a} ? {rest[0]} : {rest[1]})"
            case "neg":
                return f"(-{a})" if dtype.kind == "f" else f"gc_sub(({C_TYPES[dtype]})0, {a})"
            case "rsqrt" if dtype.kind == "f":
                return f"({literal(1.0, dtype)} / {'sqrtf' if dtype is float32 else 'sqrt'}({a}))"
        if dtype.kind == "f":
            if op in _FLOAT_INFIX:
                return f"({a} {_FLOAT_INFIX[op]} {rest[0]})"
            if op in _FLOAT_CALLS or op == "abs":
                name = "fabs" if op == "abs" else op
                return f"{name}{'f' if dtype is float32 else ''}({', '.join([a, *rest])})"
        if dtype is bool_ and op == "mul":
            return f"({a} && {rest[0]})"
        if op in _NAMED:
            return f"{_NAMED[op]}({', '.join([a, *rest])})"
        raise VerifyError(f"the scalar function {op!r} has no meaning for {dtype.name}")

    def _comparable(self, *args: Expr) -> list[str]:
        narrow = [self.narrow(x) if x.dtype is int64 else None for x in args]
        if all(n is not None for n in narrow):
            return [n.text for n in narrow if n is not None]
        return [self.expr(x) for x in args]

    def _cast(self, x: Expr, dtype: DType) -> str:
        if x.dtype is dtype:
            return self.expr(x)
        narrow = self.narrow(x) if x.dtype is int64 else None
        text = narrow.text if narrow else self.expr(x)
        return f"({text} != 0)" if dtype is bool_ else f"({C_TYPES[dtype]}){text}"

    # ---------------------------------------------------------------- indices

    def narrow(self, e: Expr) -> Narrow | None:
        """`e` in 32-bit arithmetic, or None where that can't be shown to be exact. e: an int64 expression."""
        if e.dtype is not int64:
            return None
        found = self._narrow(e)
        return found if found and found.low >= -INT_MAX and found.high <= INT_MAX else None

    def _narrow(self, e: Expr) -> Narrow | None:
        match e:
            case Literal(value, _):
                return Narrow(literal(int(value), int32), int(value), int(value)) if abs(value) <= INT_MAX else None
            case Index(at):
                return self._narrow_affine(at)
            case Var():
                limits = self.ranges.get(e)
                return Narrow(self._variable(e), *limits) if limits else None
            case Call("cast", (x,), _) if x.dtype is bool_:
                return Narrow(f"(int){self.expr(x)}", 0, 1)
            case Call("select", (condition, x, y), _):
                a, b = self.narrow(x), self.narrow(y)
                if a is None or b is None:
                    return None
                text = f"({self.expr(condition)} ? {a.text} : {b.text})"
                return Narrow(text, min(a.low, b.low), max(a.high, b.high))
            case Call(op, (x, y), _):
                a, b = self.narrow(x), self.narrow(y)
                return _narrow_binary(op, a, b) if a and b else None
        return None

    def _narrow_affine(self, at: Affine) -> Narrow | None:
        if sum(abs(c) * max(axis.extent, 1) for axis, c in at.terms) + abs(at.const) > INT_MAX:
            return None
        low, high = at.bounds()
        return Narrow(self._affine(at, ""), low, high)

    def wide(self, at: Affine) -> str:
        """An affine index in 64-bit arithmetic."""
        return self._affine(at, "LL")

    def _affine(self, at: Affine, suffix: str) -> str:
        parts = []
        for axis, c in at.terms:
            if axis not in self.axes:
                raise VerifyError(f"axis {axis.name} is used outside of its loop")
            name = self.axes[axis]
            parts.append(name if c == 1 and not suffix else f"{c}{suffix} * {name}")
        if at.const or not parts:
            parts.append(f"{at.const}{suffix}")
        text = " + ".join(parts).replace("+ -", "- ")
        return f"({text})" if len(parts) > 1 or " " in text or text.startswith("-") else text

    def offset(self, offset: Offset) -> str:
        """A flat element offset."""
        fixed = self._narrow_affine(offset.affine)
        dynamic = [(self.narrow(e), e, c) for e, c in offset.dynamic]
        if fixed and all(n and abs(c) * max(abs(n.low), abs(n.high)) <= INT_MAX for n, _, c in dynamic):
            reach = max(abs(fixed.low), abs(fixed.high))
            reach += sum(abs(c) * max(abs(n.low), abs(n.high)) for n, _, c in dynamic if n)
            if reach <= INT_MAX:
                return _sum(fixed.text, [f"{c} * {n.text}" if c != 1 else n.text for n, _, c in dynamic if n])
        text = fixed.text if fixed else self.wide(offset.affine)
        return _sum(text, [f"{c}LL * {self.expr(e)}" for _, e, c in dynamic])


def _sum(fixed: str, parts: list[str]) -> str:
    """The terms of an offset, without the parentheses around its affine part."""
    if fixed.startswith("("):
        fixed = fixed[1:-1]
    return " + ".join([fixed, *parts] if fixed != "0" or not parts else parts)


def _narrow_binary(op: str, a: Narrow, b: Narrow) -> Narrow | None:
    """The 32-bit form of a binary int64 operation on 32-bit operands; None where the result might not fit."""
    match op:
        case "add":
            return _within(f"({a.text} + {b.text})", (a.low + b.low, a.high + b.high))
        case "sub":
            return _within(f"({a.text} - {b.text})", (a.low - b.high, a.high - b.low))
        case "mul":
            corners = [x * y for x in (a.low, a.high) for y in (b.low, b.high)]
            return _within(f"({a.text} * {b.text})", (min(corners), max(corners)))
        case "maximum":
            return Narrow(f"gc_max({a.text}, {b.text})", max(a.low, b.low), max(a.high, b.high))
        case "minimum":
            return Narrow(f"gc_min({a.text}, {b.text})", min(a.low, b.low), min(a.high, b.high))
        case "floordiv" if b.low > 0:
            text = f"({a.text} / {b.text})" if a.low >= 0 else f"gc_floordiv({a.text}, {b.text})"
            corners = [x // y for x in (a.low, a.high) for y in (b.low, b.high)]
            return Narrow(text, min(corners), max(corners))
        case "mod" if b.low > 0:
            text = f"({a.text} % {b.text})" if a.low >= 0 else f"gc_mod({a.text}, {b.text})"
            return Narrow(text, 0, b.high - 1)
    return None


def _within(text: str, limits: tuple[int, int]) -> Narrow | None:
    low, high = limits
    return Narrow(text, low, high) if low >= -INT_MAX and high <= INT_MAX else None
