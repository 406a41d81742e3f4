"""Squares of registers: lanes that come from one lane each of several registers, and the copies that use them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import graphc as gc
from graphc.errors import VerifyError
from graphc.ir.expr import Axis, affine, call
from graphc.ir.node import make
from graphc.ops import movement
from graphc.runtime.cpu import jit
from graphc.runtime.cpu.llvm import print_kernel
from graphc.runtime.cpu.target import by_name
from graphc.runtime.loop.ir import Accumulate, Alloc, Block, Buffer, For, Kernel, Load, Offset, Store
from graphc.runtime.loop.lower import lower_node
from graphc.runtime.loop.schedule.cpu import schedule_cpu
from graphc.runtime.loop.text import kernel_text
from graphc.runtime.loop.verify import verify
from graphc.types import DType, bool_, float32, float64, int32, int64
from tests.runtime.cpu.harness import RUNNABLE, expect, run_native
from tests.runtime.cpu.test_scheduled import given
from tests.runtime.loop.reference import arrays_for

DTYPES = [float32, float64, int32, int64]


def square(rows: int, columns: int, dtype: DType, width: int, again: bool = False) -> Kernel:
    """Columns of a matrix, by way of registers. again: the registers change, and are read once more."""
    row, column, turn = Axis("row", rows), Axis("column", columns), Axis("turn", rows)
    pitch = -(-columns // width) * width
    p, o = Buffer("p", dtype, rows * columns), Buffer("o", dtype, rows * columns)
    held = Buffer("held", dtype, rows * pitch, "register")
    at = Offset(affine(row) * pitch + column)
    load = Store(held, at, Load(p, Offset(affine(row) * columns + column)))
    put = Store(o, Offset(affine(column) * rows + turn), Load(held, Offset(affine(turn) * pitch + column)))
    fill: Block = (Alloc(held), For(row, "unroll", (For(column, "vector", (load,), width),)))
    empty: Block = (For(column, "unroll", (For(turn, "vector", (put,), width),)),)
    body = (*fill, *empty)
    if again:
        double = Accumulate(held, at, "sum", Load(held, at))
        sum_up = Accumulate(o, put.offset, "sum", put.value)
        body += (For(row, "unroll", (For(column, "vector", (double,), width),)),)
        body += (For(column, "unroll", (For(turn, "vector", (sum_up,), width),)),)
    return Kernel("turn", (p, o), body)


@pytest.mark.parametrize("dtype", DTYPES, ids=lambda d: d.name)
@pytest.mark.parametrize(("rows", "columns", "width"), [(16, 16, 16), (14, 32, 16), (7, 9, 8), (4, 5, 4), (2, 2, 2)])
@pytest.mark.parametrize("again", [False, True])
def test_columns_of_registers(rows: int, columns: int, width: int, dtype: DType, again: bool) -> None:
    if width * dtype.itemsize > 64:
        pytest.skip("wider than four quarters")
    matrix = np.arange(1, rows * columns + 1, dtype=dtype.numpy)
    kernel = square(rows, columns, dtype, width, again)
    found = expect(kernel, {"p": matrix, "o": np.zeros_like(matrix)})
    np.testing.assert_array_equal(found["o"], matrix.reshape(rows, columns).T.ravel() * (3 if again else 1))


def test_lanes_can_not_be_stored_to_several_registers() -> None:
    row = Axis("row", 4)
    held, o = Buffer("held", float32, 64, "register"), Buffer("o", float32, 4)
    put = Store(held, Offset(affine(row) * 16), call("add", Load(o, Offset(affine(row))), Load(o, Offset(affine(row)))))
    with pytest.raises(VerifyError, match="coefficient"):
        verify(Kernel("bad", (o,), (Alloc(held), For(row, "vector", (put,), 4))))


@pytest.mark.parametrize("dtype", [*DTYPES, bool_], ids=lambda d: d.name)
@pytest.mark.parametrize(
    ("shape", "axes"),
    [
        ((64, 48), (1, 0)),
        ((37, 50), (1, 0)),
        ((3, 33, 21), (0, 2, 1)),
        ((5, 6, 70), (2, 0, 1)),
        ((17, 1, 18), (2, 1, 0)),
    ],
)
def test_transposed_copies(shape: tuple[int, ...], axes: tuple[int, ...], dtype: DType) -> None:
    nest = lower_node(make(movement.PERMUTE_DIMS, (given(0, *shape, dtype=dtype),), {"axes": axes}))
    arrays = arrays_for(nest)
    for target in RUNNABLE:
        kernel = schedule_cpu(nest, by_name(target))
        _, found = run_native(kernel, arrays, target)
        np.testing.assert_array_equal(found["o0"].reshape(-1), arrays["p0"].reshape(shape).transpose(axes).ravel())


def test_large_transposed_copies_gather_nothing() -> None:
    nest = lower_node(make(movement.PERMUTE_DIMS, (given(0, 128, 96),), {"axes": (1, 0)}))
    assert "turn" in kernel_text(schedule_cpu(nest, by_name("x86-64-v4")))


def test_arithmetic_on_a_transposed_operand() -> None:
    rng = np.random.default_rng(3)
    x, y = (rng.normal(size=s).astype(np.float32) for s in ((45, 70), (70, 45)))
    f: Any = gc.compile(lambda x, y: (gc.tanh(x) * y.mT + 1.0, (x + y.mT).mT))
    first, second = f(gc.asarray(x), gc.asarray(y))
    np.testing.assert_allclose(first.numpy(), np.tanh(x) * y.T + 1, rtol=1e-6, atol=1e-6)
    np.testing.assert_array_equal(second.numpy(), (x + y.T).T)


@pytest.mark.parametrize("op", ["sum", "max"])
def test_a_register_whose_last_use_has_fewer_lanes(op: Any) -> None:
    """Accumulators of 16 lanes, of which the remainder of a row fills only some: the others keep what they hold."""
    row, lane, rest = Axis("row", 3), Axis("lane", 16), Axis("rest", 5)
    p, o, held = Buffer("p", float32, 63), Buffer("o", float32, 48), Buffer("held", float32, 48, "register")
    whole, part = Offset(affine(row) * 16 + lane), Offset(affine(row) * 16 + rest)
    fill = Store(held, whole, Load(p, Offset(affine(row) * 21 + lane)))
    more = Accumulate(held, part, op, Load(p, Offset(affine(row) * 21 + rest + 16)))
    put = Store(o, whole, Load(held, whole))
    body = tuple(
        For(row, "unroll", (For(axis, "vector", (statement,), 16),))
        for axis, statement in ((lane, fill), (rest, more), (lane, put))
    )
    numbers = np.random.default_rng(0).normal(size=63).astype(np.float32)
    kernel = Kernel("partly", (p, o), (Alloc(held), *body))
    expect(kernel, {"p": numbers, "o": np.zeros(48, np.float32)})
    if "x86-64-v4" in RUNNABLE or by_name("host").vector_bits == 512:
        listing = jit.assembly(print_kernel(kernel, by_name("host")), by_name("host"))
        assert "rsp" not in listing, "the registers are in memory"


@pytest.mark.parametrize("shape", [(24, 24), (56, 56), (9, 17), (40, 8)])
def test_sums_over_rows_that_fill_no_vectors(shape: tuple[int, int]) -> None:
    """The weight gradient of a convolution whose rows are no multiple of the lanes."""
    rng = np.random.default_rng(1)
    x = rng.normal(size=(5, 2, *shape)).astype(np.float32)
    w = rng.normal(size=(7, 2, 3, 3)).astype(np.float32)

    def loss(x: Any, w: Any) -> Any:
        return gc.tanh(gc.conv(x, w, padding=1)).sum()

    found = gc.compile(gc.grad(loss, 1))(gc.asarray(x), gc.asarray(w))
    wanted = gc.grad(loss, 1)(gc.asarray(x.astype(np.float64)), gc.asarray(w.astype(np.float64)))
    np.testing.assert_allclose(
        found.numpy(), wanted.numpy(), rtol=2e-5, atol=2e-5 * float(np.abs(wanted.numpy()).max())
    )


@pytest.mark.parametrize("step", [2, 3, 4, 5, 8, 15, 16])
@pytest.mark.parametrize("target", RUNNABLE)
def test_columns_a_few_elements_apart(target: str, step: int) -> None:
    """What lies between them is left as it was."""
    rows, lane, each = Axis("row", 9), Axis("lane", 21), Axis("each", 21)
    p, o = Buffer("p", float32, 9 * 21), Buffer("o", float32, 21 * 9 * step)
    kept = Buffer("kept", float32, 9 * 32, "register")
    fill = Store(kept, Offset(affine(rows) * 32 + lane), Load(p, Offset(affine(rows) * 21 + lane)))
    at = Offset(affine(each) * (9 * step) + affine(rows) * step)
    put = Store(o, at, Load(kept, Offset(affine(rows) * 32 + each)))
    body: Block = (For(rows, "unroll", (For(lane, "vector", (fill,), 16),)),)
    after: Block = (For(each, "unroll", (For(rows, "vector", (put,), 16),)),)
    kernel = Kernel("apart", (p, o), (Alloc(kept), *body, *after))
    numbers = np.random.default_rng(2).normal(size=p.size).astype(np.float32)
    status, found = run_native(kernel, {"p": numbers, "o": np.full(o.size, 7, np.float32)}, target)
    assert status == 0
    wanted = np.full((21, 9, step), 7, np.float32)
    wanted[:, :, 0] = numbers.reshape(9, 21).T
    np.testing.assert_array_equal(found["o"].reshape(wanted.shape), wanted)
