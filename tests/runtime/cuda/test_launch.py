"""Programs on a device: places, products, constants, checks, and how they are told that something doesn't fit."""

from __future__ import annotations

import numpy as np
import pytest

from graphc.errors import DeviceError, IndexingError
from graphc.ir.expr import Affine, Axis, Index, affine, call
from graphc.runtime.cuda.launch import CudaExecutable, print_program
from graphc.runtime.cuda.toolchain import compile_cuda
from graphc.runtime.loop.ir import Buffer, Check, Kernel, Load, Offset, Store
from graphc.runtime.program import KernelCall, MatmulCall, Place, Program
from graphc.types import float32, int64
from tests.cuda.cases import statement_cases, vector
from tests.cuda.devices import DEVICES, device_named, needs_nvrtc
from tests.cuda.emulator import EmulatedDevice
from tests.cuda.harness import assert_lean
from tests.runtime.loop.shorthand import at, number, parallel

M, N, K = 6, 5, 4


def argument(index: int) -> Place:
    return Place("argument", index)


def program() -> Program:
    """relu(x[rows] * scale @ w) into y, and 1 added in place to a counter; scale is a constant."""
    i, j, n = Axis("i", M), Axis("j", K), Axis("n", M * N)
    x, rows = Buffer("x", float32, 3 * K), Buffer("rows", int64, M)
    scale, picked = Buffer("scale", float32, K), Buffer("picked", float32, M * K)
    row = Load(rows, at(i))
    good = call("lt", row, number(3, int64))
    place = Offset(affine(j), ((row, K),))
    value = call("mul", Load(x, place, good), Load(scale, at(j)))
    gather = Kernel(
        "gather",
        (x, rows, scale, picked),
        (parallel(i, Check(good, 2), vector(j, 32, Store(picked, at((i, K), j), value))),),
    )
    product, y = Buffer("product", float32, M * N), Buffer("y", float32, M * N)
    zero = number(0.0)
    relu = Kernel("relu", (product, y), (parallel(n, Store(y, at(n), call("maximum", Load(product, at(n)), zero))),))
    count = Buffer("count", int64, 1)
    step = Kernel("count", (count,), (Store(count, at(), call("add", Load(count, at()), number(1, int64))),))
    here, there = Place("arena", offset=0), Place("arena", offset=256)
    matmul = MatmulCall(float32, M, N, K, False, False, K, N, N, here, argument(2), there)
    counting = KernelCall(step, (argument(3),))
    return Program(
        steps=(
            KernelCall(gather, (argument(0), argument(1), Place("constant", 0), here)),
            matmul,
            KernelCall(relu, (there, argument(4))),
            counting,
            counting,
        ),
        arguments=(x, rows, Buffer("w", float32, K * N), count, y),
        constants=((float32, np.arange(1, K + 1, dtype=np.float32).tobytes()),),
        arena_size=512,
        messages=("never", "row out of bounds"),
    )


def arrays() -> list[np.ndarray[tuple[int, ...], np.dtype[np.generic]]]:
    rng = np.random.default_rng(0)
    x, w = rng.standard_normal((3, K)).astype(np.float32), rng.standard_normal((K, N)).astype(np.float32)
    return [x, np.array([0, 2, 1, 1, 0, 2]), w, np.array([40]), np.zeros((M, N), np.float32)]


def check_program(executable: CudaExecutable) -> None:
    given = arrays()
    x, rows, w, count, y = given
    for turn in (1, 2):
        executable.run(given)
        wanted = np.maximum((x[rows] * np.arange(1, K + 1, dtype=np.float32)) @ w, 0)
        np.testing.assert_allclose(y, wanted, rtol=1e-5, atol=1e-6)
        assert count[0] == 40 + 2 * turn
    rows[4] = 3
    with pytest.raises(IndexingError, match="row out of bounds"):
        executable.run(given)
    rows[4] = 1
    executable.run(given)


@pytest.mark.parametrize("device", DEVICES)
def test_program(device: str) -> None:
    executable = CudaExecutable(program(), device_named(device))
    assert executable.reads == (0, 1, 2, 3)
    assert executable.writes == (3, 4)
    check_program(executable)


@pytest.mark.gpu
def test_program_on_a_gpu() -> None:
    check_program(CudaExecutable(program(), device_named("gpu")))


def test_each_kernel_is_printed_once() -> None:
    source = print_program(program())
    assert source.functions == ("kernel_gather", "kernel_relu", "kernel_count")
    assert source.kernels[3] is source.kernels[4]
    assert source.kernels[1] is None
    assert source.text.count("void __launch_bounds__") == 3


@needs_nvrtc
def test_compiled_for_hopper() -> None:
    assert_lean(compile_cuda(print_program(program()).text))


def test_argument_of_the_wrong_size() -> None:
    device = device_named("forwards")
    executable = CudaExecutable(program(), device)
    views = [device.allocate(a.nbytes) for a in arrays()]
    views[2] = device.allocate(4)
    with pytest.raises(DeviceError, match="argument w has 4 bytes; 20 x float32 are expected"):
        executable(views)


def test_empty_program() -> None:
    device = EmulatedDevice()
    CudaExecutable(Program((), (), (), 0), device).run([])
    assert device.launches == []


def test_workspaces_are_slices_of_one() -> None:
    """Two kernels that need global scratch memory share it; slices of one launch don't overlap."""
    (case,) = [c for c in statement_cases() if c.name == "workspace_128"]
    source, target = case.kernel.params
    steps = tuple(KernelCall(case.kernel, (argument(0), argument(k))) for k in (1, 2))
    executable = CudaExecutable(Program(steps, (source, target, target), (), 0), device_named("forwards"))
    x = case.arrays["source"]
    results = [x, np.zeros_like(x), np.zeros_like(x)]
    executable.run(results)
    wanted = x.reshape(3, -1)[:, ::-1].reshape(-1)
    np.testing.assert_array_equal(results[1], wanted)
    np.testing.assert_array_equal(results[2], wanted)


def test_offsets_of_products() -> None:
    """A product may begin inside of its operands' buffers."""
    a, c = Buffer("a", float32, 40), Buffer("c", float32, 20)
    call_ = MatmulCall(
        float32, 2, 3, 2, False, False, 2, 3, 3, argument(0), argument(0), argument(1),
        a_offset=4, b_offset=10, c_offset=6, batch=2, batch_a=4, batch_b=6, batch_c=6,
    )  # fmt: skip
    x, y = np.arange(40, dtype=np.float32), np.zeros(20, np.float32)
    CudaExecutable(Program((call_,), (a, c), (), 0), device_named("forwards")).run([x, y])
    np.testing.assert_array_equal(y[6:18].reshape(2, 2, 3), x[4:12].reshape(2, 2, 2) @ x[10:22].reshape(2, 2, 3))
    assert not y[:6].any()
    assert not y[18:].any()


def test_index_beyond_32_bits_is_computed_in_64() -> None:
    i = Axis("i", 3)
    out = Buffer("out", int64, 3)
    value = Index(affine(i) * 2_000_000_000 + Affine((), 5))
    kernel = Kernel("far", (out,), (parallel(i, Store(out, at(i), value)),))
    result = np.zeros(3, np.int64)
    CudaExecutable(Program((KernelCall(kernel, (argument(0),)),), (out,), (), 0), device_named("forwards")).run(
        [result]
    )
    np.testing.assert_array_equal(result, np.arange(3) * 2_000_000_000 + 5)
