"""Derivatives of a compiled call, taken by the tape that surrounds it.

A compiled function's result may be differentiated by eager code. On the tape the call is one primitive, whose
derivative is again a compiled graph: that of the gradients of one output with respect to every input, or of one
output's tangent. So any order works, and each order is compiled when it is first asked for.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from graphc.dispatch import apply
from graphc.ir.graph import Graph
from graphc.ir.node import Node, fresh_input, make
from graphc.ops.marks import GRADIENT, TANGENT
from graphc.ops.movement import zeros_as
from graphc.primitive import Primitive, Rule, Value
from graphc.records import current_sweep
from graphc.types import TensorType

from .backend import Run

Array = npt.NDArray[Any]


class CompiledGraph:
    """A graph whose outputs are primitives of the tape. Nothing is written in place."""

    def __init__(self, graph: Graph, build: Callable[[Graph], Run]) -> None:
        """build: gives what computes a graph."""
        self._graph = graph
        self._build = build
        self._run: Run | None = None
        self._primitives: dict[int, Primitive] = {}
        self._gradients: dict[int, CompiledGraph] = {}
        self._tangents: dict[int, CompiledGraph] = {}
        # sweep, operands and results of the last call: within a sweep, the gradients of one output are asked for one
        # by one; in the next the same arrays may hold other numbers
        self._last: tuple[int, tuple[Any, ...], list[Array]] | None = None

    def primitive(self, output: int) -> Primitive:
        """Output number `output` as an operation on all inputs."""
        if output not in self._primitives:
            type_ = self._graph.outputs[output].type
            self._primitives[output] = Primitive(
                "compiled",
                infer=lambda *_: type_,
                eval=lambda xp, *arrays: self._evaluate(arrays)[output],
                vjp=lambda number: self._rule(output, number),
                jvp=lambda tangents, y, *xs: self._moved(output, tangents, xs),
            )
        return self._primitives[output]

    def _evaluate(self, arrays: Sequence[Any]) -> list[Array]:
        last, sweep = self._last, current_sweep()
        if last is not None and last[0] == sweep and all(a is b for a, b in zip(last[1], arrays, strict=True)):
            return last[2]
        if self._run is None:
            self._run = self._build(self._graph)
        results = self._run(*[np.asarray(a) for a in arrays])
        if sweep:
            self._last = (sweep, tuple(arrays), results)
        return results

    def _rule(self, output: int, number: int) -> Rule:
        x, y = self._graph.inputs[number], self._graph.outputs[output]

        def rule(g: Value, _: Value, *xs: Value) -> Value:
            if x.type.dtype.kind != "f":
                return None
            gradients = self._gradient_of(output, y)
            return apply(gradients.primitive(number), *xs, g)

        return rule

    def _moved(self, output: int, tangents: Sequence[Value | None], xs: Sequence[Value]) -> Value:
        """The tangent of one output; an operand without a tangent has the tangent zero."""
        if output not in self._tangents:
            moving = [x for x in self._graph.inputs if x.type.dtype.kind == "f"]
            seeds = [fresh_input(f"tangent{i}", x.type) for i, x in enumerate(moving)]
            made = make(TANGENT, (self._graph.outputs[output], *moving, *seeds), {})
            self._tangents[output] = CompiledGraph(Graph((*self._graph.inputs, *seeds), [made]), self._build)
        ts = [
            zeros_as(x, node.type.dtype) if t is None else t
            for t, x, node in zip(tangents, xs, self._graph.inputs, strict=True)
            if node.type.dtype.kind == "f"
        ]
        return apply(self._tangents[output].primitive(0), *xs, *ts)

    def _gradient_of(self, output: int, y: Node) -> CompiledGraph:
        """The graph of dy/dx for every input x, given the seed as one more input."""
        if output not in self._gradients:
            seed = fresh_input("seed", TensorType(y.type.shape, y.type.dtype))
            floating = [x if x.type.dtype.kind == "f" else None for x in self._graph.inputs]
            outputs = [seed if x is None else make(GRADIENT, (y, seed, x), {}) for x in floating]
            self._gradients[output] = CompiledGraph(Graph((*self._graph.inputs, seed), outputs), self._build)
        return self._gradients[output]
