"""Prints the scalar functions of SCALAR_OPS on values of any number of lanes.

Where NumPy leaves a result to the platform, it is fixed here: floats cast to integers saturate and NaN gives 0;
of maximum(0.0, -0.0) the sign is open. Elementary functions come from runtime.cpu.math.
"""

from __future__ import annotations

from collections.abc import Callable

from graphc.errors import CompileError
from graphc.types import DType, bool_, float32, float64, int64

from . import helpers, math
from .emitter import Emitter, Value, literal, suffix_of, type_of, widest

_FLOAT = {"add": "fadd", "sub": "fsub", "mul": "fmul", "div": "fdiv"}
_INTEGER = {"add": "add", "sub": "sub", "mul": "mul"}
_COMPARE_FLOATS = {"eq": "oeq", "ne": "une", "lt": "olt", "le": "ole", "gt": "ogt", "ge": "oge"}
_COMPARE_SIGNED = {"eq": "eq", "ne": "ne", "lt": "slt", "le": "sle", "gt": "sgt", "ge": "sge"}
_COMPARE_BOOLS = {"eq": "eq", "ne": "ne", "lt": "ult", "le": "ule", "gt": "ugt", "ge": "uge"}
_KNOWN: dict[str, Callable[[int, int], int]] = {
    "add": int.__add__, "sub": int.__sub__, "mul": int.__mul__,
    "eq": int.__eq__, "ne": int.__ne__, "lt": int.__lt__, "le": int.__le__, "gt": int.__gt__, "ge": int.__ge__,
}  # fmt: skip
_ELEMENTARY = frozenset({"exp", "expm1", "log", "log1p", "tanh", "erf", "sin", "cos", "pow"})


def apply(e: Emitter, op: str, args: list[Value], dtype: DType) -> Value:
    """The value of Call(op, args, dtype). Raises CompileError for what the loop IR doesn't allow."""
    kind = args[-1].dtype.kind
    match op:
        case "add" | "sub" | "mul" | "div" if kind == "f":
            return e.op(_FLOAT[op], *args)
        case "add" | "sub" | "mul" if kind == "i":
            return _known(op, args, dtype) or e.op(_INTEGER[op], *args)
        case "eq" | "ne" | "lt" | "le" | "gt" | "ge":
            return compare(e, op, *args)
        case "and" | "or":
            return _logic(e, op, *args)
        case "not":
            return invert(e, *args)
        case "select":
            return e.select(*args)
        case "maximum" | "minimum":
            return extreme(e, op, *args)
        case "cast":
            return cast(e, args[0], dtype)
        case "neg":
            return _negative(e, *args)
        case "abs":
            return e.intrinsic("fabs", *args) if kind == "f" else e.intrinsic("abs", *args, extra=("i1 false",))
        case "sign":
            return _sign(e, *args)
        case "floor":
            return _floor(e, *args)
        case "sqrt":
            return e.intrinsic("sqrt", *args)
        case "rsqrt":
            return e.op("fdiv", literal(1.0, dtype), e.intrinsic("sqrt", *args))
        case "floordiv":
            return _floor_of_floats(e, *args) if kind == "f" else _floor_of_integers(e, *args)
        case "mod":
            return _mod_of_floats(e, *args) if kind == "f" else _mod_of_integers(e, *args)
        case "pow" if kind == "i":
            return helpers.power(e, *args)
        case "philox32" | "philox64":
            return helpers.philox(e, args[0], args[1], args[2], dtype)
        case _ if op in _ELEMENTARY and kind == "f":
            return _elementary(e, op, args)
        case _:
            raise CompileError(f"no {op} of {', '.join(a.dtype.name for a in args)} on the CPU")


def _known(op: str, args: list[Value], dtype: DType) -> Value | None:
    """The result where it is known while printing. Exact: a sum that wraps is left to the machine."""
    a, b = args
    if not isinstance(a.const, int) or not isinstance(b.const, int):
        return None
    value = _KNOWN[op](a.const, b.const)
    return literal(value, dtype) if -(2 ** (8 * dtype.itemsize - 1)) <= value < 2 ** (8 * dtype.itemsize - 1) else None


def compare(e: Emitter, op: str, a: Value, b: Value) -> Value:
    kind = a.dtype.kind
    if kind == "f":
        return e.op(f"fcmp {_COMPARE_FLOATS[op]}", a, b, result=bool_)
    if isinstance(a.const, int) and isinstance(b.const, int):
        return literal(bool(_KNOWN[op](a.const, b.const)), bool_)
    predicates = _COMPARE_SIGNED if kind == "i" else _COMPARE_BOOLS
    return e.op(f"icmp {predicates[op]}", a, b, result=bool_)


def _logic(e: Emitter, op: str, a: Value, b: Value) -> Value:
    for x, y in ((a, b), (b, a)):
        if x.const is not None:
            return y if bool(x.const) == (op == "and") else x
    return e.op(op, a, b)


def both(e: Emitter, a: Value | None, b: Value | None) -> Value | None:
    """The conjunction of two masks; None stands for true."""
    if a is None or b is None:
        return b if a is None else a
    return _logic(e, "and", a, b)


