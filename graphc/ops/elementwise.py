"""Elementwise operations, all under one name: `from graphc.ops import elementwise as ew`, then ew.ADD and ew.add(x, y).

| file | what stands there |
|---|---|
| arithmetic.py | + - * / // %, negative, abs, sign, floor, copy |
| exponential.py | exp, log, power, roots, sin, cos, tanh, erf |
| comparison.py | maximum, minimum, comparisons, logic, where |
| promotion.py | astype, and the dtype in which operands meet |

All broadcast by NumPy's rule and promote by graphc.types. Names are the array API's. A record's `partials` are the
local derivatives (y, *xs) -> dy/dx_i; autodiff multiplies them with the cotangent, and sums the cotangent of an operand
that was broadcast down to the operand's shape.
"""

from __future__ import annotations

from graphc.ops import arithmetic, comparison, exponential, promotion
from graphc.ops.arithmetic import (
    ABS,
    ADD,
    COPY,
    DIVIDE,
    FLOOR,
    FLOOR_DIVIDE,
    MULTIPLY,
    NEGATIVE,
    REMAINDER,
    SIGN,
    STRONG_MULTIPLY,
    SUBTRACT,
    abs,
    add,
    ceil,
    copy,
    divide,
    floor,
    floor_divide,
    multiply,
    negative,
    positive,
    reciprocal,
    remainder,
    sign,
    square,
    strong_multiply,
    subtract,
)
from graphc.ops.comparison import (
    EQUAL,
    GREATER,
    GREATER_EQUAL,
    LESS,
    LESS_EQUAL,
    LOGICAL_AND,
    LOGICAL_NOT,
    LOGICAL_OR,
    MAXIMUM,
    MINIMUM,
    NOT_EQUAL,
    WHERE,
    clip,
    equal,
    greater,
    greater_equal,
    isfinite,
    isinf,
    isnan,
    less,
    less_equal,
    logical_and,
    logical_not,
    logical_or,
    maximum,
    minimum,
    not_equal,
    where,
)
from graphc.ops.exponential import (
    COS,
    ERF,
    EXP,
    EXPM1,
    LOG,
    LOG1P,
    POWER,
    RSQRT,
    SIN,
    SQRT,
    TANH,
    cos,
    erf,
    exp,
    expm1,
    log,
    log1p,
    power,
    rsqrt,
    sin,
    sqrt,
    tanh,
)
from graphc.ops.promotion import ASTYPE, astype, promoted

__all__ = [
    "ABS", "ADD", "ASTYPE", "COPY", "COS", "DIVIDE", "EQUAL", "ERF", "EXP", "EXPM1", "FLOOR", "FLOOR_DIVIDE",
    "GREATER", "GREATER_EQUAL", "LESS", "LESS_EQUAL", "LOG", "LOG1P", "LOGICAL_AND", "LOGICAL_NOT", "LOGICAL_OR",
    "MAXIMUM", "MINIMUM", "MULTIPLY", "NEGATIVE", "NOT_EQUAL", "POWER", "PRIMITIVES", "REMAINDER", "RSQRT", "SIGN",
    "SIN", "SQRT", "STRONG_MULTIPLY", "SUBTRACT", "TANH", "WHERE", "abs", "add", "astype", "ceil", "clip", "copy",
    "cos", "divide", "equal", "erf", "exp", "expm1", "floor", "floor_divide", "greater", "greater_equal", "isfinite",
    "isinf", "isnan", "less", "less_equal", "log", "log1p", "logical_and", "logical_not", "logical_or", "maximum",
    "minimum", "multiply", "negative", "not_equal", "positive", "power", "promoted", "reciprocal", "remainder",
    "rsqrt", "sign", "sin", "sqrt", "square", "strong_multiply", "subtract", "tanh", "where",
]  # fmt: skip

PRIMITIVES = (*arithmetic.PRIMITIVES, *exponential.PRIMITIVES, *comparison.PRIMITIVES, *promotion.PRIMITIVES)
