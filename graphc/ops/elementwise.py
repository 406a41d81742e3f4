"""Elementwise operations: records first, then the functions that users and derivative rules call.

All broadcast by NumPy's rule and promote by graphc.types. Names are the array API's. A record's
`partials` are the local derivatives (y, *xs) -> dy/dx_i; autodiff multiplies them with the cotangent, and
sums the cotangent of an operand that was broadcast down to the operand's shape.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy import ndarray

from graphc.composed import composed
from graphc.dispatch import NUMBERS, SCALARS, apply, binary, dtype_of_value, unary
from graphc.ir.expr import Call, Compute, Expr, Literal, affine, axes_of, call
from graphc.ops import special
from graphc.ops.factories import broadcast_read, check_kinds, check_same_dtype, elementwise
from graphc.ops.selection import select
from graphc.primitive import Fact, Primitive, Value
from graphc.types import (
    DEFAULT_FLOAT,
    DType,
    TensorType,
    bool_,
    broadcast_shapes,
    dtype_of,
    int64,
    promote,
    promote_scalar,
    scalar_dtype,
)

# ----------------------------------------------------------------------------------------- arithmetic

ADD: Primitive = elementwise("add", "add", "add", (lambda y, a, b: 1, lambda y, a, b: 1), facts=Fact.COMMUTATIVE)
SUBTRACT: Primitive = elementwise("subtract", "subtract", "sub", (lambda y, a, b: 1, lambda y, a, b: -1))
MULTIPLY: Primitive = elementwise(
    "multiply", "multiply", "mul", (lambda y, a, b: b, lambda y, a, b: a), facts=Fact.COMMUTATIVE
)
DIVIDE: Primitive = elementwise(
    "divide",
    "divide",
    "div",
    (lambda y, a, b: _reciprocal(b), lambda y, a, b: negative(divide(y, b))),
    kinds="f",
)


def _reciprocal(b: Value) -> Value:
    """1 / b; of a Python number, a Python number."""
    return 1.0 / b if type(b) in SCALARS and b != 0 else divide(1, b)


FLOOR_DIVIDE: Primitive = elementwise(
    "floor_divide", "floor_divide", lambda a, b: _floor_quotient(a, b), (None, None), kinds="fi"
)
REMAINDER: Primitive = elementwise(
    "remainder",
    "remainder",
    lambda a, b: _remainder(a, b),
    (lambda y, a, b: 1, lambda y, a, b: negative(floor_divide(a, b))),
)
NEGATIVE: Primitive = elementwise(
    "negative", "negative", "neg", (lambda y, x: -1,), facts=Fact.ODD | Fact.PRESERVES_ZERO
)
ABS: Primitive = elementwise("abs", "abs", "abs", (lambda y, x: sign(x),), facts=Fact.EVEN | Fact.PRESERVES_ZERO)
SIGN: Primitive = elementwise("sign", "sign", "sign", (None,), facts=Fact.ODD | Fact.MONOTONE | Fact.PRESERVES_ZERO)
FLOOR: Primitive = elementwise("floor", "floor", "floor", (None,), kinds="f", facts=Fact.MONOTONE | Fact.PRESERVES_ZERO)
COPY: Primitive = elementwise(
    "copy", lambda xp, x: xp.array(x), lambda x: x, (lambda y, x: 1,), kinds="fib", facts=Fact.PRESERVES_ZERO
)


def _floor_quotient(a: Expr, b: Expr) -> Expr:
    """floor(a / b). In floating point from the exact remainder, so that -0.1 // 0.1 is -1 (as in NumPy)."""
    if a.dtype.kind == "i":
        return call("floordiv", a, b)
    zero, one = Literal(0.0, a.dtype), Literal(1.0, a.dtype)
    ratio = call("div", a, b)
    quotient = call("div", call("sub", a, call("mod", a, b)), b)  # whole, up to rounding
    below = call("floor", quotient)
    short = call("gt", call("sub", quotient, below), Literal(0.5, a.dtype))
    whole = call("select", short, call("add", below, one), below)
    # With b infinite the remainder of opposite sign is b itself, and says nothing: the quotient is -0 or -1.
    opposite = call("lt", call("mul", call("sign", a), call("sign", b)), zero)
    tiny = call("select", opposite, Literal(-1.0, a.dtype), zero)
    by_infinity = call("select", call("eq", call("sub", a, a), zero), tiny, call("sub", a, a))
    infinite = call("eq", call("abs", b), Literal(math.inf, a.dtype))
    result = call("select", infinite, by_infinity, whole)
    # a / 0 is what the division says; and so is the sign of a zero
    return call("select", call("or", call("eq", b, zero), call("eq", a, zero)), ratio, result)


