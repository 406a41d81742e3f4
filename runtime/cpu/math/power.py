"""pow(x, y) = exp(y log(x)), which magnifies the error of log(x) by up to 745: log is computed to about 2^-64
relative, as a sum of two float64 numbers; for float32, plain float64 carries enough.
"""

from __future__ import annotations

from graphc.runtime.cpu.math.builder import INF, NAN, Builder, Value
from graphc.runtime.cpu.math.exponential import EXP, EXP_RANGE, LN2_HIGH, LN2_LOW, LOG2_E
from graphc.runtime.cpu.math.exponents import exponent_and_fraction, nearest, power_of_two, scale
from graphc.types import float32, float64

# log2((1 + s) / (1 - s)) / s as a polynomial of s^2, s^2 <= 1/25: relative error 2^-42.
LOG2 = (2.8853900817774276, 0.9617966948210054, 0.5770777566285543, 0.4122260900371821, 0.31928772991717724,
        0.2908013084378543)  # fmt: skip
# 2^r, abs(r) <= 1/2: relative error 2^-29.
EXP2 = (1.0000000005551068, 0.6931472057669829, 0.24022646885845017, 0.05550328712348049, 0.009618489273111873,
        0.0013399957458255939, 0.00015345781032988194)  # fmt: skip
# (2 (atanh(s) / s - 1) / s^2 - 2/3) / s^2 as a polynomial of s^2, abs(s) <= 0.1716: 2^-73 of atanh(s).
ATANH = (0.3999999999999998, 0.2857142857144384, 0.22222222217789595, 0.1818181884403117, 0.15384558424603073,
         0.13336264696213299, 0.11675775887675983, 0.11981799615696455)  # fmt: skip
SQRT2 = 1.4142135623730951
TWO_THIRDS = (0.6666666666666666, 3.700743415417188e-17)


def pow(b: Builder, x: Value, y: Value) -> Value:
    """The cases of C99, annex F.9.4.4, around the power of abs(x)."""
    magnitude = b.abs(x)
    power = (_pow_float32 if b.dtype is float32 else _pow_float64)(b, magnitude, y)
    integer = b.floor(y).equals(y)
    half = 0.5 * y
    odd = integer & ~b.floor(half).equals(half)
    power = ((x < 0.0) & ~integer).select(b.value(NAN), power)
    # 0 and inf: the logarithm isn't finite.
    zero, infinite = magnitude.equals(0.0), magnitude.equals(INF)
    limit = (zero ^ (y < 0.0)).select(b.value(0.0), INF)
    power = (zero | infinite).select(limit, power)
    power = odd.select(b.copysign(power, x), power)
    power = (~x.ordered(y)).select(x + y, power)
    return (y.equals(0.0) | x.equals(1.0)).select(b.value(1.0), power)


def _pow_float32(b: Builder, x: Value, y: Value) -> Value:
    """x^y for finite x > 0, in float64: right to 0.53 ULP before special cases."""
    # Where abs(y) > 2^40 any x but 1 gives 0 or inf, and so it does for abs(y log2(x)) > 200.
    y = b.at_least(-(2.0**40), b.at_most(2.0**40, y))
    b, T = b.double(), b.T
    x, y = x.cast("fpext", b.T), y.cast("fpext", b.T)
    e, m = exponent_and_fraction(b, x, denormals=False)
    f = m - 1.0
    s = f / (f + 2.0)
    log2 = b.fma(s, b.polynomial(s * s, LOG2), e)
    t = b.at_least(-200.0, b.at_most(200.0, y * log2))
    n, word = nearest(b, t, 1.0)
    return (b.polynomial(t - n, EXP2) * power_of_two(b, word)).cast("fptrunc", T)


def _pow_float64(b: Builder, x: Value, y: Value) -> Value:
    """x^y for finite x > 0."""
    high, low = _extended_log(b, x)
    # Where abs(y) > 2^66 any x but 1 gives 0 or inf.
    y = b.at_least(-(2.0**66), b.at_most(2.0**66, y))
    product, rest = b.two_product(y, high)
    rest = b.fma(y, low, rest)
    lowest, highest = EXP_RANGE[float64]
    bounded = b.at_least(lowest, b.at_most(highest, product))
    rest = bounded.equals(product).select(rest, 0.0)
    n, word = nearest(b, bounded, LOG2_E)
    first = b.fma(n, -LN2_HIGH[float64], bounded)
    correction = b.fma(n, LN2_LOW[float64], -rest)
    r = first - correction
    rest = (first - r) - correction
    tail = b.fma(r * r, b.polynomial(r, EXP[float64]), rest)
    one, lost = b.fast_two_sum(b.value(1.0), r)
    return scale(b, one + (tail + lost), n, word)


def _extended_log(b: Builder, x: Value) -> tuple[Value, Value]:
    """(high, low): log(x) = e ln 2 + 2 s + s^3 (2/3 + s^2 p(s^2)), s = f / (f + 2), in two numbers where it matters."""
    e, m = exponent_and_fraction(b, x)
    large = m > SQRT2  # [sqrt(1/2), sqrt(2)] keeps s smallest, and with it what the roundings of p weigh
    f = large.select(0.5 * m, m) - 1.0
    e = large.select(e + 1.0, e)
    divisor, divisor_low = b.fast_two_sum(b.value(2.0), f)
    reciprocal = 1.0 / divisor
    s = f * reciprocal
    product, rounding = b.two_product(s, divisor)
    s_low = b.fma(-s, divisor_low, (f - product) - rounding) * reciprocal
    z, z_low = b.two_product(s, s)
    z_low = b.fma(s + s, s_low, z_low)
    c, c_low = b.fast_two_sum(b.value(TWO_THIRDS[0]), z * b.polynomial(z, ATANH))
    c_low = c_low + TWO_THIRDS[1]
    u, u_low = b.two_product(c, z)
    u_low = u_low + b.fma(c, z_low, c_low * z)
    v, v_low = b.two_product(s, u)
    v_low = v_low + b.fma(s, u_low, s_low * u)
    log, log_low = b.fast_two_sum(s + s, v)
    log_low = log_low + (v_low + (s_low + s_low))
    total, lost = b.fast_two_sum(e * LN2_HIGH[float64], log)
    return b.fast_two_sum(total, lost + b.fma(e, LN2_LOW[float64], log_low))
