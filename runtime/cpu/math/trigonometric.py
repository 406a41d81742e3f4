"""sin and cos of every finite number: x = k pi + r with abs(r) <= pi / 2, and (-1)^k sin(r).

One odd polynomial serves both (cos takes k from the half-integers): relative error 2^-27.2 to r^9 (float32),
2^-61.5 to r^17 (float64). Up to LIMIT, k pi is subtracted in parts (Cody and Waite). Beyond it one lane at a
time takes `graphc_reduce_pi` (Payne and Hanek 1983): the few bits of x / pi that matter, by exact integers.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

from graphc.runtime.cpu.math.builder import NAN, Builder, Type, Value
from graphc.runtime.cpu.math.exponents import nearest
from graphc.runtime.cpu.target import Target
from graphc.types import DType, float32, float64

INT64 = Type("i", 64, 1)
INT128 = Type("i", 128, 1)
PAIR = Type("f", 64, 2)

INVERSE_PI = 0.3183098861837907
SIN: dict[DType, tuple[float, ...]] = {
    float32: (-0.16666659712791443, 0.008333067409694195, -0.00019809552759397775, 2.605458348625689e-06),
    float64: (-0.16666666666666666, 0.008333333333333205, -0.00019841269841211473, 2.7557319211352413e-06,
              -2.505210688146865e-08, 1.6058939725305044e-10, -7.642983483448461e-13, 2.7210178038928536e-15),
}  # fmt: skip
# pi as a sum of numbers. With fused multiply-add: each rounded. Without: 31 bits each, so that products with k
# are exact, and a rest; float32 is then reduced in float64.
PI_FUSED = {
    float32: (3.1415927410125732, -8.742277657347586e-08, -3.4302490200117637e-15),
    float64: (3.141592653589793, 1.2246467991473532e-16, -2.9947698097183397e-33),
}
PI_31_BITS = (3.1415926534682512, 1.215420100718692e-10, 5.8254641096454e-20, 2.541311750664177e-29)
LIMIT = {(float32, True): 131072.0, (float32, False): 131072.0, (float64, True): 2.0**30, (float64, False): 2.0**22}


# 1 / pi in words of 64 bits; the first is its integer part, so that the word of every bit needed exists.
INVERSE_PI_WORDS = (
    0x0000000000000000, 0x517CC1B727220A94, 0xFE13ABE8FA9A6EE0, 0x6DB14ACC9E21C820, 0xFF28B1D5EF5DE2B0,
    0xDB92371D2126E970, 0x0324977504E8C90E, 0x7F0EF58E5894D39F, 0x74411AFA975DA242, 0x74CE38135A2FBF20,
    0x9CC8EB1CC1A99CFA, 0x4E422FC5DEFC941D, 0x8FFC4BFFEF02CC07, 0xF79788C5AD05368F, 0xB69B3F6793E584DB,
    0xA7A31FB34F2FF516, 0xBA93DD63F5F2F8BD, 0x9E839CFBC5294975, 0x35FDAFD88FC6AE84, 0x2B0198237E3DB5D5,
)  # fmt: skip


def sin(b: Builder, x: Value) -> Value:
    y = _sine(b, x, 0)
    return (y.bits() ^ (x.bits() & b.integer(1 << (b.I.bits - 1)))).floating()


def cos(b: Builder, x: Value) -> Value:
    """cos(x) = sin(x + pi / 2): k = j - 1/2 for an integer j."""
    return _sine(b, x, 1)


def _sine(b: Builder, x: Value, halves: int) -> Value:
    """sin(abs(x) + halves * pi / 2). The sign of 0 is lost less easily if that of x is put back at the end."""
    x = b.abs(x)
    j, word = nearest(b, x, INVERSE_PI, 0.5 * halves)
    parts = _subtract(b, x, j - 0.5 if halves else j)
    huge = x > LIMIT[b.dtype, b.fused]

    def reduce_lanes() -> list[Value]:
        type = parts[0].type
        whole = Type(type.kind, type.bits, len(parts) * b.lanes)
        lanes = b.call_helper(f"graphc_reduce_pi_{b.T.suffix}", whole, [x, b.value(halves, INT64)])
        exact = [b.part(lanes, i * b.lanes, type) for i in range(len(parts))]
        return [huge.select(new, old) for new, old in zip([*exact, b.integer(0)], [*parts, word], strict=True)]

    *parts, word = b.rarely(b.any(huge), [*parts, word], reduce_lanes)
    y = _sine_near_zero(b, parts, SIN[b.dtype])
    if y.type != b.T:
        y = y.cast("fptrunc", b.T)
    return (y.bits() ^ (word << (b.I.bits - 1))).floating()


def _sine_near_zero(b: Builder, parts: Sequence[Value], coefficients: Sequence[float]) -> Value:
    """The sine of r, or of r + tail, for abs(r) <= pi / 2: r (1 + w) + tail cos(r), w = z (c0 + z q(z)), z = r^2.

    Near pi / 2 an error of w counts one and a half times: so the rounding error of z is kept.
    The tail is so small that 1 - z (2 / pi)^2 will do for its cosine.
    """
    r, *tails = parts
    z, z_low = b.two_product(r, r)
    first, *others = coefficients
    w = b.fma(z, first, b.fma(z_low, first, (z * z) * b.polynomial(z, others)))
    if not tails:
        return b.fma(r, w, r)
    return r + b.fma(r, w, tails[0] * b.fma(z, -0.405, 1.0))


def _subtract(b: Builder, x: Value, k: Value) -> list[Value]:
    """[r] (float32) or [r, tail] with r + tail = x - k pi, for 0 <= x <= LIMIT. For float32 without fused
    multiply-add r is float64."""
    if b.fused:
        first, second, third = PI_FUSED[b.dtype]
        # Exact from x = 1 on: both are multiples of half the last bit of `first`, and the result is small. Below, cos
        # loses up to half a bit of pi / 2 - x here.
        near = b.fma(k, -first, x)
        if b.dtype is float32:
            return [b.fma(k, -third, b.fma(k, -second, near))]
        product, rounding = b.two_product(k, b.value(second))
        r, rest = b.fast_two_sum(near, -product)
        return [r, rest - b.fma(k, third, rounding)]
    if b.dtype is float32:
        wide = b.double()
        x, k = x.cast("fpext", wide.T), k.cast("fpext", wide.T)
        return [(x - k * PI_31_BITS[0]) - k * (PI_31_BITS[1] + PI_31_BITS[2])]
    r, tail = b.two_sum(x - k * PI_31_BITS[0], k * -PI_31_BITS[1])
    r, rest = b.two_sum(r, k * -PI_31_BITS[2])
    return [r, (tail + rest) + k * -PI_31_BITS[3]]


def table() -> str:
    """The text of 1 / pi."""
    words = ", ".join(f"i64 {word}" for word in INVERSE_PI_WORDS)
    return f"@graphc_inverse_pi = internal unnamed_addr constant [{len(INVERSE_PI_WORDS)} x i64] [{words}]\n\n"


def reduction(target: Target) -> Builder:
    """<2 x double> graphc_reduce_pi(double x, i64 halves): (r, tail), r + tail = (-1)^j (x + halves pi / 2 - j pi).

    x > 0; j is the nearest integer. (nan, nan) if x is inf or NaN. With x = m 2^e, the bits of 2^e / pi worth 2 and
    more don't matter (m is an integer); the 192 after these times m give the remainder of x / pi to 2^-127,
    and no double is nearer than 2^-62 to a multiple of pi / 2 (Muller et al., Handbook of Floating-Point Arithmetic).
    """
    b = Builder(target, float64, 1)
    x = b.parameter("x")
    halves = b.parameter("halves", INT64)
    field = x.bits() >> 52
    m = ((x.bits() & ((1 << 52) - 1)) | (1 << 52)).cast("zext", INT128)
    bit = field - (1075 - 63)
    bit = (bit > 0).select(bit, 0)
    words = [b.load("@graphc_inverse_pi", (bit >> 6) + i) for i in range(4)]
    window = [
        b.call("llvm.fshl.i64", INT64, [high, low, bit & 63]).cast("zext", INT128) for high, low in pairwise(words)
    ]
    turns = ((m * window[0]) << 64) + m * window[1] + ((m * window[2]) >> 64)  # x / pi mod 2, times 2^127
    turns = turns + (halves.cast("zext", INT128) << 126)
    odd = ((turns + (1 << 126)) >> 127).cast("trunc", INT64)
    remainder = turns << 1
    negative = remainder < 0
    remainder = negative.select(0 - remainder, remainder)
    zeros = b.call("llvm.ctlz.i128", INT128, [remainder], ["i1 false"]) & 127
    remainder = b.emit(f"shl {INT128} {remainder.name}, {zeros.name}", INT128)
    sign = (odd ^ negative.cast("zext", INT64)) << 63
    unit = ((b.integer(1023 - 53) - zeros.cast("trunc", INT64)) << 52 | sign).floating()
    high = (remainder >> 75).cast("trunc", INT64).cast("sitofp", b.T) * unit
    low = ((remainder >> 22).cast("trunc", INT64) & ((1 << 53) - 1)).cast("sitofp", b.T) * (unit * 2.0**-53)
    pi, pi_rest, _ = PI_FUSED[float64]
    r, tail = b.two_product(high, b.value(pi))
    tail = tail + (high * pi_rest + low * pi)
    finite = field < 2047
    pair = b.insert(Value(b, "poison", PAIR), finite.select(r, NAN), 0)
    b.result(b.insert(pair, finite.select(tail, NAN), 1))
    return b


def reduction_of_lanes(target: Target, dtype: DType, lanes: int) -> Builder:
    """graphc_reduce_pi_<lanes x T>(<lanes x T> x, i64 halves): what `_subtract` gives of every lane, in one vector:
    r of all lanes, then every tail."""
    b = Builder(target, dtype, lanes)
    x = b.parameter("x")
    halves = b.parameter("halves", INT64)
    scalar, double = Type("f", b.T.bits, 1), Type("f", 64, 1)
    count = 1 if dtype is float32 else 2
    rounded = dtype is float32 and b.fused
    whole = Value(b, "poison", Type("f", scalar.bits if rounded else 64, count * lanes))
    for lane in range(lanes):
        number = b.part(x, lane, scalar)
        if dtype is float32:
            number = number.cast("fpext", double)
        pair = b.call_helper("graphc_reduce_pi", PAIR, [number, halves])
        for i in range(count):
            part = b.part(pair, i, double)
            whole = b.insert(whole, part.cast("fptrunc", scalar) if rounded else part, i * lanes + lane)
    b.result(whole)
    return b
