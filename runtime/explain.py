"""What a compiled function captured, guards, rewrote, fused and generated, as data and as text."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from graphc.captures import ArgumentSource, ArraySource, GradSource, NumberSource, Source, TensorSource, Trace
from graphc.frozen import dataclass
from graphc.ir.graph import Graph
from graphc.ir.node import FUSED
from graphc.passes.pipeline import RULES, Step

from .loop.text import program_text
from .program import KernelCall, MatmulCall, Program


@dataclass(frozen=True, slots=True)
class Explanation:
    """The report of one compiled form. `print(step.explain())` shows it; the fields hold the parts.

    captured: a line for each input: where it comes from, whether it is written. guards: what is checked at
    each call. compilations: why each happened. passes: (name, nodes after it, seconds). rewrites: how often
    each rule was applied; those that change rounding are marked. kernels: a line for each step of the call.
    arena: bytes. program: the whole loop program as text. seconds: what building took, by part.
    """

    captured: tuple[str, ...]
    guards: tuple[str, ...]
    compilations: tuple[str, ...]
    passes: tuple[tuple[str, int, float], ...]
    rewrites: tuple[tuple[str, int], ...]
    kernels: tuple[str, ...]
    arena: int
    program: str
    seconds: dict[str, float]

    def __str__(self) -> str:
        lines = ["inputs"]
        lines += [f"  {c}" for c in self.captured]
        lines += [f"guards: {len(self.guards)}, checked at each call"]
        lines += [f"  {g}" for g in _few(self.guards)]
        lines += ["compilations", *(f"  {c}" for c in self.compilations)]
        lines += ["passes"]
        lines += [f"  {name:24} {nodes:6} nodes  {1e3 * seconds:8.2f} ms" for name, nodes, seconds in self.passes]
        lines += ["rewrites (* changes rounding)"]
        lines += [_rewrite_line(name, count) for name, count in self.rewrites]
        lines += [f"kernels: {len(self.kernels)}, in one native call, over an arena of {self.arena:,} bytes"]
        lines += [f"  {k}" for k in self.kernels]
        lines += ["build"]
        lines += [f"  {part:24} {1e3 * seconds:8.2f} ms" for part, seconds in self.seconds.items()]
        return "\n".join(lines)


def _few(items: Sequence[str], most: int = 12) -> list[str]:
    return list(items) if len(items) <= most else [*items[:most], f"... and {len(items) - most} more (see .guards)"]


def explain(
    trace: Trace, steps: Sequence[Step], program: Program, compilations: Sequence[str], seconds: dict[str, float]
) -> Explanation:
    """The report of one compiled form, from its trace, the passes' steps and its program."""
    written = {number for number, _ in trace.writes}
    captured = [
        f"{_source(source)}: {node.type}{', updated in place' if i in written else ''}"
        for i, (node, source) in enumerate(zip(trace.graph.inputs, trace.sources, strict=True))
    ]
    return Explanation(
        tuple(captured),
        tuple(g.name for g in trace.guards),
        tuple(compilations),
        tuple((s.name, len(s.graph.nodes), s.seconds) for s in steps),
        tuple(sum((Counter(s.applied) for s in steps), Counter()).most_common()),
        tuple(_steps(program, steps[-1].graph)),
        program.arena_size,
        program_text(program),
        dict(seconds),
    )


def _source(source: Source) -> str:
    match source:
        case ArgumentSource(position):
            return f"argument {position}"
        case TensorSource():
            return "captured tensor"
        case ArraySource():
            return "captured array"
        case NumberSource(_, key):
            return f"hyperparameter {key}"
        case GradSource(owner):
            return f"gradient of {_source(owner)}"


def _rewrite_line(name: str, count: int) -> str:
    rule = RULES[name]
    return f"  {name:24} {count:6}  {' ' if rule.exact else '*'} {rule.reason}"


def _steps(program: Program, graph: Graph) -> list[str]:
    """One line for each kernel, with the operations that were fused into it where they are known."""
    fused = [n for n in graph.nodes if n.op is FUSED]
    lines = []
    for step in program.steps:
        match step:
            case KernelCall(kernel):
                lines.append(f"{kernel.name} ({len(kernel.params)} buffers)")
            case MatmulCall():
                lines.append(f"BLAS {step.dtype.name} ({step.m}, {step.k}) @ ({step.k}, {step.n})")
    groups = [
        ", ".join(f"{name} x{count}" if count > 1 else name for name, count in _operations(n.attrs["graph"]))
        for n in fused
    ]
    return [*lines, "fused:", *(f"  {g}" for g in groups)]


def _operations(graph: Graph) -> list[tuple[str, int]]:
    return Counter(n.op.name for n in graph.nodes if n.inputs).most_common()
