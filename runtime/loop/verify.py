"""Every invariant of the loop IR, checked. A broken one is a defect of lowering or of a schedule, never of a user.

Cheap (one walk), so it runs on every kernel before it is printed.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import field
from math import prod
from typing import NoReturn, assert_never

from graphc.errors import VerifyError
from graphc.frozen import dataclass
from graphc.ir.expr import COMPARISONS, SCALAR_OPS, Affine, Axis, Call, Index, Literal
from graphc.types import DType, bool_, float32, float64, int64

from .ir import Accumulate, Alloc, Block, Buffer, Check, Expr, For, If, Kernel, Let, Load, Offset, Prefetch, Store, Var
from .naive import naive
from .nest import Nest
from .text import kernel_lines

WINDOW = 4  # lines of text shown before and after the culprit

_ONE_FLOAT = frozenset({"exp", "expm1", "log", "log1p", "sqrt", "rsqrt", "tanh", "erf", "sin", "cos", "floor"})
_NUMBERS = frozenset({"add", "sub", "mul", "neg", "pow", "floordiv", "mod", "abs", "sign"})
_ORDERED = frozenset({"eq", "ne", "lt", "le", "gt", "ge"})


def verify(kernel: Kernel) -> None:
    """Raise VerifyError, showing the window of text around the culprit, if `kernel` breaks the grammar's rules."""
    walk = _Walk(kernel)
    walk.header()
    walk.block(kernel.body, 0)


def verify_nest(nest: Nest) -> None:
    """The same for an unscheduled nest: as its reference schedule, plus what only a nest promises."""
    verify(naive(nest))
    for stage in nest.stages:
        for check in stage.checks:
            if check.code > len(nest.messages):
                raise VerifyError(f"{nest.name}: Check of code {check.code} has no message")
    for local in nest.locals:
        if local.space != "scratch":
            raise VerifyError(f"{nest.name}: local {local.name} is {local.space}, must be scratch")


