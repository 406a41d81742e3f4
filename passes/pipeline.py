"""The passes, in their written order, each with the reason why it stands there. Read top to bottom."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import field
from functools import partial

from graphc.collector import paused
from graphc.frozen import dataclass
from graphc.ir.graph import Graph
from graphc.ir.node import Node
from graphc.ir.rewrite import Reason, Rule, counting
from graphc.ir.verify import verify
from graphc.passes import cheapen as cheapening
from graphc.passes import contract as contraction
from graphc.passes import join as joining
from graphc.passes import simplify as simplification
from graphc.passes import stabilise as stabilisation
from graphc.passes.cheapen import cheapen
from graphc.passes.contract import contract
from graphc.passes.differentiate import differentiate
from graphc.passes.fuse import fuse
from graphc.passes.join import join
from graphc.passes.simplify import simplify, simplify_derivative
from graphc.passes.split import split_reductions, split_rule
from graphc.passes.stabilise import stabilise, stabilise_derivative


@dataclass(frozen=True, slots=True)
class Stage:
    """One pass: its name, the function, and why it stands at its place."""

    name: str
    run: Callable[[Graph], Graph]
    why: str


@dataclass(frozen=True, slots=True)
class Step:
    """What one stage did: the graph after it, the seconds it took, and how often each rule was applied."""

    name: str
    graph: Graph
    seconds: float
    applied: Mapping[str, int] = field(default_factory=dict)


OPTIMISE: tuple[Stage, ...] = (
    Stage("simplify", simplify, "a smaller formula has a smaller derivative"),
    Stage("stabilise", stabilise, "derivatives are those of the stable formula, so they are stable too"),
    Stage("differentiate", differentiate, "marks become formulas"),
    Stage("simplify derivative", simplify_derivative, "derivatives are full of 1 * g and of constants"),
    Stage("stabilise derivative", stabilise_derivative, "derivatives have formulas of their own: 1 - tanh^2"),
    Stage("cheapen", cheapen, "once derivatives are taken: x**3 has a simpler derivative than x * x * x"),
    Stage("join", join, "the derivatives of loops are sums of one term a step"),
    Stage("contract", contract, "once formulas are what they will be: products and sums where they are cheapest"),
)
SPLIT = Stage("split reductions", split_reductions, "a loss alone has nothing to run in parallel")
# What a graph's numbers need, and no more: what stabilise, differentiate and stabilise derivative build, node for node,
# without the graphs between them. The other passes make it fast.
NUMBERS: tuple[Stage, ...] = (
    Stage(
        "differentiate and stabilise",
        partial(differentiate, before=stabilisation.STABLE, after=stabilisation.STABLE),
        "in one walk: what isn't differentiated is built once, when all is known",
    ),
)
RULES: Mapping[str, Rule | Reason] = {
    rule.name: rule
    for rule in (
        *simplification.RULES,
        simplification.UNMARK,
        *stabilisation.RULES,
        *cheapening.RULES,
        *joining.REASONS,
        *contraction.RULES,
        split_rule(),
    )
}
FUSE = Stage("fuse", fuse, "last: from here on nodes are kernels")


def run(graph: Graph, stages: tuple[Stage, ...] = (*OPTIMISE, SPLIT, FUSE), check: bool = True) -> list[Step]:
    """Every step with its graph; the last one's is the result. check: verify after each."""
    with paused():
        return _run(graph, stages, check)


def _run(graph: Graph, stages: tuple[Stage, ...], check: bool) -> list[Step]:
    known: set[Node] = set()
    steps = [Step("trace", verify(graph, "trace", known) if check else graph, 0.0)]
    for stage in stages:
        start = time.perf_counter()
        with counting() as applied:
            graph = stage.run(graph)
        seconds = time.perf_counter() - start
        steps.append(Step(stage.name, verify(graph, stage.name, known) if check else graph, seconds, dict(applied)))
    return steps
