"""Prints kernels and programs of the loop IR as LLVM IR text with explicit vectors.

A kernel becomes a function of its params and a status pointer; each parallel loop a task that the pool runs over
ranges of its iterations; a program one module with the entry

    i64 graphc_entry(ptr %table, ptr %arena, ptr %constants)

%table: a pointer for each of Program.arguments; %arena: arena_size bytes aligned to 64; %constants: a pointer for
each of Program.constants. It returns 0, or the code of the first Check that failed. The text holds no addresses: what
it calls outside (graphc_parallel, graphc_gemm_f32 and _f64) is bound when the object is loaded.

No fast-math flags are used anywhere: NaN, infinities, -0 and denormals are what the loop IR says.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import field
from math import ceil, gcd, prod

from graphc.errors import CompileError
from graphc.frozen import dataclass
from graphc.ir.expr import Axis
from graphc.runtime.executable import ENTRY
from graphc.runtime.loop.ir import Block, Check, For, If, Kernel, Store
from graphc.runtime.memory import ALIGNMENT
from graphc.runtime.program import KernelCall, MatmulCall, Place, Program, Step
from graphc.types import int64

from .access import cycles, written
from .blas import GEMM_DECLARATIONS
from .emitter import Emitter, Module, Value, literal
from .expressions import Binding, Location, bind_row_major
from .memory import Memory
from .statements import Statements
from .target import Target
from .threads import PARALLEL_DECLARATION

RANGE_CYCLES = 10_000  # least work of a range of a parallel loop: some 2.5 microseconds
MODULE_LINES = 400  # of text: some 10 ms of LLVM's time, and few enough objects to load quickly


def print_kernel(kernel: Kernel, target: Target, alignments: Sequence[int] | None = None) -> str:
    """A module with the one function `void name(ptr param, ..., ptr status)`.

    alignments: bytes that divide each param's address; by default the size of its elements.
    """
    printer = _Printer(target)
    printer.kernel(kernel, tuple(alignments or (b.dtype.itemsize for b in kernel.params)), kernel.name, public=True)
    return printer.text()


def print_program(program: Program, target: Target) -> str:
    """A whole program as one module, with the entry described above."""
    texts: list[str] = []
    printer = ProgramPrinter(target, texts.append, module_lines=0)
    for step in program.steps:
        printer.step(step)
    printer.entry(program)
    (text,) = texts
    return text


class ProgramPrinter:
    """Prints a program as modules, step by step, as its steps become known. `emit` is given each module when it is
    full, the one with the entry last: LLVM can work on the first ones while the last are being planned.

    module_lines: how many lines of text fill a module; 0: all is one module.
    """

    def __init__(self, target: Target, emit: Callable[[str], object], module_lines: int = MODULE_LINES) -> None:
        self._target = target
        self._emit = emit
        self._most = module_lines
        self._printer = _Printer(target)
        self._printer.names.add(ENTRY)
        self._printed: dict[_Variant, str] = {}  # its name
        self._elsewhere: dict[str, str] = {}  # declarations of what stands in modules given away

    def step(self, step: Step) -> None:
        """Print the kernel of the program's next step, if it is a new one."""
        if isinstance(step, KernelCall) and (variant := _Variant.of(step)) not in self._printed:
            name = self._printed[variant] = self._printer.name(step.kernel.name)
            self._printer.kernel(step.kernel, variant.alignments, name, public=self._most > 0)
            if 0 < self._most <= self._printer.lines():
                self._emit(self._printer.text())
                self._printer = _Printer(self._target, self._printer.names)
                for known, name in self._printed.items():
                    parameters = ", ".join(["ptr"] * (len(known.alignments) + 1))
                    self._elsewhere[name] = f"declare void @{name}({parameters})"

    def entry(self, program: Program) -> None:
        """Print the function that runs all steps in order; each has been given to step()."""
        self._printer.module.declarations.update(self._elsewhere)
        self._printer.entry(program, self._printed)
        self._emit(self._printer.text())


