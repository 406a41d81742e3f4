"""Powers of two in and out of numbers: by AVX-512's instructions, or by arithmetic on the bits."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from graphc.runtime.cpu.math.builder import Builder, Operand, Type, Value
from graphc.types import float32


def nearest(b: Builder, x: Value, factor: float, shift: float = 0.0) -> tuple[Value, Value]:
    """(n, word): n = x * factor + shift rounded to an integer, as a float, and an integer with n in its low bits.

    abs(n) < 2^(mantissa - 2). The rounding of the product may move n by one where it's nearly a tie.
    """
    if shift:
        biased = b.fma(x, factor, shift) + b.magic
    else:
        biased = b.fma(x, factor, b.magic)
    return biased - b.magic, biased.bits()


def scale(b: Builder, x: Value, n: Value, word: Value) -> Value:
    """x * 2^n with one rounding, to inf or to denormals and 0 where it must. (n, word) as `nearest` gives them.

    abs(n) <= 2 * bias and abs(x) is in [2^(-bias/2), 2^(bias/2)], or x = 0.
    """
    if b.avx512:
        precision = "ps" if b.dtype is float32 else "pd"
        return _native(b, f"llvm.x86.avx512.mask.scalef.{precision}", [x, n], lambda lanes: _masked(x.type, lanes))
    # Two factors 2^half and 2^(n - half): each is normal though 2^n may not be.
    whole = word << b.mantissa
    half = b.fma(n, 0.5, b.magic).bits() << b.mantissa
    one = b.bias << b.mantissa
    return x * (half + one).floating() * (whole - half + one).floating()


def power_of_two(b: Builder, word: Value) -> Value:
    """2^n for the word of `nearest`, -bias < n <= bias."""
    return ((word << b.mantissa) + (b.bias << b.mantissa)).floating()


def exponent_and_fraction(b: Builder, x: Value, denormals: bool = True) -> tuple[Value, Value]:
    """(e, m) with x = m * 2^e, m in [0.75, 1.5), for positive x (denormal ones too, unless told otherwise).

    With AVX-512 the special cases follow C99's log by themselves: x = 0 gives (-inf, 1), inf (inf, 1),
    NaN and negative numbers m = NaN. Else such x give finite nonsense.
    """
    if b.avx512:
        precision = "ps" if b.dtype is float32 else "pd"
        names = [f"llvm.x86.avx512.mask.{what}.{precision}" for what in ("getmant", "getexp")]
        # 3: the interval [0.75, 1.5); 12: drop the sign of -0, NaN for negative numbers.
        m = _native(b, names[0], [x], lambda lanes: ["i32 15", *_masked(x.type, lanes)])
        return _getexp(b, x) - _getexp(b, m), m
    limit = 2.0**b.mantissa
    offset: Operand = limit + b.bias
    bits = x.bits()
    if denormals:
        tiny = x < 2.0 ** (1 - b.bias)
        bits = tiny.select(x * limit, x).bits()
        offset = tiny.select(b.value(limit + b.bias + b.mantissa), limit + b.bias)
    # 0.75 has the bits of 1 less half a unit of the exponent: with that added, the exponent changes at 0.75.
    exponent = (bits + (1 << (b.mantissa - 1))) >> b.mantissa
    m = (bits - ((exponent << b.mantissa) - (b.bias << b.mantissa))).floating()
    # Written into the low bits of 2^mantissa the integer is a float (AVX2 can't convert 64-bit integers).
    return (exponent | b.value(limit).bits()).floating() - offset, m


def _getexp(b: Builder, x: Value) -> Value:
    precision = "ps" if b.dtype is float32 else "pd"
    return _native(b, f"llvm.x86.avx512.mask.getexp.{precision}", [x], lambda lanes: _masked(x.type, lanes))


def _masked(type: Type, lanes: int) -> list[str]:
    """The trailing operands of a masked intrinsic: pass-through, full mask and, at 512 bits, the rounding mode."""
    whole = Type(type.kind, type.bits, lanes)
    rounding = ["i32 4"] if lanes * type.bits == 512 else []
    return [f"{whole} zeroinitializer", f"i{max(lanes, 8)} -1", *rounding]


def _native(b: Builder, name: str, operands: Sequence[Value], extra: Callable[[int], Sequence[str]]) -> Value:
    """An x86 intrinsic that exists for whole registers of 128, 256 and 512 bits: `name.<width>`.

    Narrower values are padded, wider ones are split. extra(lanes): the trailing constant operands.
    """
    type = operands[0].type
    width = type.lanes * type.bits
    if width > 512:
        half = Type(type.kind, type.bits, type.lanes // 2)
        low, high = (_native(b, name, [b.part(o, start, half) for o in operands], extra) for start in (0, half.lanes))
        order = ", ".join(f"i32 {i}" for i in range(type.lanes))
        both = f"{half} {low.name}, {half} {high.name}, <{type.lanes} x i32> <{order}>"
        return b.emit(f"shufflevector {both}", type)
    if width < 128:
        whole = Type(type.kind, type.bits, 128 // type.bits)
        result = _native(b, name, [_widen(b, o, whole) for o in operands], extra)
        return b.part(result, 0, type)
    return b.call(f"{name}.{width}", type, operands, extra(type.lanes))


def _widen(b: Builder, x: Value, whole: Type) -> Value:
    """Beyond the lanes of x, repeat its first one: no lane holds a number that x doesn't."""
    if x.type.lanes == 1:
        x = b.emit(f"insertelement {whole} poison, {x.type} {x.name}, i32 0", whole)
    order = ", ".join(f"i32 {i if i < x.type.lanes and i < b.lanes else 0}" for i in range(whole.lanes))
    mask = f"<{whole.lanes} x i32> <{order}>"
    return b.emit(f"shufflevector {x.type} {x.name}, {x.type} poison, {mask}", whole)