def _remainder(a: Expr, b: Expr) -> Expr:
    return call("mod", a, b)


# -------------------------------------------------------------------- exponentials, roots, trigonometry

_SMOOTH = Fact.COSTLY
_TWO_OVER_SQRT_PI = 2.0 / math.sqrt(math.pi)

EXP: Primitive = elementwise("exp", "exp", "exp", (lambda y, x: y,), kinds="f", facts=_SMOOTH | Fact.MONOTONE)
EXPM1 = elementwise(
    "expm1",
    "expm1",
    "expm1",
    (lambda y, x: add(y, 1),),
    kinds="f",
    facts=_SMOOTH | Fact.MONOTONE | Fact.PRESERVES_ZERO,
)
LOG: Primitive = elementwise(
    "log", "log", "log", (lambda y, x: divide(1, x),), kinds="f", facts=_SMOOTH | Fact.MONOTONE
)
LOG1P = elementwise(
    "log1p",
    "log1p",
    "log1p",
    (lambda y, x: divide(1, add(x, 1)),),
    kinds="f",
    facts=_SMOOTH | Fact.MONOTONE | Fact.PRESERVES_ZERO,
)
SQRT: Primitive = elementwise(
    "sqrt", "sqrt", "sqrt", (lambda y, x: divide(0.5, y),), kinds="f", facts=Fact.MONOTONE | Fact.PRESERVES_ZERO
)
RSQRT: Primitive = elementwise(
    "rsqrt",
    lambda xp, x: xp.divide(x.dtype.type(1), xp.sqrt(x)),
    "rsqrt",
    (lambda y, x: multiply(-0.5, divide(y, x)),),
    kinds="f",
)
TANH: Primitive = elementwise(
    "tanh",
    "tanh",
    "tanh",
    (lambda y, x: subtract(1, multiply(y, y)),),
    kinds="f",
    facts=_SMOOTH | Fact.ODD | Fact.MONOTONE | Fact.PRESERVES_ZERO,
)
ERF: Primitive = elementwise(
    "erf",
    special.erf,
    "erf",
    (lambda y, x: multiply(_TWO_OVER_SQRT_PI, exp(negative(multiply(x, x)))),),
    kinds="f",
    facts=_SMOOTH | Fact.ODD | Fact.MONOTONE | Fact.PRESERVES_ZERO,
)
SIN: Primitive = elementwise(
    "sin", "sin", "sin", (lambda y, x: cos(x),), kinds="f", facts=_SMOOTH | Fact.ODD | Fact.PRESERVES_ZERO
)
COS: Primitive = elementwise(
    "cos", "cos", "cos", (lambda y, x: negative(sin(x)),), kinds="f", facts=_SMOOTH | Fact.EVEN
)


def _power_in_base(y: Value, x: Value, p: Value) -> Value:
    """p * x**(p-1), and 0 where p is 0 (x**0 is constant, even at x = 0)."""
    if type(p) in SCALARS:
        return 0 if p == 0 else multiply(p, power(x, p - 1))
    return where(equal(p, 0), 0, multiply(p, power(x, subtract(p, 1))))


def _power_in_exponent(y: Value, x: Value, p: Value) -> Value:
    """x**p * log(x), and 0 where x is 0 and p >= 0 (the limit)."""
    if type(x) in SCALARS:
        return 0 if x == 0 else multiply(y, math.log(x)) if x > 0 else multiply(y, math.nan)
    zero = logical_and(equal(x, 0), greater_equal(p, 0))
    return where(zero, 0, multiply(y, log(where(zero, 1, x))))


def _is_whole(x: Any) -> bool:
    return type(x) is int or (type(x) is not float and x.dtype.kind == "i")


def _power_eval(xp: Any, a: Any, b: Any) -> Any:
    """NumPy's power, where it has one; an integer to a negative power is what truncation leaves of it: 0, 1 or -1."""
    if not (_is_whole(a) and _is_whole(b) and xp.any(xp.less(b, 0))):
        return xp.power(a, b)
    whole = xp.power(a, xp.maximum(b, 0))
    unit = xp.where(xp.equal(xp.remainder(b, 2), 0), xp.multiply(a, a), a)
    return xp.where(xp.greater_equal(b, 0), whole, xp.where(xp.equal(xp.abs(a), 1), unit, xp.zeros_like(whole)))