def invert(e: Emitter, a: Value) -> Value:
    if a.const is not None:
        return literal(not a.const, bool_)
    return e.op("xor", a, literal(True, bool_))


def extreme(e: Emitter, op: str, a: Value, b: Value) -> Value:
    """maximum or minimum; NaN if one operand is NaN. `x > y ? x : y` is one instruction and gives y for NaN.

    Whether `a` is NaN is asked beside that instruction, and the answer is a number of its own: were it `a` again, LLVM
    would make one choice of the two, which waits for both comparisons. So `b` is what comes last, a running extreme.
    """
    larger = op == "maximum"
    if a.dtype is bool_:
        return _logic(e, "or" if larger else "and", a, b)
    if a.dtype.kind == "i":
        return e.intrinsic("smax" if larger else "smin", a, b)
    predicate = "fcmp ogt" if larger else "fcmp olt"
    if b.const is not None and a.const is None:
        a, b = b, a
    best = e.select(e.op(predicate, a, b, result=bool_), a, b)
    if a.const is not None and a.const == a.const:  # a number that is known not to be NaN
        return best
    return e.select(e.op("fcmp uno", a, a, result=bool_), literal(float("nan"), a.dtype), best)


def cast(e: Emitter, x: Value, dtype: DType) -> Value:
    if x.dtype is dtype:
        return x
    if x.const is not None and (dtype.kind == "f" or x.dtype.kind != "f" or dtype is bool_):
        if dtype is bool_:
            return literal(bool(x.const), bool_)
        if dtype.kind != "i" or -(2**31) <= x.const < 2**31:
            return literal(x.const, dtype)
    match x.dtype.kind, dtype.kind:
        case "b", "f":
            return e.convert("uitofp", x, dtype)
        case "b", _:
            return e.convert("zext", x, dtype)
        case "f", "b":
            return e.op("fcmp une", x, literal(0.0, x.dtype), result=bool_)
        case _, "b":
            return e.op("icmp ne", x, literal(0, x.dtype), result=bool_)
        case "i", "f":
            return e.convert("sitofp", x, dtype)
        case "f", "f":
            return e.convert("fpext" if dtype is float64 else "fptrunc", x, dtype)
        case "i", _:
            return e.convert("sext" if dtype is int64 else "trunc", x, dtype)
        case _:
            return _saturated(e, x, dtype)


def _saturated(e: Emitter, x: Value, dtype: DType) -> Value:
    source, result = type_of(x.dtype, x.lanes), type_of(dtype, x.lanes)
    name = f"llvm.fptosi.sat.{suffix_of(dtype, x.lanes)}.{suffix_of(x.dtype, x.lanes)}"
    e.module.declare(name, result, source)
    return e.call(name, dtype, x.lanes, x)


def _negative(e: Emitter, x: Value) -> Value:
    return e.op("fneg", x) if x.dtype.kind == "f" else e.op("sub", literal(0, x.dtype), x)


def _sign(e: Emitter, x: Value) -> Value:
    dtype, zero = x.dtype, literal(0, x.dtype)
    other = zero  # of 0 and -0; a NaN stays one
    if dtype.kind == "f":
        other = e.select(e.op("fcmp uno", x, x, result=bool_), x, zero)
    up = e.select(compare(e, "gt", x, zero), literal(1, dtype), other)
    return e.select(compare(e, "lt", x, zero), literal(-1, dtype), up)


def _floor(e: Emitter, x: Value) -> Value:
    if e.module.target.rounding:
        return e.intrinsic("floor", x)
    # Adding and subtracting 2^mantissa rounds to an integer in any magnitude below it; above, all are integers.
    limit = literal(2.0**23 if x.dtype is float32 else 2.0**52, x.dtype)
    size = e.intrinsic("fabs", x)
    near = e.intrinsic("copysign", e.op("fsub", e.op("fadd", size, limit), limit), x)
    floor = e.select(compare(e, "gt", near, x), e.op("fsub", near, literal(1.0, x.dtype)), near)
    return e.select(compare(e, "lt", size, limit), floor, x)


def _divide_integers(e: Emitter, a: Value, b: Value) -> tuple[Value, Value, Value]:
    """Quotient and remainder of truncated division, 0 / 0 and MIN / -1 included, and b made safe.

    The machine traps on a zero divisor and on the quotient MIN / -1: both divide by 1 here, which gives the
    wrapped quotient of the second, and remainder 0. Lanes beyond a loop's end may hold anything: hence `freeze`.
    """
    zero, one, minus = (literal(k, a.dtype) for k in (0, 1, -1))
    if b.const is None:
        b = Value(e.pure(f"freeze {b.type} {b.text}", b.level), b.dtype, b.lanes, b.level)
    negate = compare(e, "eq", b, minus)
    safe = e.select(_logic(e, "or", compare(e, "eq", b, zero), negate), one, b)
    quotient = e.select(negate, _negative(e, a), e.op("sdiv", a, safe))
    return quotient, e.op("srem", a, safe), b


