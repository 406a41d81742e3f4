"""Scientific loops in NumPy style: stencils, pairwise forces and distances, masked iterations, a mixture's likelihood.

Every formula is what a user of NumPy writes: slices, broadcasting, where, in-place updates. Numba is given plain
loops over the elements, parallel over the outermost, as one writes them for it (loops.py).
"""

from __future__ import annotations

from typing import Any

import numpy as np

from tests.bench import loops
from tests.bench.work import Work

# ------------------------------------------------------------------------------------------------ stencils


def _added(xp: Any, u: Any, change: Any) -> Any:
    """u with its interior changed: in place where arrays can be, which its maker made for us."""
    inner = (slice(1, -1), slice(1, -1))
    if hasattr(u, "at"):  # JAX
        return u.at[inner].add(change)
    if hasattr(xp, "inc_subtensor"):  # PyTensor
        return xp.inc_subtensor(u[inner], change)
    u[inner] += change
    return u


def _laplacian(u: Any) -> Any:
    """Five points, of the interior."""
    return u[:-2, 1:-1] + u[2:, 1:-1] + u[1:-1, :-2] + u[1:-1, 2:] - 4 * u[1:-1, 1:-1]


def heat(xp: Any, u: Any, steps: int = 10) -> Any:
    """Explicit steps of the heat equation; the boundary is held."""
    u = u * 1
    for _ in range(steps):
        u = _added(xp, u, 0.2 * _laplacian(u))
    return u


def wave(xp: Any, u: Any, before: Any, steps: int = 10) -> Any:
    """Leapfrog steps of the wave equation; the boundary is held at what it is in `before` and `u` in turn."""
    u, before = u * 1, before * 1
    for _ in range(steps):
        change = 2 * (u - before)[1:-1, 1:-1] + 0.3 * _laplacian(u)
        before, u = u, _added(xp, before, change)
    return u


def life(xp: Any, cells: Any, steps: int = 4) -> Any:
    """Conway's Game of Life on a torus, by rolls. cells: 0 or 1."""
    alive, dead = xp.ones_like(cells), xp.zeros_like(cells)
    for _ in range(steps):
        rows = cells + xp.roll(cells, 1, 0) + xp.roll(cells, -1, 0)
        near = rows + xp.roll(rows, 1, 1) + xp.roll(rows, -1, 1)
        cells = xp.where((near == 3) | ((near == 4) & (cells == 1)), alive, dead)
    return cells


# ------------------------------------------------------------------------------------------------ pairs


def nbody(xp: Any, x: Any, y: Any, z: Any, mass: Any) -> Any:
    """Softened gravitational accelerations of all bodies."""
    dx, dy, dz = x[None, :] - x[:, None], y[None, :] - y[:, None], z[None, :] - z[:, None]
    r2 = dx * dx + dy * dy + dz * dz + 1e-3
    pull = mass[None, :] / (r2 * xp.sqrt(r2))
    return (dx * pull).sum(1), (dy * pull).sum(1), (dz * pull).sum(1)


def nearest(xp: Any, points: Any, centers: Any) -> Any:
    """k-means: squared distances by broadcasting, the nearest center, and how far all points are from theirs."""
    distances = ((points[:, None, :] - centers[None, :, :]) ** 2).sum(-1)
    return xp.argmin(distances, 1), xp.min(distances, 1).sum()


def correlation(xp: Any, x: Any) -> Any:
    """The correlation matrix of the columns."""
    centered = x - x.mean(0)
    covariance = centered.T @ centered
    scale = 1 / xp.sqrt((centered * centered).sum(0))
    return covariance * scale[:, None] * scale[None, :]


def rbf(xp: Any, a: Any, b: Any, weights: Any) -> Any:
    """A Gaussian kernel between all pairs, applied to weights."""
    d2 = ((a[:, None, :] - b[None, :, :]) ** 2).sum(-1)
    return xp.exp(-0.5 * d2) @ weights


# ------------------------------------------------------------------------------------------------ masked iterations


def mandelbrot(xp: Any, a: Any, b: Any, steps: int = 50) -> Any:
    """How many of `steps` iterations of z^2 + c stay bounded."""
    re, im, count = a * 0, b * 0, a * 0
    for _ in range(steps):
        re2, im2 = re * re, im * im
        inside = re2 + im2 < 4
        re, im = xp.where(inside, re2 - im2 + a, re), xp.where(inside, 2 * re * im + b, im)
        count = count + inside
    return count


def newton(xp: Any, a: Any, b: Any, steps: int = 20) -> Any:
    """Newton's method for z^3 = 1; where it has converged, it stands still."""
    for _ in range(steps):
        a2, b2 = a * a, b * b
        re, im = a * (a2 - 3 * b2) - 1, b * (3 * a2 - b2)  # z^3 - 1
        da, db = 3 * (a2 - b2), 6 * a * b
        norm = da * da + db * db + 1e-12
        moving = re * re + im * im > 1e-10
        a = xp.where(moving, a - (re * da + im * db) / norm, a)
        b = xp.where(moving, b - (im * da - re * db) / norm, b)
    return a, b


