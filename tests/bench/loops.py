"""The scientific works as Numba's users write them: plain loops, parallel over the outermost, compiled once."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from .work import Run


def heat(library: Any, u: np.ndarray) -> Run:
    numba = library.module
    quarter, four = u.dtype.type(0.2), u.dtype.type(4)

    @numba.njit(parallel=True)
    def steps(u: Any) -> Any:
        a, b = u.copy(), u.copy()
        n, m = u.shape
        for _ in range(10):
            for i in numba.prange(1, n - 1):
                for j in range(1, m - 1):
                    b[i, j] = a[i, j] + quarter * (
                        a[i - 1, j] + a[i + 1, j] + a[i, j - 1] + a[i, j + 1] - four * a[i, j]
                    )
            a, b = b, a
        return a

    return lambda: steps(u)


def wave(library: Any, u: np.ndarray, before: np.ndarray) -> Run:
    numba = library.module
    c, two, four = u.dtype.type(0.3), u.dtype.type(2), u.dtype.type(4)

    @numba.njit(parallel=True)
    def steps(u: Any, before: Any) -> Any:
        a, b = u.copy(), before.copy()
        n, m = u.shape
        for _ in range(10):
            for i in numba.prange(1, n - 1):
                for j in range(1, m - 1):
                    b[i, j] = (
                        two * a[i, j]
                        - b[i, j]
                        + c * (a[i - 1, j] + a[i + 1, j] + a[i, j - 1] + a[i, j + 1] - four * a[i, j])
                    )
            a, b = b, a
        return a

    return lambda: steps(u, before)


def life(library: Any, cells: np.ndarray) -> Run:
    numba = library.module
    zero, one, three, four = (cells.dtype.type(v) for v in (0, 1, 3, 4))

    @numba.njit(parallel=True)
    def steps(cells: Any) -> Any:
        a, b = cells.copy(), np.empty_like(cells)
        n, m = cells.shape
        for _ in range(4):
            for i in numba.prange(n):
                up, down = (i - 1) % n, (i + 1) % n
                for j in range(m):
                    left, right = j - 1 if j else m - 1, j + 1 if j < m - 1 else 0
                    near = (
                        a[up, left] + a[up, j] + a[up, right] + a[i, left] + a[i, j] + a[i, right]
                        + a[down, left] + a[down, j] + a[down, right]
                    )  # fmt: skip
                    b[i, j] = one if near == three or (near == four and a[i, j] == one) else zero
            a, b = b, a
        return a

    return lambda: steps(cells)


def nbody(library: Any, x: np.ndarray, y: np.ndarray, z: np.ndarray, mass: np.ndarray) -> Run:
    numba = library.module
    soft, zero = x.dtype.type(1e-3), x.dtype.type(0)

    @numba.njit(parallel=True, fastmath=True)
    def forces(x: Any, y: Any, z: Any, mass: Any) -> Any:
        ax, ay, az = np.empty_like(x), np.empty_like(x), np.empty_like(x)
        n = x.size
        for i in numba.prange(n):
            fx = fy = fz = zero
            for j in range(n):
                dx, dy, dz = x[j] - x[i], y[j] - y[i], z[j] - z[i]
                r2 = dx * dx + dy * dy + dz * dz + soft
                pull = mass[j] / (r2 * np.sqrt(r2))
                fx += dx * pull
                fy += dy * pull
                fz += dz * pull
            ax[i], ay[i], az[i] = fx, fy, fz
        return ax, ay, az

    return lambda: forces(x, y, z, mass)


def nearest(library: Any, points: np.ndarray, centers: np.ndarray) -> Run:
    numba = library.module
    most = points.dtype.type(math.inf)

    @numba.njit(parallel=True, fastmath={"reassoc", "contract"})
    def assign(points: Any, centers: Any) -> Any:
        n, d = points.shape
        which, far = np.empty(n, np.int64), np.empty_like(points[:, 0])
        columns = np.ascontiguousarray(centers.T)
        k = centers.shape[0]
        for i in numba.prange(n):
            distances = np.zeros(k, points.dtype)
            for e in range(d):
                p = points[i, e]
                for c in range(k):
                    distances[c] += (p - columns[e, c]) * (p - columns[e, c])
            best, at = most, 0
            for c in range(k):
                if distances[c] < best:
                    best, at = distances[c], c
            which[i], far[i] = at, best
        return which, far.sum()

    return lambda: assign(points, centers)


def correlation(library: Any, x: np.ndarray) -> Run:
    numba = library.module

    @numba.njit(parallel=True)
    def matrix(x: Any) -> Any:
        n, d = x.shape
        mean, scale = np.zeros(d, x.dtype), np.zeros(d, x.dtype)
        for i in range(n):
            for j in range(d):
                mean[j] += x[i, j]
        mean /= n
        centered = np.empty_like(x)
        for i in numba.prange(n):
            for j in range(d):
                centered[i, j] = x[i, j] - mean[j]
        for i in range(n):
            for j in range(d):
                scale[j] += centered[i, j] * centered[i, j]
        scale = (1 / np.sqrt(scale)).astype(x.dtype)
        out = np.dot(centered.T, centered)
        for i in numba.prange(d):
            for j in range(d):
                out[i, j] *= scale[i] * scale[j]
        return out

    return lambda: matrix(x)


def rbf(library: Any, a: np.ndarray, b: np.ndarray, weights: np.ndarray) -> Run:
    numba = library.module
    zero, half = a.dtype.type(0), a.dtype.type(-0.5)

    @numba.njit(parallel=True, fastmath={"reassoc", "contract"})
    def apply(a: Any, b: Any, weights: Any) -> Any:
        out = np.empty_like(a[:, 0])
        columns = np.ascontiguousarray(b.T)
        for i in numba.prange(a.shape[0]):
            total = zero
            for j in range(b.shape[0]):
                d2 = zero
                for e in range(a.shape[1]):
                    d2 += (a[i, e] - columns[e, j]) * (a[i, e] - columns[e, j])
                total += math.exp(half * d2) * weights[j]
            out[i] = total
        return out

    return lambda: apply(a, b, weights)


def mandelbrot(library: Any, a: np.ndarray, b: np.ndarray) -> Run:
    numba = library.module
    two, four = a.dtype.type(2), a.dtype.type(4)

    @numba.njit(parallel=True)
    def counts(a: Any, b: Any) -> Any:
        out = np.empty_like(a)
        for i in numba.prange(a.shape[0]):
            for j in range(a.shape[1]):
                re = im = a.dtype.type(0)
                count = 0
                for _ in range(50):
                    re2, im2 = re * re, im * im
                    if re2 + im2 >= four:
                        break
                    re, im = re2 - im2 + a[i, j], two * re * im + b[i, j]
                    count += 1
                out[i, j] = count
        return out

    return lambda: counts(a, b)


def newton(library: Any, a: np.ndarray, b: np.ndarray) -> Run:
    numba = library.module
    one, three, six = (a.dtype.type(v) for v in (1, 3, 6))
    tiny, near = a.dtype.type(1e-12), a.dtype.type(1e-10)

    @numba.njit(parallel=True)
    def roots(a: Any, b: Any) -> Any:
        x, y = np.empty_like(a), np.empty_like(b)
        for i in numba.prange(a.shape[0]):
            for j in range(a.shape[1]):
                p, q = a[i, j], b[i, j]
                for _ in range(20):
                    p2, q2 = p * p, q * q
                    re, im = p * (p2 - three * q2) - one, q * (three * p2 - q2)
                    if re * re + im * im <= near:
                        break
                    da, db = three * (p2 - q2), six * p * q
                    norm = da * da + db * db + tiny
                    p, q = p - (re * da + im * db) / norm, q - (im * da - re * db) / norm
                x[i, j], y[i, j] = p, q
        return x, y

    return lambda: roots(a, b)


def predators(library: Any, prey: np.ndarray, hunters: np.ndarray) -> Run:
    numba = library.module
    h, half, sixth, two = (prey.dtype.type(v) for v in (0.02, 0.01, 0.02 / 6, 2))
    grow, eaten, feed, die = (prey.dtype.type(v) for v in (1.1, 0.4, 0.1, 0.4))

    @numba.njit(parallel=True)
    def evolve(prey: Any, hunters: Any) -> Any:
        xs, ys = np.empty_like(prey), np.empty_like(hunters)
        for i in numba.prange(prey.size):
            x, y = prey[i], hunters[i]
            for _ in range(20):
                ax, ay = grow * x - eaten * x * y, feed * x * y - die * y
                px, py = x + half * ax, y + half * ay
                bx, by = grow * px - eaten * px * py, feed * px * py - die * py
                px, py = x + half * bx, y + half * by
                cx, cy = grow * px - eaten * px * py, feed * px * py - die * py
                px, py = x + h * cx, y + h * cy
                dx, dy = grow * px - eaten * px * py, feed * px * py - die * py
                x, y = x + sixth * (ax + two * bx + two * cx + dx), y + sixth * (ay + two * by + two * cy + dy)
            xs[i], ys[i] = x, y
        return xs, ys

    return lambda: evolve(prey, hunters)
