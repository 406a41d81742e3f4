"""Peak memory of training steps: graphc's against its planned arena and against PyTorch eager's.

Each library runs in a fresh process. After two steps (compiled, the optimiser's state made) what lies idle is given
back; then one step more is watched: the growth of the resident memory above what the process holds between steps
(parameters, state and data, which are the same in both). Linux only: the peak is VmHWM of /proc/self/status.
"""

from __future__ import annotations

import argparse
import ctypes
import gc as collector
import json
import re
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from .models import gpt, lenet
from .training import training
from .work import Run
from .works.gpt import VOCABULARY, Size

GPTS = {"gpt384": Size(384, 6, 256, 4), "gpt128": Size(128, 4, 64, 16)}
STEPS = {
    "lenet": "LeNet, batch 1000",
    **{k: f"GPT d={s.width}, {s.heads} heads, T={s.time}, batch {s.batch}" for k, s in GPTS.items()},
}
GOAL = 0.7  # of PyTorch's growth
PLAN = 0.05  # how far the growth may be from the plan
PROCESSES = 3  # PyTorch's growth differs by a tenth from one to the next: its allocator's, by what lies where


@dataclass(frozen=True)
class Growth:
    """Bytes. step: by which a step's peak stands above what is held between steps. planned: the arena, 0 if unknown."""

    step: int
    planned: int = 0


def _data(name: str) -> list[np.ndarray]:
    rng = np.random.default_rng(0)
    if name == "lenet":
        return [rng.normal(size=(1000, 1, 28, 28)).astype(np.float32), rng.integers(0, 10, 1000)]
    return GPTS[name].arrays(rng, np.dtype(np.float32))


def _training(name: str, library: Any, arange: Callable[[int], Any]) -> Callable[..., Any]:
    """A training step in the names that graphc and PyTorch share."""
    nn, functional = library.nn, library.nn.functional
    if name == "lenet":
        model = lenet(nn)
        optimizer = library.optim.SGD(model.parameters(), lr=0.01, momentum=0.9)
    else:
        size = GPTS[name]
        model = gpt(nn, functional, arange, VOCABULARY, size.time, size.width, size.heads, size.layers)
        optimizer = library.optim.AdamW(model.parameters(), lr=1e-3)

    return training(lambda x, y: functional.cross_entropy(model(x), y), optimizer)


def watched(run: Run, rest: Run) -> int:
    """Bytes by which the resident memory grows while `run` runs. rest: gives back what lies idle."""
    for _ in range(2):
        run()
    rest()
    collector.collect()
    ctypes.CDLL(None).malloc_trim(0)  # else what PyTorch freed would stay with the process, and not be counted
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts from here
    before = _status("VmRSS")
    run()
    return _status("VmHWM") - before


def _status(key: str) -> int:
    found = re.search(rf"{key}:\s+(\d+) kB", Path("/proc/self/status").read_text())
    assert found is not None, f"no {key} in /proc/self/status"
    return 1024 * int(found[1])


def graphc(name: str) -> Growth:
    import graphc

    graphc.set_num_threads(2)
    step = graphc.compile(_training(name, graphc, graphc.arange))
    batch = [graphc.asarray(a) for a in _data(name)]

    def rest() -> None:
        for form in step.specialisations:
            form.run.release()

    growth = watched(lambda: step(*batch), rest)
    (form,) = step.specialisations
    return Growth(growth, form.run.interface.arena_size)


def torch(name: str) -> Growth:
    import torch

    torch.set_num_threads(2)
    step = _training(name, torch, torch.arange)
    batch = [torch.from_numpy(a) for a in _data(name)]
    return Growth(watched(lambda: step(*batch), lambda: None))


MEASURES: Mapping[str, Callable[[str], Growth]] = {"graphc": graphc, "torch": torch}


def in_fresh_process(library: str, name: str) -> Growth:
    """What a library's step needs. Raises CalledProcessError with its stderr shown if that process fails."""
    command = [sys.executable, "-m", "tests.bench.memory", library, name]
    told = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True, cwd=Path(__file__).parents[2])
    return Growth(**json.loads(told.stdout))


def report() -> str:
    """The table, a line for each step: medians of some processes, and how far our growth is from the plan."""
    heads = ["training step", "graphc", "planned arena", f"off by (goal: at most {PLAN:.0%})", "PyTorch eager"]
    heads.append(f"ratio (goal: at most {GOAL})")
    lines = [f"| {' | '.join(heads)} |", "|---" * len(heads) + "|"]
    for name, title in STEPS.items():
        in_fresh_process("graphc", name)  # fills the cache: the compiler's own memory is not the step's
        ours, planned = growth("graphc", name)
        theirs, _ = growth("torch", name)
        mega = [f"{n / 1e6:.1f} MB" for n in (ours, planned, theirs)]
        off = abs(ours - planned) / planned
        lines.append(f"| {title} | {mega[0]} | {mega[1]} | {off:.1%} | {mega[2]} | {ours / theirs:.2f} |")
    return "\n".join(lines)


def growth(library: str, name: str) -> tuple[float, float]:
    """The median growth of some processes, and the planned one."""
    found = [in_fresh_process(library, name) for _ in range(PROCESSES)]
    return float(np.median([one.step for one in found])), float(found[0].planned)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("library", choices=MEASURES)
    parser.add_argument("step", choices=STEPS)
    options = parser.parse_args()
    print(json.dumps(asdict(MEASURES[options.library](options.step))))


if __name__ == "__main__":
    main()