def predators(xp: Any, prey: Any, hunters: Any, steps: int = 20, h: float = 0.02) -> Any:
    """Lotka-Volterra by the classical Runge-Kutta method, for many populations."""

    def rates(x: Any, y: Any) -> tuple[Any, Any]:
        return 1.1 * x - 0.4 * x * y, 0.1 * x * y - 0.4 * y

    x, y = prey, hunters
    for _ in range(steps):
        ax, ay = rates(x, y)
        bx, by = rates(x + h / 2 * ax, y + h / 2 * ay)
        cx, cy = rates(x + h / 2 * bx, y + h / 2 * by)
        dx, dy = rates(x + h * cx, y + h * cy)
        x, y = x + h / 6 * (ax + 2 * bx + 2 * cx + dx), y + h / 6 * (ay + 2 * by + 2 * cy + dy)
    return x, y


# ------------------------------------------------------------------------------------------------ likelihood


def mixture(xp: Any, points: Any, means: Any, log_scales: Any, logits: Any) -> Any:
    """The log-likelihood of points under a mixture of Gaussians with diagonal covariance."""
    z = (points[:, None, :] - means[None, :, :]) * xp.exp(-log_scales)[None, :, :]
    weights = logits - xp.log(xp.exp(logits).sum())
    each = weights[None, :] - 0.5 * (z * z).sum(-1) - log_scales.sum(-1)[None, :]
    top = xp.max(each, 1)
    return (top + xp.log(xp.exp(each - top[:, None]).sum(1))).sum()


# ------------------------------------------------------------------------------------------------ works


def _normals(*shapes: tuple[int, ...]) -> Any:
    return lambda rng, dtype: [rng.normal(size=shape).astype(dtype) for shape in shapes]


def _between(low: float, high: float, *shapes: tuple[int, ...]) -> Any:
    return lambda rng, dtype: [rng.uniform(low, high, shape).astype(dtype) for shape in shapes]


def _plane(n: int) -> Any:
    """Real and imaginary parts of a piece of the complex plane."""
    x, y = np.meshgrid(np.linspace(-2, 0.6, n), np.linspace(-1.2, 1.2, n))
    return lambda rng, dtype: [x.astype(dtype), y.astype(dtype)]


def _cells(n: int) -> Any:
    return lambda rng, dtype: [(rng.random((n, n)) < 0.4).astype(dtype)]


def _works(grid: int, bodies: int, points: int, columns: int, pixels: int, mixed: int, dtype: str) -> list[Work]:
    bits = np.dtype(dtype).itemsize
    cells, area = grid**2, pixels**2
    square, vector, few = (grid, grid), (bodies,), (bodies, 8)

    def work(name: str, formula: Any, arrays: Any, loop: Any = None, **more: Any) -> Work:
        own = {"numba": loop} if loop else {}
        return Work(f"{name} {dtype}", "science", arrays, formula, dtype=dtype, own=own, **more)

    border = 0.02  # masked iterations are chaotic at the borders of their sets
    return [
        work(f"heat {grid}^2, 10 steps", heat, _normals(square), loops.heat, bytes=2 * cells * bits),
        work(f"wave {grid}^2, 10 steps", wave, _normals(square, square), loops.wave, bytes=3 * cells * bits),
        work(f"Game of Life {grid}^2, 4 steps", life, _cells(grid), loops.life, bytes=2 * cells * bits),
        work(
            f"n-body forces {bodies}", nbody, _between(0.5, 1.5, vector, vector, vector, vector), loops.nbody,
            flops=18 * bodies**2, rtol=1e-3,
        ),
        work(
            f"k-means {points} x 16, 32 centers", nearest, _normals((points, 16), (32, 16)), loops.nearest,
            flops=3 * 16 * 32 * points,
        ),
        work(
            f"correlation 1000 x {columns}", correlation, _normals((1000, columns)), loops.correlation,
            flops=1000 * columns**2,
        ),
        work(f"Gaussian kernel {bodies} x 8", rbf, _normals(few, few, vector), loops.rbf, flops=24 * bodies**2),
        work(
            f"Mandelbrot {pixels}^2, 50 steps", mandelbrot, _plane(pixels), loops.mandelbrot,
            flops=500 * area, chaotic=border,
        ),
        work(f"Newton {pixels}^2, 20 steps", newton, _plane(pixels), loops.newton, flops=500 * area, chaotic=border),
        work(
            f"Lotka-Volterra {cells}, 20 steps", predators, _between(1, 9, (cells,), (cells,)), loops.predators,
            flops=1200 * cells,
        ),
        work(
            f"mixture {mixed} x 4, 8 components, gradient", mixture, _normals((mixed, 4), (8, 4), (8, 4), (8,)),
            wrt=(1, 2, 3), rtol=1e-3,
        ),
    ]  # fmt: skip


WORKS = [work for dtype in ("float32", "float64") for work in _works(512, 2048, 20_000, 256, 512, 10_000, dtype)]
SMALL = [work for dtype in ("float32", "float64") for work in _works(37, 67, 131, 21, 35, 129, dtype)]
