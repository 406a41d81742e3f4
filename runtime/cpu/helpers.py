"""Helper functions that a module defines when it needs them: fmod, integer power, random numbers.

All are exact, work on vectors of any width and call nothing. LLVM's own `frem` would call libm once for each lane.
"""

from __future__ import annotations

from collections.abc import Callable

from graphc.types import DType, bool_, float32, int32, int64

from .emitter import Emitter, Module, Value, literal, suffix_of, type_of, widest

ROUNDS = 10
MULTIPLIERS = (0xD2511F53, 0xCD9E8D57)
WEYL = (0x9E3779B9, 0xBB67AE85)  # the key's increments: golden ratio and sqrt(3) - 1
LOW = 0xFFFFFFFF


def _called(e: Emitter, kind: str, text: Callable[[str, Module, DType, int], str], x: Value, y: Value) -> Value:
    """A call of a helper of two operands of one dtype, which the module defines from now on. text: its definition."""
    lanes, _ = widest((x, y))
    name = f"graphc_{kind}_{suffix_of(x.dtype, lanes)}"
    if name not in e.module.helpers:
        e.module.helpers[name] = text(name, e.module, x.dtype, lanes)
    return e.call(name, x.dtype, lanes, e.wide(x, lanes), e.wide(y, lanes))


def fmod(e: Emitter, x: Value, y: Value) -> Value:
    """The remainder of x / y with the sign of x, exactly (C99's fmod)."""
    return _called(e, "fmod", _fmod_text, x, y)


