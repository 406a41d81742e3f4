"""Fewer loops with the same meaning: those of one iteration go, and two that walk memory like one become one."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import replace

from graphc.ir.expr import Affine, Axis, Literal
from graphc.runtime.loop.ir import Expr, Let, Load, Var
from graphc.runtime.loop.nest import Fold, Nest, Stage
from graphc.types import bool_, int64

from .rewrite import Rewriter, affines, expressions, parts, variables


def collapse(nest: Nest) -> Nest:
    """The nest with as few axes as possible; stages without effect are dropped. No extent may be 0.

    Axes a and b become one where every offset and index has a's coefficient equal to b's times b's extent:
    the element (a, b) then is where element a * extent + b of a single axis would be.
    """
    nest = replace(nest, stages=_inlined(nest.stages))
    everywhere = {at for stage in nest.stages for at in affines(stage)}
    outer, renamed = _joined(nest.outer, everywhere, ordered=False)
    stages = tuple(
        _collapse_stage(stage, renamed)
        for stage in nest.stages
        if stage.lets or stage.folds or stage.stores or stage.checks
    )
    return replace(nest, outer=outer, stages=stages)


def _inlined(stages: Sequence[Stage]) -> tuple[Stage, ...]:
    """The stages, conditions on indices written out where stages with axes use them: there, bounds decide them."""
    known: dict[str, Expr] = {}
    found = []
    for stage in stages:
        rewriter = Rewriter(variables=dict(known) if stage.axes else {})
        rest = []
        for let in stage.lets:
            value = Rewriter(variables=known).expr(let.value)
            if value.dtype is bool_ and not any(isinstance(part, Load | Var) for part in parts(value)):
                known[let.var.name] = value
                if stage.axes:
                    rewriter = rewriter.with_variables({let.var.name: value})
                    continue
            rest.append(rewriter.let(let))
        found.append(_rewritten(replace(stage, lets=tuple(rest)), rewriter) if rewriter.variables else stage)
    return _needed(found, known.keys())


def _needed(stages: Sequence[Stage], droppable: Collection[str]) -> tuple[Stage, ...]:
    """The stages without those of the droppable lets that nothing needs."""
    used: set[str] = set()
    found: list[Stage] = []
    for stage in reversed(stages):
        used.update(name for expr in expressions(replace(stage, lets=())) for name in variables(expr))
        lets: tuple[Let, ...] = ()
        for let in reversed(stage.lets):
            if let.var.name in used or let.var.name not in droppable:
                used.update(variables(let.value))
                lets = (let, *lets)
        found.insert(0, replace(stage, lets=lets))
    return tuple(found)


def _rewritten(stage: Stage, rewriter: Rewriter) -> Stage:
    """The stage, what follows its lets rewritten."""
    return replace(
        stage,
        folds=tuple(Fold(fold.var, fold.reducer, rewriter.expr(fold.value)) for fold in stage.folds),
        stores=tuple(store for s in stage.stores if (store := rewriter.store(s)) is not None),
        checks=tuple(rewriter.check(check) for check in stage.checks),
    )


def _collapse_stage(stage: Stage, renamed: dict[str, Affine]) -> Stage:
    ordered = any(fold.reducer in ("argmax", "argmin") for fold in stage.folds)
    axes, own = _joined(stage.axes, set(affines(stage)), ordered)
    rewriter = Rewriter(axes={**renamed, **own})
    lets = tuple(rewriter.let(let) for let in stage.lets)
    folds = tuple(Fold(fold.var, fold.reducer, rewriter.expr(fold.value)) for fold in stage.folds)
    if not axes:  # one value is its own sum and its own maximum
        lets, folds = (*lets, *map(_only, folds)), ()
    return Stage(
        axes,
        lets,
        folds,
        tuple(store for s in stage.stores if (store := rewriter.store(s)) is not None),
        tuple(rewriter.check(check) for check in stage.checks),
    )


def _only(fold: Fold) -> Let:
    return Let(fold.var, Literal(0, int64) if fold.reducer in ("argmax", "argmin") else fold.value)


def _joined(axes: Sequence[Axis], forms: set[Affine], ordered: bool) -> tuple[tuple[Axis, ...], dict[str, Affine]]:
    """The axes that are left, and what stands for each of the old ones that changed.

    ordered: only neighbours may be joined, since the row-major number of a point counts.
    """
    columns = {axis: tuple(at.coefficient(axis) for at in forms) for axis in axes}
    left = [axis for axis in axes if axis.extent != 1]
    # name -> name of the axis that absorbed it, and the axis of that name as it has grown
    absorbed: dict[str, str] = {}
    grown: dict[str, Axis] = {axis.name: axis for axis in left}
    found = True
    while found:
        found = False
        for i, a in enumerate(left):
            for j, b in enumerate(left):
                if i == j or (ordered and j != i + 1):
                    continue
                inner = grown[b.name].extent
                if all(ca == cb * inner for ca, cb in zip(columns[a], columns[b], strict=True)):
                    absorbed[a.name] = b.name
                    grown[b.name] = Axis(b.name, grown[a.name].extent * inner)
                    del left[i]
                    found = True
                    break
            if found:
                break
    renamed: dict[str, Affine] = {axis.name: Affine() for axis in axes if axis.extent == 1 or axis.name in absorbed}
    for axis in left:
        if grown[axis.name] != axis:
            renamed[axis.name] = Affine(((grown[axis.name], 1),))
    return tuple(grown[axis.name] for axis in left), renamed
