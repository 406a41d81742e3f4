"""The first call in a fresh process, without and with a cache on disk, against compilers: `python -m tests.bench
--latency`.

Seconds from the first call to its result, imports and data left out. Each library and each call has a process of its
own; the second finds what the first left on disk.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from .suite import all_works

WORKS = ("LeNet step, batch 64", "MLP 784-512-512-10", "GPT 2 layers d=128", "Black-Scholes 1e5 float32")
PEERS = ("torch.compile", "jax")
COLD, WARM = 0.5, 0.05  # goals: of the faster peer's first call without cache; seconds with one
ROUNDS = 3  # of graphc's calls; a peer's are long enough to be counted once

PROGRAM = """
import json, sys, time
from tests.bench.libraries import installed
from tests.bench.suite import runs_of, all_works
from tests.bench.works import KINDS

def not_started(step, *batch):
    return lambda: step(*batch)

for kind in KINDS:
    if hasattr(kind, "started"):
        kind.started = not_started
name, library = sys.argv[1:]
work = next(w for w in all_works() if w.name == name)
libraries = installed(2, [library])
runs, failed = runs_of(work, libraries, "float32")
start = time.perf_counter()
results = libraries[library].numpy(runs[library]())
print(json.dumps([time.perf_counter() - start, "llvmlite" in sys.modules, "networkx" in sys.modules]))
"""


@dataclass(frozen=True)
class Latency:
    """Seconds of a first call. imports: what of llvmlite and networkx was imported by the one with a cache."""

    cold: float
    warm: float
    imports: Sequence[str] = ()


def first_call(work: str, library: str, caches: Path) -> tuple[float, list[str]] | None:
    """(seconds, heavy imports) in a fresh process that keeps its caches under that folder; None if it fails."""
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
            [sys.executable, "-c", PROGRAM, work, library], env=environment, capture_output=True, text=True, check=True,
            timeout=300,
        )  # fmt: skip
    except (subprocess.CalledProcessError, subprocess.TimeoutExpired):
        return None
    seconds, llvmlite, networkx = json.loads(told.stdout.splitlines()[-1])
    return seconds, ["llvmlite"] * llvmlite + ["networkx"] * networkx


def measured(work: str, library: str, rounds: int, folder: Path) -> Latency | None:
    """Medians over rounds, each with caches of its own."""
    cold, warm, imports = [], [], []
    for _ in range(rounds):
        with tempfile.TemporaryDirectory(dir=folder) as caches:
            first, second = (first_call(work, library, Path(caches)) for _ in range(2))
        if first is None or second is None:
            return None
        cold.append(first[0])
        warm.append(second[0])
        imports = second[1]
    return Latency(statistics.median(cold), statistics.median(warm), imports)


def row(work: str, found: Mapping[str, Latency | None]) -> str:
    """A line of the table."""
    ours = found["graphc"]
    assert ours is not None, f"{work}: graphc's first call failed"
    peers = {name: peer for name, peer in found.items() if name != "graphc" and peer is not None}
    ratio = ours.cold / min(peer.cold for peer in peers.values()) if peers else None
    return (
        f"| {work} | {ours.cold:.2f} | {'' if ratio is None else f'{ratio:.2f}'} | {1e3 * ours.warm:.0f} | "
        + "; ".join(f"{name} {peer.cold:.2f} / {peer.warm:.2f}" for name, peer in peers.items())
        + f" | {', '.join(ours.imports) or 'neither'} |"
    )


def report(peers: Sequence[str] = PEERS) -> None:
    """Print the table, a line as soon as it is known. Raises AssertionError if a call of graphc's fails."""
    names = [w.name for w in all_works()]
    works = [next((n for n in names if n.startswith(start)), None) for start in WORKS]
    print(f"| first call | no cache, s | of the faster peer's (goal {COLD}) | with cache, ms (goal {1e3 * WARM:.0f}) | "
          "peers without / with, s | imported with cache: llvmlite, networkx |\n|---|---|---|---|---|---|")  # fmt: skip
    with tempfile.TemporaryDirectory() as folder:
        for work in filter(None, works):
            first_call(work, "graphc", Path(folder) / "unused")  # writes the bytecode
            found = {"graphc": measured(work, "graphc", ROUNDS, Path(folder))}
            found |= {peer: measured(work, peer, 1, Path(folder)) for peer in peers}
            print(row(work, found), flush=True)