@dataclass(frozen=True, slots=True)
class _Variant:
    """A kernel, known by identity, for params of these alignments."""

    kernel: _Same
    alignments: tuple[int, ...]

    @staticmethod
    def of(call: KernelCall) -> _Variant:
        alignments = tuple(
            gcd(ALIGNMENT, place.offset) if place.kind == "arena" or place.lent else buffer.dtype.itemsize
            for place, buffer in zip(call.places, call.kernel.params, strict=True)
        )
        return _Variant(_Same(call.kernel), alignments)


@dataclass(frozen=True, slots=True, eq=False)
class _Same:
    """Compares by identity: kernels are big, and equal ones are one already."""

    kernel: Kernel

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Same) and other.kernel is self.kernel

    def __hash__(self) -> int:
        return id(self.kernel)


def has_checks(block: Block) -> bool:
    """Whether a call of this block can fail."""
    return any(
        isinstance(statement, Check) or (isinstance(statement, For | If) and has_checks(statement.body))
        for statement in block
    )


def _streams(block: Block) -> bool:
    """Whether a block holds streaming stores, but for those that other threads may make."""
    return any(
        (isinstance(s, Store) and s.streaming)
        or (isinstance(s, If) and _streams(s.body))
        or (isinstance(s, For) and s.kind != "parallel" and _streams(s.body))
        for s in block
    )


