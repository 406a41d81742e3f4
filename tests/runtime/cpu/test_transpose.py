"""Squares turned over in registers, in machine code."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

import graphc as gc
from graphc.ir.expr import Axis, affine
from graphc.ir.node import make, parameter
from graphc.ops import movement
from graphc.runtime.cpu import jit
from graphc.runtime.cpu.llvm import print_kernel
from graphc.runtime.cpu.target import TARGETS, by_name
from graphc.runtime.cpu.transpose import turned
from graphc.runtime.loop.interp import run
from graphc.runtime.loop.ir import Buffer, For, Kernel, Load, Offset, Store
from graphc.runtime.loop.lower import lower_node
from graphc.runtime.loop.schedule.cpu import schedule_cpu
from graphc.runtime.loop.verify import verify
from graphc.types import DType, TensorType, float32, float64, int32, int64

from .harness import RUNNABLE, run_native


def copy(rows: int, columns: int, width: int, dtype: DType = float32, apart: int = 0) -> Kernel:
    """o[column, row] = p[row, column]; `apart` more elements than needed lie between the rows of p."""
    pitch = columns + apart
    source, target = Buffer("p0", dtype, rows * pitch), Buffer("o0", dtype, rows * columns)
    row, square, side = Axis("row", rows), Axis("square", columns // width), Axis("side", width)
    column = square * width + side
    store = Store(target, Offset(column * rows + row), Load(source, Offset(row * pitch + column)))
    lanes = For(row, "vector", (For(side, "unroll", (store,)),), width)
    return Kernel("turn", (source, target), (For(square, "serial", (lanes,)),))


@pytest.mark.parametrize("dtype", [float32, float64, int32, int64])
@pytest.mark.parametrize(("rows", "columns"), [(16, 16), (32, 48), (37, 32), (5, 16)])
@pytest.mark.parametrize("target", RUNNABLE)
def test_turned_over(target: str, rows: int, columns: int, dtype: DType) -> None:
    kernel = copy(rows, columns, by_name(target).lanes(dtype), dtype, apart=3)
    verify(kernel)
    p = np.arange(kernel.params[0].size).astype(dtype.numpy)
    arrays = {"p0": p, "o0": np.zeros(rows * columns, dtype.numpy)}
    _, found = run_native(kernel, arrays, target)
    run(kernel, arrays)
    np.testing.assert_array_equal(found["o0"], arrays["o0"])
    np.testing.assert_array_equal(found["o0"].reshape(columns, rows), p.reshape(rows, columns + 3)[:, :columns].T)


def test_no_lane_is_gathered() -> None:
    target = by_name("x86-64-v4")
    listing = jit.assembly(print_kernel(copy(64, 64, 16), target), target)
    assert "gather" not in listing
    assert listing.count("vunpck") + listing.count("vperm") + listing.count("vshuf") >= 32


def test_what_is_no_square_is_printed_as_it_stands() -> None:
    (outer,) = copy(32, 32, 16).body
    assert isinstance(outer, For)
    (lanes,) = outer.body
    assert isinstance(lanes, For)
    assert turned(lanes) is not None
    (inner,) = lanes.body
    assert isinstance(inner, For)
    (store,) = inner.body
    assert isinstance(store, Store)
    load = store.value
    assert isinstance(load, Load)
    doubled = replace(store, value=replace(load, offset=Offset(load.offset.affine + affine(inner.axis))))
    for other in (
        replace(lanes, body=(store,)),
        replace(lanes, width=8),
        replace(lanes, body=(replace(inner, body=(doubled,)),)),
        replace(lanes, body=(replace(inner, body=(replace(store, value=replace(load, buffer=store.buffer)),)),)),
    ):
        assert turned(other) is None


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.int64])
@pytest.mark.parametrize("shape", [(64, 64), (1, 70), (15, 17), (37, 130), (200, 161), (3, 40, 50)])
def test_a_transposed_copy_of_any_shape(shape: tuple[int, ...], dtype: Any) -> None:
    x = np.arange(np.prod(shape)).reshape(shape).astype(dtype)
    axes = (*range(len(shape) - 2), len(shape) - 1, len(shape) - 2)
    copy = gc.compile(lambda x: gc.permute_dims(x, axes).clone())
    np.testing.assert_array_equal(copy(gc.tensor(x)).numpy(), np.ascontiguousarray(x.transpose(axes)))


def test_a_transposed_copy_is_made_of_squares() -> None:
    x = parameter(0, TensorType((200, 161), float32))
    kernel = schedule_cpu(lower_node(make(movement.PERMUTE_DIMS, (x,), {"axes": (1, 0)})), TARGETS["x86-64-v3"])
    listing = jit.assembly(print_kernel(kernel, TARGETS["x86-64-v3"]), TARGETS["x86-64-v3"])
    assert "vunpcklps" in listing or "vperm2f128" in listing or "vinsertf128" in listing
