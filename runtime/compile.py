"""compile(): from a Python function to machine code. Start reading here.

    trace (graphc/trace.py)        run the function once on placeholders: a Graph, and guards on what it read
    passes (passes/pipeline.py)    rewrite, differentiate, rewrite, fuse
    plan (runtime/plan.py)         order, memory, one Kernel for each fused node, scheduled for the target
    print and load                 LLVM text -> machine code -> disk cache (runtime/cpu/), or CUDA (runtime/cuda/)
    call                           one native entry for the whole call; what it wrote is handed back

A compiled function keeps one Specialisation for each kind of arguments (structure, shapes, dtypes, Python
values) and each state of what the trace read besides. A call whose guards all fail traces again, and says why.
Where only the arrays' sizes are new, the program is made in the background (runtime/meanwhile.py).
"""

from __future__ import annotations

import functools
import logging
import math
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import field
from typing import TYPE_CHECKING, Any, Generic, ParamSpec, TypeVar, overload

import numpy as np
import numpy.typing as npt

from graphc.captures import ArgumentSource, ArraySource, GradSource, NumberSource, Source, TensorSource, Trace
from graphc.errors import AliasError, ArgumentError, TraceError
from graphc.forking import import_module
from graphc.frozen import dataclass
from graphc.guards import Guard, Never
from graphc.interpreter import active
from graphc.ir.graph import Graph
from graphc.primitive import Primitive
from graphc.records import about_to_write, recording, written
from graphc.tape import record
from graphc.tensor import Tensor, wrap
from graphc.trace import trace
from graphc.tracer import Tracer
from graphc.tree import Structure, flatten, unflatten

from .backend import Backend, Run, backend_for
from .derivative import CompiledGraph
from .shortcut import MISS, Chain, Shortcut, UnfitError, usable

if TYPE_CHECKING:
    from graphc.passes.pipeline import Step

    from .explain import Explanation
    from .meanwhile import Meanwhile

P = ParamSpec("P")
R = TypeVar("R")
Array = npt.NDArray[Any]


log = logging.getLogger("graphc.compile")
_KEPT = 32  # compiled forms for one kind of arguments; beyond, the oldest is dropped


