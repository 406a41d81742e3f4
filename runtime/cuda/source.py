"""The CUDA printer: a scheduled Kernel as CUDA C++ functions. It decides nothing; `schedule.py` did.

Each top-level parallel loop becomes one __global__ function, and so does each run of other top-level statements
(run by one group of threads): launches on a stream are the barrier between them. What a group is, the page of
runtime/loop/ir.py says: a thread, a warp or a block for one iteration of the parallel loop.

How the meaning of the loop IR, which is that of sequential code, is kept by many threads:
- an accumulation over the lanes goes to a partial result of each thread, folded after the vector loop;
- a barrier stands between two statements of a group wherever one touches memory that the other writes;
- scratch memory is __shared__, or a slice of a workspace in global memory where the group's share is too large.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from math import prod
from typing import assert_never

from graphc.errors import VerifyError
from graphc.frozen import dataclass
from graphc.ir.expr import Affine, Axis, Call
from graphc.runtime.loop.ir import (
    Accumulate,
    Alloc,
    Block,
    Buffer,
    Check,
    Expr,
    For,
    If,
    Kernel,
    Let,
    Offset,
    Prefetch,
    Stmt,
    Store,
)
from graphc.runtime.loop.naive import identity
from graphc.types import float32, float64

from .access import Pending, accesses
from .groups import Launch, Plan, addresses, plan_launches
from .scalar import C_TYPES, INT_MAX, Scalars, literal

_FOLDS = {"sum": ("gc_add", "gc_sum"), "max": ("gc_max", "gc_maximum"), "min": ("gc_min", "gc_minimum")}
_RESERVED = """
    auto bool break case char class const continue default delete do double else enum explicit extern false float for
    friend goto if inline int long mutable namespace new operator private protected public register return short
    signed sizeof static struct switch template this throw true try typedef union unsigned using virtual void
    volatile while min max exp log pow floor sin cos tanh erf sqrt abs