POWER: Primitive = elementwise("power", _power_eval, "pow", (_power_in_base, _power_in_exponent), facts=_SMOOTH)

# ---------------------------------------------------------------------------------- order and logic


def _share(y: Value, mine: Value, other: Value) -> Value:
    """1 where `mine` is the extreme, 1/2 at a tie (PyTorch's and JAX's convention), else 0."""
    dtype = dtype_of_value(y)
    return where(equal(mine, other), 0.5, astype(equal(y, mine), dtype))


MAXIMUM: Primitive = elementwise(
    "maximum",
    "maximum",
    "maximum",
    (lambda y, a, b: _share(y, a, b), lambda y, a, b: _share(y, b, a)),
    kinds="fib",
    facts=Fact.COMMUTATIVE | Fact.MONOTONE,
)
MINIMUM: Primitive = elementwise(
    "minimum",
    "minimum",
    "minimum",
    (lambda y, a, b: _share(y, a, b), lambda y, a, b: _share(y, b, a)),
    kinds="fib",
    facts=Fact.COMMUTATIVE | Fact.MONOTONE,
)


def _comparison(name: str, scalar: str, facts: Fact = Fact.NONE) -> Primitive:
    return elementwise(name, name, scalar, (None, None), kinds="fib", result=bool_, facts=facts)


EQUAL: Primitive = _comparison("equal", "eq", Fact.COMMUTATIVE)
NOT_EQUAL: Primitive = _comparison("not_equal", "ne", Fact.COMMUTATIVE)
LESS: Primitive = _comparison("less", "lt")
LESS_EQUAL: Primitive = _comparison("less_equal", "le")
GREATER: Primitive = _comparison("greater", "gt")
GREATER_EQUAL: Primitive = _comparison("greater_equal", "ge")
LOGICAL_AND: Primitive = elementwise(
    "logical_and", "logical_and", "and", (None, None), kinds="b", facts=Fact.COMMUTATIVE
)
LOGICAL_OR: Primitive = elementwise("logical_or", "logical_or", "or", (None, None), kinds="b", facts=Fact.COMMUTATIVE)
LOGICAL_NOT: Primitive = elementwise("logical_not", "logical_not", "not", (None,), kinds="b")


def _where_type(condition: TensorType, x: TensorType, y: TensorType) -> TensorType:
    check_kinds("where (condition)", "b", condition)
    dtype = check_same_dtype("where", x, y)
    return TensorType(broadcast_shapes(condition.shape, x.shape, y.shape, op="where"), dtype)


def _where_body(condition: TensorType, x: TensorType, y: TensorType) -> Compute:
    out = _where_type(condition, x, y)
    axes = axes_of(out.shape)
    reads = [broadcast_read(k, t, axes) for k, t in enumerate((condition, x, y))]
    return Compute(axes, Call("select", tuple(reads), out.dtype), tuple(affine(a) for a in axes))


WHERE: Primitive = Primitive(
    "where",
    infer=_where_type,
    eval=select,
    vjp=(
        None,
        lambda g, y, condition, a, b: where(condition, g, 0),
        lambda g, y, condition, a, b: where(condition, 0, g),
    ),
    jvp=lambda tangents, y, condition, a, b: where(
        condition, 0 if tangents[1] is None else tangents[1], 0 if tangents[2] is None else tangents[2]
    ),
    body=_where_body,
    facts=Fact.ELEMENTWISE | Fact.SELECTS,
)


def _strong_tangent(tg: Value | None, tp: Value | None, g: Value, p: Value) -> Value:
    if tp is None:
        return strong_multiply(tg, p)
    if tg is None:
        return strong_multiply(g, tp)
    return add(strong_multiply(tg, p), strong_multiply(g, tp))


def _strong_eval(xp: Any, g: Any, p: Any) -> Any:
    # NumPy's complaint about 0 * inf is silenced where operations run: by the tape, or by the caller's errstate
    product = xp.multiply(g, p)
    if xp is np and np.isfinite(np.add.reduce(product, None)):
        return product  # 0 * inf is nan, and would have shown in the sum
    lost = xp.logical_and(xp.equal(g, 0), xp.isnan(product))
    return select(xp, lost, xp.zeros((), product.dtype), product)


