"""Eager mode's native kernels: whole functions, and optimizer steps, compiled once they recur.

The tape calls a function's own operations, each in NumPy, until the function has been called a few times on operands
of the same shapes. From then on a call is one kernel, one entry of the tape, and one more kernel for all derivatives.
The kernels are compiled by a thread behind, or come from the cache on disk; a call that needs one which isn't ready
waits for it. So which call is the first native one depends on the calls before it, never on time or on the cache.

    calls:        1      2                           3, or as many as handle WORTH elements together
    computed by   NumPy  NumPy; kernels are begun    kernels

A function's derivatives of higher order, and those in anomaly mode, are taken of its own operations.
"""

from __future__ import annotations

import threading
import warnings
from collections.abc import Callable, Iterator, Sequence
from itertools import combinations, repeat
from operator import is_
from typing import Any
from weakref import WeakKeyDictionary, ref

import numpy as np
import numpy.typing as npt
from numpy import ndarray

from graphc import dispatch
from graphc.errors import CompileError, IndexingError
from graphc.ir.graph import Graph
from graphc.ir.node import fresh_input, make
from graphc.ops.elementwise import where
from graphc.ops.marks import GRADIENT
from graphc.optim.optimizer import Optimizer
from graphc.primitive import Fact, Primitive, Value
from graphc.records import Record, Version, thread, tick
from graphc.tape import refresh
from graphc.tensor import Tensor, wrap
from graphc.trace import trace
from graphc.transforms import jvp, vjp
from graphc.tree import flatten
from graphc.types import BY_NUMPY, TensorType, dtype_of

from .backend import Run, backend_for
from .background import Task
from .compile import Specialisation

Array = npt.NDArray[Any]

FIRST = 3  # the earliest call of a form that runs natively
WORTH = 2**18  # elements that NumPy handles before a kernel takes over: about the time that compiling it takes
_FORMS = 4096  # kinds of calls that are remembered at once
_STEPS = 8  # of one optimizer
_SHORT = 16  # items of a list that isn't data


class _Here(threading.local):
    """Whether this thread is inside of a function that runs by its own operations: the functions in it do too."""

    inside = False


_here = _Here()


