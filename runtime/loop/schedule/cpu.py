"""The CPU schedule: a Nest in, the Kernel that runs on a processor out."""

from __future__ import annotations

from graphc.runtime.cpu.target import Target
from graphc.runtime.loop.ir import Kernel
from graphc.runtime.loop.naive import naive
from graphc.runtime.loop.nest import Nest

from .choose import choose
from .collapse import collapse
from .cost import analyse
from .emit import emit


def schedule_cpu(nest: Nest, target: Target) -> Kernel:
    """The kernel for `target`. Its results don't depend on the number of threads that run it."""
    axes = [*nest.outer, *(axis for stage in nest.stages for axis in stage.axes)]
    if any(axis.extent == 0 for axis in axes):
        return naive(nest)
    facts = analyse(collapse(nest), target)
    return emit(facts, choose(facts, target))
