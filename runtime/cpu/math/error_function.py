"""erf: an odd polynomial up to 1, and 1 - exp(q(abs(x))) beyond, where q is close to log(erfc).

Errors: float32 2^-29.4 relative, 2^-29.8 absolute; float64 2^-56.0 relative, 2^-57.1 absolute.
"""

from __future__ import annotations

from graphc.ops import special
from graphc.runtime.cpu.math.builder import Builder, Value
from graphc.runtime.cpu.math.exponential import exp_bounded
from graphc.types import DType, float32, float64

ERF_HIGH = {float32: special.HIGH, float64: 6.0}  # above: exactly 1
# erf(x) / x - 1 as a polynomial of x^2 on [0, 1].
NEAR: dict[DType, tuple[float, ...]] = {
    float32: special.NEAR,
    float64: (0.12837916709551256, -0.3761263890318341, 0.11283791670942123, -0.026866170643087082,
              0.005223977607706533, -0.0008548326064390734, 0.00012055298807338144, -1.4924828015847451e-05,
              1.6448682156889367e-06, -1.6218784058985265e-07, 1.3766454400864025e-08, -7.884522425575496e-10),
}  # fmt: skip
# log(erfc(x)) on [1, ERF_HIGH], weighted by erfc(x).
FAR: dict[DType, tuple[float, ...]] = {
    float32: special.FAR,
    float64: (-5.132662470886445e-07, -1.1283739914743596, -0.6366440561507724, -0.10270228691586197,
              0.01898803656873103, 0.00041354417804326135, -0.001918953675437994, 0.0007730496920935081,
              -0.0001365584531686649, -1.9521640312489257e-05, 2.2532387433526437e-05, -8.578625612836453e-06,
              2.114760747634485e-06, -3.695579326137616e-07, 4.593215590928507e-08, -3.889910837146511e-09,
              2.0202819627419276e-10, -4.86493445128879e-12),
}  # fmt: skip


def erf(b: Builder, x: Value) -> Value:
    magnitude = b.at_most(ERF_HIGH[b.dtype], b.abs(x))
    near = b.fma(b.polynomial(x * x, NEAR[b.dtype]), x, x)
    far = 1.0 - exp_bounded(b, b.polynomial(magnitude, FAR[b.dtype]))
    return (magnitude > 1.0).select(b.copysign(far, x), near)
