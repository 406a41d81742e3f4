"""exp, expm1, tanh: x = n ln 2 + r with abs(r) <= ln(2) / 2, and 2^n (1 + r + r^2 q(r)).

ln 2 stands as the sum of two numbers; the first has so many trailing zeros that its product with n is exact
even without fused multiply-add. q minimises the relative error of the exponential: 2^-28.1 (float32) and 2^-56.9
(float64).
"""

from __future__ import annotations

from graphc.runtime.cpu.math.builder import Builder, Value
from graphc.runtime.cpu.math.exponents import nearest, power_of_two, scale
from graphc.types import DType, float32, float64

LOG2_E = 1.4426950408889634
LN2_HIGH = {float32: 0.693145751953125, float64: 6.93147180369123816490e-01}
LN2_LOW = {float32: 1.42860682030941723212e-06, float64: 1.90821492927058770002e-10}
EXP: dict[DType, tuple[float, ...]] = {
    float32: (0.4999999403953552, 0.16666516661643982, 0.04166824743151665, 0.008369085378944874,
              0.0013819127343595028),
    float64: (0.5000000000000011, 0.16666666666666435, 0.04166666666652786, 0.00833333333344954,
              0.0013888888944420038, 0.000198412696966346, 2.480149194570692e-05, 2.755733605499831e-06,
              2.7630756560106477e-07, 2.5101398999668786e-08),
}  # fmt: skip
EXP_RANGE = {float32: (-104.0, 89.0), float64: (-746.0, 710.0)}  # beyond: exactly 0, inf
EXPM1_LOW = {float32: -26.0, float64: -57.0}  # below: 2^n adds nothing to -1
# tanh(x) = x + x^3 p(x^2) up to TANH_NEAR: relative error 2^-27.7.
TANH_NEAR = 0.625
TANH = (-0.3333328068256378, 0.13331405818462372, -0.0537368543446064, 0.020630549639463425, -0.005696307867765427)
TANH_HIGH = {float32: 10.0, float64: 20.0}  # above: exactly 1


def exp(b: Builder, x: Value) -> Value:
    low, high = EXP_RANGE[b.dtype]
    x = b.at_least(low, b.at_most(high, x))
    n, word = nearest(b, x, LOG2_E)
    return scale(b, 1.0 + exp_minus_one(b, reduce(b, x, n)), n, word)


def reduce(b: Builder, x: Value, n: Value) -> Value:
    """x - n ln 2."""
    return b.fma(n, -LN2_LOW[b.dtype], b.fma(n, -LN2_HIGH[b.dtype], x))


def exp_minus_one(b: Builder, r: Value) -> Value:
    """r + r^2 q(r) for abs(r) <= ln(2) / 2."""
    return b.fma(r * r, b.polynomial(r, EXP[b.dtype]), r)


def exp_bounded(b: Builder, x: Value) -> Value:
    """exp(x) where neither x nor the result needs care: abs(x) < 80 (float32) or 700 (float64), or NaN."""
    n, word = nearest(b, x, LOG2_E)
    p = 1.0 + exp_minus_one(b, reduce(b, x, n))
    return scale(b, p, n, word) if b.avx512 else p * power_of_two(b, word)


def reduce_exactly(b: Builder, x: Value) -> tuple[Value, Value, Value, Value]:
    """(r, tail, n, word): expm1(x - n ln 2) = r + tail, where r is rounded once and tail is much smaller."""
    n, word = nearest(b, x, LOG2_E)
    first = b.fma(n, -LN2_HIGH[b.dtype], x)
    correction = n * LN2_LOW[b.dtype]
    r = first - correction
    rest = (first - r) - correction
    return r, b.fma(r * r, b.polynomial(r, EXP[b.dtype]), rest), n, word


def expm1(b: Builder, x: Value) -> Value:
    """2^n (p + 1 - 2^-n) with p = expm1(r)."""
    bounded = b.at_least(EXPM1_LOW[b.dtype], b.at_most(EXP_RANGE[b.dtype][1], x))
    r, tail, n, word = reduce_exactly(b, bounded)
    # From n = 100 on 2^-n is lost beside 1, and from n = bias on it would be denormal.
    unit = 1.0 - power_of_two(b, (b.magic - b.at_most(100.0, n)).bits())
    high, lost = b.fast_two_sum(unit, r)
    return b.copysign(scale(b, high + (tail + lost), n, word), x)


def tanh(b: Builder, x: Value) -> Value:
    return (_tanh_float32 if b.dtype is float32 else _tanh_float64)(b, x)


def _tanh_float32(b: Builder, x: Value) -> Value:
    """An odd polynomial up to TANH_NEAR, 1 - 2 / (exp(2 x) + 1) beyond."""
    magnitude = b.abs(x)
    square = x * x
    near = b.fma(square * b.polynomial(square, TANH), x, x)
    bounded = b.at_most(TANH_HIGH[float32], magnitude)
    far = 1.0 - 2.0 / (exp_bounded(b, bounded + bounded) + 1.0)
    return b.copysign((magnitude < TANH_NEAR).select(near, far), x)


def _tanh_float64(b: Builder, x: Value) -> Value:
    """(p + 1 - 2^-n) / (p + 1 + 2^-n) with p = expm1(2 abs(x) - n ln 2): both sums in two parts, one division.

    A polynomial near 0 would take more operations here than the second parts do.
    """
    magnitude = b.at_most(TANH_HIGH[float64], b.abs(x))
    r, tail, _, word = reduce_exactly(b, magnitude + magnitude)
    power = power_of_two(b, 0 - word)
    p, p_low = b.fast_two_sum(r, tail)
    numerator, lost = b.fast_two_sum(1.0 - power, p)
    numerator_low = p_low + lost
    one, beyond = b.fast_two_sum(b.value(1.0), power)  # 1 + 2^-53 isn't exact, though 1 - 2^-53 is
    denominator, lost = b.fast_two_sum(one, p)
    denominator_low = p_low + (lost + beyond)
    reciprocal = 1.0 / denominator
    y = numerator * reciprocal
    if b.fused:
        residue = b.fma(-y, denominator, numerator)
    else:
        product, rounding = b.two_product(y, denominator)
        residue = (numerator - product) - rounding
    residue = residue + b.fma(-y, denominator_low, numerator_low)
    return b.copysign(b.fma(residue, reciprocal, y), x)
