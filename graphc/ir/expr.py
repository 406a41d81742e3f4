"""Scalar expressions: what one element of an operation's result is, as a formula over indices.

A primitive says what it computes once, as a `Compute`; the loop IR, its interpreter and both printers
(LLVM and CUDA) share it. The language is small and closed:

    affine  := const + sum(coefficient * axis)
    index   := affine | expr                          (expr: an integer read from memory, for gathers)
    expr    := Literal(value, dtype)
             | Index(affine)                          the index itself as an int64 number
             | Read(operand, (index, ...), mask)      an operand's element; `other` where mask is false
             | Call(op, (expr, ...), dtype)           a scalar function of SCALAR_OPS
    compute := Compute(axes, target, reduce, reducer, value)

        for every point of `axes`:   out[target] = REDUCER over `reduce` of value

`pattern` of the same idea: Halide's pure and update definitions, TVM's te.compute.
"""

from __future__ import annotations

from dataclasses import field
from typing import Any, TypeAlias
from typing import Literal as OneOf

from graphc.frozen import dataclass
from graphc.types import DType, Scalar, bool_, int64


@dataclass(frozen=True, slots=True)
class Axis:
    """A loop index running over range(extent). Within one Compute a name belongs to one axis."""

    name: str
    extent: int

    def __add__(self, other: AffineLike) -> Affine:
        return affine(self) + other

    def __sub__(self, other: AffineLike) -> Affine:
        return affine(self) - other

    def __mul__(self, factor: int) -> Affine:
        return affine(self) * factor

    __radd__ = __add__
    __rmul__ = __mul__


@dataclass(frozen=True, slots=True)
class Affine:
    """const + sum(coefficient * axis); terms sorted by axis name, no zero coefficient."""

    terms: tuple[tuple[Axis, int], ...] = ()
    const: int = 0

    def __add__(self, other: AffineLike) -> Affine:
        other = affine(other)
        if not other.terms:
            return Affine(self.terms, self.const + other.const) if other.const else self
        if not self.terms:
            return Affine(other.terms, self.const + other.const) if self.const else other
        if self.terms[-1][0].name < other.terms[0][0].name:
            return Affine(self.terms + other.terms, self.const + other.const)
        total = dict(self.terms)
        for axis, coefficient in other.terms:
            total[axis] = total.get(axis, 0) + coefficient
        terms = tuple(sorted(((a, c) for a, c in total.items() if c), key=lambda t: t[0].name))
        return Affine(terms, self.const + other.const)

    def __sub__(self, other: AffineLike) -> Affine:
        return self + affine(other) * -1

    def __mul__(self, factor: int) -> Affine:
        if factor in (0, 1):
            return self if factor else Affine()
        return Affine(tuple((a, c * factor) for a, c in self.terms), self.const * factor)

    __radd__ = __add__
    __rmul__ = __mul__

    def coefficient(self, axis: Axis) -> int:
        for a, c in self.terms:
            if a == axis:
                return c
        return 0

    def bounds(self) -> tuple[int, int]:
        """Smallest and largest value over the axes' ranges (both inclusive)."""
        low = high = self.const
        for axis, c in self.terms:
            reach = c * (axis.extent - 1)
            low, high = low + min(0, reach), high + max(0, reach)
        return low, high


AffineLike: TypeAlias = Affine | Axis | int


def affine(value: AffineLike) -> Affine:
    """An Affine from an axis, an int or itself."""
    if isinstance(value, Affine):
        return value
    if isinstance(value, Axis):
        return Affine(((value, 1),), 0)
    return Affine((), value)


# Every scalar function a printer must know, with its arity. NaN behaviour is NumPy's:
# maximum/minimum propagate NaN, comparisons with NaN are false (ne true), sign(nan) is nan.
# Integer division and remainder round towards minus infinity.
SCALAR_OPS: dict[str, int] = {
    "add": 2, "sub": 2, "mul": 2, "div": 2, "neg": 1, "pow": 2, "floordiv": 2, "mod": 2,
    "exp": 1, "expm1": 1, "log": 1, "log1p": 1, "sqrt": 1, "rsqrt": 1,
    "tanh": 1, "erf": 1, "sin": 1, "cos": 1, "abs": 1, "sign": 1, "floor": 1,
    "maximum": 2, "minimum": 2,
    "eq": 2, "ne": 2, "lt": 2, "le": 2, "gt": 2, "ge": 2,
    "and": 2, "or": 2, "not": 1, "select": 3, "cast": 1,
    "philox32": 3, "philox64": 3,  # (seed, draw, element) int64 -> uniform float32 / float64 in [0, 1)
}  # fmt: skip

