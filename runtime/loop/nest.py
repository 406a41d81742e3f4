"""Nest: one kernel before it is scheduled. What must be computed is fixed here; how, is the scheduler's to say.

    nest  := Nest(name, params, outer, stages, locals, inplace, messages)
    stage := Stage(axes, lets, folds, stores, checks)
    fold  := Fold(var, reducer, value)

Meaning: for every point of `outer`, in any order and in parallel; the stages run in order; for every point of
a stage's `axes` (row-major where a fold is an argmax or argmin, otherwise in any order) its lets are bound in
order, then its checks, folds and stores happen. A fold's var is one number for each outer point, bound for all
later stages. The lets of a stage without axes stay bound for later stages too; lets of a stage with axes don't.

    elementwise            outer (i, j)    Stage((), stores=...)
    softmax                outer (row)     Stage((j,), folds=max), Stage((j,), folds=sum), Stage((j,), stores)
    matmul, bias, relu     outer (m, n)    Stage((k,), folds=(sum of mul,)), Stage((), lets and stores)
    sum of columns         outer (column)  Stage((row,), folds=sum), Stage((), stores)
    scatter                outer (column)  Stage((slot,), store 0), Stage((i,), Accumulate at a loaded offset)

What a scheduler may rely on:
- Outer points are independent: no two write the same element, and none reads what another writes.
- Within a stage, points are independent but for folds and Accumulate stores; a store's element may be read by a
  later stage at the same outer point, and by the same stage only at the same point (before it is written).
- `outer` and stage axes have extents >= 0; `outer` may be empty (one point), and so may a stage's axes.
- Axis, Var, Buffer names are unique within a nest, except that Axis names may recur in several stages.
- An expression is the one of the loop IR; it is a tree of modest depth, since what is used twice is a Let.

The contraction of matmul and convolution is found by structure: `contraction(stage)`.
"""

from __future__ import annotations

from graphc.frozen import dataclass
from graphc.ir.expr import Axis, Call, Reducer

from .ir import Accumulate, Buffer, Check, Expr, Let, Load, Store, Var


@dataclass(frozen=True, slots=True)
class Fold:
    """var = REDUCER of value over the stage's axes.

    "sum" of no points is 0 (bool and integers wrap as NumPy does); "max"/"min" propagate NaN. argmax and argmin
    give the int64 position, in row-major order of the stage's axes, of the first extreme (NaN is extreme).
    """

    var: Var
    reducer: Reducer
    value: Expr


@dataclass(frozen=True, slots=True)
class Stage:
    """One loop nest inside an outer point; see the page above."""

    axes: tuple[Axis, ...] = ()
    lets: tuple[Let, ...] = ()
    folds: tuple[Fold, ...] = ()
    stores: tuple[Store | Accumulate, ...] = ()
    checks: tuple[Check, ...] = ()


@dataclass(frozen=True, slots=True)
class Nest:
    """params: the global buffers, in the order of the arguments.

    locals: `scratch` buffers that each outer point has for itself, written in one stage and read in later ones
        (a row of exponentials between their sum and their division); offsets use stage axes only.
    inplace: (read, written) pairs of param names that may be the same memory: every load of `read` happens at
        the outer point, and not after the stage point, that overwrites its element.
    messages: Check codes are 1-based numbers into this tuple.
    """

    name: str
    params: tuple[Buffer, ...]
    outer: tuple[Axis, ...]
    stages: tuple[Stage, ...]
    locals: tuple[Buffer, ...] = ()
    inplace: tuple[tuple[str, str], ...] = ()
    messages: tuple[str, ...] = ()


def contraction(stage: Stage) -> tuple[Fold, Load, Load] | None:
    """The fold and its two factors if the stage does nothing but sum products of two loads, else None."""
    match stage:
        case Stage(lets=(), folds=(fold,), stores=(), checks=()) if stage.axes and fold.reducer == "sum":
            match fold.value:
                case Call("mul", (Load() as a, Load() as b)):
                    return fold, a, b
    return None
