"""A fused Graph -> Program: the order of the steps, what each of them runs, and where every value lies.

An output that updates an input (a parameter, an optimiser's moment) is written into that input's own memory. The
step that does so runs after all other readers of the old value; where that can't be, it writes to the arena and
the result is copied at the end.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import field, replace

import numpy as np

from graphc.errors import VerifyError
from graphc.frozen import dataclass
from graphc.ir.expr import Axis, affine
from graphc.ir.graph import Graph
from graphc.ir.node import CONSTANT, FUSED, INPUT, ITEM, Node
from graphc.passes.access import Accesses
from graphc.primitive import Fact
from graphc.types import DType

from .blocks import LENT
from .gemm import as_gemm
from .layout import Layouts
from .loop.ir import Buffer, Kernel, Load, Offset, Store
from .loop.lower import lower
from .loop.naive import naive
from .loop.nest import Nest, Stage
from .loop.storage import Storage
from .loop.verify import verify
from .memory import place
from .order import ordered
from .program import KernelCall, Place, Program, Step
from .relay import Copies, Cost, copies
from .relay import copying as relaying
from .rematerialise import rematerialised
from .stream import streamed
from .values import Part, Value, joins, parts_in_place, shifts, window_of
from .works import Work, lifetimes

Schedule = Callable[[Nest], Kernel]
Stream = Callable[[Kernel, Sequence[Place]], frozenset[str]]

BLAS_RESULT = 1 << 24  # elements of a product from which on BLAS computes it


def plan(
    graph: Graph,
    state: Mapping[int, int] | None = None,
    schedule: Schedule = naive,
    blas_result: int = BLAS_RESULT,
    layouts: Layouts | None = None,
    planned: Callable[[Step], object] = lambda step: None,
    cost: Cost | None = None,
    stream: Stream | None = None,
) -> Program:
    """The program of a fused graph.

    state: output number -> number of the input that it overwrites; the others get arguments of their own, which
        follow the inputs' in the order of the outputs.
    schedule: how a nest becomes a kernel. blas_result: plain products with at least so many elements go to BLAS.
    layouts: of values that shouldn't lie in C order. planned: is told each step as soon as it is known, in order.
    cost: cycles of a nest, to tell which operands to copy into another order first; without it none is.
    stream: which params of a kernel are written past the caches, when they lie at these places; without it none is.
    Raises VerifyError if the graph isn't fused, or an output can't overwrite its input for its type.
    """
    return _Planner(
        graph, dict(state or {}), schedule, blas_result, layouts or Layouts(), planned, cost, stream
    ).program()


@dataclass(slots=True)
class _Planner:
    graph: Graph
    state: dict[int, int]
    schedule: Schedule
    blas_result: int
    layouts: Layouts
    planned: Callable[[Step], object]
    cost: Cost | None
    stream: Stream | None
    values: dict[Node, Value] = field(default_factory=dict)
    relaid: dict[tuple[Value, Storage], Value] = field(default_factory=dict)  # copies in another order
    works: list[Work] = field(default_factory=list)
    constants: list[tuple[DType, bytes]] = field(default_factory=list)
    messages: dict[str, int] = field(default_factory=dict)
    nests: dict[tuple[object, ...], Nest] = field(default_factory=dict)
    kernels: dict[Nest, Kernel] = field(default_factory=dict)
    streaming: dict[tuple[str, frozenset[str]], Kernel] = field(default_factory=dict)  # by the kernel's name
    arena: int = 0

    def program(self) -> Program:
        self.collect()
        self.claim()
        self.works = rematerialised(ordered(self.works), self.nest)
        self.settle()
        self.allocate()
        steps = []
        for work in self.works:
            if any(value.size for value in work.writes):
                steps.append(self.step(work))
                self.planned(steps[-1])
        buffers = [Buffer(f"in{i}", n.dtype, n.type.size) for i, n in enumerate(self.graph.inputs)]
        buffers += [
            Buffer(f"out{k}", n.dtype, n.type.size) for k, n in enumerate(self.graph.outputs) if k not in self.state
        ]
        return Program(tuple(steps), tuple(buffers), tuple(self.constants), self.arena, tuple(self.messages))

    # ------------------------------------------------------------------ values and works

    def collect(self) -> None:
        """A value for every input, constant and item, and for what lies in their memory; a work for every kernel."""
        access = Accesses()
        parts = parts_in_place(self.graph, [*self.graph.outputs], self.layouts.storage)
        for node in joins(self.graph):
            self.values[node] = Value(node.dtype, node.type.size, node)
        for index, node in enumerate(self.graph.inputs):
            self.values[node] = Value(node.dtype, node.type.size, node, Place("argument", index))
        items: dict[Node, dict[int, Node]] = {}
        for node in self.graph.nodes:
            if node.op is ITEM:
                items.setdefault(node.inputs[0], {})[node.attrs["index"]] = node
        fixed = {*self.graph.outputs, *joins(self.graph)}
        fixed |= {x for n in self.graph.nodes if n.op.body is not None for x in n.inputs}
        for node in self.graph.nodes:
            if node.op is CONSTANT:
                self.values[node] = self.constant(node)
            elif node.op is ITEM:
                continue
            elif node.op is FUSED:
                results = []
                for index, inner in enumerate(node.attrs["graph"].outputs):
                    item = items.get(node, {}).get(index)
                    value = Value(inner.dtype, inner.type.size, item)
                    if item is not None:
                        value.storage = None if item in fixed else self.layouts.storage.get(item)
                        self.values[item] = value
                        if item in parts:
                            self.put(value, parts[item])
                    results.append(value)
                operands = tuple(self.values[x] for x in node.inputs)
                operands, nest = self.relay(node, operands, tuple(results))
                self.works.append(Work(node, operands, tuple(results), nest))
            elif Fact.JOINS in node.op.facts:
                self.join(node, parts)
            elif node.op is not INPUT:
                self.values[node] = window_of(node, self.values[node.inputs[0]], access)

    def put(self, value: Value, part: Part) -> None:
        """Let a value lie in what it is joined to."""
        value.inside, value.shift, value.storage = self.values[part.joined], part.shift, part.storage
        value.inside.parts.append(value)

    def join(self, node: Node, parts: Mapping[Node, Part]) -> None:
        """Place a joined value, and copy to it those of its parts that lie elsewhere."""
        if node in parts:
            self.put(self.values[node], parts[node])
        for part in shifts(node):
            if parts.get(part.value) != part and part.value.type.size:
                source, copy = self.values[part.value], Value(node.dtype, part.value.type.size)
                self.put(copy, part)
                nest = relaying(part.value, source.storage, part.storage)
                self.works.append(Work(None, (source,), (copy,), nest))

    def relay(
        self, node: Node, operands: tuple[Value, ...], results: tuple[Value, ...]
    ) -> tuple[tuple[Value, ...], Nest]:
        """What a fused node reads, and its nest: of its operands as they lie, or of copies where these pay."""
        nest = self.nest(node, operands, results)
        if self.cost is None:
            return operands, nest

        def lowered(copies: Copies) -> Nest:
            stored = [replace(v, storage=copies.get(i, v.storage)) for i, v in enumerate(operands)]
            return self.nest(node, tuple(stored), results)

        def made(number: int, storage: Storage) -> bool:
            return (operands[number], storage) in self.relaid

        chosen = copies(node, nest, [v.storage for v in operands], self.cost, lowered, made)
        if not chosen:
            return operands, nest
        read = tuple(self.copy(node.inputs[i], v, chosen[i]) if i in chosen else v for i, v in enumerate(operands))
        return read, self.nest(node, read, results)

    def copy(self, node: Node, value: Value, storage: Storage) -> Value:
        """The value in another order, copied once for all who read it so."""
        if (value, storage) not in self.relaid:
            made = self.relaid[value, storage] = Value(value.dtype, storage.size(node.shape), storage=storage)
            self.works.append(Work(None, (value,), (made,), relaying(node, value.storage, storage)))
        return self.relaid[value, storage]

    def constant(self, node: Node) -> Value:
        array = np.ascontiguousarray(node.attrs["value"].array)
        self.constants.append((node.dtype, array.astype(array.dtype.newbyteorder("<")).tobytes()))
        return Value(node.dtype, node.type.size, node, Place("constant", len(self.constants) - 1))

    def nest(self, node: Node, reads: tuple[Value, ...], writes: tuple[Value, ...]) -> Nest:
        """The nest of a fused node, with the program's codes for its messages; lowered once for equal nodes."""
        storage = tuple(v.storage for v in (*reads, *writes))
        key = (node.attrs["graph"], node.attrs["full"], node.attrs["outer"], storage)
        found = self.nests.get(key)
        if found is None:
            found = lower(node.attrs["graph"], node.attrs["full"], node.attrs["outer"], title(node), storage)
            codes = [self.messages.setdefault(m, len(self.messages) + 1) for m in found.messages]
            found = self.nests[key] = numbered(found, codes)
        return found

    def claim(self) -> None:
        """Let each output be computed where it is wanted: in an argument of its own, or over an input.

        What is no fresh value (an input handed through, one value wanted twice) is copied.
        """
        own = len(self.graph.inputs)
        claimed: set[Value] = set()
        for k, output in enumerate(self.graph.outputs):
            value = self.values[output]
            target = None
            if k in self.state:
                state = self.graph.inputs[self.state[k]]
                if state.type != output.type:
                    raise VerifyError(f"output {k} of type {output.type} can't overwrite an input of type {state.type}")
                target = self.values[state]
            if value is target:
                continue  # state that stays as it is
            # what is joined over an input is copied there: its parts would be written one by one, while it is read
            if value.place is not None or value in claimed or value.inside is not None or (target and value.parts):
                made = Value(value.dtype, value.size)
                self.works.append(Work(None, (value,), (made,), copying(value.dtype, value.size)))
                value = made
            claimed.add(value)
            value.target = target
            if target is None:
                value.place = Place("argument", own, lent=value.nbytes >= LENT)
                own += 1

    # ------------------------------------------------------------------ places

    def settle(self) -> None:
        """Values overwrite their inputs where nobody reads the old numbers afterwards; the others are copied last."""
        last = {value.whole: position for position, work in enumerate(self.works) for value in work.reads}
        for position, work in enumerate(list(self.works)):
            for value in work.writes:
                if value.target is None:
                    continue
                read = last.get(value.target, -1)
                if read < position or (read == position and work.in_place(value.target, value)):
                    value.place = value.target.place
                else:
                    late = Value(value.dtype, value.size, place=value.target.place)
                    self.works.append(Work(None, (value,), (late,), copying(value.dtype, value.size)))

    def allocate(self) -> None:
        """Offsets in the arena for all values that lie nowhere yet."""
        found = lifetimes(self.works, lambda value: value.place is None)
        offsets, self.arena = place(list(found.values()))
        for value, offset in zip(found, offsets, strict=True):
            value.place = Place("arena", offset=offset)

    # ------------------------------------------------------------------ steps

    def step(self, work: Work) -> Step:
        places = tuple(v.located() for v in (*work.reads, *work.writes))
        product = as_gemm(work.nest, places)
        if product is not None and product.m * product.n >= self.blas_result:
            return product
        plain = replace(work.nest, name="")
        kernel = self.kernels.get(plain)
        if kernel is None:
            name = f"k{len(self.kernels)}_{work.nest.name}"
            kernel = self.kernels[plain] = self.schedule(replace(work.nest, name=name))
            verify(kernel)  # a hundred microseconds, always on: a backend prints what it is given
        names = frozenset() if self.stream is None else self.stream(kernel, places)
        if names:
            known = self.streaming.get((kernel.name, names))
            kernel = self.streaming[kernel.name, names] = known or streamed(kernel, names)
        return KernelCall(kernel, places)


def title(node: Node) -> str:
    """What a kernel does, in a word: the operation of its first result, and the loops."""
    result = node.attrs["graph"].outputs[0]
    extents = "x".join(map(str, node.attrs["full"])) or "1"
    return f"{result.op.name}_{extents}"


def numbered(nest: Nest, codes: list[int]) -> Nest:
    """The nest with its Checks' codes replaced by those of the program."""
    if not codes:
        return nest
    stages = [
        replace(stage, checks=tuple(replace(check, code=codes[check.code - 1]) for check in stage.checks))
        for stage in nest.stages
    ]
    return replace(nest, stages=tuple(stages))


def copying(dtype: DType, size: int) -> Nest:
    """A nest that copies p0 to o0."""
    source, target = Buffer("p0", dtype, size), Buffer("o0", dtype, size)
    axis = Axis("i0", size)
    at = Offset(affine(axis))
    stage = Stage(stores=(Store(target, at, Load(source, at)),))
    return Nest(f"copy_{size}", (source, target), (axis,), (stage,), inplace=(("p0", "o0"),))
