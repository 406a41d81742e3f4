"""The search among schedules: the same results, kept on disk, bounded in time, off by default."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import graphc as gc
from graphc.errors import ArgumentError, DeviceError
from graphc.ir.node import make, parameter
from graphc.ops import linalg, reduction
from graphc.runtime.cache import DiskCache
from graphc.runtime.cpu import search
from graphc.runtime.cpu.target import host
from graphc.runtime.loop.lower import lower_node
from graphc.runtime.loop.nest import Nest
from graphc.runtime.loop.schedule.cpu import alternatives, schedule_cpu
from graphc.types import TensorType, float32


def product(m: int, n: int, k: int) -> Nest:
    x, y = parameter(0, TensorType((m, k), float32)), parameter(1, TensorType((k, n), float32))
    return lower_node(make(linalg.MATMUL, (x, y), {}))


def row_sums(m: int, n: int) -> Nest:
    x = parameter(0, TensorType((m, n), float32))
    return lower_node(make(reduction.SUM, (x,), {"axes": (1,), "keepdims": False}))


@pytest.mark.parametrize("nest", [product(96, 80, 112), row_sums(640, 200)], ids=["product", "row sums"])
def test_alternatives_begin_with_the_models_choice(nest: Nest) -> None:
    found = alternatives(nest, host(), 4, 2.0)
    assert found[0][1] == schedule_cpu(nest, host())
    assert 1 <= len(found) <= 4
    assert len({kernel for _, kernel in found}) == len(found)
    assert all(found[0][0] <= cycles <= 2 * found[0][0] for cycles, _ in found)


def test_the_fastest_is_taken_and_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    nest, target = product(96, 80, 112), host()
    kernels = [kernel for _, kernel in alternatives(nest, target, search.MOST, search.WITHIN)]
    assert len(kernels) > 1
    measured = []

    def slowest_first(tried: object, target: object) -> list[float]:
        measured.append(tried)
        return [float(len(kernels) - i) for i in range(len(kernels))]

    monkeypatch.setattr(search, "measure", slowest_first)
    cache = DiskCache(tmp_path)
    assert search.Search(target, 10.0, cache).schedule(nest) == kernels[-1]
    assert search.Search(target, 10.0, cache).schedule(nest) == kernels[-1]
    assert len(measured) == 1  # the second time it comes from the cache


def test_no_time_no_search(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(search, "measure", lambda *_: pytest.fail("measured"))
    nest = product(96, 80, 112)
    assert search.Search(host(), 0.0, DiskCache(tmp_path)).schedule(nest) == schedule_cpu(nest, host())
    small = product(4, 4, 4)
    assert search.Search(host(), 10.0, DiskCache(tmp_path)).schedule(small) == schedule_cpu(small, host())


def test_measuring_runs_every_kernel() -> None:
    kernels = [kernel for _, kernel in alternatives(product(96, 80, 112), host(), 3, 2.0)]
    times = search.measure(kernels, host())
    assert len(times) == len(kernels)
    assert all(0 < t < 1 for t in times)


def test_results_are_the_same() -> None:
    generator = np.random.default_rng(0)
    x, w = (gc.asarray(generator.normal(size=(150, 150)).astype(np.float32)) for _ in range(2))

    def f(x: gc.Tensor, w: gc.Tensor) -> gc.Tensor:
        return gc.nn.functional.softmax(gc.tanh(x @ w), dim=-1)

    searched = gc.compile(f, search=0.5)
    np.testing.assert_allclose(searched(x, w).numpy(), f(x, w).numpy(), rtol=2e-5)
    np.testing.assert_array_equal(searched(x, w).numpy(), searched(x, w).numpy())


def test_bad_settings() -> None:
    with pytest.raises(ArgumentError, match="a number of seconds"):
        gc.compile(lambda x: x, search=-1.0)
    with pytest.raises(DeviceError, match="search is for the CPU"):
        gc.compile(lambda x: x, search=1.0, device="cuda")
