"""The polynomials of runtime.cpu.math approximate what they stand for as closely as their comments say."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeAlias

import mpmath
import pytest
from mpmath import mpf

from graphc.runtime.cpu.math import error_function, exponential, logarithm, power, trigonometric
from graphc.types import float32, float64

Real: TypeAlias = "mpf"


def value(coefficients: Sequence[float], x: Real) -> Real:
    return mpmath.fsum(c * x**k for k, c in enumerate(coefficients))


def atanh_part(z: Real) -> Real:
    """2 atanh(s) / s for z = s^2."""
    return 2 * mpmath.atanh(mpmath.sqrt(z)) / mpmath.sqrt(z)


LN2_HALF = 0.34658
S_MAX = 3 - 2 * 2**0.5  # (sqrt(2) - 1) / (sqrt(2) + 1)
EXP, SIN = exponential.EXP, trigonometric.SIN
NEAR, FAR = error_function.NEAR, error_function.FAR

# what, the approximation's relative (or absolute) error at x, from, to, log2 of the largest
CLAIMS: list[tuple[str, Callable[[Real], Real], float, float, float]] = [
    *(
        (f"exp {d.name}", lambda r, c=c: (1 + r + r * r * value(c, r)) / mpmath.exp(r) - 1, -LN2_HALF, LN2_HALF, bits)
        for d, c, bits in ((float32, EXP[float32], -28.1), (float64, EXP[float64], -56.9))
    ),
    ("tanh float32", lambda x: (x + x**3 * value(exponential.TANH, x * x)) / mpmath.tanh(x) - 1, 1e-3, 0.625, -27.6),
    (
        "log float32",
        lambda f: (f + f * f * value(logarithm.LOG_FLOAT32, f)) / mpmath.log1p(f) - 1,
        *(-0.25, 0.5, -27.5),
    ),
    (
        "log float64",
        lambda z: (2 + z * value(logarithm.ATANH_FLOAT64, z)) / atanh_part(z) - 1,
        *(1e-9, 0.04, -62.6),
    ),
    *(
        (f"sin {d.name}", lambda r, c=c: (r + r**3 * value(c, r * r)) / mpmath.sin(r) - 1, 1e-3, 1.5709, bits)
        for d, c, bits in ((float32, SIN[float32], -27.1), (float64, SIN[float64], -61.4))
    ),
    *(
        (f"erf near {d.name}", lambda x, c=c: (x + x * value(c, x * x)) / mpmath.erf(x) - 1, 1e-3, 1.0, bits)
        for d, c, bits in ((float32, NEAR[float32], -29.3), (float64, NEAR[float64], -56.0))
    ),
    *(
        (f"erf far {d.name}", lambda x, c=c: mpmath.exp(value(c, x)) - mpmath.erfc(x), 1.0, high, bits)
        for d, c, high, bits in ((float32, FAR[float32], 4.0, -29.8), (float64, FAR[float64], 6.0, -57.0))
    ),
    ("log2", lambda z: value(power.LOG2, z) * mpmath.ln(2) / atanh_part(z) - 1, 1e-9, 0.04, -42.3),
    ("exp2", lambda r: value(power.EXP2, r) / mpf(2) ** r - 1, -0.5, 0.5, -29.0),
    (
        "log in two parts",
        lambda z: (2 + z * (mpf(2) / 3 + z * value(power.ATANH, z))) / atanh_part(z) - 1,
        *(1e-9, S_MAX**2, -73.4),
    ),
]


@pytest.mark.parametrize(("what", "error", "low", "high", "bits"), CLAIMS, ids=[c[0] for c in CLAIMS])
def test_error(what: str, error: Callable[[Real], Real], low: float, high: float, bits: float) -> None:
    with mpmath.workprec(160):
        points = [mpf(low) + (mpf(high) - mpf(low)) * i / 500 for i in range(501)]
        worst = mpmath.log(max(abs(error(x)) for x in points if x), 2)
    # No worse than said, and not so much better that the comment would be wrong.
    assert bits - 1 < worst <= bits, f"{what}: 2^{float(worst):.2f}"


def test_inverse_pi() -> None:
    with mpmath.workprec(1400):
        words = trigonometric.INVERSE_PI_WORDS
        total = sum(word << 64 * (len(words) - 1 - i) for i, word in enumerate(words))
        assert total == int(mpmath.floor(mpf(2) ** (64 * (len(words) - 1)) / mpmath.pi))
        for parts in (*trigonometric.PI_FUSED.values(), trigonometric.PI_31_BITS):
            assert abs(sum(map(mpf, parts)) - mpmath.pi) < mpf(2) ** (-24 * 3 if parts[0] != float(mpmath.pi) else -150)
        for part in trigonometric.PI_31_BITS[:3]:
            assert int(part.hex().split("p")[0].replace("0x1.", "1"), 16) % 2 ** (53 - 31) == 0