class Form:
    """A function on operands of certain types: how often it was called, and its kernels.

    template: the function's arguments and options, with hollow tensors. needs: for each operand whether derivatives
    reach it.
    """

    def __init__(
        self,
        function: Callable[..., Value],
        template: tuple[list[Any], dict[str, Any]],
        operands: Sequence[Tensor],
        needs: Sequence[bool],
    ) -> None:
        self.function = function
        self.template = template
        self.types = [TensorType(x._data.shape, dtype_of(x._data.dtype)) for x in operands]
        self.work = sum(t.size for t in self.types)
        self.calls = 0
        self.differentiated = [need and t.dtype.kind == "f" for need, t in zip(needs, self.types, strict=True)]
        self.differentiable = any(self.differentiated)
        self.forward: Run | None = None
        self.primitive: Primitive | None = None
        self._refused = False  # no kernel could be made: it stays with NumPy
        self._task: Task[Run] | None = None
        self._backward: dict[bool, Task[Run]] = {}

    def of(self, *operands: Value) -> Value:
        """The function's value, by its own operations."""
        given = iter(operands)
        args, options = self.template
        return _inside(
            self.function,
            [_rebuilt(x, given) for x in args],
            {name: _rebuilt(x, given) for name, x in options.items()},
        )

    def arrives(self) -> bool:
        """Count a call; whether it is to run natively."""
        self.calls += 1
        done = self.calls * self.work
        if self._refused:
            return False
        if self.calls >= FIRST and done >= WORTH:
            try:
                self._settle()
            except CompileError as error:
                self._refused = True
                warnings.warn(
                    f"{self.function.__name__} runs in NumPy: no kernel could be made of it: {error}",
                    RuntimeWarning,
                    stacklevel=5,
                )
                return False
            return True
        if self._task is None and self.calls >= FIRST - 1 and 2 * done >= WORTH:
            self._begin()
        return False

    def _begin(self) -> None:
        """Let the kernels be compiled: the value's, and that of derivatives below a `where`, as most are."""
        inputs = [fresh_input(f"x{i}", t) for i, t in enumerate(self.types)]
        y = self.of(*inputs)
        self._graph = Graph(inputs, [y])
        self._task = _compiled(self._graph)
        self._task.begin()
        if self.differentiable:
            self._gradients(True).begin()

    def _settle(self) -> None:
        if self._task is None:
            self._begin()
        assert self._task is not None
        forward = self._task.result()
        if self.differentiable:
            self._gradients(True).result()
        y = self._graph.outputs[0]
        selects = any(node.op.selects for node in self._graph.nodes)
        self.primitive = Primitive(
            self.function.__name__,
            infer=lambda *_, **__: y.type,
            eval=lambda xp, *arrays: self.of(*arrays),
            pullback=self._pullback,
            jvp=self._moved,
            facts=Fact.SELECTS if selects else Fact.NONE,
        )
        self.forward = forward

    def _gradients(self, masked: bool) -> Task[Run]:
        """The kernel of all derivatives, from the operands and the cotangent."""
        task = self._backward.get(masked)
        if task is None:
            (y,) = self._graph.outputs
            seed = fresh_input("seed", y.type)
            attrs = {"masked": True} if masked else {}
            wanted = [x for x, need in zip(self._graph.inputs, self.differentiated, strict=True) if need]
            marks = [make(GRADIENT, (y, seed, x), attrs) for x in wanted]
            task = self._backward[masked] = _compiled(Graph((*self._graph.inputs, seed), marks))
        return task

    def _pullback(self, g: Value, _: Value, *xs: Value, wanted: Sequence[bool], masked: bool) -> list[Value | None]:
        if type(g) is not ndarray and isinstance(g, Tensor):
            return self._recorded(g, xs, wanted, masked)
        found = iter(self._gradients(masked).result()(*[np.asarray(x) for x in xs], np.asarray(g)))
        return [next(found) if need else None for need in self.differentiated]

    def _recorded(self, g: Tensor, xs: Sequence[Value], wanted: Sequence[bool], masked: bool) -> list[Value | None]:
        """Cotangents that can be differentiated again: those of the function's own operations."""
        moving = [x for x, need in zip(xs, wanted, strict=True) if need]

        def of(*variables: Tensor) -> Value:
            given = iter(variables)
            y = self.of(*[next(given) if need else x for x, need in zip(xs, wanted, strict=True)])
            return where(wrap(np.array(True)), y, 0) if masked else y

        found = iter(vjp(of, *moving)[1](g))
        return [next(found) if need else None for need in wanted]

    def _moved(self, tangents: Sequence[Value | None], _: Value, *xs: Value) -> Value:
        """The tangent of the value, by the function's own operations."""
        numbers = not any(isinstance(x, Tensor) for x in (*xs, *tangents))
        moving = [x for x, t in zip(xs, tangents, strict=True) if t is not None]

        def of(*variables: Tensor) -> Value:
            given = iter(variables)
            return self.of(*[x if t is None else next(given) for x, t in zip(xs, tangents, strict=True)])

        moved = jvp(of, moving, [t for t in tangents if t is not None])[1]
        return moved._data if numbers else moved


def _compiled(graph: Graph) -> Task[Run]:
    return Task(lambda: backend_for("cpu").build(graph, {}, {}))


def _inside(function: Callable[..., Any], args: Sequence[Any], options: dict[str, Any]) -> Any:
    """function(*args, **options), by its own operations."""
    before, _here.inside = _here.inside, True
    try:
        return function(*args, **options)
    finally:
        _here.inside = before


class _Operands:
    """Takes a call's tensors out of its arguments, and tells the rest of the call from others."""

    def __init__(self, taped: bool) -> None:
        self.taped = taped
        self.tensors: list[Tensor] = []
        self.needs: list[bool] = []
        self.foreign = False  # whether one isn't NumPy's

    def key(self, x: Any) -> Any:
        """What of an argument decides which form a call has."""
        if isinstance(x, Tensor):
            if x._view is not None and x._record is not None:
                refresh(x)
            data = x._data
        elif type(x) is ndarray and x.dtype in BY_NUMPY:
            data = x
        elif type(x) is float:
            return x.hex()  # 0.0 == -0.0, and nan isn't nan
        elif (type(x) is tuple or type(x) is list) and len(x) <= _SHORT:
            return type(x), *[self.key(part) for part in x]
        else:
            return type(x), x
        if type(data) is not ndarray:
            self.foreign = True  # it has no numbers, or another library has them
            return None
        if data is x:
            x = wrap(data)
        need = self.taped and x._record is not None
        self.tensors.append(x)
        self.needs.append(need)
        return data.shape, data.dtype.char, need


def _rebuilt(x: Any, operands: Iterator[Any]) -> Any:
    """An argument with the next operands in place of its tensors."""
    if isinstance(x, (Tensor, ndarray)):
        return next(operands)
    if type(x) is tuple or type(x) is list:
        return type(x)([_rebuilt(part, operands) for part in x])
    return x


def _hollow(x: Any) -> Any:
    """An argument without the numbers of its tensors."""
    return _rebuilt(x, repeat(wrap(np.empty(0))))