def _fmod_text(name: str, module: Module, dtype: DType, lanes: int) -> str:
    """Subtracts y * 2^k, the largest not above x, until x < y: each difference is exact.

    Where the hardware fuses multiply and add, most lanes are done at once: q = trunc(x / y) below 2^precision is
    at most one too large, so x - q * y is exact too.
    """
    mantissa, exponent = (23, 8) if dtype is float32 else (52, 11)
    bias, bits = 2 ** (exponent - 1) - 1, int32 if dtype is float32 else int64
    real, whole, flags = type_of(dtype, lanes), type_of(bits, lanes), type_of(bool_, lanes)
    suffix = suffix_of(dtype, lanes)

    def number(value: float) -> str:
        text = f"{literal(value, dtype).type} {literal(value, dtype).text}"
        return text.split()[1] if lanes == 1 else f"splat ({text})"

    def integer(value: int) -> str:
        return str(value) if lanes == 1 else f"splat ({type_of(bits, 1)} {value})"

    for function in ("fabs", "trunc"):
        if function == "fabs" or module.target.fma:
            module.declare(f"llvm.{function}.{suffix}", real, real)
    module.declare(f"llvm.copysign.{suffix}", real, real, real)
    smallest, tiny, up = 2.0 ** (1 - bias), 2.0 ** (2 * mantissa - bias), 2.0 ** (mantissa + 1)
    start = [
        f"%abs.x = call {real} @llvm.fabs.{suffix}({real} %x)",
        f"%abs.y = call {real} @llvm.fabs.{suffix}({real} %y)",
        f"%finite = fcmp olt {real} %abs.x, {number(float('inf'))}",
        f"%positive = fcmp ogt {real} %abs.y, {number(0.0)}",
        f"%valid = and {flags} %finite, %positive",
        f"%a = select {flags} %valid, {real} %abs.x, {real} {number(0.0)}",
        f"%b = select {flags} %valid, {real} %abs.y, {real} {number(1.0)}",
    ]
    first = "%a"
    if module.target.fma:
        module.declare(f"llvm.fma.{suffix}", real, real, real, real)
        start += [
            f"%ratio = fdiv {real} %a, %b",
            f"%q = call {real} @llvm.trunc.{suffix}({real} %ratio)",
            f"%minus = fneg {real} %q",
            f"%r = call {real} @llvm.fma.{suffix}({real} %minus, {real} %b, {real} %a)",
            f"%below = fcmp olt {real} %r, {number(0.0)}",
            f"%r.b = fadd {real} %r, %b",
            f"%r.fixed = select {flags} %below, {real} %r.b, {real} %r",
            f"%small.q = fcmp olt {real} %ratio, {number(2.0 ** (mantissa + 1))}",
            f"%some.q = fcmp oge {real} %ratio, {number(1.0)}",  # 0 * inf would be NaN
            f"%near = and {flags} %small.q, %some.q",
            f"%begin = select {flags} %near, {real} %r.fixed, {real} %a",
        ]
        first = "%begin"
    fraction = integer(2**mantissa - 1)
    start += [
        f"%small = fcmp olt {real} %b, {number(smallest)}",
        f"%b.raised = fmul {real} %b, {number(up)}",
        f"%b.normal = select {flags} %small, {real} %b.raised, {real} %b",
        f"%b.bits = bitcast {real} %b.normal to {whole}",
        f"%b.fraction = and {whole} %b.bits, {fraction}",
        "br label %test",
    ]
    test = [
        f"%now = phi {real} [ {first}, %entry ], [ %next, %loop ]",
        f"%more = fcmp oge {real} %now, %b",
    ]
    some = "%more"
    if lanes > 1:
        module.declare(f"llvm.vector.reduce.or.v{lanes}i1", "i1", flags)
        test.append(f"%some = call i1 @llvm.vector.reduce.or.v{lanes}i1({flags} %more)")
        some = "%some"
    test.append(f"br i1 {some}, label %loop, label %done")
    loop = [
        # Near the denormals the difference is taken of scaled numbers, whose exponents stand in their bits.
        f"%low = fcmp olt {real} %now, {number(tiny)}",
        f"%scale = select {flags} %low, {real} {number(up)}, {real} {number(1.0)}",
        f"%unscale = select {flags} %low, {real} {number(1 / up)}, {real} {number(1.0)}",
        f"%now.up = fmul {real} %now, %scale",
        f"%bits = bitcast {real} %now.up to {whole}",
        f"%power = and {whole} %bits, {integer((2**exponent - 1) << mantissa)}",
        f"%aligned = or {whole} %power, %b.fraction",
        f"%t = bitcast {whole} %aligned to {real}",
        f"%above = fcmp ogt {real} %t, %now.up",
        f"%half = fmul {real} %t, {number(0.5)}",
        f"%step = select {flags} %above, {real} %half, {real} %t",
        f"%less.up = fsub {real} %now.up, %step",
        f"%less = fmul {real} %less.up, %unscale",
        f"%next = select {flags} %more, {real} %less, {real} %now",
        "br label %test",
    ]
    done = [
        f"%signed = call {real} @llvm.copysign.{suffix}({real} %now, {real} %x)",
        f"%order = fcmp uno {real} %x, %y",
        f"%usual = select {flags} %valid, {real} %signed, {real} {number(float('nan'))}",
        f"%result = select {flags} %order, {real} {number(float('nan'))}, {real} %usual",
        f"ret {real} %result",
    ]
    blocks = {"entry": start, "test": test, "loop": loop, "done": done}
    body = "\n".join(f"{label}:\n" + "\n".join(f"  {line}" for line in lines) for label, lines in blocks.items())
    return f"define internal {real} @{name}({real} %x, {real} %y) #0 {{\n{body}\n}}"


def power(e: Emitter, x: Value, y: Value) -> Value:
    """x to the power y of integers, wrapping; a negative exponent gives what truncating the exact result gives."""
    return _called(e, "power", _power_text, x, y)


