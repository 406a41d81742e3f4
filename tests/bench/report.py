"""The suite's outcomes as tables, JSON and a plot."""

from __future__ import annotations

import json
import platform
import statistics
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

from .measure import Times
from .suite import Outcome, all_works
from .work import LINES

PACKAGES = ("numpy", "torch", "jax", "numba", "pytensor", "llvmlite")


def duration(seconds: float) -> str:
    """Three digits and a unit."""
    for unit, scale in (("s", 1.0), ("ms", 1e-3), ("us", 1e-6), ("ns", 1e-9)):
        if seconds >= scale:
            return f"{seconds / scale:.3g} {unit}"
    return f"{seconds / 1e-9:.3g} ns"


def row(outcome: Outcome) -> str:
    """One work: times of all, best peer first, the ratio with its spread, and graphc's share of the physical limit."""
    ours, times = outcome.ours, outcome.times
    peers = sorted((name for name in times.rounds if name != ours), key=times.median)
    told = f"{outcome.work.name:46} {duration(times.median(ours)):>8}"
    if outcome.best is not None:
        ratio, low, high = times.ratio(outcome.best, ours)
        told += f"  {ratio:5.2f} ({low:.2f}-{high:.2f})"
    if outcome.limit:
        told += f"  limit {100 * outcome.limit / times.median(ours):3.0f} %"
    told += "  " + ", ".join(f"{name} {duration(times.median(name))}" for name in peers)
    for name, why in outcome.failed.items():
        told += f"\n{'':46} {name} has no time: {why.splitlines()[0][:100]}"
    return told


def geometric_mean(ratios: Sequence[float]) -> float:
    return statistics.geometric_mean(ratios)


def lines(outcomes: Sequence[Outcome]) -> list[dict[str, Any]]:
    """The table of the README: for each line its goal, and of its works' ratios the geometric mean and the least."""
    table = []
    for key, line in LINES.items():
        ratios = {o.work.name: o.ratio for o in outcomes if o.work.line == key and o.ratio is not None}
        if ratios:
            least = min(ratios, key=lambda name: ratios[name])
            table.append(
                {
                    "line": line.title, "goal": line.goal, "ratio": geometric_mean(list(ratios.values())),
                    "least": ratios[least], "of": least, "works": len(ratios),
                }
            )  # fmt: skip
    return table


def markdown(outcomes: Sequence[Outcome]) -> str:
    table = lines(outcomes)
    if not table:
        return "nothing was compared: no peer is installed for the works chosen"
    rows = [f"| {r['line']} | {r['goal']:g} | {r['ratio']:.2f} | {r['least']:.2f} ({r['of']}) |" for r in table]
    mean = geometric_mean([r["ratio"] for r in table])
    return "\n".join(
        [
            "| work | goal | ratio | least |",
            "|---|---|---|---|",
            *rows,
            f"| geometric mean of the lines | 2 | {mean:.2f} | |",
        ]
    )


def write_json(outcomes: Sequence[Outcome], threads: int, path: Path) -> None:
    """Everything that was measured: seconds per call of every round of every library."""
    versions = {}
    for package in PACKAGES:
        try:
            versions[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    document = {
        "threads": threads, "machine": platform.machine(), "versions": versions, "lines": lines(outcomes),
        "works": [
            {
                "name": o.work.name, "line": o.work.line, "dtype": o.dtype, "ours": o.ours, "best": o.best,
                "ratio": o.ratio, "limit": o.limit, "difference": o.difference, "failed": o.failed,
                "seconds": o.times.rounds,
            }
            for o in outcomes
        ],
    }  # fmt: skip
    path.write_text(json.dumps(document, indent=1) + "\n")


def read_json(path: Path, threads: int) -> list[Outcome]:
    """What `write_json` wrote of works that the suite still has. Raises ValueError for another number of threads."""
    document = json.loads(path.read_text())
    if document["threads"] != threads:
        raise ValueError(f"{path} has times on {document['threads']} threads, not {threads}: name another file")
    works = {work.name: work for work in all_works()}
    return [
        Outcome(
            works[o["name"]], o["dtype"], o["ours"], Times(o["seconds"]), o["limit"], o["difference"], o["failed"]
        )
        for o in document["works"]
        if o["name"] in works
    ]  # fmt: skip


def merged(before: Sequence[Outcome], now: Sequence[Outcome]) -> list[Outcome]:
    """Those of `now`, and those of `before` whose works it hasn't, in the order of the table."""
    latest = {outcome.work.name: outcome for outcome in (*before, *now)}
    return [latest[work.name] for work in all_works() if work.name in latest]


def plot(outcomes: Sequence[Outcome], path: Path) -> None:
    """A bar for each work: best peer's time over ours, on a logarithmic axis, its goal as a tick."""
    from matplotlib import pyplot

    shown = [o for o in outcomes if o.ratio is not None]
    figure, axes = pyplot.subplots(figsize=(9, 1.5 + 0.22 * len(shown)), layout="constrained")
    places = range(len(shown))
    goals = [LINES[o.work.line].goal for o in shown]
    ratios = [o.ratio for o in shown]
    colours = ["tab:blue" if r >= goal else "tab:orange" for r, goal in zip(ratios, goals, strict=True)]
    axes.barh(places, [r - 1 for r in ratios], left=1, color=colours)
    axes.scatter(goals, places, marker="|", color="black", zorder=3, label="goal")
    axes.axvline(1, color="black", linewidth=0.8)
    axes.set_xscale("log")
    axes.set_yticks(places, [f"{o.work.name} ({o.best})" for o in shown], fontsize=7)
    axes.invert_yaxis()
    axes.set_xlabel("best peer's time / graphc's time")
    axes.legend(loc="lower right")
    figure.savefig(path, dpi=120)
    pyplot.close(figure)
