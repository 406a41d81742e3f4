"""Instructions in the inner loops of three kernels, for fixed processors: a slower kernel is seen without a clock.

Machine code is made for the named target, whatever machine runs the test, and read, not run. What is counted is the
innermost loop in which the work is done, by its marker: an instruction that stands there once for each unit of work
(a vector of options, a multiply-add). Executed instructions are these, but for the loops' beginnings and ends.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import pytest

import graphc as gc
from graphc.ir.node import FUSED
from graphc.nn.functional import softmax
from graphc.passes import pipeline
from graphc.runtime.cpu import jit
from graphc.runtime.cpu.llvm import print_kernel
from graphc.runtime.cpu.target import TARGETS
from graphc.runtime.loop.lower import lower_node
from graphc.runtime.loop.schedule.cpu import schedule_cpu
from graphc.trace import trace
from graphc.tree import flatten

from .works.elementwise import black_scholes

TOLERANCE = 0.05  # versions of LLVM differ by some moves
OUTDATED = 0.2  # so much better, and the record hides what gets worse again


@dataclass(frozen=True)
class Counted:
    """marker: the instruction that stands for a unit of work. recorded: instructions for each, by target."""

    formula: Callable[..., Any]
    shapes: tuple[tuple[int, ...], ...]
    marker: str
    recorded: dict[str, float]


KERNELS = {
    "Black-Scholes": Counted(
        partial(black_scholes, gc), ((100_000,),) * 3, "vsqrtps", {"x86-64-v3": 258.8, "x86-64-v4": 193.5}
    ),
    "softmax": Counted(softmax, ((64, 1000),), "vminps", {"x86-64-v3": 40.0, "x86-64-v4": 26.0}),
    "product": Counted(
        lambda a, b: a @ b, ((128, 128),) * 2, "vfmadd231ps", {"x86-64-v3": 2.1, "x86-64-v4": 1.73}
    ),
}  # fmt: skip


def listings(counted: Counted, target: str) -> Iterator[str]:
    """The assembly of each kernel that the formula becomes."""
    arrays = tuple(gc.tensor(np.ones(shape, np.float32)) for shape in counted.shapes)
    leaves, structure = flatten((arrays, {}))
    graph = pipeline.run(trace(counted.formula, leaves, structure).graph)[-1].graph
    for node in graph.nodes:
        if node.op is FUSED:
            kernel = schedule_cpu(lower_node(node), TARGETS[target])
            yield jit.assembly(print_kernel(kernel, TARGETS[target]), TARGETS[target])


def inner_loops(listing: str) -> Iterator[list[str]]:
    """The instructions of each loop that holds no other."""
    lines = listing.split("\n")
    labels = {found[1]: i for i, line in enumerate(lines) if (found := re.match(r"(\.LBB\w+):", line))}
    jumps = [(found[1], i) for i, line in enumerate(lines) if (found := re.match(r"\s+j\w+\s+(\.LBB\w+)", line))]
    spans = [(labels[label], i) for label, i in jumps if labels.get(label, i) < i]
    for start, end in spans:
        if not any(start <= s and e <= end and (s, e) != (start, end) for s, e in spans):
            yield [line.split()[0] for line in lines[start : end + 1] if re.match(r"\s+[a-z]", line)]


def count(counted: Counted, target: str) -> float:
    """Instructions for each unit of work, in the loop that does most at a time."""
    found = [loop for listing in listings(counted, target) for loop in inner_loops(listing)]
    loop = max(found, key=lambda loop: loop.count(counted.marker))
    return len(loop) / loop.count(counted.marker)


@pytest.mark.parametrize("target", ["x86-64-v3", "x86-64-v4"])
@pytest.mark.parametrize("name", KERNELS)
def test_instructions_of_inner_loops(name: str, target: str) -> None:
    recorded = KERNELS[name].recorded[target]
    found = count(KERNELS[name], target)
    told = f"{name}, {target}: {found:.2f} instructions for each unit of work, {recorded} were recorded"
    assert found <= (1 + TOLERANCE) * recorded, told
    assert found >= (1 - OUTDATED) * recorded, f"{told}: better; record it"


def test_only_innermost_loops_are_counted() -> None:
    listing = """
.LBB0_1:
\tvaddps %ymm0, %ymm1, %ymm2
.LBB0_2:
\tvmulps %ymm0, %ymm1, %ymm2
\tjne .LBB0_2
\tjb .LBB0_1
\tjmp .LBB0_4
.LBB0_4:
\tretq
"""
    assert list(inner_loops(listing)) == [["vmulps", "jne"]]
