"""The order of the passes, and what a run of them tells."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import graphc as gc
from graphc.ir.text import print_graph
from graphc.passes import pipeline
from graphc.trace import trace
from graphc.tree import flatten


def test_a_run_tells_each_step() -> None:
    leaves, structure = flatten(((gc.tensor(np.ones((2, 3), np.float32)),), {}))
    graph = trace(gc.grad(lambda x: gc.sum(gc.log(1 + gc.exp(x)))), leaves, structure).graph
    steps = pipeline.run(graph)
    assert steps[0].name == "trace"
    assert steps[0].graph is graph
    assert len({s.name for s in steps}) == len(steps)
    by_name = {s.name: s for s in steps}
    assert by_name["stabilise"].applied["softplus"] == 1
    assert {n for s in steps for n in s.applied} <= set(pipeline.RULES)
    assert not {"gradient", "leaf"} & {n.op.name for n in by_name["differentiate"].graph.nodes}
    assert all(stage.why for stage in pipeline.OPTIMISE)


def _loss(w: Any, x: Any) -> Any:
    logits = gc.matmul(x, gc.matrix_transpose(w))
    return gc.mean(gc.log(gc.sum(gc.exp(logits), 1)) + gc.log(1 + gc.exp(-logits[:, 0])))


@pytest.mark.parametrize(
    "function",
    [
        _loss,
        gc.value_and_grad(_loss),
        gc.grad(lambda w, x: gc.sum(gc.log(1 + gc.exp(gc.grad(_loss)(w, x))))),
        lambda w, x: gc.jvp(_loss, (w, x), (w, x)),
        lambda w, x: (gc.grad(lambda w: _loss(w.detach() + w, x))(w), gc.log(1 + gc.exp(x)) - gc.tanh(x) ** 2),
        lambda w, x: w - 0.1 * gc.where(w > 0, gc.grad(_loss)(w, x), 1 - gc.tanh(w) ** 2),
    ],
)
def test_what_numbers_need_is_built_at_once_as_pass_by_pass(function: Callable[..., Any]) -> None:
    leaves, structure = flatten(((gc.tensor(np.ones((4, 3), np.float32)), gc.tensor(np.ones((2, 3), np.float32))), {}))
    graph = trace(function, leaves, structure).graph
    stages = [s for s in pipeline.OPTIMISE if s.name in ("stabilise", "differentiate", "stabilise derivative")]
    assert len(stages) == 3
    assert pipeline.run(graph, pipeline.NUMBERS)[-1].graph == pipeline.run(graph, tuple(stages))[-1].graph


def test_golden(golden: object) -> None:
    """A small loss through all passes, as text: a change of any rule shows here."""
    leaves, structure = flatten(((gc.tensor(np.ones((4, 3), np.float32)), gc.tensor(np.ones((2, 3), np.float32))), {}))
    graph = trace(gc.grad(_loss), leaves, structure).graph
    steps = {s.name: s.graph for s in pipeline.run(graph, pipeline.OPTIMISE)}
    assert callable(golden)
    # before differentiation leaves are numbered, across the whole process
    told = list(steps)[list(steps).index("differentiate") :]
    golden("passes/loss.txt", "\n".join(f"{name}\n{print_graph(steps[name])}" for name in told))
