"""The reference schedule: every nest as plain loops, in the order it is written. Correct for all, fast for none."""

from __future__ import annotations

from graphc.ir.digits import row_major as row_major  # schedules take it from here
from graphc.ir.expr import Affine, Axis, Index, Literal, Reducer, call
from graphc.types import DType, Scalar, int32, int64

from .ir import Accumulate, Alloc, Block, Buffer, For, Kernel, Let, Load, Offset, Store, Var
from .nest import Fold, Nest, Stage

FIRST = Offset(Affine())  # the only element of a register


def naive(nest: Nest) -> Kernel:
    """`nest` as a Kernel of serial loops, the outermost of them parallel."""
    return _kernel(nest, 1)


def collapsed(nest: Nest) -> Kernel:
    """As naive(), with every outer loop parallel: what the interpreter runs side by side, and a GPU with a thread for
    each outer point. On a CPU one parallel loop may stand outermost.
    """
    return _kernel(nest, len(nest.outer))


def _kernel(nest: Nest, parallel: int) -> Kernel:
    body: Block = tuple(Alloc(buffer) for buffer in nest.locals)
    for stage in nest.stages:
        body += serial_stage(stage)
    for depth, axis in reversed(list(enumerate(nest.outer))):
        body = (For(axis, "parallel" if depth < parallel else "serial", body),)
    return Kernel(nest.name, nest.params, body, nest.inplace)


def serial_stage(stage: Stage) -> Block:
    """A stage at one outer point: its axes are serial loops, its folds are carried by registers."""
    before: Block = ()
    inside: Block = stage.lets + stage.checks
    after: Block = ()
    for fold in stage.folds:
        start, step, finish = fold_statements(fold, stage.axes)
        before, inside, after = before + start, inside + step, after + finish
    inside += stage.stores
    for axis in reversed(stage.axes):
        inside = (For(axis, "serial", inside),)
    return before + inside + after


def fold_statements(fold: Fold, axes: tuple[Axis, ...]) -> tuple[Block, Block, Block]:
    """The statements of a fold before, inside and after serial loops over `axes`, carried by registers."""
    dtype = fold.value.dtype
    best = Buffer(f"{fold.var.name}_acc", dtype, 1, "register")
    match fold.reducer:
        case "sum" | "max" | "min":
            start: Block = (Alloc(best), Store(best, FIRST, identity(fold.reducer, dtype)))
            step: Block = (Accumulate(best, FIRST, fold.reducer, fold.value),)
            return start, step, (Let(fold.var, Load(best, FIRST)),)
        case "argmax" | "argmin":
            where = Buffer(f"{fold.var.name}_at", int64, 1, "register")
            value, old = Var(f"{fold.var.name}_new", dtype), Load(best, FIRST)
            wins = call("gt" if fold.reducer == "argmax" else "lt", value, old)
            better = call("or", wins, call("lt", Load(where, FIRST), Literal(0, int64)))
            if dtype.kind == "f":
                better = call("or", better, call("and", call("ne", value, value), call("eq", old, old)))
            flag = Var(f"{fold.var.name}_wins", better.dtype)
            position = Index(row_major(axes))
            worst = identity("max" if fold.reducer == "argmax" else "min", dtype)
            start = (Alloc(best), Alloc(where), Store(best, FIRST, worst), Store(where, FIRST, Literal(-1, int64)))
            step = (
                Let(value, fold.value),
                Let(flag, better),
                Store(best, FIRST, value, flag),
                Store(where, FIRST, position, flag),
            )
            return start, step, (Let(fold.var, Load(where, FIRST)),)


def identity(reducer: Reducer, dtype: DType) -> Literal:
    """What folding starts from: op(identity, x) = x. reducer: sum, max or min."""
    value: Scalar
    if reducer == "sum":
        value = 0.0 if dtype.kind == "f" else 0
    elif dtype.kind == "f":
        value = float("-inf") if reducer == "max" else float("inf")
    elif dtype.kind == "b":
        value = reducer == "min"
    else:
        bits = 31 if dtype is int32 else 63
        value = -(2**bits) if reducer == "max" else 2**bits - 1
    return Literal(value, dtype)
