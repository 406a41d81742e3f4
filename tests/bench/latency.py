"""The first call in a fresh process, without and with a cache on disk, against compilers: `python -m tests.bench
--latency`.

Without a cache: seconds from the start of the process to the result, imports included, as a user waits for them. With
one: from the first call to its result. Each library and each call has a process of its own; the second finds what the
first left on disk.

Another batch size: in a process that has called the function twice, without a cache, the first call with half of each
array; how long it takes until calls with that size run as compiled; and a call's time until then and from then on.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .suite import all_works

WORKS = ("LeNet step, batch 64", "MLP 784-512-512-10", "GPT 2 layers d=128", "Black-Scholes 1e5 float32")
PEERS = ("torch.compile", "jax")
COLD, WARM = 0.5, 0.05  # goals: of the faster peer's time without cache; seconds of the first call with one
ROUNDS = 3  # of graphc's calls; a peer's are long enough to be counted once

SETUP = """
import json, sys, time
from tests.bench.libraries import installed
from tests.bench.suite import runs_of, all_works
from tests.bench import training

training.steps_before = 0
name, library, began = sys.argv[1:]
work = next(w for w in all_works() if w.name == name)
libraries = installed(2, [library])
"""
FIRST = """
runs, failed = runs_of(work, libraries, "float32")
start = time.perf_counter()
results = libraries[library].numpy(runs[library]())
end = time.perf_counter()
imported = ["llvmlite" in sys.modules, "networkx" in sys.modules]
print(json.dumps([time.monotonic() - float(began), end - start, *imported]))
"""
OTHER = """
import statistics
from tests.bench.libraries import Graphc

class Kept(Graphc):
    def function(self, f):
        self.made = super().function(f)
        return self.kept

    def kept(self, *arrays):
        self.arrays = arrays
        return self.made(*arrays)

kept = libraries[library] = Kept(2)
runs, failed = runs_of(work, libraries, "float32")
for _ in range(2):
    runs[library]()
made, half = kept.made, [kept.array(a.numpy()[: len(a) // 2]) for a in kept.arrays]

def timed():
    start = time.perf_counter()
    kept.numpy(made(*half))
    return time.perf_counter() - start

first, start, before = timed(), time.perf_counter(), []
while made.specialisations[-1].waiting is not None:
    before.append(timed())
ready = time.perf_counter() - start
after = [timed() for _ in range(20)]
print(json.dumps([first, ready, statistics.median(before or [first]), statistics.median(after)]))
"""


@dataclass(frozen=True)
class Latency:
    """cold: seconds of a process without a cache; warm: of the first call with one. imports: what of llvmlite and
    networkx was imported with a cache."""

    cold: float
    warm: float
    imports: Sequence[str] = ()


@dataclass(frozen=True)
class Other:
    """Seconds of another batch size: its first call, until it is compiled, a call before and after that."""

    first: float
    ready: float
    before: float
    after: float


def _told(program: str, work: str, library: str, caches: Path) -> list[Any] | None:
    """What a program prints in a process of its own, with caches in that folder; None if it fails."""
    root = Path(__file__).resolve().parents[2]
    environment = {
        **os.environ,
        "GRAPHC_CACHE_DIR": str(caches / "graphc"),
        "TORCHINDUCTOR_CACHE_DIR": str(caches / "inductor"),
        "JAX_COMPILATION_CACHE_DIR": str(caches / "jax"),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
        "PYTHONPATH": os.pathsep.join(filter(None, (str(root), os.environ.get("PYTHONPATH")))),
        "PYTHONPYCACHEPREFIX": str(caches.parent / "bytecode"),  # that of an installed package is there already
        "PYTHONDONTWRITEBYTECODE": "",
    }
    try:
        told = subprocess.run(
            [sys.executable, "-c", SETUP + program, work, library, str(time.monotonic())], env=environment,
            capture_output=True, text=True, check=True, timeout=300,
        )  # fmt: skip
    except (subprocess.CalledProcessError, subprocess.TimeoutExpired):
        return None
    found: list[Any] = json.loads(told.stdout.splitlines()[-1])
    return found


def first_call(work: str, library: str, caches: Path) -> tuple[float, float, list[str]] | None:
    """(seconds of a fresh process, of its first call, heavy imports), with caches in that folder; None if it fails."""
    told = _told(FIRST, work, library, caches)
    if told is None:
        return None
    process, call, llvmlite, networkx = told
    return process, call, ["llvmlite"] * llvmlite + ["networkx"] * networkx


def other_size(work: str, rounds: int, folder: Path) -> Other:
    """Medians over rounds, each with a cache of its own. Raises AssertionError if graphc's call fails."""
    found = []
    for _ in range(rounds):
        with tempfile.TemporaryDirectory(dir=folder) as caches:
            told = _told(OTHER, work, "graphc", Path(caches))
        assert told is not None, f"{work}: graphc's call with another batch size failed"
        found.append(told)
    return Other(*[statistics.median(column) for column in zip(*found, strict=True)])


def measured(work: str, library: str, rounds: int, folder: Path) -> Latency | None:
    """Medians over rounds, each with caches of its own."""
    cold, warm, imports = [], [], []
    for _ in range(rounds):
        with tempfile.TemporaryDirectory(dir=folder) as caches:
            first, second = (first_call(work, library, Path(caches)) for _ in range(2))
        if first is None or second is None:
            return None
        cold.append(first[0])
        warm.append(second[1])
        imports = second[2]
    return Latency(statistics.median(cold), statistics.median(warm), imports)


def row(work: str, found: Mapping[str, Latency | None], other: Other) -> str:
    """A line of the table."""
    ours = found["graphc"]
    assert ours is not None, f"{work}: graphc's first call failed"
    peers = {name: peer for name, peer in found.items() if name != "graphc" and peer is not None}
    ratio = ours.cold / min(peer.cold for peer in peers.values()) if peers else None
    return (
        f"| {work} | {ours.cold:.2f} | {'' if ratio is None else f'{ratio:.2f}'} | {1e3 * ours.warm:.0f} | "
        + "; ".join(f"{name} {peer.cold:.2f} / {peer.warm:.2f}" for name, peer in peers.items())
        + f" | {', '.join(ours.imports) or 'neither'} | {1e3 * other.first:.0f} | "
        + f"{other.ready:.1f}: {1e3 * other.before:.3g}, {1e3 * other.after:.3g} |"
    )


def report(peers: Sequence[str] = PEERS) -> None:
    """Print the table, a line as soon as it is known. Raises AssertionError if a call of graphc's fails."""
    names = [w.name for w in all_works()]
    works = [next((n for n in names if n.startswith(start)), None) for start in WORKS]
    heads = (
        "work", "process without cache, s", f"of the faster peer's (goal {COLD})",
        f"first call with cache, ms (goal {1e3 * WARM:.0f})", "peers: process without / call with, s",
        "imported with cache: llvmlite, networkx", f"first call of another batch size, ms (goal {1e3 * WARM:.0f})",
        "it is compiled after, s: a call before and then, ms",
    )  # fmt: skip
    print(f"| {' | '.join(heads)} |\n|{'---|' * len(heads)}")
    with tempfile.TemporaryDirectory() as folder:
        for work in filter(None, works):
            first_call(work, "graphc", Path(folder) / "unused")  # writes the bytecode
            found = {"graphc": measured(work, "graphc", ROUNDS, Path(folder))}
            found |= {peer: measured(work, peer, 1, Path(folder)) for peer in peers}
            print(row(work, found, other_size(work, ROUNDS, Path(folder))), flush=True)
