"""log and log1p: x = m 2^e with m in [0.75, 1.5), f = m - 1, and e ln 2 + log(1 + f).

float32: log(1 + f) = f + f^2 p(f), relative error 2^-27.5. float64: with s = f / (2 + f), log(1 + f) = 2 atanh(s)
= 2 s + s^3 p(s^2), error 2^-62.6, written as f - (f^2/2 - s (f^2/2 + s^2 p)), where f is exact (fdlibm's e_log.c).
"""

from __future__ import annotations

from graphc.runtime.cpu.math.builder import INF, NAN, Builder, Value
from graphc.runtime.cpu.math.exponential import LN2_HIGH, LN2_LOW
from graphc.runtime.cpu.math.exponents import exponent_and_fraction, power_of_two
from graphc.types import float32

LOG_FLOAT32 = (-0.5, 0.33333462476730347, -0.2500019371509552, 0.19990375638008118, -0.16642586886882782,
               0.1447562873363495, -0.13209551572799683, 0.10590866953134537, -0.04603134095668793)  # fmt: skip
# 2 (atanh(s) / s - 1) / s^2 as a polynomial of s^2, s^2 <= 1/25.
ATANH_FLOAT64 = (0.666666666666666, 0.4000000000005664, 0.2857142855584149, 0.22222224294681442,
                 0.18181665994750668, 0.15391107766126597, 0.13173673568922079, 0.13842514078328635)  # fmt: skip


def log(b: Builder, x: Value) -> Value:
    e, m = exponent_and_fraction(b, x)
    y = log_of(b, m - 1.0, e)
    if b.avx512:
        return y
    return special(b, x, y, pole=0.0)


def log1p(b: Builder, x: Value) -> Value:
    """e comes from the rounded 1 + x, f from x itself: f = x 2^-e + (2^-e - 1), rounded once, the rest kept."""
    e, _ = exponent_and_fraction(b, 1.0 + x)
    # x isn't small where e is not 0: its exponent may be lowered as an integer (2^-e itself can be denormal).
    scaled = (x.bits() - ((e + b.magic).bits() << b.mantissa)).floating()
    # From e = 100 on 2^-e is lost beside -1.
    power = power_of_two(b, (b.magic - b.at_most(100.0, e)).bits())
    # Where abs(scaled) is larger the sum is exact (the two are within a factor of two): so the fast form will do.
    f, rest = b.fast_two_sum(power - 1.0, scaled)
    y = log_of(b, f, e, rest)
    y = x.equals(INF).select(x, y) if b.avx512 else special(b, x, y, pole=-1.0)
    return b.copysign(y, x)


def special(b: Builder, x: Value, y: Value, pole: float) -> Value:
    """y, but inf at inf, -inf at the pole, NaN below it and for NaN."""
    y = x.equals(INF).select(x, y)
    y = x.equals(pole).select(b.value(-INF), y)
    return (x >= pole).select(y, NAN)


def log_of(b: Builder, f: Value, e: Value, rest: Value | None = None) -> Value:
    """e ln 2 + log(1 + f + rest), f in [-0.25, 0.5], rest no more than a rounding error of f."""
    if b.dtype is float32:
        tail = (f * f) * b.polynomial(f, LOG_FLOAT32)
        tail = b.fma(e, LN2_LOW[b.dtype], tail)
        if rest is not None:
            tail = tail + rest
        return b.fma(e, LN2_HIGH[b.dtype], f + tail)
    half_square = (0.5 * f) * f
    s = f / (2.0 + f)
    z = s * s
    tail = s * b.fma(z, b.polynomial(z, ATANH_FLOAT64), half_square)
    tail = b.fma(e, LN2_LOW[b.dtype], tail)
    if rest is not None:
        tail = tail + rest
    return b.fma(e, LN2_HIGH[b.dtype], f - (half_square - tail))