@dataclass(slots=True)
class _Printer:
    """Of one module. names: taken ones, in all modules of a program."""

    target: Target
    names: set[str] = field(default_factory=set)
    module: Module = field(init=False)
    functions: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.module = Module(self.target)

    def text(self) -> str:
        width = self.target.vector_bits
        attributes = f'attributes #0 = {{ nounwind "prefer-vector-width"="{width}" }}'
        head = f'target triple = "{self.target.triple}"'
        declarations = [self.module.declarations[name] for name in sorted(self.module.declarations)]
        return "\n\n".join([head, "\n".join(declarations), *self.module.helpers.values(), *self.functions, attributes])

    def lines(self) -> int:
        """How much is printed."""
        return sum(text.count("\n") for text in self.functions)

    def name(self, wanted: str) -> str:
        """A fresh name for a function, of characters that LLVM takes without quotes."""
        clean = re.sub(r"\W", "_", wanted, flags=re.ASCII)
        name, count = clean, 1
        while name in self.names:
            count += 1
            name = f"{clean}_{count}"
        self.names.add(name)
        return name

    # ------------------------------------------------------------------ kernels

    def kernel(self, kernel: Kernel, alignments: tuple[int, ...], name: str, public: bool = False) -> None:
        """Print a kernel and the tasks of its parallel loops."""
        statements = self.statements(kernel, alignments)
        statements.spawn = lambda loop: self.parallel(kernel, loop, alignments, statements, name)
        statements.block(kernel.body)
        self.fence(statements.e, kernel.body)
        linkage = "" if public else "internal "
        header = f"define {linkage}void @{name}({', '.join(_parameters(kernel, alignments))}) #0 {{"
        self.functions.append(statements.e.text(header))

    def fence(self, e: Emitter, body: Block) -> None:
        """Wait for what this thread has streamed. Others learn that it is done by ordinary stores, which x86 doesn't
        keep behind streaming ones; barriers of other processors do."""
        if self.target.x86 and _streams(body):
            self.module.declarations["llvm.x86.sse.sfence"] = "declare void @llvm.x86.sse.sfence()"
            e.line("call void @llvm.x86.sse.sfence()")

    def statements(self, kernel: Kernel, alignments: tuple[int, ...]) -> Statements:
        """A printer of statements that sees the kernel's params."""
        storage: dict[str, Location] = {}
        for i, (buffer, align) in enumerate(zip(kernel.params, alignments, strict=True)):
            others = [b if a == buffer.name else a for a, b in kernel.inplace if buffer.name in (a, b)]
            storage[buffer.name] = Memory(f"%p{i}", buffer.dtype, buffer.size, align, (buffer.name, *others))
        return Statements(Emitter(self.module), storage, "%status")

    def parallel(self, kernel: Kernel, loop: For, alignments: tuple[int, ...], outside: Statements, name: str) -> None:
        """Call the pool with a task that runs a range of the loop's iterations."""
        nest = [loop]
        while len(nest[-1].body) == 1 and isinstance(inner := nest[-1].body[0], For) and inner.kind == "parallel":
            nest.append(inner)
        count, body = prod(x.axis.extent for x in nest), nest[-1].body
        if count == 0:
            return
        task, e = self.name(f"{name}_task"), outside.e
        shared = self.shared(kernel, outside)
        self.task(kernel, [x.axis for x in nest], body, alignments, outside, task)
        self.module.declarations["graphc_parallel"] = PARALLEL_DECLARATION
        arguments = e.alloca("i64", len(shared), 8)
        for position, value in enumerate(shared):
            slot = e.pure(f"getelementptr i64, ptr {arguments}, i64 {position}", 0)
            e.line(f"store {value}, ptr {slot}, align 8")
        grain = min(count, ceil(RANGE_CYCLES / max(1, cycles(body))))
        e.line(f"call void @graphc_parallel(ptr @{task}, ptr {arguments}, i64 {count}, i64 {grain})")
        e.forget(sorted(written(body)))

    def shared(self, kernel: Kernel, outside: Statements) -> list[str]:
        """What a task is given, as `type text`: params, status, scratch memory and numbers bound before the loop."""
        params = [f"ptr %p{i}" for i in range(len(kernel.params))]
        return [*params, "ptr %status", *(f"{kind} {text}" for _, kind, text in _captured(kernel, outside))]

    def task(
        self, kernel: Kernel, axes: list[Axis], body: Block, alignments: tuple[int, ...], outside: Statements, task: str
    ) -> None:
        """Two functions: the task unpacks its arguments; the body takes them as params, which LLVM may know apart."""
        statements = self.statements(kernel, alignments)
        e = statements.e
        parameters, captured = _parameters(kernel, alignments), _captured(kernel, outside)
        for position, (name, kind, _) in enumerate(captured):
            text = f"%c{position}"
            parameters.append(f"{kind} {text}")
            if name in outside.variables:
                statements.variables[name] = Value(text, outside.variables[name].dtype)
            else:
                place = outside.storage[name]
                assert isinstance(place, Memory)
                statements.storage[name] = Memory(text, place.dtype, place.size, place.align, (name,))
        for name, value in outside.variables.items():
            if value.const is not None:
                statements.variables[name] = value
        more = e.here("icmp slt i64 %begin, %end")
        e.open_branch(more)
        start = Value(e.open_loop(written(body), "%begin", "%end"), int64, 1, e.level)
        if len(axes) == 1:
            statements.axes[axes[0].name] = Binding(start)
        else:
            bind_row_major(statements, axes, start)
        statements.block(body)
        e.close_loop()
        self.fence(e, body)
        e.close_branch()
        parameters += ["i64 %begin", "i64 %end"]
        self.functions.append(e.text(f"define internal void @{task}_body({', '.join(parameters)}) #0 {{"))
        unpack = Emitter(self.module)
        given: list[str] = []
        for position, parameter in enumerate(parameters[:-2]):
            kind = parameter.split()[0]
            slot = unpack.pure(f"getelementptr i64, ptr %args, i64 {position}", 0)
            given.append(f"{kind} {unpack.here(f'load {kind}, ptr {slot}, align 8')}")
        unpack.line(f"call void @{task}_body({', '.join([*given, 'i64 %begin', 'i64 %end'])})")
        self.functions.append(unpack.text(f"define internal void @{task}(ptr %args, i64 %begin, i64 %end) #0 {{"))

    # ------------------------------------------------------------------ programs

    def entry(self, program: Program, names: Mapping[_Variant, str]) -> None:
        """Print the function that runs the steps in order. names: of the kernels' functions."""
        e = Emitter(self.module)
        status = e.alloca("i64", align=8)
        e.line(f"store i64 0, ptr {status}, align 8")
        for step in program.steps:
            match step:
                case KernelCall(kernel, places):
                    pointers = [f"ptr {_pointer(e, place, 0)}" for place in places]
                    e.line(f"call void @{names[_Variant.of(step)]}({', '.join([*pointers, f'ptr {status}'])})")
                    if has_checks(kernel.body):
                        _return_failure(e, status)
                case MatmulCall():
                    self.matmul(e, step)
                case _:
                    raise CompileError(f"no step {step} on the CPU")
        result = Value(e.here(f"load i64, ptr {status}, align 8"), int64)
        self.functions.append(e.text(f"define i64 @{ENTRY}(ptr %table, ptr %arena, ptr %constants) #0 {{", result))

    def matmul(self, e: Emitter, call: MatmulCall) -> None:
        short = call.dtype.short
        self.module.declarations[f"graphc_gemm_{short}"] = GEMM_DECLARATIONS[call.dtype.name]
        size, beta = call.dtype.itemsize, literal(call.beta, call.dtype)
        a, b, c = (
            f"ptr {_pointer(e, place, offset * size)}"
            for place, offset in ((call.a, call.a_offset), (call.b, call.b_offset), (call.c, call.c_offset))
        )
        shape = [f"i64 {int(n)}" for n in (call.transpose_a, call.transpose_b, call.m, call.n, call.k)]
        batches = [f"i64 {n}" for n in (call.batch, call.batch_a, call.batch_b, call.batch_c)]
        factors = [a, f"i64 {call.lda}", b, f"i64 {call.ldb}"]
        arguments = [*shape, *factors, f"{beta.type} {beta.text}", c, f"i64 {call.ldc}", *batches]
        e.line(f"call void @graphc_gemm_{short}({', '.join(arguments)})")


