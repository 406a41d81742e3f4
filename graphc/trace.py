"""Static mode's front: run a Python function once with values that have no numbers, and keep the graph.

Every tensor that the function touches becomes an input of the graph; what it writes in place becomes an
output that the caller writes back. `backward()` leaves `gradient` marks, which a pass expands. What the
function read from Python besides (numbers, flags, lists, other objects) is guarded: see graphc/guards.py.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from graphc.captures import ArgumentSource, Result, Source, TensorSource, Trace
from graphc.errors import TraceError
from graphc.interpreter import interpreting
from graphc.ir.graph import Graph
from graphc.ir.node import INPUT, Node, constant, topological
from graphc.ir.rewrite import substitute
from graphc.ops.marks import LEAF
from graphc.optim import optimizer as optim
from graphc.tensor import Tensor
from graphc.tracer import Tracer, differentiable
from graphc.tree import Structure, flatten, unflatten
from graphc.watcher import Watcher


def trace(function: Callable[..., Any], args: Sequence[Any], structure: Structure) -> Trace:
    """Run `function` once on placeholders for `args` (flattened; `structure` is that of (args, kwargs)).

    Raises TraceError, naming the line, where the function needs a number that doesn't exist yet.
    """
    watcher = Watcher(function)
    tracer = Tracer(watcher)
    placeholders = [tracer.argument(i, a) for i, a in enumerate(args)]
    positional, keywords = unflatten(structure, iter(placeholders))
    before = optim.install(tracer)
    try:
        with interpreting(tracer), watcher:
            value = function(*positional, **keywords)
    finally:
        optim.install(before)
    if tracer.refusal is not None:
        raise tracer.refusal
    return _finish(tracer, value, args, placeholders)


def _finish(tracer: Tracer, value: Any, args: Sequence[Any], placeholders: Sequence[Any]) -> Trace:
    outputs: list[Node] = []
    results: list[Result] = []

    def output(node: Node) -> int:
        outputs.append(node)
        return len(outputs) - 1

    tracer.watcher.check()
    leaves, structure = flatten(value)
    for x in leaves:
        if id(x) in tracer.arguments:
            results.append(Result(None, argument=tracer.arguments[id(x)]))
        elif isinstance(x, Tensor) and (x._node is not None or id(x) in tracer.current):
            unchanged = id(x) in tracer.captured
            if unchanged:
                results.append(Result(None, x))
                continue
            node = tracer.node(x)
            open_history = x._record is not None and tracer.freed.isdisjoint(differentiable(node))
            results.append(Result(output(node), differentiable=open_history))
        else:
            results.append(Result(None, x))
    writes: list[tuple[Node, int]] = []
    for key in tracer.captured:
        if tracer.current[key] is not tracer.initial[key]:
            writes.append((tracer.initial[key], output(tracer.current[key])))
    for placeholder in {id(p): p for p in (*placeholders, *tracer.gradients)}.values():
        if isinstance(placeholder, Tensor) and id(placeholder) in tracer.initial:
            first, now = tracer.initial[id(placeholder)], tracer.node(placeholder)
            if now is not first and not (now.op is LEAF and now.inputs[0] is first):
                writes.append((first, output(now)))
    grads: list[tuple[Source, int | None]] = []
    for owner, grad in tracer.grads.values():
        source: Source
        if id(owner) in tracer.arguments:
            source = ArgumentSource(tracer.arguments[id(owner)])
        elif owner._node is None:
            source = TensorSource(owner)
        else:
            continue  # a tensor that lives only inside
        if grad is not None and grad is owner._grad:
            continue  # written in place, or left as it was
        grads.append((source, None if grad is None else output(tracer.node(grad))))
    _refuse_strangers(tracer, outputs)
    for owned, owner in tracer.owners.items():
        if owned in tracer.watcher.tensors():  # also known by another name
            tracer.watcher.grad(owner, same=True)
    graph, sources = _settle_arrays(tracer, outputs, {node for node, _ in writes})
    position = {node: i for i, node in enumerate(graph.inputs)}
    return Trace(
        graph,
        sources,
        structure,
        tuple(results),
        tuple((position[node], k) for node, k in writes),
        tuple(grads),
        tracer.watcher.guards(),
    )


def _refuse_strangers(tracer: Tracer, outputs: Sequence[Node]) -> None:
    """Raises TraceError if the outputs depend on a traced value of another call."""
    own = set(tracer.inputs)
    for node in topological(outputs):
        if node.op is INPUT and node not in own:
            raise TraceError(
                f"the function uses a traced value {node.type} of another call, which is over (its input "
                f"{node.attrs['name']}, made at {node.origin.location or '?'}); return it from there instead."
            )


def _settle_arrays(tracer: Tracer, outputs: Sequence[Node], written: set[Node]) -> tuple[Graph, tuple[Source, ...]]:
    """Arrays that live only inside the function become constants; those reachable from outside stay inputs."""
    outside = tracer.watcher.arrays()
    done: dict[Node, Node] = {
        node: constant(array)
        for array, node in tracer.arrays.values()
        if id(array) not in outside and node not in written
    }
    keep = [i for i, n in enumerate(tracer.inputs) if n not in done]
    if len(keep) == len(tracer.inputs):
        return Graph(tracer.inputs, outputs), tuple(tracer.sources)
    settled = substitute(outputs, done)
    return (
        Graph([tracer.inputs[i] for i in keep], settled),
        tuple(tracer.sources[i] for i in keep),
    )
