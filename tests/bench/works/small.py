"""Graphs of about ten operations on 1 to 100 elements, value and gradients: what is measured is the call."""

from __future__ import annotations

from typing import Any

from tests.bench.work import Work


def chain(xp: Any, x: Any, y: Any) -> Any:
    """A chain of elementwise operations, summed."""
    a = xp.sin(x * y) + x
    b = xp.exp(-(a * a)) * 0.5 + y
    return (b * a - x).sum()


def normalised(xp: Any, x: Any, y: Any) -> Any:
    """The inner product of a vector, moved halfway to its mean and scaled to length one, with another."""
    centred = x - x.sum() * (0.5 / x.shape[0])
    length = xp.sqrt((centred * centred).sum() + 1e-3)
    return (centred / length * y).sum()


def perceptron(xp: Any, x: Any, w1: Any, b1: Any, w2: Any, target: Any) -> Any:
    """The squared error of a perceptron with one hidden layer, for one sample."""
    hidden = xp.tanh(x @ w1 + b1)
    error = hidden @ w2 - target
    return (error * error).sum()


def _vectors(n: int) -> Any:
    return lambda rng, dtype: [rng.normal(size=n).astype(dtype) for _ in range(2)]


def _perceptron_arrays(n: int) -> Any:
    """n hidden units would be n * n weights; so that no array has more than 100 elements, fewer."""
    wide = max(1, int(n**0.5))
    shapes = ((1, wide), (wide, wide), (wide,), (wide, 1), (1, 1))
    return lambda rng, dtype: [rng.normal(size=shape).astype(dtype) for shape in shapes]


def _works(n: int) -> list[Work]:
    return [
        Work(f"small chain, {n}", "small", _vectors(n), chain, wrt=(0, 1)),
        Work(f"small normalised dot, {n}", "small", _vectors(n), normalised, wrt=(0, 1)),
        Work(f"small perceptron, {n}", "small", _perceptron_arrays(n), perceptron, wrt=(1, 2, 3)),
    ]


WORKS = [work for n in (1, 10, 100) for work in _works(n)]
SMALL = [work for n in (1, 7, 33) for work in _works(n)]
