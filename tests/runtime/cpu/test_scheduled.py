"""From a formula to machine code: nests of many primitives, scheduled for a target, printed, run, and interpreted."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from graphc.ir.node import Node, make, parameter
from graphc.ops import convolution, elementwise, indexing, linalg, movement, pooling, reduction
from graphc.runtime.cpu import jit
from graphc.runtime.cpu.llvm import print_kernel
from graphc.runtime.cpu.target import by_name
from graphc.runtime.loop.interp import run_nest
from graphc.runtime.loop.lower import lower_node
from graphc.runtime.loop.schedule.cpu import schedule_cpu
from graphc.types import DType, Shape, TensorType, bool_, float32, float64, int64
from tests.runtime.cpu.harness import RUNNABLE, run_native
from tests.runtime.loop.reference import arrays_for


def given(index: int, *shape: int, dtype: DType = float32) -> Node:
    return parameter(index, TensorType(shape, dtype))


def conv(x: Shape, w: Shape, padding: int = 0, stride: int = 1, groups: int = 1) -> Node:
    attrs = {
        "stride": (stride,) * 2, "padding": ((padding, padding),) * 2, "lhs_dilation": (1, 1), "rhs_dilation": (1, 1),
        "groups": groups,
    }  # fmt: skip
    return make(convolution.CONV, (given(0, *x), given(1, *w)), attrs)


def product_nt(m: int, n: int, k: int, dtype: DType = float32) -> Node:
    """Rows of both factors are summed over."""
    right = make(movement.PERMUTE_DIMS, (given(1, n, k, dtype=dtype),), {"axes": (1, 0)})
    return make(linalg.MATMUL, (given(0, m, k, dtype=dtype), right), {})


def pool(op: Any, *operands: Node) -> Node:
    return make(op, operands, {"window": (3, 2), "stride": (2, 1), "padding": ((1, 1), (0, 1)), "dilation": (1, 1)})


def reduced(op: Any, shape: Shape, *axes: int, dtype: DType = float32) -> Node:
    return make(op, (given(0, *shape, dtype=dtype),), {"axes": axes, "keepdims": False})


_PADDING = {"low": (1, 2), "high": (0, 3), "interior": (1, 0), "value": 2.0}
_ADDED = {"axis": 0, "size": 11}
CASES: dict[str, Callable[[], Node]] = {
    "product": lambda: make(linalg.MATMUL, (given(0, 37, 41), given(1, 41, 53)), {}),
    "product_f64": lambda: make(linalg.MATMUL, (given(0, 9, 8, dtype=float64), given(1, 8, 20, dtype=float64)), {}),
    "batched_product": lambda: make(linalg.MATMUL, (given(0, 3, 5, 7), given(1, 1, 7, 18)), {}),
    "product_of_rows": lambda: product_nt(37, 53, 41),
    "product_of_few_rows": lambda: product_nt(11, 9, 101),
    "product_of_rows_f64": lambda: product_nt(11, 9, 101, float64),
    "conv": lambda: conv((2, 3, 9, 11), (13, 3, 3, 3), padding=1),
    "conv_of_16": lambda: conv((16, 2, 6, 6), (5, 2, 3, 3), stride=2),
    "grouped_conv": lambda: conv((1, 6, 7, 7), (4, 3, 2, 2), groups=2),
    "max_pool": lambda: pool(pooling.MAX_POOL, given(0, 2, 3, 8, 9)),
    "max_pool_gather": lambda: pool(pooling.MAX_POOL_GATHER, given(0, 2, 3, 8, 9), given(1, 2, 3, 8, 9)),
    "sum_rows": lambda: reduced(reduction.SUM, (7, 100), 1),
    "sum_columns": lambda: reduced(reduction.SUM, (100, 7), 0),
    "sum_all": lambda: reduced(reduction.SUM, (33, 5, 7), 0, 1, 2),
    "max_middle": lambda: reduced(reduction.MAX, (5, 19, 6), 1),
    "argmax": lambda: reduced(reduction.ARGMAX, (21, 33), 1),
    "argmin_columns": lambda: reduced(reduction.ARGMIN, (33, 21), 0, dtype=int64),
    "transposed": lambda: make(movement.PERMUTE_DIMS, (given(0, 13, 17, 3),), {"axes": (1, 2, 0)}),
    "flipped": lambda: make(movement.FLIP, (given(0, 6, 21),), {"axes": (1,)}),
    "sliced": lambda: make(movement.SLICE, (given(0, 9, 40),), {"start": (1, 3), "stop": (9, 38), "step": (2, 3)}),
    "padded": lambda: make(movement.PAD, (given(0, 4, 7),), _PADDING),
    "tanh": lambda: make(elementwise.TANH, (given(0, 5, 41),), {}),
    "where": lambda: make(elementwise.WHERE, (given(0, 5, 1, dtype=bool_), given(1, 41), given(2, 5, 41)), {}),
    "take": lambda: make(indexing.TAKE, (given(0, 11, 20), given(1, 6, dtype=int64)), {"axis": 0}),
    "scatter_add": lambda: make(indexing.SCATTER_ADD, (given(0, 6, 20), given(1, 6, dtype=int64)), _ADDED),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("target", RUNNABLE)
def test_scheduled_primitives(target: str, name: str) -> None:
    nest = lower_node(CASES[name]())
    arrays = arrays_for(nest)
    kernel = schedule_cpu(nest, by_name(target))
    status, found = run_native(kernel, arrays, target)
    wanted = {key: array.copy() for key, array in arrays.items()}
    assert status == run_nest(nest, wanted)
    for key, array in wanted.items():
        if array.dtype.kind == "f":
            scale = 1e-5 if array.dtype == np.float32 else 1e-13
            np.testing.assert_allclose(found[key], array, rtol=scale, atol=scale, err_msg=key)
        else:
            np.testing.assert_array_equal(found[key], array, err_msg=key)


@pytest.mark.parametrize("dtype", [float32, float64])
@pytest.mark.parametrize("op", ["EXP", "LOG", "TANH", "ERF", "SIN", "COS", "EXPM1", "LOG1P", "SQRT"])
@pytest.mark.parametrize("target", RUNNABLE)
def test_an_element_does_not_depend_on_its_place(target: str, op: str, dtype: DType) -> None:
    """Whether in one of many vectors side by side, in a single one or in its first lanes: the same bits."""
    size = 7 * 16 + 37
    nest = lower_node(make(getattr(elementwise, op), (given(0, size, dtype=dtype),), {}))
    x, y = (buffer.name for buffer in nest.params)
    kernel = schedule_cpu(nest, by_name(target))
    for number in (0.3, 1.7, 40.0, 3e6, np.inf, np.nan, -0.0):
        arrays = {x: np.full(size, number, dtype.numpy), y: np.zeros(size, dtype.numpy)}
        _, found = run_native(kernel, arrays, target)
        bits = found[y].view(np.int32 if dtype is float32 else np.int64)
        assert np.unique(bits).size == 1, number


@pytest.mark.parametrize(
    ("name", "node"),
    [
        ("x86-64-v4", lambda: make(linalg.MATMUL, (given(0, 64, 800), given(1, 800, 500)), {})),
        ("x86-64-v4", lambda: conv((64, 20, 12, 12), (50, 20, 5, 5))),
        ("x86-64-v4", lambda: product_nt(64, 10, 500)),  # lanes along the depth, and some left over
        ("x86-64-v4", lambda: make(linalg.MATMUL, (given(0, 56, 256), given(1, 256, 512)), {})),
        ("x86-64-v3", lambda: make(linalg.MATMUL, (given(0, 28, 256), given(1, 256, 512)), {})),
        ("x86-64-v3", lambda: make(linalg.MATMUL, (given(0, 256, 256), given(1, 256, 256)), {})),
        ("x86-64-v3", lambda: conv((64, 20, 12, 12), (50, 20, 5, 5))),
    ],
)
def test_contractions_spill_nothing_in_their_inner_loop(name: str, node: Callable[[], Node]) -> None:
    target = by_name(name)
    kernel = schedule_cpu(lower_node(node()), target)
    listing = jit.assembly(print_kernel(kernel, target), target)
    loops = [loop for loop in re.split(r"^\.LBB\S+:", listing, flags=re.MULTILINE) if loop.count("vfmadd") >= 4]
    assert loops
    for loop in loops:
        body = loop[: loop.index("\tj")]
        assert "rsp" not in body, body


@pytest.mark.parametrize("dtype", [float32, float64, int64, bool_])
@pytest.mark.parametrize("shape", [(16, 16), (33, 47), (64, 130), (3, 40, 17), (8, 200), (1, 33)])
@pytest.mark.parametrize("target", RUNNABLE)
def test_copies_that_exchange_rows_and_columns(target: str, shape: Shape, dtype: DType) -> None:
    """By squares, with what is left of them on both sides; no bit changes."""
    order = tuple(reversed(range(len(shape))))
    nest = lower_node(make(movement.PERMUTE_DIMS, (given(0, *shape, dtype=dtype),), {"axes": order}))
    arrays = arrays_for(nest)
    if dtype.kind == "f":
        arrays["p0"][:3] = np.nan, -0.0, -np.inf
    status, found = run_native(schedule_cpu(nest, by_name(target)), arrays, target)
    assert status == 0
    turned = np.ascontiguousarray(arrays["p0"].reshape(shape).transpose(order)).reshape(-1)
    assert found["o0"].tobytes() == turned.tobytes()


def test_a_large_transposition_goes_by_squares() -> None:
    nest = lower_node(make(movement.PERMUTE_DIMS, (given(0, 128, 256),), {"axes": (1, 0)}))
    text = print_kernel(schedule_cpu(nest, by_name("x86-64-v4")), by_name("x86-64-v4"))
    assert "shufflevector" in text
    assert "gather" not in text