class Kernels:
    """Runs composed functions and optimizer steps for the tape: a graphc.composed.Runner."""

    def __init__(self) -> None:
        self._forms: dict[Any, Form] = {}
        self._steps: WeakKeyDictionary[Optimizer, Steps] = WeakKeyDictionary()

    def call(self, function: Callable[..., Any], args: tuple[Any, ...], options: dict[str, Any]) -> Any:
        modes = thread.modes
        if _here.inside or modes.anomaly or not dispatch.state.interpreter.computes:
            return function(*args, **options)
        found = _Operands(modes.recording)
        key = (function, *[found.key(x) for x in args], *[(name, found.key(x)) for name, x in options.items()])
        if found.foreign:
            return function(*args, **options)
        try:
            form = self._forms.get(key)
        except TypeError:  # an argument that can't be told from others
            return function(*args, **options)
        operands = found.tensors
        if form is None:
            if len(self._forms) >= _FORMS:
                self._forms.clear()
            template = [_hollow(x) for x in args], {name: _hollow(x) for name, x in options.items()}
            form = self._forms[key] = Form(function, template, operands, found.needs)
        if form.forward is None and not form.arrives():
            return _inside(function, args, options)
        try:
            (out,) = form.forward(*[x._data for x in operands])  # type: ignore[misc]
        except IndexingError:
            return _inside(function, args, options)  # which says what was wrong with which index
        result = wrap(out)
        if form.differentiable:
            result._record = _record(form.primitive, operands, out)
        return result

    def compiled(self, graph: Graph, name: str) -> Callable[[], Run | None]:
        task = _compiled(graph)
        task.begin()

        def wait() -> Run | None:
            try:
                return task.result()
            except CompileError as error:
                warnings.warn(
                    f"{name} runs in NumPy: no kernel could be made of it: {error}", RuntimeWarning, stacklevel=4
                )
                return None

        return wait

    def step(self, optimizer: Optimizer) -> bool:
        if _here.inside or thread.modes.anomaly or not dispatch.state.interpreter.computes:
            return False
        steps = self._steps.get(optimizer)
        if steps is None:
            steps = self._steps[optimizer] = Steps(optimizer)
        return steps.step()


def _record(primitive: Primitive | None, operands: Sequence[Tensor], out: Array) -> Record:
    """The tape's entry of a native call, which the operands' memory knows of: see records.Version."""
    record = Record()
    record.op = primitive
    record.operands = tuple(operands)
    record.arrays = tuple([x._data for x in operands])
    record.sources = tuple([x._record for x in operands])
    record.attrs = {}
    record.y = out
    record.stamp = tick()
    record.hooks = record.overwritten = record.location = None
    for x in operands:
        if x._version is None:
            x._version = Version()
        x._version.read_by(record)
    return record


class Steps:
    """The steps of one optimizer: native from the third on, and whenever they recur in another way."""

    def __init__(self, optimizer: Optimizer) -> None:
        self._optimizer = ref(optimizer)
        self._known: list[tuple[list[Tensor], Specialisation]] = []
        self._steps = 0  # since the last kernel was begun

    def step(self) -> bool:
        """One step, if a kernel may take it."""
        optimizer = self._optimizer()
        assert optimizer is not None
        tensors = _state_of(optimizer)
        for known, kernel in self._known:
            if len(known) == len(tensors) and all(map(is_, known, tensors)) and kernel.failing() is None:
                kernel(())
                return True
        self._steps += 1
        if self._steps == FIRST - 1:
            self._steps = 0
            if not _apart(tensors):
                return False
            self._known.append((tensors, self._traced()))
            del self._known[:-_STEPS]
        return False

    def _traced(self) -> Specialisation:
        """The step as a graph; a thread behind begins to compile it."""
        optimizer = self._optimizer  # not the optimizer itself: the kernel mustn't keep it alive

        def step() -> None:
            owner = optimizer()
            assert owner is not None
            owner.advance()

        leaves, structure = flatten(((), {}))
        traced = trace(step, leaves, structure)
        state = {output: number for number, output in traced.writes}
        task = Task(lambda: backend_for("cpu").build(traced.graph, state, {}))
        task.begin()
        return Specialisation(traced, backend_for("cpu"), lambda *arrays: task.result()(*arrays), tracked=False)


def _state_of(optimizer: Optimizer) -> list[Tensor]:
    """Every tensor that a step may write."""
    every: list[Tensor] = []
    for group in optimizer.param_groups:
        for p in group["params"]:
            every.append(p)
            every.extend(optimizer.state[p].values())
    return every


def _apart(tensors: Sequence[Tensor]) -> bool:
    """Whether no two share memory: a kernel may write them in any order."""
    return not any(np.may_share_memory(a._data, b._data) for a, b in combinations(tensors, 2))


kernels = Kernels()
