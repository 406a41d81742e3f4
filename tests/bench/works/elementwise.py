"""Chains of elementwise operations: option prices, activations and losses with their gradients, sines, powers."""

from __future__ import annotations

from typing import Any

import numpy as np

from tests.bench.work import Run, Work

RATE, SIGMA = 0.03, 0.25


def black_scholes(xp: Any, spot: Any, strike: Any, years: Any) -> Any:
    """Prices of a European call and put."""
    spread = SIGMA * xp.sqrt(years)
    d1 = (xp.log(spot / strike) + (RATE + SIGMA * SIGMA / 2) * years) / spread
    d2 = d1 - spread
    phi1 = 0.5 * (1 + xp.erf(d1 * 0.7071067811865476))
    phi2 = 0.5 * (1 + xp.erf(d2 * 0.7071067811865476))
    present = strike * xp.exp(-RATE * years)
    call = spot * phi1 - present * phi2
    return call, call - spot + present


def gelu(xp: Any, x: Any, weight: Any) -> Any:
    """A weighted sum of GELUs (by tanh): its gradient in x is GELU's backward pass with the weight as cotangent."""
    return (0.5 * x * (1 + xp.tanh(0.7978845608028654 * (x + 0.044715 * (x * x * x)))) * weight).sum()


def gelu_erf(xp: Any, x: Any, weight: Any) -> Any:
    """A weighted sum of GELUs by erf."""
    return (0.5 * x * (1 + xp.erf(x * 0.7071067811865476)) * weight).sum()


def silu(xp: Any, x: Any, weight: Any) -> Any:
    """A weighted sum of x * sigmoid(x)."""
    return (x / (1 + xp.exp(-x)) * weight).sum()


def mish(xp: Any, x: Any, weight: Any) -> Any:
    """A weighted sum of x * tanh(softplus(x))."""
    return (x * xp.tanh(xp.log1p(xp.exp(x))) * weight).sum()


def logistic_loss(xp: Any, x: Any, label: Any) -> Any:
    """Binary cross-entropy of logits, as a loop over samples would write it."""
    p = 1 / (1 + xp.exp(-x))
    return -(label * xp.log(p) + (1 - label) * xp.log(1 - p)).sum()


def box_muller(xp: Any, u: Any, v: Any) -> Any:
    """Two normal numbers from two uniform ones."""
    radius, angle = xp.sqrt(-2 * xp.log(u)), 6.283185307179586 * v
    return radius * xp.cos(angle), radius * xp.sin(angle)


def powers(xp: Any, x: Any, y: Any) -> Any:
    """A potential with powers, constant and not."""
    r = x * x + y
    return 4 * (r**-3 - r**-1.5) + r**0.5 * y**x


def polynomial_trig(xp: Any, x: Any, y: Any) -> Any:
    """Twenty operations."""
    a = x * x + y
    b = xp.sin(a) * 0.5 + xp.cos(x)
    c = (a * b - x) * (b + 1.5)
    d = xp.exp(-(c * c))
    e = d * a + b * c
    return (e * 0.25 + d) * y - x


def _numba_black_scholes(library: Any, *arrays: np.ndarray) -> Run:
    import math

    numba = library.module
    dtype = arrays[0].dtype.type
    half, one, scale = dtype(0.5), dtype(1), dtype(0.7071067811865476)
    rate, sigma, drift = dtype(RATE), dtype(SIGMA), dtype(RATE + SIGMA * SIGMA / 2)

    @numba.njit(parallel=True, fastmath=False)
    def prices(spot: Any, strike: Any, years: Any) -> Any:
        call, put = np.empty_like(spot), np.empty_like(spot)
        for i in numba.prange(spot.size):
            spread = sigma * math.sqrt(years[i])
            d1 = (math.log(spot[i] / strike[i]) + drift * years[i]) / spread
            d2 = d1 - spread
            present = strike[i] * math.exp(-rate * years[i])
            call[i] = spot[i] * half * (one + math.erf(d1 * scale)) - present * half * (one + math.erf(d2 * scale))
            put[i] = call[i] - spot[i] + present
        return call, put

    return lambda: prices(*arrays)


def _numba_polynomial(library: Any, *arrays: np.ndarray) -> Run:
    import math

    numba = library.module
    half, quarter, shift = (arrays[0].dtype.type(v) for v in (0.5, 0.25, 1.5))

    @numba.njit(parallel=True, fastmath=False)
    def chain(x: Any, y: Any) -> Any:
        out = np.empty_like(x)
        for i in numba.prange(x.size):
            a = x[i] * x[i] + y[i]
            b = math.sin(a) * half + math.cos(x[i])
            c = (a * b - x[i]) * (b + shift)
            d = math.exp(-(c * c))
            out[i] = ((d * a + b * c) * quarter + d) * y[i] - x[i]
        return out

    return lambda: chain(*arrays)


def _prices(n: int) -> Any:
    return lambda rng, dtype: [rng.uniform(low, high, n).astype(dtype) for low, high in ((10, 50), (10, 50), (0.2, 2))]


def _normals(n: int) -> Any:
    return lambda rng, dtype: [rng.normal(size=n).astype(dtype) for _ in range(2)]


def _uniform(n: int) -> Any:
    return lambda rng, dtype: [rng.uniform(0.01, 1.0, n).astype(dtype) for _ in range(2)]


def _logits(n: int) -> Any:
    return lambda rng, dtype: [rng.normal(size=n).astype(dtype), (rng.random(n) < 0.5).astype(dtype)]


def _works(n: int, dtype: str) -> list[Work]:
    size = np.dtype(dtype).itemsize * n
    line = "elementwise" if n > 10_000 else "elementwise-small"
    tail = f"{n:.0e} {dtype}".replace("e+0", "e")

    def gradient(name: str, arrays: Any, formula: Any) -> Work:
        return Work(f"{name} {tail}", line, arrays(n), formula, wrt=(0,), dtype=dtype, bytes=3 * size)

    return [
        Work(
            f"Black-Scholes {tail}", line, _prices(n), black_scholes, dtype=dtype,
            own={"numba": _numba_black_scholes}, bytes=5 * size,
        ),
        gradient("GELU forward+backward", _normals, gelu),
        Work(
            f"polynomial-trig {tail}", line, _normals(n), polynomial_trig, dtype=dtype,
            own={"numba": _numba_polynomial}, bytes=3 * size,
        ),
        gradient("GELU by erf, forward+backward", _normals, gelu_erf),
        gradient("SiLU forward+backward", _normals, silu),
        gradient("mish forward+backward", _normals, mish),
        gradient("logistic loss with gradient", _logits, logistic_loss),
        Work(f"Box-Muller {tail}", line, _uniform(n), box_muller, dtype=dtype, bytes=4 * size),
        Work(f"powers {tail}", line, _uniform(n), powers, dtype=dtype, bytes=3 * size),
    ]  # fmt: skip


WORKS = [work for n in (1_000, 100_000, 10_000_000) for dtype in ("float32", "float64") for work in _works(n, dtype)]
SMALL = [work for dtype in ("float32", "float64") for work in _works(1_037, dtype)]
