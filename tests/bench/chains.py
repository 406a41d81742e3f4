"""Compile time against the length of the graph: a chain of elementwise operations, each library in a fresh process.

`python -m tests.bench --chains` prints seconds from the first call to its result (the import left out), for graphc with
an empty cache, and the growth from one length to the next: 1.0 is linear.
"""

from __future__ import annotations

import itertools
import math
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

LENGTHS = (100, 1_000, 10_000, 100_000)
LIBRARIES = ("graphc", "torch.compile", "jax")
SECONDS = 120.0  # what takes longer is given up

PROGRAM = """
import sys, time
import numpy as np
from tests.bench.libraries import installed

name, length = sys.argv[1], int(sys.argv[2])
library = installed(2, [name])[name]
sys.setrecursionlimit(1_000_000)


def chain(x):
    y = x
    for _ in range(length // 4):
        y = library.xp.sin(y) * 1.01 + x
        y = y - 0.5
    return y


x = library.array(np.linspace(0, 1, 1000, dtype=np.float32))
run = library.function(chain)
start = time.perf_counter()
result = run(x)
print(time.perf_counter() - start, float(np.abs(library.numpy(result)[0]).sum()))
"""


def first_call(library: str, length: int) -> tuple[float, float] | None:
    """(seconds, a sum of the result); None where the process failed or took more than SECONDS."""
    root = Path(__file__).resolve().parents[2]
    with tempfile.TemporaryDirectory() as folder:
        caches = {"GRAPHC_CACHE_DIR": f"{folder}/graphc", "TORCHINDUCTOR_CACHE_DIR": f"{folder}/inductor"}
        path = os.pathsep.join(filter(None, (str(root), os.environ.get("PYTHONPATH"))))
        try:
            told = subprocess.run(
                [sys.executable, "-c", PROGRAM, library, str(length)], env={**os.environ, **caches, "PYTHONPATH": path},
                cwd=folder, capture_output=True, text=True, timeout=SECONDS, check=True,
            )  # fmt: skip
        except (subprocess.TimeoutExpired, subprocess.CalledProcessError):
            return None
    seconds, total = map(float, told.stdout.split()[-2:])
    return seconds, total


def growth(lengths: Sequence[int], seconds: Mapping[int, float]) -> list[float]:
    """The exponents between neighbouring lengths: 1 is linear, 2 is quadratic."""
    known = [n for n in lengths if n in seconds]
    return [math.log(seconds[b] / seconds[a]) / math.log(b / a) for a, b in itertools.pairwise(known)]


def report(lengths: Sequence[int] = LENGTHS, names: Sequence[str] = LIBRARIES) -> dict[str, dict[int, float]]:
    """Prints the curves and gives them: seconds by library and length."""
    curves: dict[str, dict[int, float]] = {}
    sums: dict[int, float] = {}
    print("seconds of the first call, by operations in the chain")
    print(f"{'':14}" + "".join(f"{n:>10,}" for n in lengths) + "   growth")
    for name in names:
        curve = curves[name] = {}
        for n in lengths:
            found = first_call(name, n)
            if found is None:
                break  # what is longer won't do better
            curve[n], total = found
            assert math.isclose(total, sums.setdefault(n, total), rel_tol=1e-3), f"{name}: {total}, not {sums[n]}"
        cells = "".join(f"{curve[n]:10.2f}" if n in curve else f"{'-':>10}" for n in lengths)
        print(f"{name:14}{cells}   {', '.join(f'{g:.2f}' for g in growth(lengths, curve))}", flush=True)
    return curves


def plot(curves: Mapping[str, Mapping[int, float]], path: Path) -> None:
    """The curves on logarithmic axes, with a line for what linear growth would be."""
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(6, 4), layout="constrained")
    for name, curve in curves.items():
        axes.plot(list(curve), list(curve.values()), marker="o", label=name)
    ours = curves.get("graphc")
    if ours:
        longest = max(ours)
        axes.plot(list(ours), [ours[longest] * n / longest for n in ours], color="grey", linestyle=":", label="linear")
    axes.set(xscale="log", yscale="log", xlabel="operations", ylabel="seconds of the first call")
    axes.legend()
    figure.savefig(path, dpi=120)
    pyplot.close(figure)