@dataclass(slots=True)
class _Walk:
    kernel: Kernel
    line: int = 0  # of kernel_lines: advances by one with each statement
    axes: dict[str, For] = field(default_factory=dict)  # loops around, outermost first
    buffers: dict[str, Buffer] = field(default_factory=dict)
    depth: dict[str, int] = field(default_factory=dict)  # number of loops around an Alloc
    variables: dict[str, Var] = field(default_factory=dict)
    varying: set[str] = field(default_factory=set)  # variables that differ between lanes
    guarded: int = 0  # Ifs around

    def fail(self, message: str) -> NoReturn:
        lines = kernel_lines(self.kernel)
        first, last = max(0, self.line - WINDOW), min(len(lines), self.line + WINDOW + 1)
        window = "\n".join(f"{'>>' if i == self.line else '  '} {lines[i]}" for i in range(first, last))
        raise VerifyError(f"kernel {self.kernel.name}: {message}\n{window}")

    # ------------------------------------------------------------------ statements

    def header(self) -> None:
        for buffer in self.kernel.params:
            if buffer.name in self.buffers:
                self.fail(f"two params are named {buffer.name}")
            if buffer.space != "global":
                self.fail(f"param {buffer.name} is {buffer.space}, must be global")
            self.buffers[buffer.name] = buffer
        for read, written in self.kernel.inplace:
            a, b = self.buffers.get(read), self.buffers.get(written)
            if a is None or b is None or a is b:
                self.fail(f"inplace ({read}, {written}) must name two params")
            if (a.size, a.dtype) != (b.size, b.dtype):
                self.fail(f"inplace ({read}, {written}): sizes or dtypes differ")

    def block(self, block: Block, depth: int) -> None:
        bound: list[str] = []
        allocated: list[str] = []
        for statement in block:
            self.line += 1
            match statement:
                case For():
                    self.loop(statement, depth)
                case Alloc(buffer):
                    self.alloc(buffer)
                    allocated.append(buffer.name)
                case Let(var, value):
                    if var.name in self.variables:
                        self.fail(f"{var.name} is bound already")
                    if self.expr(value) is not var.dtype:
                        self.fail(f"{var.name} is {var.dtype.name}, its value {self.expr(value).name}")
                    if self.varies(value):
                        self.varying.add(var.name)
                    self.variables[var.name] = var
                    bound.append(var.name)
                case Store(buffer, offset, value, mask):
                    self.write(buffer, offset, value, mask)
                    self.distinct(buffer, offset)
                case Accumulate(buffer, offset, op, value, mask, atomic):
                    if op not in ("sum", "max", "min") or (atomic and op != "sum"):
                        self.fail(f"unknown {'atomic ' * atomic}accumulation {op}")
                    if atomic and (buffer.space == "register" or buffer.dtype is bool_):
                        self.fail(f"{buffer.space} {buffer.name} of {buffer.dtype.name} can't be summed atomically")
                    self.write(buffer, offset, value, mask)
                    if atomic:
                        continue
                    if offset.dynamic and self.vector() is not None and not self.lane_stride(offset):
                        self.fail("a data-dependent accumulation in a vector loop may hit an element twice")
                case Prefetch(buffer, at):
                    if self.buffers.get(buffer.name) != buffer or buffer.space != "global":
                        self.fail(f"prefetched {buffer.name} is no param")
                    self.affine(at)
                case If(condition, body):
                    self.boolean(condition, "condition")
                    if self.varies(condition):
                        self.fail("the condition differs between lanes; use masks")
                    self.guarded += 1
                    self.block(body, depth + 1)
                    self.guarded -= 1
                case Check(condition, code):
                    self.boolean(condition, "condition")
                    if code < 1:
                        self.fail(f"Check code {code} is not positive")
                case _:
                    assert_never(statement)
        for name in bound:
            del self.variables[name]
            self.varying.discard(name)
        for name in allocated:
            del self.buffers[name], self.depth[name]

    def loop(self, loop: For, depth: int) -> None:
        name = loop.axis.name
        if name in self.axes:
            self.fail(f"axis {name} is looped over already")
        if loop.axis.extent < 0:
            self.fail(f"axis {name} has a negative extent")
        if loop.kind == "parallel" and depth and not self.nested(loop):
            self.fail("a parallel loop must be outermost, or directly in one")
        if loop.kind == "vector" and self.vector() is not None and not self.nested(loop):
            self.fail("a vector loop stands in a vector loop, and not directly")
        if loop.width < 1 or (loop.kind not in ("vector", "parallel") and loop.width != 1):
            self.fail(f"width {loop.width} of a {loop.kind} loop")
        self.axes[name] = loop
        self.block(loop.body, depth + 1)
        del self.axes[name]

    def nested(self, loop: For) -> bool:
        """Whether `loop` is all that the loop around it holds, and of one kind and width with it."""
        around = next(reversed(self.axes.values()), None)
        return around is not None and around.body == (loop,) and (around.kind, around.width) == (loop.kind, loop.width)

    def alloc(self, buffer: Buffer) -> None:
        if buffer.name in self.buffers:
            self.fail(f"{buffer.name} is allocated already")
        if buffer.space == "global":
            self.fail(f"{buffer.name}: global memory can't be allocated in a kernel")
        if buffer.size < 1:
            self.fail(f"{buffer.name} has no elements")
        if buffer.space == "scratch" and self.vector() is not None:
            self.fail(f"scratch {buffer.name} is allocated in a vector loop")
        self.buffers[buffer.name] = buffer
        self.depth[buffer.name] = len(self.axes)

    def write(self, buffer: Buffer, offset: Offset, value: Expr, mask: Expr | None) -> None:
        dtype = self.expr(value)
        if dtype is not buffer.dtype:
            self.fail(f"a {dtype.name} is stored to {buffer.name}, which is {buffer.dtype.name}")
        if mask is not None:
            self.boolean(mask, "mask")
        self.address(buffer, offset, mask)

    def distinct(self, buffer: Buffer, offset: Offset) -> None:
        """Lanes and parallel iterations must store to elements of their own."""
        own = self.depth.get(buffer.name, 0)
        for loop in list(self.axes.values())[own:]:
            if loop.kind not in ("vector", "parallel") or loop.axis.extent < 2 or offset.dynamic:
                continue
            if not offset.affine.coefficient(loop.axis):
                self.fail(f"all iterations of {loop.kind} {loop.axis.name} store to the same element of {buffer.name}")

    # ------------------------------------------------------------------ addresses

    def vector(self) -> For | None:
        return next((loop for loop in self.axes.values() if loop.kind == "vector"), None)

    def lane_stride(self, offset: Offset) -> int:
        """The least stride of a vector axis around; 0 if one is missing in the offset."""
        strides = [offset.affine.coefficient(x.axis) for x in self.axes.values() if x.kind == "vector"]
        return min(map(abs, strides), default=0)

    def affine(self, at: Affine) -> None:
        for axis, _ in at.terms:
            self.axis(axis)

    def axis(self, axis: Axis) -> None:
        loop = self.axes.get(axis.name)
        if loop is None:
            self.fail(f"axis {axis.name} is used outside of its loop")
        if loop.axis.extent != axis.extent:
            self.fail(f"axis {axis.name} is used with extent {axis.extent}, but loops over {loop.axis.extent}")

    def address(self, buffer: Buffer, offset: Offset, mask: Expr | None, *, read: bool = False) -> None:
        if self.buffers.get(buffer.name) != buffer:
            self.fail(f"buffer {buffer.name} is not a param and not allocated here")
        self.affine(offset.affine)
        for index, _ in offset.dynamic:
            if self.expr(index).kind != "i":
                self.fail(f"{buffer.name} is indexed by {self.expr(index).name}")
        if buffer.space == "register":
            self.register(buffer, offset, read)
        if offset.dynamic or mask is not None or self.guarded or any(not x.axis.extent for x in self.axes.values()):
            return
        low, high = offset.affine.bounds()
        if low < 0 or high >= buffer.size:
            self.fail(f"offsets {low}..{high} of {buffer.name}, which has {buffer.size} elements")

    def register(self, buffer: Buffer, offset: Offset, read: bool) -> None:
        if offset.dynamic:
            self.fail(f"register {buffer.name} has a data-dependent offset")
        for axis, coefficient in offset.affine.terms:
            kind = self.axes[axis.name].kind
            if kind not in ("unroll", "vector"):
                self.fail(f"register {buffer.name} is addressed by {kind} axis {axis.name}")
            if kind == "vector" and coefficient != self.row_major(axis) and not (read and coefficient > 1):
                self.fail(
                    f"register {buffer.name}: vector axis {axis.name} must have coefficient {self.row_major(axis)}"
                )

    def row_major(self, axis: Axis) -> int:
        """The stride of a vector axis in the row-major product of its nest: 1 for the innermost."""
        names = list(self.axes)
        inner = [self.axes[name] for name in names[names.index(axis.name) + 1 :]]
        return prod(loop.axis.extent for loop in inner if loop.kind == "vector")

    # ------------------------------------------------------------------ expressions

    def boolean(self, expr: Expr, what: str) -> None:
        if self.expr(expr) is not bool_:
            self.fail(f"the {what} is {self.expr(expr).name}, must be bool")

    def expr(self, expr: Expr) -> DType:
        """The dtype of a well-formed expression."""
        match expr:
            case Literal(value, dtype):
                kind = "b" if isinstance(value, bool) else "i" if isinstance(value, int) else "f"
                if "bif".index(kind) > "bif".index(dtype.kind):
                    self.fail(f"literal {value!r} is no {dtype.name}")
                return dtype
            case Index(at):
                self.affine(at)
                return int64
            case Var(name):
                if self.variables.get(name) != expr:
                    self.fail(f"{name} is used before it is bound")
                return expr.dtype
            case Load(buffer, offset, mask, _):
                if mask is not None:
                    self.boolean(mask, "mask")
                self.address(buffer, offset, mask, read=True)
                return buffer.dtype
            case Call(op, args, dtype):
                self.call(op, [self.expr(a) for a in args], dtype)
                return dtype
            case _:
                assert_never(expr)

    def call(self, op: str, args: list[DType], dtype: DType) -> None:
        if op not in SCALAR_OPS:
            self.fail(f"unknown scalar function {op}")
        if len(args) != SCALAR_OPS[op]:
            self.fail(f"{op} takes {SCALAR_OPS[op]} arguments, given {len(args)}")
        if not _well_typed(op, args, dtype):
            self.fail(f"{op} of {', '.join(a.name for a in args)} can't be {dtype.name}")

    def varies(self, expr: Expr) -> bool:
        """Whether lanes of the enclosing vector loop may see different values."""
        loop = self.vector()
        if loop is None:
            return False
        inside = list(self.axes.values()).index(loop)
        vectors = [x.axis for x in self.axes.values() if x.kind == "vector"]
        for leaf in _leaves(expr):
            match leaf:
                case Var(name) if name in self.varying:
                    return True
                case Index(at) | Load(offset=Offset(affine=at)) if any(map(at.coefficient, vectors)):
                    return True
                case Load(buffer) if buffer.space == "register" and self.depth.get(buffer.name, 0) > inside:
                    return True
        return False


def _well_typed(op: str, args: list[DType], dtype: DType) -> bool:
    if op == "cast":
        return True
    if op in ("philox32", "philox64"):
        return all(a is int64 for a in args) and dtype is (float32 if op == "philox32" else float64)
    if op == "select":
        return args[0] is bool_ and args[1] is args[2] is dtype
    if op in ("and", "or", "not"):
        return dtype is bool_ and all(a is bool_ for a in args)
    if any(a is not args[0] for a in args):
        return False
    if op in _ORDERED:
        return dtype is bool_
    if dtype is not args[0] or op in COMPARISONS:
        return False
    if op in _ONE_FLOAT or op == "div":
        return dtype.kind == "f"
    return dtype is not bool_ if op in _NUMBERS else True


def _leaves(expr: Expr) -> Iterator[Expr]:
    """The Literals, Indices, Vars and Loads of an expression, those inside of masks and offsets included."""
    stack: list[Expr] = [expr]
    while stack:
        e = stack.pop()
        match e:
            case Call(args=args):
                stack.extend(args)
                continue
            case Load(offset=offset, mask=mask):
                stack.extend(index for index, _ in offset.dynamic)
                if mask is not None:
                    stack.append(mask)
        yield e
