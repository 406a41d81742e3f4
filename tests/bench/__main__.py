"""The suite: `python -m graphc bench`, or `python -m tests.bench` in a checkout."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from . import chains, latency, memory
from .libraries import LIBRARIES, installed
from .measure import ROUNDS
from .report import markdown, merged, plot, read_json, row, write_json
from .suite import chosen, measure
from .work import LINES

# OpenBLAS's idle threads spin for 0.1 s, on the core that the next library in turn wants; with this, for 0.1 ms.
BRIEF_SPINNING = {"OPENBLAS_THREAD_TIMEOUT": "18"}


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m graphc bench", description=__doc__)
    parser.add_argument("works", nargs="*", help=f"parts of names, or lines: {', '.join(LINES)}; all for none")
    parser.add_argument("--peers", help=f"comma-separated, of: {', '.join(k.name for k in LIBRARIES)}")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--dtype", choices=("float32", "float64"), default="float32")
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--list", action="store_true", help="the works, without running them")
    parser.add_argument("--json", type=Path, help="write every round's times there; works that it has already are kept")
    parser.add_argument("--plot", type=Path, help="draw the ratios there (PNG or SVG)")
    parser.add_argument("--chains", action="store_true", help="compile time against the length of the graph instead")
    parser.add_argument("--memory", action="store_true", help="peak memory of training steps instead of times")
    parser.add_argument("--latency", action="store_true", help="the first call in fresh processes instead")
    options = parser.parse_args(arguments)
    if options.latency:
        latency.report(latency.PEERS if options.peers is None else options.peers.split(","))
        return
    if options.chains:
        curves = chains.report()
        if options.plot:
            chains.plot(curves, options.plot)
        return
    if options.memory:
        print(memory.report())
        return
    selected = chosen(options.works)
    if not selected:
        parser.error(f"no work's line is, and no work's name has, {' or '.join(options.works)}; --list shows all")
    if options.list:
        for work in selected:
            print(f"{work.line:18} {work.name}")
        return
    names = [*options.peers.split(","), "graphc", "graphc eager"] if options.peers else []
    libraries = installed(options.threads, names)
    print(
        f"{options.threads} threads; time per call, ratio to the best peer (80 % of rounds), share of the limit, peers"
    )
    try:
        outcomes = read_json(options.json, options.threads) if options.json and options.json.exists() else []
    except ValueError as error:
        parser.error(str(error))
    differing = 0
    for work in selected:
        if sys.stderr.isatty():
            print(f"\r\033[K{work.name} ...", end="", file=sys.stderr, flush=True)
        try:
            outcome = measure(work, libraries, options.threads, options.dtype, options.rounds)
        except AssertionError as error:  # the others may still be measured
            differing += 1
            print("\r\033[K" * sys.stderr.isatty() + str(error), flush=True)
            continue
        print("\r\033[K" * sys.stderr.isatty() + row(outcome), flush=True)
        outcomes = merged(outcomes, [outcome])
        if options.json:
            write_json(outcomes, options.threads, options.json)
    print("\n" + markdown(outcomes))
    if options.plot:
        plot(outcomes, options.plot)
    if differing:
        sys.exit(f"{differing} of {len(selected)} works give different results in different libraries")


if __name__ == "__main__":
    if not BRIEF_SPINNING.keys() <= os.environ.keys():  # read when the library is loaded, which NumPy did long ago
        os.execve(sys.executable, [sys.executable, *sys.orig_argv[1:]], {**BRIEF_SPINNING, **os.environ})
    main()
