"""The tape's overhead: a 10-operation chain, forward and backward, on small arrays, against PyTorch eager.

`python tests/bench/eager.py` prints microseconds per call (median over interleaved rounds, one thread) and the ratio.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from typing import Any

import numpy as np

import graphc as gc

try:
    import torch
except ImportError:
    torch = None


def chain(x: Any, lib: Any) -> Any:
    """Ten operations: products, sums, tanh, exp, sin, a reduction."""
    y = x * 1.5
    y = y + 0.3
    y = lib.tanh(y)
    y = y * x
    y = y - 0.1
    y = lib.exp(y)
    y = y / 2.0
    y = lib.sin(y)
    y = y * y
    return y.sum()


def runner(x: Any, lib: Any) -> Callable[[], None]:
    def run() -> None:
        x.grad = None
        chain(x, lib).backward()

    return run


def main() -> None:
    if torch is not None:
        torch.set_num_threads(1)
    for n in (1, 10, 100):
        data = np.random.default_rng(0).random(n, dtype=np.float32)
        runs = {"graphc": runner(gc.tensor(data, requires_grad=True), gc)}
        if torch is not None:
            runs["torch"] = runner(torch.tensor(data, requires_grad=True), torch)
        times: dict[str, list[float]] = {name: [] for name in runs}
        for _ in range(60):
            for name, run in runs.items():
                start = time.perf_counter()
                for _ in range(50):
                    run()
                times[name].append((time.perf_counter() - start) / 50)
        told = "  ".join(f"{name} {1e6 * statistics.median(t):6.1f} us" for name, t in times.items())
        if torch is not None:
            ratios = [a / b for a, b in zip(times["graphc"], times["torch"], strict=True)]
            told += f"  graphc/torch {statistics.median(ratios):.2f}"
        print(f"{n:4} elements  {told}")


if __name__ == "__main__":
    main()
