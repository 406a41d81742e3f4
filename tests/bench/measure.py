"""Times: interleaved rounds in one process, medians, and the machine's ceilings."""

from __future__ import annotations

import contextlib
import gc
import statistics
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache

import numpy as np

from .work import Run

ROUNDS = 15
SLICE = 0.02  # seconds that one library runs in one round
WARM = 0.006  # seconds that it runs before: its sleeping threads wake, on another core if the system sees one idle
PAUSE = 0.012  # so long may another library's threads go on spinning for work: libgomp's do for 5 to 10 ms


@dataclass(frozen=True)
class Times:
    """Seconds per call, one for each round, by the name of the library."""

    rounds: Mapping[str, list[float]]

    def median(self, name: str) -> float:
        return statistics.median(self.rounds[name])

    def best(self, names: list[str]) -> str:
        return min(names, key=self.median)

    def ratio(self, peer: str, ours: str) -> tuple[float, float, float]:
        """The peer's time over ours: median over rounds, and where 80 % of the rounds lie."""
        found = sorted(a / b for a, b in zip(self.rounds[peer], self.rounds[ours], strict=True))
        edge = len(found) // 10
        return statistics.median(found), found[edge], found[-1 - edge]


@contextlib.contextmanager
def _no_collection() -> Iterator[None]:
    """Python's cycle collector would run in whichever library allocates last."""
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


def _per_call(run: Run, least: float) -> float:
    """Mean seconds of a call over at least `least` seconds, after calls that wake pools and fill caches."""
    time.sleep(PAUSE)
    start = time.perf_counter()
    run()
    while time.perf_counter() - start < min(WARM, least):
        run()
    calls, block = 0, 1
    start = time.perf_counter()
    while True:
        for _ in range(block):
            run()
        calls += block
        taken = time.perf_counter() - start
        if taken >= least:
            return taken / calls
        block = min(block * 2, max(1, int(calls * (least - taken) / taken / 2)))


def interleaved(runs: Mapping[str, Run], rounds: int = ROUNDS, least: float = SLICE) -> Times:
    """Each run in each round, the order turning from round to round, so that no library always follows another."""
    names = list(runs)
    times: dict[str, list[float]] = {name: [] for name in names}
    with _no_collection():
        for n in range(rounds):
            for i in range(len(names)):
                name = names[(i + n) % len(names)]
                times[name].append(_per_call(runs[name], least))
    return Times(times)


@dataclass(frozen=True)
class Ceilings:
    """flops: multiply-adds count two, per second, by dtype. bandwidth: bytes read and written per second, of arrays
    far beyond the caches and (cached) within a core's second level."""

    flops: Mapping[str, float]
    bandwidth: float
    cached: float

    def seconds(self, flops: float, nbytes: float, dtype: str) -> float:
        """The least time that a call of so much work can take."""
        bandwidth = self.cached if nbytes < 2**20 else self.bandwidth
        return max(flops / self.flops[dtype], nbytes / bandwidth)


@cache
def ceilings(threads: int) -> Ceilings:
    """Measured by graphc's own kernels at their best shapes: a product of matrices that stay in cache, and a sum of
    two arrays; NumPy's BLAS and its in-place addition may be faster, then theirs count."""
    import graphc

    before = graphc.get_num_threads()
    graphc.set_num_threads(threads)
    try:
        flops = {dtype: _flops(graphc, dtype) for dtype in ("float32", "float64")}
        return Ceilings(flops, _bandwidth(graphc, 1 << 24), _bandwidth(graphc, 1 << 15))
    finally:
        graphc.set_num_threads(before)


def _fastest(runs: Mapping[str, Run], rounds: int = 7) -> float:
    times = interleaved(runs, rounds, 0.05)
    return min(min(t) for t in times.rounds.values())


def _flops(graphc: object, dtype: str) -> float:
    n = 512
    a = np.random.default_rng(0).random((n, n)).astype(dtype)
    x = graphc.asarray(a)  # type: ignore[attr-defined]
    product = graphc.compile(lambda x: x @ x)  # type: ignore[attr-defined]
    return 2 * n**3 / _fastest({"numpy": lambda: a @ a, "graphc": lambda: product(x)})


def _bandwidth(graphc: object, n: int) -> float:
    a = np.ones(n, np.float32)
    x = graphc.asarray(a)  # type: ignore[attr-defined]
    double = graphc.compile(lambda x: x + 1.0)  # type: ignore[attr-defined]
    return 2 * a.nbytes / _fastest({"numpy": lambda: np.add(a, 1.0, out=a), "graphc": lambda: double(x)})
