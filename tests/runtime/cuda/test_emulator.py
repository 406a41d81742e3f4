"""The emulator catches what a GPU would let pass: every planted bug must be found, and named."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from graphc.errors import DeviceError
from graphc.runtime.cuda.device import View
from graphc.runtime.cuda.prelude import PRELUDE
from graphc.runtime.program import MatmulCall, Place
from graphc.types import float32
from tests.cuda.emulator import EmulatedDevice, missing

pytestmark = pytest.mark.skipif(missing() is not None, reason=str(missing()))

KERNELS = r"""
extern "C" __global__ void copy(GC_READ(float) x, GC_WRITE(float) y) {
  const int i = blockIdx.x * 64 + threadIdx.x;
  if (i < 100) y[i] = x[i];
}
extern "C" __global__ void past_the_end(GC_READ(float) x, GC_WRITE(float) y) {
  const int i = blockIdx.x * 64 + threadIdx.x;
  y[i] = x[0];
}
extern "C" __global__ void before_the_start(GC_READ(float) x, GC_WRITE(float) y) { y[0] = x[(int)threadIdx.x - 1]; }
extern "C" __global__ void shared_bounds(GC_WRITE(float) y) {
  GC_SHARED(float, s, 32);
  s[threadIdx.x] = 1.0f;
  y[threadIdx.x] = s[threadIdx.x];
}
extern "C" __global__ void local_bounds(GC_WRITE(float) y) {
  GC_LOCAL(float, r, 4);
  for (int k = 0; k <= 4; k++) r[k] = 1.0f;
  y[threadIdx.x] = r[0];
}
extern "C" __global__ void local_unwritten(GC_WRITE(float) y) {
  GC_LOCAL(float, r, 2);
  r[0] = 1.0f;
  y[threadIdx.x] = r[1];
}
extern "C" __global__ void shared_unwritten(GC_WRITE(float) y) {
  GC_SHARED(float, s, 64);
  if (threadIdx.x > 0) s[threadIdx.x] = 1.0f;
  __syncthreads();
  y[threadIdx.x] = s[threadIdx.x];
}
extern "C" __global__ void missing_barrier(GC_WRITE(float) y) {
  GC_SHARED(float, s, 64);
  s[threadIdx.x] = (float)threadIdx.x;
  y[threadIdx.x] = s[threadIdx.x ^ 1];
}
extern "C" __global__ void with_barrier(GC_WRITE(float) y) {
  GC_SHARED(float, s, 64);
  s[threadIdx.x] = (float)threadIdx.x;
  __syncthreads();
  y[threadIdx.x] = s[threadIdx.x ^ 1];
}
extern "C" __global__ void warp_barrier_is_not_enough(GC_WRITE(float) y) {
  GC_SHARED(float, s, 64);
  s[threadIdx.x] = (float)threadIdx.x;
  __syncwarp();
  y[threadIdx.x] = s[threadIdx.x ^ 32];
}
extern "C" __global__ void overwritten_too_early(GC_WRITE(float) y) {
  GC_SHARED(float, s, 64);
  for (int k = 0; k < 2; k++) {
    s[threadIdx.x] = (float)k;
    __syncthreads();
    y[threadIdx.x] = s[threadIdx.x ^ 1];
  }
}
extern "C" __global__ void shuffle_is_no_barrier(GC_WRITE(float) y) {
  GC_SHARED(float, s, 32);
  s[threadIdx.x] = 1.0f;
  const float v = __shfl_xor_sync(0xffffffffu, 1.0f, 1);
  y[threadIdx.x] = s[threadIdx.x ^ 1] + v;
}
extern "C" __global__ void blocks_race(GC_WRITE(float) y) { y[threadIdx.x] = (float)blockIdx.x; }
extern "C" __global__ void blocks_read_each_other(GC_WRITE(float) y) {
  y[blockIdx.x] = 1.0f;
  if (blockIdx.x == 1) y[2] = y[0];
}
extern "C" __global__ void plain_sum(GC_WRITE(float) y) { y[0] = y[0] + 1.0f; }
extern "C" __global__ void atomic_sum(GC_WRITE(float) y) { gc_atomic_add(&y[0], 1.0f); }
extern "C" __global__ void atomic_and_plain(GC_WRITE(float) y) {
  if (threadIdx.x == 3) y[0] = 0.0f; else gc_atomic_add(&y[0], 1.0f);
}
extern "C" __global__ void divergent_barrier(GC_WRITE(float) y) {
  if (threadIdx.x < 40) __syncthreads();
  y[threadIdx.x] = 1.0f;
}
extern "C" __global__ void divergent_shuffle(GC_WRITE(float) y) {
  if (threadIdx.x < 8) y[threadIdx.x] = __shfl_xor_sync(0xffffffffu, 1.0f, 1);
}
extern "C" __global__ void different_operations(GC_WRITE(float) y) {
  if (threadIdx.x % 2) __syncwarp(); else y[threadIdx.x] = __shfl_xor_sync(0xffffffffu, 1.0f, 2);
}
extern "C" __global__ void barrier_against_shuffle(GC_WRITE(float) y) {
  if (threadIdx.x < 32) __syncthreads(); else y[threadIdx.x] = __shfl_xor_sync(0xffffffffu, 1.0f, 2);
}
extern "C" __global__ void folds(GC_READ(float) x, GC_WRITE(float) y) {
  y[threadIdx.x] = gc_fold_block<float, gc_sum, 64>(x[threadIdx.x]);
}
extern "C" __global__ void halves(GC_READ(float) x, GC_ALIASED(float) a, GC_ALIASED(float) b) {
  b[threadIdx.x] = a[threadIdx.x] * x[threadIdx.x];
}
"""
NAMES = [line.split("void ")[1].split("(")[0] for line in KERNELS.splitlines() if "__global__" in line]


@pytest.fixture(scope="module", params=["forwards", "backwards", "portable"])
def machine(request: pytest.FixtureRequest) -> tuple[EmulatedDevice, Any]:
    device = EmulatedDevice(backwards=request.param == "backwards", portable=request.param == "portable")
    return device, device.load(PRELUDE + KERNELS, NAMES)


def filled(device: EmulatedDevice, values: Any) -> View:
    array = np.ascontiguousarray(values, np.float32)
    view = device.allocate(array.nbytes)
    device.upload(view, array)
    return view


@pytest.mark.parametrize(
    ("name", "grid", "block", "size", "message"),
    [
        ("shared_bounds", 1, 64, 64, r"out of bounds: s\[\d+\], which has 32"),
        ("local_bounds", 1, 64, 64, r"out of bounds: r\[4\], which has 4"),
        ("local_unwritten", 1, 64, 64, r"r\[1\] is read, but nobody has written it"),
        ("shared_unwritten", 1, 64, 64, r"s\[0\] is read, but nobody has written it"),
        ("missing_barrier", 1, 64, 64, r"nobody has written|race on s"),
        ("warp_barrier_is_not_enough", 1, 64, 64, r"nobody has written|race on s"),
        ("overwritten_too_early", 1, 64, 64, r"race on s\[\d+\]"),
        ("shuffle_is_no_barrier", 1, 32, 32, r"race on s\[\d+\]"),
        ("blocks_race", 2, 64, 64, r"race on y\[\d+\]: written unordered with thread \d+ of block [01]"),
        ("blocks_read_each_other", 2, 1, 3, r"nobody has written|race on y\[0\]"),
        ("plain_sum", 1, 64, 0, r"race on y\[0\]"),
        ("atomic_and_plain", 1, 64, 0, r"race on y\[0\]"),
        ("divergent_barrier", 1, 64, 64, r"divergent barrier"),
        ("divergent_shuffle", 1, 32, 32, r"divergent warp"),
        ("different_operations", 1, 32, 32, r"divergent warp"),
        ("barrier_against_shuffle", 1, 64, 64, r"divergent|exited"),
        ("with_barrier", 0, 64, 64, r"invalid geometry: 0 blocks"),
        ("with_barrier", 1, 2048, 2048, r"invalid geometry: 1 blocks of 2048 threads"),
    ],
)
def test_planted_bug_is_caught(
    machine: tuple[EmulatedDevice, Any], name: str, grid: int, block: int, size: int, message: str
) -> None:
    device, functions = machine
    y = device.allocate(4 * size) if size else filled(device, [0.0])
    with pytest.raises(DeviceError, match=message):
        device.launch(functions[name], grid, block, [y])


def test_out_of_bounds_of_a_part_of_an_allocation(machine: tuple[EmulatedDevice, Any]) -> None:
    device, functions = machine
    arena = filled(device, np.zeros(300))
    x, y = arena.part(0, 400), arena.part(400, 400)
    device.launch(functions["copy"], 2, 64, [x, y])
    with pytest.raises(DeviceError, match=r"past_the_end: out of bounds: y\[1\d\d\], which has 100 elements"):
        device.launch(functions["past_the_end"], 2, 64, [x, y])
    with pytest.raises(DeviceError, match=r"out of bounds: x\[-1\]"):
        device.launch(functions["before_the_start"], 1, 1, [x, y])


def test_unwritten_global_memory(machine: tuple[EmulatedDevice, Any]) -> None:
    device, functions = machine
    with pytest.raises(DeviceError, match=r"x\[\d+\] is read, but nobody has written it"):
        device.launch(functions["copy"], 2, 64, [device.allocate(400), device.allocate(400)])
    with pytest.raises(DeviceError, match="400 of 400 bytes fetched were never written"):
        device.download(device.allocate(400), np.empty(100, np.float32))


def test_arguments(machine: tuple[EmulatedDevice, Any]) -> None:
    device, functions = machine
    x = filled(device, np.ones(128))
    with pytest.raises(DeviceError, match="takes 2 arguments, given 1"):
        device.launch(functions["copy"], 2, 64, [x])
    with pytest.raises(DeviceError, match="arguments x and y overlap"):
        device.launch(functions["copy"], 2, 64, [x.part(0, 400), x.part(112, 400)])
    with pytest.raises(DeviceError, match="arguments a and b overlap"):
        device.launch(functions["halves"], 1, 16, [x.part(0, 64), x.part(64, 64), x.part(72, 64)])
    device.launch(functions["halves"], 1, 16, [x.part(0, 64), x.part(64, 64), x.part(64, 64)])
    with pytest.raises(DeviceError, match="arguments x and y overlap"):
        device.launch(functions["folds"], 1, 64, [x.part(0, 256), x.part(0, 256)])


def test_sound_kernels_run_after_failed_ones(machine: tuple[EmulatedDevice, Any]) -> None:
    device, functions = machine
    y = device.allocate(256)
    for _ in range(3):
        with pytest.raises(DeviceError):
            device.launch(functions["divergent_barrier"], 1, 64, [y])
        device.launch(functions["with_barrier"], 1, 64, [y])
        got = np.empty(64, np.float32)
        device.download(y, got)
        np.testing.assert_array_equal(got, np.arange(64) ^ 1)


def test_folds_and_atomics(machine: tuple[EmulatedDevice, Any]) -> None:
    device, functions = machine
    values = np.arange(64)
    y = device.allocate(256)
    device.launch(functions["folds"], 1, 64, [filled(device, values), y])
    got = np.empty(64, np.float32)
    device.download(y, got)
    np.testing.assert_array_equal(got, np.full(64, values.sum()))
    total = filled(device, [0.0])
    device.launch(functions["atomic_sum"], 3, 64, [total])
    count = np.empty(1, np.float32)
    device.download(total, count)
    assert count[0] == 192


@pytest.mark.parametrize("transpose_a", [False, True])
@pytest.mark.parametrize("transpose_b", [False, True])
@pytest.mark.parametrize("beta", [0.0, 1.0])
def test_matmul(transpose_a: bool, transpose_b: bool, beta: float) -> None:
    device = EmulatedDevice()
    rng = np.random.default_rng(0)
    batch, m, n, k = 3, 4, 5, 6
    a, b = rng.standard_normal((batch, m, k)), rng.standard_normal((batch, k, n))
    c = rng.standard_normal((batch, m, n))
    left = np.float32(a.swapaxes(1, 2) if transpose_a else a)
    right = np.float32(b.swapaxes(1, 2) if transpose_b else b)
    here = Place("argument")
    call = MatmulCall(
        float32, m, n, k, transpose_a, transpose_b, left.shape[2], right.shape[2], n, here, here, here,
        batch=batch, batch_a=m * k, batch_b=k * n, batch_c=m * n, beta=beta,
    )  # fmt: skip
    result = filled(device, c) if beta else device.allocate(c.size * 4)
    device.matmul(call, filled(device, left), filled(device, right), result)
    got = np.empty(c.shape, np.float32)
    device.download(result, got)
    np.testing.assert_allclose(got, a @ b + beta * c, rtol=1e-5, atol=1e-5)
    with pytest.raises(DeviceError, match="an operand was never written"):
        device.matmul(call, device.allocate(left.nbytes), filled(device, right), result)
    with pytest.raises(DeviceError, match="matmul: element"):
        device.matmul(call, filled(device, left[:2]), filled(device, right), result)