@dataclass(eq=False, slots=True)
class Specialisation:
    """One traced and compiled form of the function.

    tracked: whether an input requires a gradient (of every call's: kinds of arguments and guards say so).
    waiting: what `run` is while the program is being compiled in the background. maker: gives what computes a
    derivative's graph.
    """

    trace: Trace
    backend: Backend
    run: Run
    tracked: bool
    seconds: dict[str, float] = field(default_factory=dict)
    waiting: Meanwhile | None = None
    maker: Callable[[Graph], Run] | None = None
    gradients: CompiledGraph | None = None
    # ids of captured tensors that the call changes: none of them may come in as an argument too
    exclusive: frozenset[int] = field(init=False)
    once: bool = field(init=False)  # the function changed what it reads: serves only the call it was traced for
    lasting: list[Tensor] = field(init=False)  # captured tensors that the call writes to
    passing: list[Source] = field(init=False)  # what else it writes to
    calls: int = 0  # of the program, that went the long way

    def __post_init__(self) -> None:
        told = self.trace
        writes = [told.sources[number] for number, _ in told.writes]
        self.lasting = [source.tensor for source in writes if isinstance(source, TensorSource)]
        self.passing = [source for source in writes if not isinstance(source, TensorSource)]
        changed = writes + [source for source, _ in told.grads]
        owners = [source.owner if isinstance(source, GradSource) else source for source in changed]
        self.exclusive = frozenset(id(o.tensor) for o in owners if isinstance(o, TensorSource))
        self.once = any(isinstance(guard, Never) for guard in told.guards)

    def steps(self) -> list[Step]:
        """The graph after tracing and after each pass. Runs the passes again: the graphs aren't kept."""
        ran: list[Step] = import_module("graphc.passes.pipeline").run(self.trace.graph)
        return ran

    def settled(self) -> bool:
        """Whether the program is there. If it was compiled in the background, it takes over here.

        Raises what compiling it raised, at each call.
        """
        waiting = self.waiting
        if waiting is not None:
            if not waiting.done:
                return False
            self.run, self.waiting = waiting.program(), None
        return True

    def failing(self) -> Guard | None:
        """The first guard that doesn't hold, or None."""
        for guard in self.trace.guards:
            if not guard.holds():
                return guard
        return None

    def __call__(self, leaves: Sequence[Any]) -> Any:
        told = self.trace
        if not self.exclusive.isdisjoint(map(id, leaves)):
            position = next(i for i, x in enumerate(leaves) if id(x) in self.exclusive)
            raise AliasError(
                f"argument {position} (counted over all tensors and numbers) is a tensor that the compiled function "
                "also closes over and changes (its elements or its gradient). Use one of the two."
            )
        inputs = [_fetch(source, leaves) for source in told.sources]
        if told.writes:
            self._check_apart(inputs)
        history = self._operands(inputs, leaves) if self.open else None
        if told.writes:
            self.announce(leaves)
        outputs = self.run(*inputs)
        if told.writes:
            self.touch(leaves)
        for source, output in told.grads:
            owner = _owner(source, leaves)
            owner._grad = None if output is None else wrap(outputs[output])
        results = [
            wrap(outputs[r.output]) if r.output is not None else r.value if r.argument is None else leaves[r.argument]
            for r in told.results
        ]
        if history is not None:
            for result, value in zip(told.results, results, strict=True):
                if result.differentiable and result.output is not None:
                    record(self._primitive(result.output), history, value)
        return unflatten(told.structure, iter(results))

    def announce(self, leaves: Sequence[Any]) -> None:
        """Tell the tape which tensors' memory the call is about to write to."""
        about_to_write(self._written(leaves))

    def touch(self, leaves: Sequence[Any]) -> None:
        """Tell the tape which tensors' memory the call wrote to."""
        written(self._written(leaves), "a compiled function")

    def announce_and_touch(self, leaves: Sequence[Any]) -> None:
        """Both at once: for a call that can't be refused any more."""
        tensors = self._written(leaves)
        about_to_write(tensors)
        written(tensors, "a compiled function")

    def _written(self, leaves: Sequence[Any]) -> list[Tensor]:
        if not self.passing:
            return self.lasting
        others = [_owner(source, leaves) for source in self.passing]
        return [*self.lasting, *(owner for owner in others if isinstance(owner, Tensor))]

    def _check_apart(self, inputs: Sequence[Array]) -> None:
        """Raise AliasError if an argument that is a view shares memory with what the call writes.

        Each input was traced as memory of its own: in eager mode the write would show in the view.
        """
        written = {number for number, _ in self.trace.writes}
        for i, source in enumerate(self.trace.sources):
            if not isinstance(source, ArgumentSource):
                continue
            if getattr(inputs[i], "base", None) is None and not any(inputs[i] is inputs[j] for j in written - {i}):
                continue  # memory of its own
            for j in range(len(inputs)) if i in written else written:
                if i != j and np.shares_memory(inputs[i], inputs[j]):
                    raise AliasError(
                        f"argument {source.position} (counted over all tensors and numbers) shares memory with another "
                        "input of the compiled function, which writes there. Pass x.clone(), or slice inside."
                    )

    @property
    def open(self) -> bool:
        """Whether a result has a history that the caller may differentiate."""
        return self.tracked and recording() and any(r.differentiable for r in self.trace.results)

    def _operands(self, inputs: Sequence[Array], leaves: Sequence[Any]) -> list[Any]:
        """The call's operands for the tape: tensors to differentiate by, else arrays (state as it was before)."""
        written = {number for number, _ in self.trace.writes}
        operands: list[Any] = []
        for number, (array, source) in enumerate(zip(inputs, self.trace.sources, strict=True)):
            owner = _owner(source, leaves)
            if isinstance(owner, Tensor) and number not in written:
                operands.append(owner)
            else:
                operands.append(wrap(array.copy() if number in written else array))
        return operands

    def _primitive(self, output: int) -> Primitive:
        if self.gradients is None:
            self.gradients = CompiledGraph(self.trace.graph, self.maker or self._built)
        return self.gradients.primitive(output)

    def _built(self, graph: Graph) -> Run:
        return self.backend.build(graph, {}, {})


def _fetch(source: Source, leaves: Sequence[Any]) -> Array:
    match source:
        case ArgumentSource(position):
            value = leaves[position]
            if isinstance(value, Tensor):
                return value._data
            return value if isinstance(value, np.ndarray) else np.asarray(value, np.float64)
        case TensorSource(tensor):
            return tensor._data
        case ArraySource(array):
            return array
        case NumberSource():
            return np.asarray(source.read(), np.float64)
        case GradSource():
            return _owner(source, leaves)._data  # type: ignore[no-any-return]


def _owner(source: Source, leaves: Sequence[Any]) -> Any:
    """The object that a source's numbers belong to: a tensor, or what else was given; None for none."""
    match source:
        case ArgumentSource(position):
            return leaves[position]
        case TensorSource(tensor):
            return tensor
        case GradSource(owner):
            return _owner(owner, leaves)._grad
        case _:
            return None


