"""Squares turned over in registers, in machine code."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from graphc.ir.expr import Axis, affine
from graphc.runtime.cpu import jit
from graphc.runtime.cpu.llvm import print_kernel
from graphc.runtime.cpu.target import by_name
from graphc.runtime.cpu.transpose import turned
from graphc.runtime.loop.interp import run
from graphc.runtime.loop.ir import Buffer, For, Kernel, Load, Offset, Store
from graphc.runtime.loop.verify import verify
from graphc.types import DType, float32, float64, int32, int64

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
