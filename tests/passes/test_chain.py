"""Long chains: linear time, no recursion, no swelling."""

from __future__ import annotations

import time
from typing import Any

import numpy as np
import pytest

import graphc as gc
from graphc.ir.graph import Graph
from graphc.ir.verify import verify
from graphc.passes import pipeline
from graphc.passes.pipeline import OPTIMISE
from graphc.trace import trace
from graphc.tree import flatten


def _traced(f: Any, *args: Any) -> Graph:
    leaves, structure = flatten((args, {}))
    return trace(f, leaves, structure).graph


def _chain(operations: int) -> Any:
    def f(x: Any) -> Any:
        y = x
        for _ in range(operations // 2):
            y = gc.sin(y) * x
        return gc.sum(y)

    return gc.value_and_grad(f)


def _seconds(operations: int, stages: Any) -> dict[str, float]:
    x = gc.tensor(np.full(4, 0.9))
    start = time.process_time()
    graph = _traced(_chain(operations), x)
    seconds = {"trace": time.process_time() - start}
    assert len(graph.nodes) >= operations
    for stage in stages:
        start = time.process_time()
        graph = stage.run(graph)
        seconds[stage.name] = time.process_time() - start
        verify(graph)
    assert len(graph.nodes) <= 4 * operations
    return seconds


@pytest.mark.slow
def test_a_chain_of_100_000_operations_takes_linear_time() -> None:
    stages = (*OPTIMISE, pipeline.FUSE)
    short, long = _seconds(10_000, stages), _seconds(100_000, stages)
    for name, seconds in long.items():
        # ten times as long; caches and the collector of cycles may double that
        assert seconds <= 25 * max(short[name], 0.02), (name, short[name], seconds)


def test_a_chain_of_10_000_operations() -> None:
    """Deep enough for any recursion to fail."""
    assert set(_seconds(10_000, OPTIMISE)) >= {"trace", "differentiate"}


def test_doubling_stays_small() -> None:
    """x = x + x*c, 200 times: 2^200 terms as a tree, some nodes a step as a graph with shared nodes."""

    def f(x: Any, c: Any) -> Any:
        for _ in range(200):
            x = x + x * c
        return x

    x, c = gc.tensor(np.array(0.5)), gc.tensor(np.array(1e-3))
    steps = pipeline.run(_traced(gc.grad(f), x, c), OPTIMISE)
    assert len(steps[-1].graph.nodes) <= 5 * 200
    slope = gc.compile(gc.grad(f))(x, c).numpy()
    np.testing.assert_allclose(slope, 1.001**200, rtol=1e-13)


def test_logarithms_of_a_long_quotient() -> None:
    """What a rule builds is rewritten in its turn, without recursion: log(e^x / (e^x / ...)) unfolds step by step."""
    from_below = gc.tensor(np.array(0.25))

    def f(x: Any) -> Any:
        y = gc.exp(x)
        for k in range(3000):
            y = gc.exp(x * (k + 1)) / y
        return gc.log(y)

    steps = pipeline.run(_traced(f, from_below), OPTIMISE)
    assert not {"exp", "divide"} & {n.op.name for n in steps[-1].graph.nodes}