def _parameters(kernel: Kernel, alignments: tuple[int, ...]) -> list[str]:
    """A kernel's parameters. noalias: distinct params never overlap but for those updated in place."""
    overlapping = {name for pair in kernel.inplace for name in pair}
    params = [
        f"ptr {'' if buffer.name in overlapping else 'noalias '}align {align} %p{i}"
        for i, (buffer, align) in enumerate(zip(kernel.params, alignments, strict=True))
    ]
    return [*params, "ptr noalias %status"]


def _captured(kernel: Kernel, outside: Statements) -> list[tuple[str, str, str]]:
    """(name, type, text) of what stands before a parallel loop and can be seen in it, besides the params."""
    params = {buffer.name for buffer in kernel.params}
    found = []
    for name, place in outside.storage.items():
        if name not in params and isinstance(place, Memory):
            found.append((name, "ptr", place.pointer))
    for name, value in outside.variables.items():
        if value.const is None:
            found.append((name, value.type, value.text))
    return found


def _pointer(e: Emitter, place: Place, bytes_after: int) -> str:
    """Where a buffer lies, `bytes_after` bytes in."""
    bytes_after += place.offset
    match place.kind:
        case "arena":
            pointer = "%arena"
        case "argument" | "constant":
            table = "%table" if place.kind == "argument" else "%constants"
            slot = e.pure(f"getelementptr ptr, ptr {table}, i64 {place.index}", 0)
            pointer = e.pure(f"load ptr, ptr {slot}, align 8", 0)
    return e.pure(f"getelementptr i8, ptr {pointer}, i64 {bytes_after}", 0) if bytes_after else pointer


def _return_failure(e: Emitter, status: str) -> None:
    """Leave the entry if a Check has failed: what follows could rest on nonsense."""
    code = e.here(f"load i64, ptr {status}, align 8")
    failed = e.here(f"icmp ne i64 {code}, 0")
    leave, go_on = e.label("failed"), e.label("fine")
    e.line(f"br i1 {failed}, label %{leave}, label %{go_on}")
    e.scopes[-1].lines += [f"{leave}:", f"  ret i64 {code}", f"{go_on}:"]
    e.scopes[-1].block = go_on