COMPARISONS = frozenset({"eq", "ne", "lt", "le", "gt", "ge", "and", "or", "not"})

Reducer: TypeAlias = OneOf["sum", "max", "min", "argmax", "argmin"]


@dataclass(frozen=True, slots=True, eq=False)
class Literal:
    """A number. `value` is a Python bool, int or float (possibly nan, inf, -0.0).

    Equal literals are the same number: 0.0 is another than -0.0, and nan is nan.
    """

    value: Scalar
    dtype: DType

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Literal) and self._number() == other._number()

    def __hash__(self) -> int:
        return hash(self._number())

    def _number(self) -> tuple[DType, Scalar | str]:
        value = self.value
        if value == 0:
            return self.dtype, "-0.0" if str(value) == "-0.0" else 0
        return self.dtype, value if value == value else "nan"


@dataclass(frozen=True, slots=True)
class Index:
    """The number that an affine index has, as an int64 value."""

    at: Affine

    @property
    def dtype(self) -> DType:
        return int64


@dataclass(frozen=True, slots=True)
class Read:
    """Element of operand number `operand` at `index` (one entry per dimension of the operand).

    Where `mask` is false nothing is read and the value is `other`. A data-dependent index (an Expr) is
    in range by contract of the primitive or guarded by the mask.
    """

    operand: int
    index: tuple[Affine | Expr, ...]
    dtype: DType
    mask: Expr | None = None
    other: Scalar = 0


@dataclass(frozen=True, slots=True)
class Call:
    """A scalar function of SCALAR_OPS. `cast` converts its argument to `dtype`."""

    op: str
    args: tuple[Any, ...]  # of Expr; in the loop IR of runtime.loop.ir.Expr, which has Var and Load for Read
    dtype: DType


Expr: TypeAlias = Literal | Index | Read | Call


@dataclass(frozen=True, slots=True)
class Compute:
    """The definition of one primitive on given operand types.

    axes: the points to visit, outermost first (the order is a hint: nothing depends on it).
    value: the number at a point (of axes and reduce axes).
    target: index into the result, one entry per dimension. Affine entries together must hit every
        element of the result exactly once. `scatter=True` lifts that: the result starts as zeros and
        values are added at `target` (entries may be data-dependent).
    reduce, reducer: axes folded by the reducer, in row-major order; argmax/argmin give the int64
        position in that order of the first extreme (NaN counts as extreme, as in NumPy).
    check: a condition that must hold at every point, else the call raises IndexError with `message`.
    """

    axes: tuple[Axis, ...]
    value: Expr
    target: tuple[Affine | Expr, ...]
    reduce: tuple[Axis, ...] = ()
    reducer: Reducer | None = None
    scatter: bool = False
    check: Expr | None = None
    message: str = field(default="")


def call(op: str, *args: Any, dtype: DType | None = None) -> Call:
    """A Call with its dtype inferred: bool for comparisons, else the dtype of the last argument."""
    assert len(args) == SCALAR_OPS[op], op
    if dtype is None:
        dtype = bool_ if op in COMPARISONS else args[-1].dtype
    return Call(op, args, dtype)


def axes_of(shape: tuple[int, ...], prefix: str = "i") -> tuple[Axis, ...]:
    """One fresh axis per dimension: i0, i1, ..."""
    return tuple(Axis(f"{prefix}{k}", extent) for k, extent in enumerate(shape))


def within(index: AffineLike, extent: int) -> Expr | None:
    """The condition 0 <= index < extent, leaving out the parts that always hold; None if all do."""
    at = affine(index)
    low, high = at.bounds()
    parts: list[Expr] = []
    if low < 0:
        parts.append(call("ge", Index(at), Literal(0, int64)))
    if high >= extent:
        parts.append(call("lt", Index(at), Literal(extent, int64)))
    return all_of(parts)


def all_of(conditions: list[Expr] | tuple[Expr | None, ...]) -> Expr | None:
    """Conjunction; None stands for true."""
    result: Expr | None = None
    for condition in conditions:
        if condition is not None:
            result = condition if result is None else call("and", result, condition)
    return result
