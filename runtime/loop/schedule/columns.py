"""Folds down columns: lanes lie along an outer axis, and each step of the fold goes to another part of memory.

A strip of lanes as narrow as registers are touches a few lines of each row, and where rows are far apart, nothing that
it needs has been fetched ahead. A wide strip reads runs; its accumulators lie in the first-level cache.
"""

from __future__ import annotations

from math import prod

from graphc.ir.expr import Axis

from .cost import Access, Facts, StageFacts
from .memory import SECOND_LEVEL

FAR = 1024  # bytes from one step of a fold to the next
LONG = 4096  # bytes of a run that is fetched ahead: a page
SKIP = 30.0  # cycles to get to the next run, if it isn't long
THROUGH = 1.5  # cycles to load and store a vector of accumulators
PIECES = 8  # strips and other outer points, so that threads have something each
SHORTEST = 512  # bytes of a wide strip's runs
MOST_WIDE = 16 << 10  # bytes of accumulators


def skipping(facts: Facts, lanes: Axis | None, block: int) -> float:
    """Cycles lost between the runs of strips of `block` lanes."""
    if lanes is None:
        return 0.0
    total = 0.0
    for stage in facts.stages:
        for access in stage.accesses:
            if _skips(facts, stage, access, lanes):
                runs = prod(axis.extent for axis in facts.nest.outer) * stage.points() / block
                total += SKIP * runs * max(0.0, 1 - block * access.buffer.dtype.itemsize / LONG)
    return total


def _skips(facts: Facts, stage: StageFacts, access: Access, lanes: Axis) -> bool:
    """Whether each step of the stage goes to another part of an array that is read once, not again for other points:
    an operand of a product stays in a cache."""
    if not all(access.depends(axis) for axis in facts.nest.outer):
        return False
    itemsize = access.buffer.dtype.itemsize
    steps = [abs(access.at.coefficient(axis)) * itemsize for axis in stage.stage.axes]
    far = min((step for step in steps if step), default=0) >= FAR
    return far and access.at.coefficient(lanes) == 1 and access.buffer.size * itemsize > SECOND_LEVEL


def wide_strip(facts: Facts, lanes: Axis | None) -> tuple[float, int] | None:
    """(cycles, lanes) of strips so wide that they read runs; None where that isn't needed or can't be."""
    if lanes is None or facts.nest.locals or not skipping(facts, lanes, facts.width):
        return None
    accesses = [access for stage in facts.stages for access in stage.accesses]
    if any(lanes.name in a.varies or a.at.coefficient(lanes) not in (0, 1) for a in accesses):
        return None
    folds = [fold for stage in facts.stages for fold in stage.stage.folds]
    each = sum(fold.value.dtype.itemsize for fold in folds)
    itemsize = max(access.buffer.dtype.itemsize for access in accesses)
    points = prod(axis.extent for axis in facts.nest.outer)
    strips = max(1, min(PIECES * lanes.extent // points, lanes.extent * itemsize // SHORTEST))
    block = -(-lanes.extent // (max(strips, -(-lanes.extent * each // MOST_WIDE)) * facts.width)) * facts.width
    if block * itemsize < SHORTEST and block < lanes.extent:
        return None
    steps = sum(len(stage.stage.folds) * stage.points() for stage in facts.stages)
    through = THROUGH * points * steps / facts.width
    return facts.cost(lanes, None) + through + skipping(facts, lanes, block), block
