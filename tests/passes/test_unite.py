"""Kernels that want one value become one, where they loop alike and neither needs the other's results."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

import graphc as gc
from graphc.ir.node import Node, make, parameter
from graphc.ops import elementwise as E
from graphc.ops import linalg, movement, reduction
from graphc.passes.access import Accesses
from graphc.passes.fuse import fused_nodes
from graphc.passes.groups import Group
from graphc.types import Shape, TensorType, float32
from tests.passes.test_fuse import check, kernels, new


def parts(x: Node, count: int) -> Node:
    """The sums of so many parts of all elements, as large reductions are split."""
    return reduction.sum(movement.reshape(x, (count, x.type.size // count)), axis=1)


@pytest.mark.parametrize("shape", [(4800,), (4800, 1), (1, 4800)])
def test_a_loss_is_summed_where_its_gradient_is_computed(shape: Shape) -> None:
    x = new(*shape)
    y = E.tanh(x)
    gradient = E.multiply(E.subtract(1.0, E.multiply(y, y)), x)
    fused = check([x], [parts(E.multiply(y, x), 48), gradient])
    assert kernels(fused) == 1
    (node,) = fused_nodes(fused)
    assert [n.shape for n in node.attrs["graph"].outputs if n.type.size > 48] == [shape]


def test_columns_with_epilogues_of_their_own_are_summed_together() -> None:
    """The gradients of means and scales: sums over the same points, each with something left to do."""
    x, m, s = new(600, 1, 4), new(8, 4), new(8, 4)
    z = E.multiply(E.subtract(x, m), s)
    g = E.multiply(E.multiply(z, z), z)
    first = E.negative(E.multiply(reduction.sum(g, axis=0), s))
    second = E.subtract(1.0, reduction.sum(E.multiply(g, E.subtract(x, m)), axis=0))
    assert kernels(check([x, m, s], [first, second], rtol=1e-4)) == 1


def test_what_depends_on_the_other_stays_apart() -> None:
    """The second kernel needs the first one's sum at all points, so it can't run beside it."""
    x, w = new(4800), new(48)
    y = E.tanh(x)
    sums = parts(E.multiply(y, x), 48)
    scaled = E.multiply(y, reduction.sum(E.multiply(sums, w)))
    assert kernels(check([x, w], [sums, scaled])) > 1


def test_a_kernel_between_two_keeps_them_apart() -> None:
    """a -> product -> b: one kernel of a and b would be before and after the product."""
    x, w = new(40, 40), new(40, 40)
    y = E.exp(x)
    a = E.multiply(y, x)
    b = E.add(linalg.matmul(a, w), 1.0)
    fused = check([x, w], [E.subtract(y, reduction.max(b, axis=1, keepdims=True)), a], rtol=1e-4)
    assert kernels(fused) >= 2


@pytest.mark.parametrize(
    "other",
    [
        lambda y: movement.permute_dims(y, (1, 0)),
        lambda y: movement.flip(y, (0,)),
        lambda y: make(movement.SLICE, (y,), {"start": (1, 0), "stop": (60, 80), "step": (1, 1)}),
    ],
    ids=["transposed", "flipped", "shifted"],
)
def test_values_that_are_read_elsewhere_unite_nothing(other: Callable[[Node], Node]) -> None:
    x = new(60, 80)
    y = E.tanh(x)
    fused = check([x], [reduction.sum(E.multiply(y, x), axis=1), E.multiply(other(y), 2.0)])
    assert kernels(fused) == 2


def test_few_rows_take_in_no_large_kernel() -> None:
    """One thread would compute it all."""
    x = new(4, 3000)
    y = E.tanh(x)
    assert kernels(check([x], [reduction.sum(E.multiply(y, x)), E.multiply(movement.reshape(y, (12000,)), 2.0)])) == 2


def test_loops_of_other_extents_are_not_the_same() -> None:
    access = Accesses()

    def plain(*shape: int) -> Group:
        x = parameter(0, TensorType(shape, float32))
        return Group.of(make(E.EXP, (x,), {}), access)

    def rows(*shape: int) -> Group:
        x = parameter(0, TensorType(shape, float32))
        return Group.of(reduction.sum(x, axis=1), access)

    assert plain(6400).moved_to(rows(64, 100)) is not None
    assert plain(6400).moved_to(rows(64, 101)) is None
    assert plain(80, 80).moved_to(rows(64, 100)) is None  # its points would need digits of the rows' numbers
    assert rows(64, 100).moved_to(plain(6400)) is None
    assert rows(64, 100).moved_to(rows(64, 100)) is not None


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("threads", [1, 2, 5])
def test_value_and_gradient_of_many_elements(dtype: type, threads: int) -> None:
    rng = np.random.default_rng(0)
    x, w = rng.normal(size=40_013 * 2).astype(dtype), rng.normal(size=40_013 * 2).astype(dtype)
    x[[0, 17, -1]] = 0.0, 30.0, -30.0

    def loss(x: gc.Tensor) -> gc.Tensor:
        return (x / (1 + gc.exp(-x)) * gc.tensor(w)).sum()

    compiled = gc.compile(lambda x: gc.value_and_grad(loss)(x))
    before = gc.get_num_threads()
    gc.set_num_threads(threads)
    try:
        value, gradient = compiled(gc.tensor(x))
    finally:
        gc.set_num_threads(before)
    sigmoid = 1 / (1 + np.exp(-x.astype(np.float64)))
    rtol = 1e-4 if dtype is np.float32 else 1e-12
    np.testing.assert_allclose(value.numpy(), (x * sigmoid * w).sum(), rtol=rtol)
    wanted = w * (sigmoid + x * sigmoid * (1 - sigmoid))
    np.testing.assert_allclose(gradient.numpy(), wanted, rtol=rtol, atol=rtol)
