"""The loop IR as text: complete and deterministic, since it is what goldens and the machine-code cache compare.

    kernel softmax(x: f32[4096], y: f32[4096])
      parallel i < 64
        alloc m: register f32[1]
        m[0] = -inf:f32
        serial j < 64
          m[0] max= x[64*i + j]

One line a statement. Two kernels print alike exactly if they are equal.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import assert_never

from graphc.ir.expr import Affine, Call, Index, Literal
from graphc.runtime.program import KernelCall, MatmulCall, Place, Program
from graphc.types import Scalar

from .ir import (
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
    Load,
    Offset,
    Prefetch,
    Stmt,
    Store,
    Var,
)
from .nest import Fold, Nest, Stage

INFIX = {
    "add": "+", "sub": "-", "mul": "*", "div": "/", "eq": "==", "ne": "!=", "lt": "<", "le": "<=", "gt": ">",
    "ge": ">=", "and": "and", "or": "or",
}  # fmt: skip
_ACCUMULATE = {"sum": "+=", "max": "max=", "min": "min="}


def kernel_text(kernel: Kernel) -> str:
    """The whole kernel."""
    return "\n".join(kernel_lines(kernel))


def kernel_lines(kernel: Kernel) -> list[str]:
    """The header and one line for every statement, in the order of a walk (outer before inner)."""
    return [_header("kernel", kernel.name, kernel.params, kernel.inplace), *_block(kernel.body, 1)]


def nest_text(nest: Nest) -> str:
    """An unscheduled nest."""
    lines = [_header("nest", nest.name, nest.params, nest.inplace)]
    lines += [f"  local {_buffer(b)}" for b in nest.locals]
    lines.append("  for " + (", ".join(f"{a.name} < {a.extent}" for a in nest.outer) or "one point"))
    for stage in nest.stages:
        lines += _stage(stage)
    lines += [f"  message {code}: {text}" for code, text in enumerate(nest.messages, 1)]
    return "\n".join(lines)


def program_text(program: Program) -> str:
    """Steps with the places of their operands, then each distinct kernel once."""
    lines = [f"program: arena of {program.arena_size} bytes"]
    lines += [f"  argument {i}: {_buffer(b)}" for i, b in enumerate(program.arguments)]
    lines += [
        f"  constant {i}: {dtype.short}[{len(data) // dtype.itemsize}]"
        for i, (dtype, data) in enumerate(program.constants)
    ]
    seen: dict[Kernel, None] = {}
    for step in program.steps:
        match step:
            case KernelCall(kernel, places):
                seen.setdefault(kernel)
                bound = zip(kernel.params, places, strict=True)
                lines.append(f"  {kernel.name}({', '.join(f'{b.name}={_place(p)}' for b, p in bound)})")
            case MatmulCall():
                lines.append("  " + _matmul(step))
            case _:
                assert_never(step)
    lines += [f"  message {code}: {text}" for code, text in enumerate(program.messages, 1)]
    return "\n".join([*lines, *(f"\n{kernel_text(k)}" for k in seen)])


def _matmul(step: MatmulCall) -> str:
    a = f"{_place(step.a)}+{step.a_offset} by {step.lda}{' transposed' if step.transpose_a else ''}"
    b = f"{_place(step.b)}+{step.b_offset} by {step.ldb}{' transposed' if step.transpose_b else ''}"
    c = f"{_place(step.c)}+{step.c_offset} by {step.ldc}"
    batch = f" batch {step.batch} by {step.batch_a}, {step.batch_b}, {step.batch_c}" if step.batch != 1 else ""
    size = f"{step.dtype.short} {step.m}x{step.n}x{step.k}"
    return f"matmul {size}: {c} = {step.beta!r} * c + ({a}) @ ({b}){batch}"


def _place(place: Place) -> str:
    at = f"@{place.offset}" if place.offset or place.kind == "arena" else ""
    return f"arena{at}" if place.kind == "arena" else f"{place.kind}#{place.index}{at}"


def _header(kind: str, name: str, params: tuple[Buffer, ...], inplace: tuple[tuple[str, str], ...]) -> str:
    same = "".join(f", {read} in place of {written}" for written, read in inplace)
    return f"{kind} {name}({', '.join(_buffer(b) for b in params)}){same}"


def _buffer(buffer: Buffer) -> str:
    space = "" if buffer.space == "global" else f"{buffer.space} "
    return f"{buffer.name}: {space}{buffer.dtype.short}[{buffer.size}]"


def _block(block: Block, depth: int) -> Iterator[str]:
    for statement in block:
        yield "  " * depth + statement_text(statement)
        match statement:
            case For(body=body) | If(body=body):
                yield from _block(body, depth + 1)


def statement_text(statement: Stmt) -> str:
    """One statement on one line; of a loop or condition only its head."""
    match statement:
        case For(axis, kind, _, width):
            lanes = f" by {width}" if kind == "vector" or width > 1 else ""
            return f"{kind} {axis.name} < {axis.extent}{lanes}"
        case Alloc(buffer):
            return f"alloc {_buffer(buffer)}"
        case Let(var, value):
            return f"{var.name}: {var.dtype.short} = {expr_text(value)}"
        case Store(buffer, offset, value, mask, streaming):
            head = "stream " if streaming else ""
            return f"{head}{buffer.name}[{offset_text(offset)}] = {expr_text(value)}{_if(mask)}"
        case Accumulate(buffer, offset, op, value, mask, atomic):
            head = "atomic " if atomic else ""
            return f"{head}{buffer.name}[{offset_text(offset)}] {_ACCUMULATE[op]} {expr_text(value)}{_if(mask)}"
        case Prefetch(buffer, at):
            return f"prefetch {buffer.name}[{affine_text(at)}]"
        case If(condition):
            return f"if {expr_text(condition)}"
        case Check(condition, code):
            return f"check {expr_text(condition)} else {code}"
        case _:
            assert_never(statement)


def _stage(stage: Stage) -> Iterator[str]:
    yield "  stage " + ", ".join(f"{a.name} < {a.extent}" for a in stage.axes)
    yield from ("    " + statement_text(let) for let in stage.lets)
    yield from ("    " + statement_text(check) for check in stage.checks)
    yield from ("    " + _fold(fold) for fold in stage.folds)
    yield from ("    " + statement_text(store) for store in stage.stores)


def _fold(fold: Fold) -> str:
    return f"{fold.var.name}: {fold.var.dtype.short} = {fold.reducer} {expr_text(fold.value)}"


def _if(mask: Expr | None) -> str:
    return "" if mask is None else f" if {expr_text(mask)}"


def expr_text(expr: Expr) -> str:
    """An expression; operators are parenthesised, literals carry their dtype."""
    match expr:
        case Literal(value, dtype):
            return f"{_number(value)}:{dtype.short}"
        case Index(at):
            return f"<{affine_text(at)}>"
        case Var(name):
            return name
        case Load(buffer, offset, mask, other):
            found = f"{buffer.name}[{offset_text(offset)}]"
            return found if mask is None else f"({found} if {expr_text(mask)} else {_number(other)})"
        case Call("cast", (x,), dtype):
            return f"{dtype.short}({expr_text(x)})"
        case Call(op, (a, b)) if op in INFIX:
            return f"({expr_text(a)} {INFIX[op]} {expr_text(b)})"
        case Call(op, args):
            return f"{op}({', '.join(expr_text(a) for a in args)})"
        case _:
            assert_never(expr)


def _number(value: Scalar) -> str:
    """Python's repr: the shortest decimal that gives the same float back."""
    return repr(value)


def affine_text(at: Affine) -> str:
    """`64*i + j + 3`; "0" if empty."""
    terms = [axis.name if c == 1 else f"{c}*{axis.name}" for axis, c in at.terms]
    if at.const or not terms:
        terms.append(str(at.const))
    return " + ".join(terms).replace("+ -", "- ")


def offset_text(offset: Offset) -> str:
    """The affine part, then coefficient*[expr] for each data-dependent index."""
    parts = [f"{c}*[{expr_text(e)}]" for e, c in offset.dynamic]
    if offset.affine.terms or offset.affine.const or not parts:
        parts.insert(0, affine_text(offset.affine))
    return " + ".join(parts)
