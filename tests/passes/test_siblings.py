"""Reductions of the same rows share a kernel where they share what they fold; never where one depends on the other."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

import graphc as gc
from graphc.ir.node import ITEM, Node
from graphc.ops import elementwise as E
from graphc.ops import movement, reduction

from .test_fuse import check, kernels, new


def pairwise(n: int) -> tuple[list[Node], list[Node]]:
    """Sums of two products that share a factor for each pair of points."""
    x, y = new(n), new(n)
    dx, dy = (E.subtract(movement.reshape(a, (1, n)), movement.reshape(a, (n, 1))) for a in (x, y))
    near = E.exp(E.negative(E.add(E.square(dx), E.square(dy))))
    return [x, y], [reduction.sum(E.multiply(d, near), 1) for d in (dx, dy)]


@pytest.mark.parametrize("n", [1, 5, 37, 130])
def test_folds_of_shared_pairs_are_one_kernel(n: int) -> None:
    inputs, outputs = pairwise(n)
    fused = check(inputs, outputs, rtol=1e-4)
    assert kernels(fused) == 1 if n > 1 else 3


def test_position_and_value_of_the_least() -> None:
    x = new(33, 20)
    assert kernels(check([x], [reduction.argmin(x, 1), reduction.min(x, 1), reduction.sum(x, 1)])) == 1


@pytest.mark.parametrize(
    "other",
    [
        lambda x, y: reduction.sum(x, 0),  # other rows
        lambda x, y: reduction.sum(y, 1),  # nothing in common
        lambda x, y: reduction.sum(movement.reshape(x, (40, 20)), 1),  # another shape
    ],
)
def test_folds_with_less_in_common_stay_apart(other: Callable[[Node, Node], Node]) -> None:
    x, y = new(20, 40), new(20, 40)
    assert kernels(check([x, y], [reduction.max(x, 1), other(x, y)])) == 2


def test_a_fold_that_needs_the_other_through_a_third_kernel_stays_apart() -> None:
    """b folds x with what a product made of a's result: a and b in one kernel would be a circle."""
    x, w = new(64, 40), new(64, 64)
    a = reduction.max(x, 1)
    turned = E.add(movement.reshape(a, (1, 64)), w)
    mixed = movement.reshape(reduction.sum(turned, 1), (64, 1))
    b = reduction.sum(E.multiply(x, mixed), 1)
    fused = check([x, w], [a, b], rtol=1e-4)
    assert kernels(fused) >= 2


def test_many_folds_fill_several_kernels() -> None:
    x = new(40, 24)
    parts = [reduction.sum(E.exp(E.multiply(x, 0.01 * k)), 1) for k in range(80)]
    fused = check([x], parts, rtol=1e-4)
    assert 1 < kernels(fused) <= 8


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("n", [3, 65, 700])
def test_compiled(n: int, dtype: str) -> None:
    rng = np.random.default_rng(n)
    x, y = (rng.normal(size=n).astype(dtype) for _ in range(2))

    def forces(x: gc.Tensor, y: gc.Tensor) -> tuple[gc.Tensor, ...]:
        dx, dy = x[None, :] - x[:, None], y[None, :] - y[:, None]
        pull = 1 / (dx * dx + dy * dy + 0.1)
        return (dx * pull).sum(1), (dy * pull).sum(1), pull.max(1), pull.argmin(1)

    compiled = gc.compile(forces)
    found = compiled(gc.asarray(x), gc.asarray(y))
    for got, want in zip(found, forces(gc.asarray(x), gc.asarray(y)), strict=True):
        np.testing.assert_allclose(got.numpy(), want.numpy(), rtol=2e-4 if dtype == "float32" else 1e-12, atol=1e-3)
    assert compiled.explain().kernels.index("fused:") == 1


def test_what_is_made_of_little_is_made_again() -> None:
    """Differences of all pairs: two kernels need them, and reading n x n numbers costs more than n."""
    x, y = new(64), new(64, 64)
    apart = E.subtract(movement.reshape(x, (1, 64)), movement.reshape(x, (64, 1)))
    rows, columns = reduction.sum(E.multiply(apart, y), 1), reduction.sum(E.exp(apart), 0)
    fused = check([x, y], [rows, columns], rtol=1e-4)
    assert kernels(fused) == 2
    assert max(n.type.size for n in fused.nodes if not isinstance(n.type, tuple) and n is not y) == 64


def test_elements_of_the_same_points_are_one_kernel() -> None:
    x, y = new(40, 50), new(40, 50)
    outputs = [E.multiply(x, y), E.exp(x), reduction.sum(E.subtract(x, y), 1)]
    assert kernels(check([x, y], outputs, rtol=1e-4)) == 1


def test_elements_that_have_nothing_in_common_stay_apart() -> None:
    x, y = new(200, 150), new(200, 150)
    assert kernels(check([x, y], [E.exp(x), E.exp(y)])) == 2


def test_elements_that_need_the_other_through_a_third_kernel_stay_apart() -> None:
    x, w = new(64, 64), new(64, 64)
    a = E.exp(x)
    b = E.multiply(x, movement.matrix_transpose(E.add(reduction.sum(a, 0, keepdims=True), w)))
    assert kernels(check([x, w], [a, b], rtol=1e-4)) >= 2


def test_a_normalisation_and_its_gradients_are_rows_and_columns() -> None:
    """Three results for all points or rows, and two sums down the columns: nothing of x's size is stored between."""
    x, w, g = new(48, 80), new(80), new(48, 80)
    centred = E.subtract(x, reduction.mean(x, 1, keepdims=True))
    scale = E.rsqrt(E.add(reduction.mean(E.square(centred), 1, keepdims=True), 1e-5))
    normed = E.multiply(centred, scale)
    outputs = [E.multiply(normed, w), reduction.sum(E.multiply(g, normed), 0), reduction.sum(g, 0)]
    fused = check([x, w, g], outputs, rtol=1e-4)
    assert kernels(fused) <= 3
    stored = [n for n in fused.nodes if n.op is ITEM and n not in fused.outputs]
    assert all(n.type.size <= 48 for n in stored)