"""
_RESERVED_NAMES = frozenset(_RESERVED.split())


@dataclass(frozen=True, slots=True)
class CudaKernel:
    """text: the functions (without the prelude). launches: what runs one call of the kernel, in order."""

    text: str
    launches: tuple[Launch, ...]


def print_kernel(kernel: Kernel, name: str | None = None) -> CudaKernel:
    """`kernel` as CUDA C++. name: what its functions begin with. Raises CompileError for a schedule no GPU runs."""
    plans = plan_launches(kernel, "kernel_" + re.sub(r"\W", "_", name or kernel.name))  # `exp` is taken
    return CudaKernel("\n".join(_Function(plan).text() for plan in plans), tuple(plan.launch for plan in plans))


@dataclass(slots=True)
class _Lanes:
    """The vector nest being printed. chunk: the C++ name of the number of the chunk, where registers need it."""

    loops: tuple[For, ...]
    chunk: str | None
    partials: Mapping[str, str]  # register buffer -> op that it is folded by
    totals: dict[int, tuple[Accumulate, str]]  # id of an accumulation to memory -> its partial's name


class _Function:
    """Prints one __global__ function: one segment of a kernel."""

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self.kernel = plan.kernel
        self.width = plan.width
        self.scalars = Scalars(self._element)
        self.lines: list[str] = []
        self.indent = 1
        self.lanes: _Lanes | None = None
        self.pending = Pending()
        self.names: dict[str, str] = {}  # IR name -> C++ name
        self.counter = 0

    # ---------------------------------------------------------------- names and memory

    def _name(self, name: str) -> str:
        """A C++ name for a name of the IR: the same wherever possible, and never that of another."""
        found = self.names.get(name)
        if found is None:
            found = re.sub(r"\W", "_", name)
            if not found or found[0].isdigit() or found in _RESERVED_NAMES or found.startswith(("gc_", "__")):
                found = f"v_{found}"
            taken = set(self.names.values())
            while found in taken:
                found += "_"
            self.names[name] = found
        return found

    def _element(self, buffer: Buffer, offset: Offset) -> str:
        """`buffer[offset]` as C++ text."""
        name = self._name(buffer.name)
        if buffer.space == "register":
            if self.lanes and buffer.name in self.lanes.partials:
                raise VerifyError(f"{self.kernel.name}: {buffer.name} is read in the vector loop that accumulates it")
            return f"{name}[{self._register(buffer, offset)}]"
        index = self.scalars.offset(offset)
        if buffer.name in self.plan.in_workspace:
            return f"{name}[gc_slot * {buffer.size}LL + {index}]"
        if buffer.name in self.plan.scratch and self.plan.per_block > 1:
            return f"{name}[gc_slot * {buffer.size} + {index}]"
        return f"{name}[{index}]"

    def _register(self, buffer: Buffer, offset: Offset) -> str:
        if buffer.name not in self.plan.spread:
            return self.scalars.offset(offset)
        if self.lanes is None or self.lanes.chunk is None:
            raise VerifyError(
                f"{self.kernel.name}: register {buffer.name} is spread over lanes, but used outside of them"
            )
        rest, stride = offset.affine, 1
        for loop in reversed(self.lanes.loops):
            if rest.coefficient(loop.axis) != stride:
                raise VerifyError(f"{self.kernel.name}: register {buffer.name} isn't addressed lane by lane")
            rest, stride = rest - loop.axis * stride, stride * loop.axis.extent
        if rest.const % self.width or any(c % self.width for _, c in rest.terms):
            raise VerifyError(f"{self.kernel.name}: register {buffer.name}: strides must be multiples of {self.width}")
        rest = Affine(tuple((axis, c // self.width) for axis, c in rest.terms), rest.const // self.width)
        text = self.scalars.offset(Offset(rest))
        return f"{text} + {self.lanes.chunk}" if text != "0" else self.lanes.chunk

    # ---------------------------------------------------------------- the function

    def text(self) -> str:
        """The whole function."""
        setup = self._head()
        stride = self.plan.grid * self.plan.per_block
        loops = stride < self.plan.groups
        if loops:  # scratch memory is used again by the next group
            self._dry_run(self.plan.body)
            names = set(self.plan.scratch)
            self.pending = Pending(self.pending.reads & names, self.pending.writes & names)
        self._groups(stride, loops)
        arguments = ", ".join(self._arguments())
        bounds = f"__launch_bounds__({self.plan.threads})"
        head = f'extern "C" __global__ void {bounds} {self.plan.launch.function}({arguments}) {{'
        return "\n".join([head, *setup, *self.lines, "}", ""])

    def _arguments(self) -> Iterator[str]:
        shared = {a for a, b in self.kernel.inplace} | {b for a, b in self.kernel.inplace}
        for i in self.plan.launch.params:
            buffer = self.kernel.params[i]
            kind = "GC_WRITE" if buffer.name in self.plan.written else "GC_READ"
            if buffer.name in shared:
                kind = "GC_ALIASED"
            yield f"{kind}({C_TYPES[buffer.dtype]}) {self._name(buffer.name)}"
        for name, buffer in self.plan.scratch.items():
            if name in self.plan.in_workspace:
                yield f"GC_WRITE({C_TYPES[buffer.dtype]}) {self._name(name)}"
        if self.plan.launch.checks:
            yield "GC_ALIASED(int) gc_error"

    def _head(self) -> list[str]:
        lines = []
        if self.width > 1:
            lane = "threadIdx.x" if self.width == self.plan.threads else f"threadIdx.x % {self.width}"
            lines.append(f"  const int gc_lane = {lane};")
        if self.plan.scratch:
            within = f"threadIdx.x / {self.width}" if self.plan.per_block > 1 else "0"
            slot = f"blockIdx.x * {self.plan.per_block} + {within}" if self.plan.in_workspace else within
            if self.plan.in_workspace or self.plan.per_block > 1:
                lines.append(f"  const int gc_slot = {slot};")
        for name, buffer in self.plan.scratch.items():
            if name not in self.plan.in_workspace:
                size = buffer.size * self.plan.per_block
                lines.append(f"  GC_SHARED({C_TYPES[buffer.dtype]}, {self._name(name)}, {size});")
        return lines

    def _groups(self, stride: int, loops: bool) -> None:
        """The body, for every group that this thread belongs to."""
        ctype = "int" if self.plan.groups + stride <= INT_MAX else "gc_i64"
        block = "blockIdx.x" if ctype == "int" else "(gc_i64)blockIdx.x"
        if self.width == 1:
            first = f"{block} * {self.plan.threads} + threadIdx.x"
        elif self.plan.per_block == 1:
            first = block
        else:
            first = f"{block} * {self.plan.per_block} + threadIdx.x / {self.width}"
        bound = f"{self.plan.groups}{'' if ctype == 'int' else 'LL'}"
        if loops:
            opening = f"for ({ctype} gc_group = {first}; gc_group < {bound}; gc_group += {stride}) {{"
        elif stride == self.plan.groups and (self.width > 1 or self.plan.threads == self.plan.groups):
            opening = ""
        else:
            opening = f"if (gc_group < {bound}) {{"
        if not loops and (opening or self.plan.axes):
            self._line(f"const {ctype} gc_group = {first};")
        if opening:
            self._line(opening)
            self.indent += 1
        with self._decomposed(self.plan.axes, "gc_group"):
            self._block(self.plan.body)
        if opening:
            self.indent -= 1
            self._line("}")

    @contextmanager
    def _decomposed(self, axes: tuple[Axis, ...], flat: str) -> Iterator[None]:
        """The axes of a nest from their position in its row-major product."""
        inner = prod(axis.extent for axis in axes)
        for i, axis in enumerate(axes):
            inner //= axis.extent
            text = f"{flat} / {inner}" if inner > 1 else flat
            if i and axis.extent > 1:
                text = f"{text} % {axis.extent}"
            name = self._name(axis.name)
            self._line(f"const {_index_type(axis)} {name} = {text if axis.extent > 1 else '0'};")
            self.scalars.axes[axis] = name
        yield
        for axis in axes:
            del self.scalars.axes[axis]

    def _line(self, text: str) -> None:
        self.lines.append("  " * self.indent + text)

    # ---------------------------------------------------------------- statements

    def _block(self, block: Block) -> None:
        for statement in block:
            self._statement(statement)

    def _dry_run(self, body: Block) -> None:
        """What is pending after `body`, whatever was pending before it: nothing is printed."""
        lines, self.lines = self.lines, []
        counter = self.counter
        with self._decomposed(tuple(a for a in self.plan.axes if a not in self.scalars.axes), "gc_group"):
            self._block(body)
        self.lines, self.counter = lines, counter

    def _uniform(self) -> bool:
        """Whether what is printed now is run by all threads of a group alike."""
        return self.width > 1 and self.lanes is None

    def _settle(self, statement: Stmt) -> None:
        """A barrier, if the group must wait for each other before `statement`."""
        if not self._uniform():
            return
        shared = [a for a in accesses((statement,)) if a.buffer.space != "register"]
        reads = {self.plan.aliases.get(a.buffer.name, a.buffer.name) for a in shared if not a.writes}
        writes = {self.plan.aliases.get(a.buffer.name, a.buffer.name) for a in shared if a.writes}
        if self.pending.conflicts(reads, writes):
            self._line("__syncwarp();" if self.width == 32 else "__syncthreads();")
            self.pending.clear()
        self.pending.add(reads, writes)

    def _statement(self, statement: Stmt) -> None:
        match statement:
            case For(kind="vector") if self.width > 1:
                self._settle(statement)
                self._vector(statement)
            case For():
                self._loop(statement)
            case If(condition, body):
                self._settle(If(condition, ()))
                self._line(f"if ({self.scalars.expr(condition)}) {{")
                self._nested(body)
                self._line("}")
            case Alloc(buffer):
                self._alloc(buffer)
            case Let(var, value):
                self._settle(statement)
                self._line(self.scalars.bind(var, self._name(var.name), value))
            case Store(buffer, offset, value, mask):
                self._settle(statement)
                self._guarded(buffer, mask, f"{self._target(buffer, offset)} = {self.scalars.expr(value)};")
            case Accumulate():
                self._settle(statement)
                self._accumulate(statement)
            case Prefetch():
                pass  # other threads run while one waits for memory
            case Check(condition, code):
                self._settle(statement)
                once = "gc_lane == 0 && " if self._uniform() else ""
                self._line(f"if ({once}!{self.scalars.expr(condition)}) gc_report(gc_error, {code});")
            case _:
                assert_never(statement)

    def _nested(self, body: Block) -> None:
        self.indent += 1
        before = self.pending.copy()
        self._block(body)
        self.pending.add(before.reads, before.writes)  # the body may not have run
        self.indent -= 1

    def _loop(self, loop: For) -> None:
        axis = loop.axis
        if not axis.extent:
            return
        name = self._name(axis.name)
        if loop.kind == "parallel":
            raise VerifyError(f"{self.kernel.name}: parallel loop {axis.name} isn't outermost")
        if loop.kind == "unroll":
            self._line("#pragma unroll")
        self._line(f"for ({_index_type(axis)} {name} = 0; {name} < {axis.extent}; {name}++) {{")
        self.scalars.axes[axis] = name
        if self._uniform() and axis.extent > 1:  # an iteration follows upon the one before
            before = self.pending.copy()
            self._dry_run(loop.body)
            self.pending.add(before.reads, before.writes)
        self._nested(loop.body)
        del self.scalars.axes[axis]
        self._line("}")

    def _alloc(self, buffer: Buffer) -> None:
        if buffer.name in self.plan.scratch:
            return
        size = -(-buffer.size // self.width) if buffer.name in self.plan.spread else buffer.size
        self._line(f"GC_LOCAL({C_TYPES[buffer.dtype]}, {self._name(buffer.name)}, {size});")

    def _target(self, buffer: Buffer, offset: Offset) -> str:
        if self.lanes and buffer.name in self.lanes.partials:
            raise VerifyError(f"{self.kernel.name}: {buffer.name} is stored to in the vector loop that accumulates it")
        return self._element(buffer, offset)

    def _guarded(self, buffer: Buffer, mask: Expr | None, text: str) -> None:
        """`text` where the mask holds; memory that the group shares is written by one thread."""
        conditions = []
        if self._uniform() and buffer.space != "register":
            conditions.append("gc_lane == 0")
        if mask is not None:
            conditions.append(self.scalars.expr(mask))
        self._line(f"if ({' && '.join(conditions)}) {text}" if conditions else text)

    def _accumulate(self, statement: Accumulate) -> None:
        buffer, offset, value, mask = statement.buffer, statement.offset, statement.value, statement.mask
        if statement.atomic:
            text = f"gc_atomic_add(&{self._element(buffer, offset)}, {self.scalars.expr(value)});"
        elif self.lanes and buffer.name in self.lanes.partials:
            place = f"gc_part_{self._name(buffer.name)}[{self.scalars.offset(offset)}]"
            text = f"{place} = {self._folded(statement.op, place, value)};"
        elif self.lanes and id(statement) in self.lanes.totals:
            place = self.lanes.totals[id(statement)][1]
            text = f"{place} = {self._folded(statement.op, place, value)};"
        else:
            place = self._element(buffer, offset)
            text = f"{place} = {self._folded(statement.op, place, value)};"
        self._guarded(buffer, mask, text)

    def _folded(self, op: str, old: str, value: Expr) -> str:
        match value:
            case Call("mul", (a, b), dtype) if op == "sum" and dtype in (float32, float64):
                name = "fmaf" if dtype is float32 else "fma"
                return f"{name}({self.scalars.expr(a)}, {self.scalars.expr(b)}, {old})"
        if op == "sum" and value.dtype in (float32, float64):
            return f"{old} + {self.scalars.expr(value)}"
        return f"{_FOLDS[op][0]}({old}, {self.scalars.expr(value)})"

    # ---------------------------------------------------------------- lanes

    def _vector(self, loop: For) -> None:
        """A nest of vector loops: the lanes of the group take its points in turn."""
        loops = [loop]
        while len(loops[-1].body) == 1 and isinstance(inner := loops[-1].body[0], For) and inner.kind == "vector":
            loops.append(inner)
        body = loops[-1].body
        axes = tuple(x.axis for x in loops)
        points = prod(axis.extent for axis in axes)
        nest = tuple(loops)
        partials = {
            a.buffer.name: a
            for a in _accumulations(body)
            if a.buffer.space == "register" and self._is_uniform(a.buffer)
        }
        totals = {}
        for a in _accumulations(body):
            if a.buffer.space != "register" and not a.atomic and not addresses(a.offset, axes):
                self.counter += 1
                totals[id(a)] = a, f"gc_total_{self.counter}"
        ops = {name: a.op for name, a in partials.items()}
        if any(a.op != ops[a.buffer.name] for a in _accumulations(body) if a.buffer.name in ops):
            raise VerifyError(f"{self.kernel.name}: one vector loop accumulates {', '.join(ops)} by several operations")
        if partials or totals:
            self._line("{")
            self.indent += 1
        for name, a in partials.items():
            part = f"gc_part_{self._name(name)}"
            self._line(f"GC_LOCAL({C_TYPES[a.buffer.dtype]}, {part}, {a.buffer.size});")
            self._each(a.buffer.size, f"{part}[{{i}}] = {_identity(a)};")
        for a, name in totals.values():
            self._line(f"{C_TYPES[a.buffer.dtype]} {name} = {_identity(a)};")
        if points:
            self._points(body, axes, points, _Lanes(nest, None, ops, totals))
        for name, a in partials.items():
            place = f"{self._name(name)}[{{i}}]"
            folded = self._across(a, f"gc_part_{self._name(name)}[{{i}}]")
            self._each(a.buffer.size, f"{place} = {_FOLDS[a.op][0]}({place}, {folded});")
        for a, name in totals.values():
            self._line(f"{name} = {self._across(a, name)};")
            place = self._element(a.buffer, a.offset)
            self._line(f"if (gc_lane == 0) {place} = {_FOLDS[a.op][0]}({place}, {name});")
        if partials or totals:
            self.indent -= 1
            self._line("}")

    def _points(self, body: Block, axes: tuple[Axis, ...], points: int, lanes: _Lanes) -> None:
        """The loop of each thread over its points of the nest."""
        chunks = -(-points // self.width)
        chunked = any(a.buffer.name in self.plan.spread for a in accesses(body))
        ctype = "int" if points + self.width <= INT_MAX else "gc_i64"
        closing = 1
        if chunks == 1:
            self._line(f"if (gc_lane < {points}) {{" if points < self.width else "{")
            flat = "gc_lane"
        elif not chunked:
            flat = "gc_point"
            self._line(f"for ({ctype} gc_point = gc_lane; gc_point < {points}; gc_point += {self.width}) {{")
        else:
            flat = "gc_point"
            self._line("#pragma unroll")
            self._line(f"for (int gc_chunk = 0; gc_chunk < {chunks}; gc_chunk++) {{")
            self.indent += 1
            self._line(f"const int gc_point = gc_chunk * {self.width} + gc_lane;")
            self._line(f"if (gc_point < {points}) {{" if points % self.width else "{")
            closing = 2
        self.indent += 1
        lanes.chunk = ("gc_chunk" if chunks > 1 else "0") if chunked else None
        self.lanes = lanes
        with self._decomposed(axes, flat):
            self._block(body)
        self.lanes = None
        for _ in range(closing):
            self.indent -= 1
            self._line("}")

    def _is_uniform(self, buffer: Buffer) -> bool:
        return buffer.name not in self.plan.spread and buffer.name not in self.plan.private

    def _each(self, size: int, text: str) -> None:
        """A line for every element of a register. text: with `{i}` where its number goes."""
        if size == 1:
            self._line(text.format(i=0))
            return
        self._line("#pragma unroll")
        self._line(f"for (int gc_i = 0; gc_i < {size}; gc_i++) {text.format(i='gc_i')}")

    def _across(self, a: Accumulate, value: str) -> str:
        """`value` folded over the lanes of the group."""
        ctype, op = C_TYPES[a.buffer.dtype], _FOLDS[a.op][1]
        if self.width == 32:
            return f"gc_fold_warp<{ctype}, {op}>({value})"
        return f"gc_fold_block<{ctype}, {op}, {self.width}>({value})"


def _index_type(axis: Axis) -> str:
    return "int" if axis.extent <= INT_MAX else "gc_i64"


def _identity(a: Accumulate) -> str:
    number = identity(a.op, a.buffer.dtype)
    return literal(number.value, number.dtype)


def _accumulations(block: Block) -> Iterator[Accumulate]:
    for statement in block:
        match statement:
            case Accumulate():
                yield statement
            case For(body=body) | If(body=body):
                yield from _accumulations(body)
