"""Order: `rank` is the one primitive; argsort, sort and random permutations are functions of it.

The rank of an element is the number of elements that stand before it in sorted order. It has no derivative;
sort's derivative is that of the gather which takes each element from its place.
"""

from __future__ import annotations

from typing import Any

from graphc.dispatch import apply, shape_of
from graphc.errors import AxisError
from graphc.ir.expr import Axis, Compute, Expr, Index, Literal, Read, affine, axes_of, call
from graphc.ops.factories import check_kinds
from graphc.ops.indexing import scatter_add_along_axis, take_along_axis
from graphc.ops.movement import flip, iota
from graphc.primitive import Fact, Primitive, Value
from graphc.types import TensorType, int64, normalize_axis


def _infer(x: TensorType, *, axis: int) -> TensorType:
    check_kinds("rank", "fib", x)
    if not 0 <= axis < x.ndim:
        raise AxisError(f"rank: axis {axis} is out of range for shape {x.shape}.")
    return TensorType(x.shape, int64)


def _eval(xp: Any, x: Any, *, axis: int) -> Any:
    order = xp.argsort(x, axis=axis, kind="stable")
    result = xp.empty(x.shape, dtype=xp.int64)
    places = xp.arange(x.shape[axis], dtype=xp.int64).reshape([-1 if i == axis else 1 for i in range(x.ndim)])
    xp.put_along_axis(result, order, xp.broadcast_to(places, x.shape), axis=axis)
    return result


def _body(x: TensorType, *, axis: int) -> Compute:
    """Counts the elements that come before: smaller, or equal and further left. NaN comes last."""
    axes = axes_of(x.shape)
    other = Axis("j", x.shape[axis])
    mine: Expr = Read(0, tuple(affine(a) for a in axes), x.dtype)
    theirs: Expr = Read(0, tuple(affine(other if i == axis else a) for i, a in enumerate(axes)), x.dtype)
    if x.dtype.kind == "b":
        mine, theirs = (call("cast", e, dtype=int64) for e in (mine, theirs))
    before, tie = call("lt", theirs, mine), call("eq", theirs, mine)
    if x.dtype.kind == "f":
        mine_missing, theirs_missing = call("ne", mine, mine), call("ne", theirs, theirs)
        before = call("or", before, call("and", mine_missing, call("not", theirs_missing)))
        tie = call("or", tie, call("and", mine_missing, theirs_missing))
    left = call("lt", Index(affine(other)), Index(affine(axes[axis])))
    counts = call("or", before, call("and", tie, left))
    value = call("select", counts, Literal(1, int64), Literal(0, int64))
    return Compute(axes, value, tuple(affine(a) for a in axes), (other,), "sum")


RANK = Primitive("rank", infer=_infer, eval=_eval, vjp=(None,), body=_body, facts=Fact.COSTLY)

PRIMITIVES = (RANK,)

# ------------------------------------------------------------------------------------------- functions


def ranks(x: Value, axis: int = -1) -> Value:
    """How many elements along `axis` come before each element in sorted order (int64). Equal elements keep
    their order, NaN comes last."""
    return apply(RANK, x, axis=normalize_axis(axis, len(shape_of(x)), "ranks"))


def sort(x: Value, axis: int = -1, descending: bool = False) -> Value:
    """x in ascending (or descending) order along `axis`, NaN last (first). Differentiable."""
    return take_along_axis(x, argsort(x, axis, descending), axis)


def argsort(x: Value, axis: int = -1, descending: bool = False) -> Value:
    """The indices that sort x along `axis` (int64); equal elements keep their order (reversed if descending)."""
    axis = normalize_axis(axis, len(shape_of(x)), "argsort")
    places = iota(shape_of(x), axis, int64)
    order = scatter_add_along_axis(places, ranks(x, axis), axis, shape_of(x)[axis])
    return flip(order, axis) if descending else order