def _floor_of_integers(e: Emitter, a: Value, b: Value) -> Value:
    """Rounded towards minus infinity; 0 for a zero divisor, as NumPy gives."""
    zero = literal(0, a.dtype)
    quotient, remainder, b = _divide_integers(e, a, b)
    uneven = compare(e, "ne", remainder, zero)
    opposite = compare(e, "lt", e.op("xor", remainder, b), zero)
    down = cast(e, _logic(e, "and", uneven, opposite), a.dtype)
    return e.select(compare(e, "eq", b, zero), zero, e.op("sub", quotient, down))


def _mod_of_integers(e: Emitter, a: Value, b: Value) -> Value:
    """With the sign of the divisor; 0 for a zero divisor, as NumPy gives."""
    zero = literal(0, a.dtype)
    _, remainder, b = _divide_integers(e, a, b)
    opposite = compare(e, "lt", e.op("xor", remainder, b), zero)
    wrong = _logic(e, "and", compare(e, "ne", remainder, zero), opposite)
    return e.select(wrong, e.op("add", remainder, b), remainder)


def _mod_of_floats(e: Emitter, a: Value, b: Value) -> Value:
    """npy_remainder: fmod moved to the sign of the divisor."""
    remainder, zero = helpers.fmod(e, a, b), literal(0.0, a.dtype)
    moved = e.select(_signs_differ(e, remainder, b), e.op("fadd", remainder, b), remainder)
    result = e.select(compare(e, "eq", remainder, zero), e.intrinsic("copysign", zero, b), moved)
    return e.select(compare(e, "eq", b, zero), remainder, result)


def _floor_of_floats(e: Emitter, a: Value, b: Value) -> Value:
    """npy_divmod: (a - mod) / b, rounded to the nearest integer; a / b for a zero divisor."""
    remainder, zero, one = helpers.fmod(e, a, b), literal(0.0, a.dtype), literal(1.0, a.dtype)
    exact = e.op("fdiv", e.op("fsub", a, remainder), b)
    uneven = compare(e, "ne", remainder, zero)
    lower = _logic(e, "and", uneven, _signs_differ(e, remainder, b))
    exact = e.select(lower, e.op("fsub", exact, one), exact)
    floor = _floor(e, exact)
    up = compare(e, "gt", e.op("fsub", exact, floor), literal(0.5, a.dtype))
    nearest = e.select(up, e.op("fadd", floor, one), floor)
    ratio = e.op("fdiv", a, b)
    result = e.select(compare(e, "eq", exact, zero), e.intrinsic("copysign", zero, ratio), nearest)
    return e.select(compare(e, "eq", b, zero), ratio, result)


def _signs_differ(e: Emitter, a: Value, b: Value) -> Value:
    zero = literal(0.0, a.dtype)
    return e.op("xor", compare(e, "lt", a, zero), compare(e, "lt", b, zero))


def _elementary(e: Emitter, op: str, args: list[Value]) -> Value:
    """A function of runtime.cpu.math; vectors wider than its functions are computed in pieces."""
    dtype, (lanes, _) = args[-1].dtype, widest(args)
    args = [e.wide(a, lanes) for a in args]
    most = max(math.LANES)
    if lanes > most:
        pieces = [[*range(start, min(start + most, lanes))] for start in range(0, lanes, most)]
        return e.joined([_elementary(e, op, [e.shuffle(a, piece) for a in args]) for piece in pieces])
    if lanes not in math.LANES:
        raise CompileError(f"no {op} of {lanes} lanes; there are vectors of {math.LANES}")
    function = math.functions(op, dtype, lanes, e.module.target)
    e.module.include(function)
    return e.call(function.name, dtype, lanes, *args)


def identity(op: str, dtype: DType) -> Value:
    """What folding starts from: op(identity, x) = x, for -0 too."""
    if op == "sum":
        return literal(-0.0 if dtype.kind == "f" else 0, dtype)
    largest = op == "min"
    match dtype.kind:
        case "f":
            return literal(float("inf") if largest else float("-inf"), dtype)
        case "b":
            return literal(largest, dtype)
        case _:
            bits = 8 * dtype.itemsize - 1
            return literal(2**bits - 1 if largest else -(2**bits), dtype)


def combine(e: Emitter, op: str, a: Value, b: Value) -> Value:
    """One step of a sum, max or min; of booleans, of which the sum is `or`."""
    match op:
        case "sum":
            return e.op("fadd" if a.dtype.kind == "f" else "add" if a.dtype.kind == "i" else "or", a, b)
        case "max":
            return extreme(e, "maximum", b, a)
        case "min":
            return extreme(e, "minimum", b, a)
        case _:
            raise CompileError(f"no accumulation {op}")


def folded(e: Emitter, op: str, vector: Value) -> Value:
    """All lanes folded into one number, in a fixed order: halves onto halves."""
    while vector.lanes > 2 and vector.lanes % 2 == 0:
        half = vector.lanes // 2
        low, high = e.shuffle(vector, [*range(half)]), e.shuffle(vector, [*range(half, 2 * half)])
        vector = combine(e, op, low, high)
    total = e.lane(vector, 0)
    for lane in range(1, vector.lanes):
        total = combine(e, op, total, e.lane(vector, lane))
    return total