def _power_text(name: str, module: Module, dtype: DType, lanes: int) -> str:
    """By repeated squaring. Only 0, 1 and -1 have reciprocals of absolute value above 1/2 (or none: 0 gives 0)."""
    whole, flags, one = type_of(dtype, lanes), type_of(bool_, lanes), type_of(dtype, 1)

    def number(value: int) -> str:
        return str(value) if lanes == 1 else f"splat ({one} {value})"

    any_of, some = [], "%more"
    if lanes > 1:
        module.declare(f"llvm.vector.reduce.or.v{lanes}i1", "i1", flags)
        any_of, some = [f"%some = call i1 @llvm.vector.reduce.or.v{lanes}i1({flags} %more)"], "%some"
    lines = [
        "entry:",
        f"  %negative = icmp slt {whole} %y, {number(0)}",
        f"  %start = select {flags} %negative, {whole} {number(0)}, {whole} %y",
        "  br label %test",
        "test:",
        f"  %result = phi {whole} [ {number(1)}, %entry ], [ %result.next, %loop ]",
        f"  %base = phi {whole} [ %x, %entry ], [ %base.next, %loop ]",
        f"  %left = phi {whole} [ %start, %entry ], [ %left.next, %loop ]",
        f"  %more = icmp ne {whole} %left, {number(0)}",
        *(f"  {line}" for line in any_of),
        f"  br i1 {some}, label %loop, label %done",
        "loop:",
        f"  %low = and {whole} %left, {number(1)}",
        f"  %odd = icmp ne {whole} %low, {number(0)}",
        f"  %product = mul {whole} %result, %base",
        f"  %result.next = select {flags} %odd, {whole} %product, {whole} %result",
        f"  %base.next = mul {whole} %base, %base",
        f"  %left.next = lshr {whole} %left, {number(1)}",
        "  br label %test",
        "done:",
        f"  %parity = and {whole} %y, {number(1)}",
        f"  %y.odd = icmp ne {whole} %parity, {number(0)}",
        f"  %x.one = icmp eq {whole} %x, {number(1)}",
        f"  %x.minus = icmp eq {whole} %x, {number(-1)}",
        f"  %unit = or {flags} %x.one, %x.minus",
        f"  %sign = select {flags} %y.odd, {whole} %x, {whole} {number(1)}",
        f"  %reciprocal = select {flags} %unit, {whole} %sign, {whole} {number(0)}",
        f"  %value = select {flags} %negative, {whole} %reciprocal, {whole} %result",
        f"  ret {whole} %value",
        "}",
    ]
    return "\n".join([f"define internal {whole} @{name}({whole} %x, {whole} %y) #0 {{", *lines])


def philox(e: Emitter, seed: Value, draw: Value, element: Value, dtype: DType) -> Value:
    """A uniform random number in [0, 1) for each element; see graphc.ops.random for the definition."""
    operands = (seed, draw, element)
    lanes, _ = widest(operands)
    shape = "_".join("v" if v.lanes > 1 else "s" for v in operands)
    name = f"graphc_philox_{shape}_{suffix_of(dtype, lanes)}"
    if name not in e.module.helpers:
        inner = Emitter(e.module)
        names = ("%seed", "%draw", "%element")
        given = [Value(n, int64, v.lanes) for n, v in zip(names, operands, strict=True)]
        result = _philox(inner, given[0], given[1], given[2], dtype)
        arguments = ", ".join(f"{v.type} {v.text}" for v in given)
        header = f"define internal {result.type} @{name}({arguments}) #0 {{"
        e.module.helpers[name] = inner.text(header, result)
    return e.call(name, dtype, lanes, *operands)


def _philox(e: Emitter, seed: Value, draw: Value, element: Value, dtype: DType) -> Value:
    # Words of 32 bits stand in 64-bit lanes, where one instruction multiplies them to 64 bits.
    low, half = literal(LOW, int64), literal(32, int64)

    def words(v: Value) -> tuple[Value, Value]:
        return e.op("and", v, low), e.op("lshr", v, half)

    (c0, c1), (c2, c3), (k0, k1) = words(element), words(draw), words(seed)
    for _ in range(ROUNDS):
        low0, high0 = words(e.op("mul", c0, literal(MULTIPLIERS[0], int64)))
        low1, high1 = words(e.op("mul", c2, literal(MULTIPLIERS[1], int64)))
        c0, c2 = e.op("xor", e.op("xor", high1, c1), k0), e.op("xor", e.op("xor", high0, c3), k1)
        c1, c3 = low1, low0
        k0, k1 = (e.op("and", e.op("add", k, literal(w, int64)), low) for k, w in zip((k0, k1), WEYL, strict=True))
    lanes, _ = widest((seed, draw, element))
    if dtype is float32:
        word = e.wide(e.convert("trunc", e.op("lshr", c0, literal(8, int64)), int32), lanes)
        return e.op("fmul", e.convert("sitofp", word, dtype), literal(2.0**-24, dtype))
    high = e.op("shl", e.op("lshr", c0, literal(5, int64)), literal(26, int64))
    bits = e.wide(e.op("or", high, e.op("lshr", c1, literal(6, int64))), lanes)
    return e.op("fmul", e.convert("sitofp", bits, dtype), literal(2.0**-53, dtype))
