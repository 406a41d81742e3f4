"""Runs works: builds what each library calls, checks that their results agree, times them in interleaved rounds."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from .libraries import Library
from .measure import SLICE, Times, ceilings, interleaved
from .work import LINES, Run, Work
from .works import KINDS

EAGER = ("graphc eager", "torch")
SECONDS = 12.0  # about how long the rounds of one work may take
BUILD_SECONDS = 60.0  # a library that takes longer for its first call is left out, and the table says so


@dataclass
class Outcome:
    """One work, measured. ours: the name of graphc's mode. failed: why a library has no time."""

    work: Work
    dtype: str
    ours: str
    times: Times
    limit: float
    difference: float
    failed: dict[str, str] = field(default_factory=dict)

    @property
    def best(self) -> str | None:
        peers = [name for name in self.times.rounds if name != self.ours]
        return self.times.best(peers) if peers else None

    @property
    def ratio(self) -> float | None:
        return None if self.best is None else self.times.ratio(self.best, self.ours)[0]


def all_works(size: str = "WORKS") -> list[Work]:
    """The works of every kind, in the order of the table. size: WORKS, or SMALL for the tests."""
    found = [work for kind in KINDS for work in getattr(kind, size)]
    order = list(LINES)
    return sorted(found, key=lambda work: order.index(work.line))


def chosen(patterns: Sequence[str], size: str = "WORKS") -> list[Work]:
    """The works whose line is, or whose name has, one of the patterns; all for none."""
    return [
        work
        for work in all_works(size)
        if not patterns or any(p == work.line or p.lower() in work.name.lower() for p in patterns)
    ]


def ours_of(work: Work) -> str:
    return "graphc eager" if work.line.startswith("eager") else "graphc"


def runs_of(work: Work, libraries: Mapping[str, Library], dtype: str) -> tuple[dict[str, Run], dict[str, str]]:
    """What each library calls, and why some have nothing to call."""
    data = work.arrays(np.random.default_rng(0), np.dtype(dtype))
    runs: dict[str, Run] = {}
    failed: dict[str, str] = {}
    for name, library in libraries.items():
        if (work.only and name not in work.only) or (name in EAGER) < (ours_of(work) == EAGER[0]):
            continue
        if name == EAGER[0] and ours_of(work) != EAGER[0]:
            continue
        try:
            run = _run_of(work, library, data)
        except Exception as error:  # a peer that cannot do this work is a fact to report, not the end of the suite
            if name == ours_of(work):
                raise
            failed[name] = f"{type(error).__name__}: {error}"
            continue
        if run is not None:
            runs[name] = run
    return runs, failed


def _run_of(work: Work, library: Library, data: Sequence[np.ndarray]) -> Run | None:
    arrays = [library.array(a) for a in data]
    if library.name in work.own:
        make = work.own[library.name]
        return None if make is None else make(library, *arrays)
    if work.formula is None or not hasattr(library, "xp"):
        return None

    def formula(*arrays: Any) -> Any:
        return work.formula(library.xp, *arrays)  # type: ignore[misc]

    call = library.value_and_grad(formula, work.wrt) if work.wrt else library.function(formula)
    return None if call is None else lambda: call(*arrays)


def difference(results: Mapping[str, list[np.ndarray]], ours: str, chaotic: float = 0.0) -> tuple[float, str]:
    """The largest difference of graphc's results from a peer's, relative to each result's largest element.

    Infinities and NaN must be where the peer's are. chaotic: the share of the elements that may differ by more.
    """
    worst, whose = 0.0, ""
    for name, theirs in results.items():
        if name == ours:
            continue
        mine = results[ours]
        if [a.size for a in mine] != [b.size for b in theirs]:
            return float("inf"), f"{name}: {[b.shape for b in theirs]} for {[a.shape for a in mine]}"
        for a, b in zip(mine, theirs, strict=True):
            if not a.size:
                continue
            a, b = a.ravel().astype(np.float64), b.ravel().astype(np.float64)
            finite = np.isfinite(a) & np.isfinite(b)
            apart = np.where((a == b) | (np.isnan(a) & np.isnan(b)), 0.0, np.inf)
            apart[finite] = np.abs(a[finite] - b[finite]) / (np.abs(b[finite]).max(initial=0.0) or 1.0)
            last = a.size - 1 - int(chaotic * a.size)
            far = float(np.partition(apart, last)[last])
            if not far <= worst:
                worst, whose = far, name
    return worst, whose


def check(work: Work, libraries: Mapping[str, Library], dtype: str) -> tuple[dict[str, Run], dict[str, str], float]:
    """The runs, called once each, agreeing. Raises AssertionError with the peer that differs most."""
    runs, failed = runs_of(work, libraries, dtype)
    ours = ours_of(work)
    results = {}
    for name, run in list(runs.items()):
        start = time.perf_counter()
        try:
            results[name] = [np.array(a) for a in libraries[name].numpy(run())]
        except Exception as error:  # as above
            if name == ours:
                raise
            failed[name] = f"{type(error).__name__}: {error}"
            del runs[name]
            continue
        if time.perf_counter() - start > BUILD_SECONDS:
            failed[name] = f"first call took {time.perf_counter() - start:.0f} s"
            del runs[name]
    far, whose = difference(results, ours, work.chaotic)
    allowed = work.rtol * (1e-6 if dtype == "float64" else 1.0)
    assert far <= allowed, f"{work.name}: graphc and {whose} differ by {far:.2g} of the largest element ({allowed:.2g})"
    return runs, failed, far


def measure(work: Work, libraries: Mapping[str, Library], threads: int, dtype: str, rounds: int) -> Outcome:
    """dtype: of a work that names none. Raises AssertionError if the libraries' results differ."""
    kind = work.dtype or dtype
    runs, failed, far = check(work, libraries, kind)
    once = interleaved(runs, 1, 0.0)
    total = sum(once.rounds[name][0] for name in runs)
    least = min(SLICE, max(0.01, 3 * min(t[0] for t in once.rounds.values())))
    fitting = int(SECONDS / max(2 * total, least * len(runs)))
    times = interleaved(runs, max(3, min(rounds, fitting)), least)
    limit = ceilings(threads).seconds(work.flops, work.bytes, kind) if work.flops or work.bytes else 0.0
    return Outcome(work, kind, ours_of(work), times, limit, far, failed)