def _strong_scalar(g: Expr, p: Expr) -> Expr:
    product, zero = call("mul", g, p), Literal(0, g.dtype)
    lost = call("and", call("eq", g, zero), call("ne", product, product))
    return call("select", lost, zero, product)


# g * p, but 0 where g is 0 and p is inf or nan. The backward sweep multiplies with it below a
# `where`, so that the branch that wasn't chosen can't poison the gradient. Bilinear, like multiply, in its
# own derivatives: differentiating "0 where g == 0" as a select would lose second derivatives at g = 0.
STRONG_MULTIPLY: Primitive = elementwise(
    "strong_multiply",
    _strong_eval,
    _strong_scalar,
    vjp=(
        lambda c, y, g, p: strong_multiply(c, p),
        lambda c, y, g, p: strong_multiply(g, c),
    ),
    jvp=lambda tangents, y, g, p: _strong_tangent(tangents[0], tangents[1], g, p),
    kinds="f",
    facts=Fact.SELECTS,  # its own derivative by p has the zeros of g
)


def _cast_type(x: TensorType, *, dtype: DType) -> TensorType:
    return TensorType(x.shape, dtype)


def _cast_body(x: TensorType, *, dtype: DType) -> Compute:
    axes = axes_of(x.shape)
    value = broadcast_read(0, x, axes)
    return Compute(axes, Call("cast", (value,), dtype), tuple(affine(a) for a in axes))


def _cast_rule(t: Value, target: DType) -> Value:
    return astype(t, target)


ASTYPE: Primitive = Primitive(
    "astype",
    infer=_cast_type,
    eval=lambda xp, x, *, dtype: xp.asarray(x).astype(dtype.numpy),
    vjp=(
        lambda g, y, x, *, dtype: (
            _cast_rule(g, dtype_of_value(x)) if dtype.kind == "f" and dtype_of_value(x).kind == "f" else None
        ),
    ),
    jvp=lambda tangents, y, x, *, dtype: _cast_rule(tangents[0], dtype) if dtype.kind == "f" else None,
    body=_cast_body,
    facts=Fact.ELEMENTWISE | Fact.PRESERVES_ZERO,
)

PRIMITIVES = (
    ADD, SUBTRACT, MULTIPLY, DIVIDE, FLOOR_DIVIDE, REMAINDER, NEGATIVE, ABS, SIGN, FLOOR, COPY,
    EXP, EXPM1, LOG, LOG1P, SQRT, RSQRT, TANH, ERF, SIN, COS, POWER, MAXIMUM, MINIMUM,
    EQUAL, NOT_EQUAL, LESS, LESS_EQUAL, GREATER, GREATER_EQUAL, LOGICAL_AND, LOGICAL_OR, LOGICAL_NOT,
    WHERE, STRONG_MULTIPLY, ASTYPE,
)  # fmt: skip


# ---------------------------------------------------------------------------------------- promotion


def promoted(x: Value, y: Value, kinds: str = "fib") -> tuple[Value, Value]:
    """Both operands in their common dtype (Python scalars stay as they are, weak).

    kinds: raise operands of another kind to the first kind listed ("f": integers become float32).
    """
    if type(x) in SCALARS and type(y) in SCALARS:
        x = _as_float(x) if kinds == "f" else x
        return x, y
    if type(x) in SCALARS:
        dtype = promote_scalar(dtype_of_value(y), x)
    elif type(y) in SCALARS:
        dtype = promote_scalar(dtype_of_value(x), y)
    elif getattr(x, "weak", False) and not getattr(y, "weak", False):
        dtype = promote_scalar(dtype_of_value(y), 0.0)
    elif getattr(y, "weak", False) and not getattr(x, "weak", False):
        dtype = promote_scalar(dtype_of_value(x), 0.0)
    else:
        mine, other = dtype_of_value(x), dtype_of_value(y)
        if mine is other and mine.kind in kinds:
            return x, y
        dtype = promote(mine, other)
    if dtype.kind not in kinds:
        dtype = DEFAULT_FLOAT if kinds == "f" else int64
    return _to(x, dtype), _to(y, dtype)


def _to(x: Value, dtype: DType) -> Value:
    if type(x) in SCALARS:
        return x
    return x if dtype_of_value(x) is dtype else astype(x, dtype)


