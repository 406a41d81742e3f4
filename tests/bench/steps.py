"""Training steps against PyTorch eager, in interleaved rounds: `python tests/bench/steps.py [lenet mlp gpt]`.

Prints the median time of each, the ratio (PyTorch's time over ours), its spread over the rounds, and the largest
difference of the first step's gradients, in ulps of each gradient's largest element. (Not of the parameters: Adam
divides each gradient by its own size, so where one is nothing but rounding error, so is the step.)
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from typing import Any

import numpy as np
from models import graphc_work, torch_work

import graphc as gc

try:
    import torch
except ImportError:
    torch = None


def ulps(ours: Any, theirs: Any) -> float:
    """The largest difference of two models' gradients, in ulps of each gradient's largest element."""
    worst = 0.0
    for p, q in zip(ours.parameters(), theirs.parameters(), strict=True):
        a, b = p.grad.numpy(), q.grad.numpy()
        worst = max(worst, float(np.abs(a - b).max() / np.spacing(np.abs(a).max())))
    return worst


def seconds(run: Callable[[], Any], least: float = 0.05) -> float:
    """Mean time of a call, over at least `least` seconds."""
    start, calls = time.perf_counter(), 0
    while True:
        run()
        calls += 1
        taken = time.perf_counter() - start
        if taken >= least:
            return taken / calls


def compare(name: str, rounds: int) -> None:
    """One line of the table."""
    ours, eager = graphc_work(name), graphc_work(name)
    compiled = gc.compile(ours.step)
    batch = [gc.asarray(a) for a in ours.batch]
    runs: dict[str, Callable[[], Any]] = {"compiled": lambda: compiled(*batch)}
    compiled(*batch)
    eager.step(*batch)
    line = f"{name:6} gradients: compiled = eager within {ulps(ours.model, eager.model):.1f} ulps"
    if torch is not None:
        theirs = torch_work(torch, name)
        tensors = [torch.from_numpy(a) for a in theirs.batch]
        theirs.step(*tensors)
        line += f", PyTorch within {ulps(ours.model, theirs.model):.1f}"
        runs["torch"] = lambda: theirs.step(*tensors)
    for run in runs.values():
        seconds(run, 0.2)
    times: dict[str, list[float]] = {n: [] for n in runs}
    for _ in range(rounds):
        for n, run in runs.items():
            times[n].append(seconds(run))
    print(line)
    medians = {n: 1e3 * statistics.median(t) for n, t in times.items()}
    told = "  ".join(f"{n} {t:.2f} ms" for n, t in medians.items())
    if torch is not None:
        ratios = sorted(b / a for a, b in zip(times["compiled"], times["torch"], strict=True))
        low, high = ratios[len(ratios) // 10], ratios[-1 - len(ratios) // 10]
        told += f"  ratio {statistics.median(ratios):.2f} (80 % of rounds {low:.2f} to {high:.2f})"
    print(f"       {told}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", default=["lenet", "mlp", "gpt"])
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    gc.set_num_threads(options.threads)
    if torch is not None:
        torch.set_num_threads(options.threads)
    for name in options.names:
        compare(name, options.rounds)


if __name__ == "__main__":
    main()
