"""Slices written to or read at shifted places, rolls, borders: NumPy's results at any size, whatever the threads."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import graphc as gc

INNER = (slice(1, -1), slice(1, -1))


def heat(u: Any) -> Any:
    u = u * 1
    for _ in range(3):
        u[INNER] += 0.2 * (u[:-2, 1:-1] + u[2:, 1:-1] + u[1:-1, :-2] + u[1:-1, 2:] - 4 * u[INNER])
    return u


def edges(u: Any) -> Any:
    """Rows and columns copied to the border, as for a zero gradient there, then a step."""
    u = u * 1
    u[0], u[-1] = u[1], u[-2]
    u[:, 0], u[:, -1] = u[:, 1], u[:, -2]
    u[INNER] = u[:-2, 1:-1] * 0.5 + u[1:-1, 2:] * 0.25
    u[::2, 1::3] = 7.0
    return u


def border_of_exponentials(u: Any) -> Any:
    """A costly value wherever it lies in the interior."""
    v = u * 0
    v[2:-1, 1:-3] = np.exp(u[2:-1, 1:-3]) if isinstance(u, np.ndarray) else gc.exp(u[2:-1, 1:-3])
    return v + u


def torus(u: Any) -> Any:
    roll = np.roll if isinstance(u, np.ndarray) else gc.roll
    for _ in range(2):
        u = roll(u, 1, 0) + 0.5 * roll(u, -2, 1) - roll(u, (3, -1), (0, 1))
    return u


def rows_one_by_one(u: Any) -> Any:
    u = u * 1
    for i in range(1, min(u.shape[0], 6)):
        u[i] = u[i - 1] * 0.5 + u[i]
    return u[1:] - u[:-1]


WORKS = [heat, edges, border_of_exponentials, torus, rows_one_by_one]
SHAPES = [(5, 7), (6, 16), (17, 33), (3, 200), (70, 130), (257, 67)]


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("work", WORKS, ids=lambda f: f.__name__)
def test_compiled_and_eager_are_numpy(work: Callable[[Any], Any], shape: tuple[int, int], dtype: Any) -> None:
    u = np.random.default_rng(1).normal(size=shape).astype(dtype)
    want = work(u)
    rtol = 20 * np.finfo(dtype).eps  # products and sums of a term are one operation in a kernel
    for f in (work, gc.compile(work)):
        got = f(gc.asarray(u)).numpy()
        np.testing.assert_allclose(got, want, rtol=rtol, atol=rtol * np.abs(want).max())


@pytest.mark.parametrize("work", WORKS, ids=lambda f: f.__name__)
def test_threads_change_nothing(work: Callable[[Any], Any]) -> None:
    u = gc.asarray(np.random.default_rng(2).normal(size=(300, 257)))
    before = gc.get_num_threads()
    found = []
    try:
        for threads in (1, 2, 5):
            gc.set_num_threads(threads)
            found.append(gc.compile(work)(u).numpy().copy())
    finally:
        gc.set_num_threads(before)
    assert np.array_equal(found[0], found[1])
    assert np.array_equal(found[0], found[2])


def test_what_stands_at_the_border_stays_at_the_border() -> None:
    """Infinities and nan of elements that aren't read don't show; those that are, do."""
    u = np.ones((20, 40), np.float32)
    u[0, 0] = np.nan
    u[-1, 5] = np.inf
    u[7, 9] = -0.0
    with np.errstate(all="ignore"):
        want = heat(u)
    np.testing.assert_array_equal(gc.compile(heat)(gc.asarray(u)).numpy(), want)


@pytest.mark.parametrize("work", [heat, edges, torus, rows_one_by_one], ids=lambda f: f.__name__)
def test_gradients(work: Callable[[Any], Any]) -> None:
    u = np.random.default_rng(3).normal(size=(6, 7))
    assert gc.gradcheck(lambda x: work(x) ** 2, [gc.tensor(u, requires_grad=True)])
    gradient = gc.grad(lambda x: (work(x) ** 2).sum())
    want = gradient(gc.asarray(u)).numpy()
    np.testing.assert_allclose(gc.compile(gradient)(gc.asarray(u)).numpy(), want, rtol=1e-12, atol=1e-12)


def test_a_step_is_one_kernel() -> None:
    """No mask, no copy of the interior beside the whole: three steps, three kernels."""
    step = gc.compile(heat)
    step(gc.asarray(np.ones((64, 64), np.float32)))
    assert step.explain().kernels.index("fused:") == 3


def test_adding_in_place_to_a_slice_writes_once() -> None:
    """u[key] += v is u[key].__iadd__(v) and then u[key] = what that gave."""
    u = gc.asarray(np.arange(12.0).reshape(3, 4))

    def f(u: gc.Tensor) -> gc.Tensor:
        u = u * 1
        u[1:, 1:-1] += 5
        return u

    compiled = gc.compile(f)
    np.testing.assert_array_equal(compiled(u).numpy(), f(u).numpy())
    assert sum(node.op.name == "put_slice" for node in compiled.graphs()[0].graph.nodes) == 1