def _as_float(x: Value) -> Value:
    return float(x) if type(x) in SCALARS else x


def _binary(primitive: Primitive, x: Value, y: Value, kinds: str = "fib") -> Value:
    # the backward sweep's usual case: raw numbers, promoted by NumPy
    if type(x) is ndarray:
        if x.dtype.kind == "f" and (type(y) is ndarray or type(y) in SCALARS):
            return binary(primitive, x, y)
    elif type(y) is ndarray and type(x) in SCALARS and y.dtype.kind == "f":
        return binary(primitive, x, y)
    if type(x) in NUMBERS and type(y) in NUMBERS:
        # a scalar beside an array is weak, unless it raises the kind
        if type(x) in SCALARS or type(y) in SCALARS:
            x, y = promoted(x, y, kinds)
        return binary(primitive, x, y)
    # beside a tensor, NumPy's float64 scalar is the Python float that it derives from
    x = float(x) if type(x) is np.float64 else x
    y = float(y) if type(y) is np.float64 else y
    return binary(primitive, *promoted(x, y, kinds))


def _float(primitive: Primitive, x: Value) -> Value:
    data = getattr(x, "_data", x)  # the numbers of a Tensor
    if type(data) is ndarray and data.dtype.kind == "f":
        return unary(primitive, x)
    if type(x) in SCALARS:
        return unary(primitive, float(x))
    return unary(primitive, x if dtype_of_value(x).kind == "f" else astype(x, DEFAULT_FLOAT))


# ---------------------------------------------------------------------------------------- functions


def add(x: Value, y: Value, /) -> Value:
    """x + y, elementwise. Operands broadcast and promote."""
    return _binary(ADD, x, y, "fi")


def subtract(x: Value, y: Value, /) -> Value:
    """x - y, elementwise."""
    return _binary(SUBTRACT, x, y, "fi")


def multiply(x: Value, y: Value, /) -> Value:
    """x * y, elementwise."""
    return _binary(MULTIPLY, x, y, "fi")


def divide(x: Value, y: Value, /) -> Value:
    """x / y, elementwise; integers are divided as float32."""
    return _binary(DIVIDE, x, y, "f")


def floor_divide(x: Value, y: Value, /) -> Value:
    """floor(x / y), elementwise; integers stay integers. Not differentiable (zero almost everywhere)."""
    return _binary(FLOOR_DIVIDE, x, y, "fi")


def remainder(x: Value, y: Value, /) -> Value:
    """x - y * floor(x / y), elementwise: the sign is that of y."""
    return _binary(REMAINDER, x, y, "fi")


def power(x: Value, y: Value, /) -> Value:
    """x ** y, elementwise. A Python exponent 2 is computed as x * x, 1 as x."""
    if type(y) in SCALARS and type(x) not in SCALARS and y in (1, 2):
        base = promoted(x, y, "fi")[0]
        return base if y == 1 else multiply(base, base)
    return _binary(POWER, x, y, "fi")


def negative(x: Value, /) -> Value:
    """-x."""
    return unary(NEGATIVE, x)


def positive(x: Value, /) -> Value:
    """+x: x itself."""
    return x


def abs(x: Value, /) -> Value:
    """|x|. The derivative at 0 is 0."""
    return unary(ABS, x)


def sign(x: Value, /) -> Value:
    """-1, 0 or 1; nan for nan."""
    return unary(SIGN, x)


def floor(x: Value, /) -> Value:
    """The largest whole number not above x. Integers are returned as they are."""
    return x if dtype_of_value(x).kind != "f" else apply(FLOOR, x)


def ceil(x: Value, /) -> Value:
    """The smallest whole number not below x."""
    return negative(floor(negative(x)))


def copy(x: Value, /) -> Value:
    """A copy with memory of its own; the derivative passes through."""
    return unary(COPY, x)


def exp(x: Value, /) -> Value:
    """e ** x."""
    return _float(EXP, x)


def expm1(x: Value, /) -> Value:
    """exp(x) - 1, accurate near 0."""
    return _float(EXPM1, x)


def log(x: Value, /) -> Value:
    """Natural logarithm: -inf at 0, nan below."""
    return _float(LOG, x)


def log1p(x: Value, /) -> Value:
    """log(1 + x), accurate near 0."""
    return _float(LOG1P, x)


