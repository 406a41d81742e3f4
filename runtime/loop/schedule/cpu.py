"""The CPU schedule: a Nest in, the Kernel that runs on a processor out."""

from __future__ import annotations

from dataclasses import replace
from functools import lru_cache

from graphc.runtime.cpu.target import Target
from graphc.runtime.loop.ir import Kernel
from graphc.runtime.loop.naive import naive
from graphc.runtime.loop.nest import Nest

from .choose import Plan, candidates, cheapest
from .collapse import collapse
from .cost import Facts, analyse
from .emit import emit


def schedule_cpu(nest: Nest, target: Target) -> Kernel:
    """The kernel for `target`. Its results don't depend on the number of threads that run it."""
    if _empty(nest):
        return naive(nest)
    _, facts, plan = _cheapest(replace(nest, name=""), target)
    return emit(replace(facts, nest=replace(facts.nest, name=nest.name)), plan)


def alternatives(nest: Nest, target: Target, most: int, within: float) -> list[tuple[float, Kernel]]:
    """At most so many kernels, the one of schedule_cpu first, then others that the model holds to be at most `within`
    times dearer; with their estimated cycles."""
    if _empty(nest):
        return [(0.0, naive(nest))]
    facts = analyse(collapse(nest), target)
    found = sorted(candidates(facts, target), key=lambda one: one[0])  # stable: the first stays the cheapest
    kernels: dict[Kernel, float] = {}  # plans may differ and mean the same
    for cycles, plan in found:
        if len(kernels) == most or cycles > within * found[0][0]:
            break
        kernels.setdefault(emit(facts, plan), cycles)
    return [(cycles, kernel) for kernel, cycles in kernels.items()]


def cost_cpu(nest: Nest, target: Target) -> float:
    """Estimated cycles of the nest's kernel."""
    if _empty(nest):
        return 0.0
    return _cheapest(replace(nest, name=""), target)[0]


@lru_cache(maxsize=32)  # a nest whose cost was asked for is often scheduled next
def _cheapest(nest: Nest, target: Target) -> tuple[float, Facts, Plan]:
    """The best plan of a nest, with its cycles and what is known of the nest."""
    facts = analyse(collapse(nest), target)
    cycles, plan = cheapest(facts, target)
    return cycles, facts, plan


def _empty(nest: Nest) -> bool:
    axes = [*nest.outer, *(axis for stage in nest.stages for axis in stage.axes)]
    return any(axis.extent == 0 for axis in axes)