@dataclass(frozen=True, slots=True)
class Compilation:
    """One compilation, for people. seconds: as it is told of them; waiting: as in Specialisation."""

    reason: str
    seconds: dict[str, float]
    waiting: Meanwhile | None

    def __str__(self) -> str:
        took = f"{self.seconds['trace'] + self.seconds.get('build', 0.0):.3f} s"
        if self.waiting is None:
            return f"{self.reason} ({took})"
        state = took if self.waiting.done else "not ready yet"
        return f"{self.reason} (in the background: {state}; calls computed node by node: {self.waiting.calls})"


class CompiledFunction(Generic[P, R]):
    """What `compile` returns: call it like the function. See explain() and graphs()."""

    def __init__(self, function: Callable[P, R], backend: Backend, background: bool = True) -> None:
        functools.update_wrapper(self, function)
        self._function = function
        self._backend = backend
        self._background = background
        self._kinds: dict[Any, list[Specialisation]] = {}
        self._sizeless: set[Any] = set()  # the same kinds, whatever the sizes of their arrays
        self._history: list[Compilation] = []
        self._last: Specialisation | None = None
        self._tracing = threading.RLock()
        self._chains: dict[Structure, Chain] = {}
        self._shortcut: Callable[[tuple[Any, ...]], Any] = _miss  # for arguments given by position, none nested

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R:
        if not kwargs:
            result = self._shortcut(args)
            if result is not MISS:
                return result  # type: ignore[no-any-return]
        return self._long_way(args, kwargs)

    def _long_way(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> R:
        """Any call; those without a shortcut, or whose shortcut doesn't fit them, get here."""
        if isinstance(active(), Tracer):  # inside of another compiled function: part of it
            return self._function(*args, **kwargs)
        leaves, structure = flatten((args, kwargs))
        chain = self._chains.get(structure)
        if chain is not None and chain.call is not self._shortcut:
            result = chain.call(tuple(leaves))
            if result is not MISS:
                return result  # type: ignore[no-any-return]
        found = self._find(leaves, structure)
        if found.settled():
            found.calls += 1
            if found.calls == 2:  # it comes back, so it may be worth while
                self._shorten(found, leaves, structure)
        return found(leaves)  # type: ignore[no-any-return]

    def _shorten(self, found: Specialisation, leaves: Sequence[Any], structure: Structure) -> None:
        """Let native code serve calls like this one, if it can."""
        if not usable() or _repeated(leaves) is not None:
            return
        try:
            shortcut = Shortcut(found, leaves)
        except UnfitError:
            return
        chain = self._chains.setdefault(structure, Chain())
        chain.add(shortcut)
        if all(child.kind is None for child in structure.children[0].children) and not structure.children[1].children:
            self._shortcut = chain.call

    def _find(self, leaves: list[Any], structure: Structure) -> Specialisation:
        general = structure, recording(), _repeated(leaves)
        key = (*general, *map(_kind, leaves))
        try:
            known = self._kinds.setdefault(key, [])
        except TypeError:
            raise TraceError(
                "a compiled function's arguments must be tensors, arrays, numbers or hashable values; "
                f"got {', '.join(sorted({type(x).__name__ for x in leaves}))}. Close over other objects instead."
            ) from None
        for specialisation in known:
            if specialisation.failing() is None:
                return specialisation
        with self._tracing:  # another thread may have made it meanwhile
            failures = []
            for specialisation in known:
                failing = specialisation.failing()
                if failing is None:
                    return specialisation
                failures.append(failing.explain())
            if self._last is not None and self._last.once:
                failures += [guard.explain() for guard in self._last.trace.guards if isinstance(guard, Never)][:1]
            reason = "; ".join(failures) or (_new_kind(leaves) if self._last is not None else "first call")
            sizeless = (*general, *map(_sizeless, leaves))
            background = self._background and not known and sizeless in self._sizeless
            made = self._specialise(leaves, structure, reason, background)
            self._last = made
            if not made.once:
                self._sizeless.add(sizeless)
                known.append(made)
                del known[:-_KEPT]
            return made

    def _specialise(self, leaves: list[Any], structure: Structure, reason: str, background: bool) -> Specialisation:
        start = time.perf_counter()
        self._backend.begin()
        traced = trace(self._function, leaves, structure)
        seconds = {"trace": time.perf_counter() - start}
        backend = self._backend
        owners = [_owner(source, leaves) for source in traced.sources]
        tracked = any(isinstance(owner, Tensor) and owner.requires_grad for owner in owners)
        state = {output: number for number, output in traced.writes}
        if background:
            meanwhile = import_module("graphc.runtime.meanwhile")
            run, waiting = meanwhile.begun(backend, traced.graph, state, seconds)
            made = Specialisation(traced, backend, run, tracked, seconds, waiting, meanwhile.maker(backend))
        else:
            made = Specialisation(traced, backend, backend.build(traced.graph, state, seconds), tracked, seconds)
            if self._background and "passes" in seconds:  # compiled, which takes so long that this isn't noticed
                import_module("graphc.runtime.meanwhile")
        name = getattr(self._function, "__qualname__", repr(self._function))
        self._history.append(Compilation(reason, seconds, made.waiting))
        log.info("compiled %s: %s", name, self._history[-1])
        return made

    @property
    def specialisations(self) -> list[Specialisation]:
        """Every compiled form, oldest first within a kind of arguments."""
        return [s for kind in self._kinds.values() for s in kind]

    def graphs(self) -> list[Step]:
        """The graph after tracing and after each pass, for the newest form."""
        return self._newest().steps()

    def explain(self) -> Explanation:
        """What the newest form captured, guards, rewrote, fused and generated; print it. Runs the passes again."""
        newest = self._newest()
        state = {output: number for number, output in newest.trace.writes}
        steps = newest.steps()
        program = newest.backend.program(steps[-1].graph, state)
        report: Explanation = import_module("graphc.runtime.explain").explain(
            newest.trace, steps, program, self.history, dict(newest.seconds)
        )
        return report

    def _newest(self) -> Specialisation:
        if self._last is None:
            raise TraceError("nothing is compiled yet: call the function once.")
        return self._last

    @property
    def history(self) -> tuple[str, ...]:
        """Why each compilation happened, and how long it took."""
        return tuple(map(str, self._history))


def _miss(leaves: tuple[Any, ...]) -> Any:
    """The shortcut of a function that has none."""
    return MISS


def _repeated(leaves: Sequence[Any]) -> tuple[int, ...] | None:
    """For each tensor among the arguments where it stands first; None if each stands once."""
    ids = [id(x) for x in leaves if isinstance(x, Tensor)]
    return None if len(set(ids)) == len(ids) else tuple(map(ids.index, ids))


def _kind(x: Any) -> Any:
    """What of an argument leaf decides which compiled form fits."""
    if isinstance(x, Tensor):
        grad = x._grad
        return "tensor", x.shape, x.dtype.name, x.requires_grad, None if grad is None else (grad.shape, grad.dtype.name)
    if isinstance(x, np.ndarray):
        return "array", x.shape, x.dtype
    return float if type(x) is float else (type(x), x)


def _sizeless(x: Any) -> Any:
    """_kind(x), whatever sizes an array has."""
    match _kind(x):
        case "tensor", shape, dtype, tracked, grad:
            return "tensor", len(shape), dtype, tracked, None if grad is None else (len(grad[0]), grad[1])
        case "array", shape, dtype:
            return "array", len(shape), dtype
        case kind:
            return kind


def _new_kind(leaves: Sequence[Any]) -> str:
    kinds = [f"{x.dtype.short}{list(x.shape)}" if isinstance(x, Tensor) else repr(x)[:40] for x in leaves]
    return f"other arguments: {', '.join(kinds)}"


@overload
def compile(
    function: Callable[P, R], *, device: str = ..., search: float = ..., background: bool = ...
) -> CompiledFunction[P, R]: ...
@overload
def compile(
    *, device: str = ..., search: float = ..., background: bool = ...
) -> Callable[[Callable[P, R]], CompiledFunction[P, R]]: ...
def compile(
    function: Callable[..., Any] | None = None, *, device: str = "cpu", search: float = 0.0, background: bool = True
) -> Any:
    """Compile a function of tensors. Use as a decorator, or as `fast = compile(f)`.

    The function may close over tensors, models and optimizers, call backward() and optimizer.step(), write in
    place and draw random numbers. It is traced at the first call with each kind of arguments; floats and tensors
    among the arguments are inputs, other Python values are part of the kind.

    device: "cpu" or "cuda". search: seconds that each compilation may spend on measuring alternative kernels where the
    cost model can't decide; the choice is kept on disk. By default none: a few kernels already take over 0.1 s, and
    another kernel may round sums otherwise.

    background: whether a call that differs from an earlier one in the sizes of arrays alone may be computed at once,
    node by node in NumPy, while its program is compiled in the background; it takes over when it is ready. Both compute
    the same graph, but round otherwise, and when the program takes over depends on time: pass False where equal runs
    must give equal bits. Then each new size waits for its program. (A search isn't made in the background.)

    Raises DeviceError for another or an absent device, ArgumentError for a
    search that is no time, TraceError for code that can't be traced.
    """
    if not 0 <= search < math.inf:
        raise ArgumentError(f"compile: search is a number of seconds, at least 0, not {search!r}.")
    if function is None:
        return functools.partial(compile, device=device, search=search, background=background)
    return CompiledFunction(function, backend_for(device, search), background)