def sqrt(x: Value, /) -> Value:
    """Square root: nan below 0."""
    return _float(SQRT, x)


def rsqrt(x: Value, /) -> Value:
    """1 / sqrt(x)."""
    return _float(RSQRT, x)


def square(x: Value, /) -> Value:
    """x * x."""
    return multiply(x, x)


def reciprocal(x: Value, /) -> Value:
    """1 / x."""
    return divide(1, x)


def tanh(x: Value, /) -> Value:
    """Hyperbolic tangent."""
    return _float(TANH, x)


@composed
def erf(x: Value, /) -> Value:
    """The error function, 2/sqrt(pi) * integral of exp(-t^2) from 0 to x."""
    return _float(ERF, x)


def sin(x: Value, /) -> Value:
    """Sine of x in radians."""
    return _float(SIN, x)


def cos(x: Value, /) -> Value:
    """Cosine of x in radians."""
    return _float(COS, x)


def maximum(x: Value, y: Value, /) -> Value:
    """The larger, elementwise; nan if either is. At a tie each gets half of the derivative."""
    return _binary(MAXIMUM, x, y)


def minimum(x: Value, y: Value, /) -> Value:
    """The smaller, elementwise; nan if either is. At a tie each gets half of the derivative."""
    return _binary(MINIMUM, x, y)


def clip(x: Value, /, min: Value | None = None, max: Value | None = None) -> Value:
    """x limited to [min, max]; None leaves that side open."""
    if min is not None:
        x = maximum(x, min)
    return x if max is None else minimum(x, max)


def equal(x: Value, y: Value, /) -> Value:
    """x == y, elementwise, bool."""
    return _binary(EQUAL, x, y)


def not_equal(x: Value, y: Value, /) -> Value:
    """x != y, elementwise, bool; nan differs from itself."""
    return _binary(NOT_EQUAL, x, y)


def less(x: Value, y: Value, /) -> Value:
    """x < y, elementwise, bool."""
    return _binary(LESS, x, y)


def less_equal(x: Value, y: Value, /) -> Value:
    """x <= y, elementwise, bool."""
    return _binary(LESS_EQUAL, x, y)


def greater(x: Value, y: Value, /) -> Value:
    """x > y, elementwise, bool."""
    return _binary(GREATER, x, y)


def greater_equal(x: Value, y: Value, /) -> Value:
    """x >= y, elementwise, bool."""
    return _binary(GREATER_EQUAL, x, y)


def logical_and(x: Value, y: Value, /) -> Value:
    """x and y, elementwise; operands are bool."""
    return apply(LOGICAL_AND, x, y)


def logical_or(x: Value, y: Value, /) -> Value:
    """x or y, elementwise; operands are bool."""
    return apply(LOGICAL_OR, x, y)


def logical_not(x: Value, /) -> Value:
    """not x, elementwise; the operand is bool."""
    return apply(LOGICAL_NOT, x)


def isnan(x: Value, /) -> Value:
    """Whether each element is nan."""
    return not_equal(x, x)


def isfinite(x: Value, /) -> Value:
    """Whether each element is neither infinite nor nan."""
    return less(abs(x), math.inf)


def isinf(x: Value, /) -> Value:
    """Whether each element is +inf or -inf."""
    return equal(abs(x), math.inf)


def where(condition: Value, x: Value, y: Value, /) -> Value:
    """x where the bool condition holds, else y; all three broadcast.

    The gradient of the branch that wasn't chosen is exactly 0, even where that branch is inf or nan.
    """
    if type(x) in SCALARS and type(y) in SCALARS:
        dtype = promote(scalar_dtype(x), scalar_dtype(y)).numpy
        return apply(WHERE, condition, dtype.type(x), dtype.type(y))
    return apply(WHERE, condition, *promoted(x, y))


def strong_multiply(g: Value, p: Value, /) -> Value:
    """g * p, but exactly 0 where g is 0, whatever p is there (inf, nan)."""
    return _binary(STRONG_MULTIPLY, g, p, "f")


def astype(x: Value, dtype: Any, /) -> Value:
    """x converted to dtype (a graphc or NumPy dtype, or its name). Floats go to integers by truncation."""
    target = dtype_of(dtype)
    if type(x) in SCALARS:
        return target.numpy.type(x)
    return x if dtype_of_value(x) is target else apply(ASTYPE, x, dtype=target)
