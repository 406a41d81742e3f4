"""Splitting of large reductions: two steps, the same number."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from graphc.ir.graph import Graph
from graphc.ir.node import Node, fresh_input
from graphc.ops import elementwise, movement, reduction
from graphc.passes.fuse import fuse, fused_nodes
from graphc.passes.split import split_reductions
from graphc.types import DType, TensorType, bool_, float32, int32
from tests.runtime.loop.reference import evaluate, random_array


def new(*shape: int, dtype: DType = float32) -> Node:
    return fresh_input("x", TensorType(shape, dtype))


def check(x: Node, y: Node, split: bool) -> Graph:
    graph = Graph([x], [y])
    parted = split_reductions(graph)
    assert (parted is not graph) == split
    values: Any = random_array(x.shape, x.dtype)
    values = (values * 4).round().astype(x.dtype.numpy) if x.dtype.kind == "f" else values  # sums are exact
    (want,), (got,) = evaluate(graph, [values]), evaluate(parted, [values])
    np.testing.assert_array_equal(got, want)
    assert parted.outputs[0].type == y.type
    return parted


@pytest.mark.parametrize("name", ["sum", "max", "min"])
@pytest.mark.parametrize("keepdims", [False, True])
@pytest.mark.parametrize(
    ("shape", "axis"), [((1 << 16,), None), ((512, 256), None), ((64, 3, 20, 20), (0, 2, 3)), ((1 << 14, 4), 0)]
)
def test_large_reductions_are_split(name: str, keepdims: bool, shape: tuple[int, ...], axis: Any) -> None:
    x = new(*shape)
    check(x, getattr(reduction, name)(x, axis=axis, keepdims=keepdims), split=True)


def test_the_adjoint_of_broadcasting_is_split_too() -> None:
    x = new(1 << 14, 4)
    check(x, movement.sum_to(x, (1, 4)), split=True)


@pytest.mark.parametrize("name", ["sum", "max"])
@pytest.mark.parametrize(
    ("shape", "axis", "kernels"),
    [((2048, 512), 0, 2), ((64, 64, 256), (0, 1), 2), ((1 << 18, 4), 0, 2), ((96 * 1024, 12), 0, 2)],
)
def test_columns_of_large_arrays_are_folded_in_runs_of_rows(
    name: str, shape: tuple[int, ...], axis: Any, kernels: int
) -> None:
    x = new(*shape)
    parted = check(x, getattr(reduction, name)(x, axis=axis), split=True)
    steps = fused_nodes(fuse(parted))
    assert len(steps) == kernels
    assert 32 <= steps[0].attrs["full"][0] <= 64


@pytest.mark.parametrize("shape", [(1021, 2048), (16, 1 << 17), (128, 512)])  # a prime, too few rows, too little
def test_other_columns_are_not(shape: tuple[int, ...]) -> None:
    x = new(*shape)
    check(x, reduction.sum(x, axis=0), split=False)


@pytest.mark.parametrize("dtype", [bool_, int32])
def test_integers_keep_their_width(dtype: DType) -> None:
    x = new(1 << 16, dtype=dtype)
    check(x, reduction.sum(x), split=True)


@pytest.mark.parametrize(
    ("shape", "axis"), [((100,), None), ((512, 256), 1), ((512, 256), 0), ((65537,), None), ((0, 1 << 16), None)]
)
def test_small_ones_rows_and_primes_are_not(shape: tuple[int, ...], axis: Any) -> None:
    x = new(*shape)
    check(x, reduction.sum(x, axis=axis), split=False)


def test_what_is_summed_is_computed_in_the_first_step() -> None:
    x = new(512, 256)
    parted = check(x, reduction.mean(elementwise.multiply(x, x)), split=True)
    kernels = fused_nodes(fuse(parted))
    assert len(kernels) == 2
    assert np.prod([kernels[0].attrs["full"][d] for d in kernels[0].attrs["outer"]]) >= 64
