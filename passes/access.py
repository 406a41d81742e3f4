"""How an operation reads its operands: what fusion asks about a node, answered from its Compute alone."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

from graphc.frozen import dataclass
from graphc.ir.digits import row_major
from graphc.ir.expr import Affine, Axis, Call, Compute, Read
from graphc.ir.node import Node
from graphc.primitive import Fact
from graphc.types import Shape

# Scalar functions that cost tens of instructions: never worth computing twice where it can be avoided.
COSTLY = frozenset({"exp", "expm1", "log", "log1p", "tanh", "erf", "sin", "cos", "pow", "philox32", "philox64"})


@dataclass(frozen=True, slots=True)
class Access:
    """What a node does with its operands.

    kind: "map" (one value a point), "fold" (a reduction), "contraction" (a sum of products of two reads) or
        "scatter". points: how often the value is evaluated. reads: every Read, of all of the body's expressions.
    regular: for a fold that reads its operand once, element by element in order: (operand's shape, kept dimensions).
    view: only moves elements. moves: a view that isn't in its operand's row-major order. regroups: a view that makes
        one dimension of several. computed_index: it divides to find them (a reshape without common factors).
    """

    kind: str
    compute: Compute
    points: int
    reads: tuple[Read, ...]
    regular: tuple[Shape, tuple[int, ...]] | None
    view: bool
    moves: bool
    regroups: bool
    costly: bool
    computed_index: bool


_Key = tuple[Any, ...]


class Accesses:
    """Access by node; equal operations on equal types share one."""

    def __init__(self) -> None:
        self._found: dict[_Key, Access] = {}

    def __call__(self, node: Node) -> Access:
        key = (node.op, tuple(n.type for n in node.inputs), tuple(node.attrs.items()))
        found = self._found.get(key)
        if found is None:
            found = self._found[key] = _access(node)
        return found


def _access(node: Node) -> Access:
    assert node.op.body is not None
    compute = node.op.body(*[n.type for n in node.inputs], **node.attrs)
    parts = [compute.value, compute.check, *(t for t in compute.target if not isinstance(t, Affine))]
    everything = [e for part in parts if part is not None for e in _walk(part)]
    reads = tuple(e for e in everything if isinstance(e, Read))
    functions = {e.op for e in everything if isinstance(e, Call)}
    kind = "map"
    if compute.scatter:
        kind = "scatter"
    elif compute.reducer is not None and compute.reduce:
        kind = "contraction" if _is_product(compute) else "fold"
    view = bool(node.op.facts & Fact.VIEW)
    in_order = len(reads) == 1 and flat_of(reads[0].index, node.inputs[0].shape) == flat_of(compute.target, node.shape)
    return Access(
        kind,
        compute,
        math.prod(a.extent for a in (*compute.axes, *compute.reduce)),
        reads,
        _regular(compute, reads, node) if kind == "fold" else None,
        view,
        view and not in_order,
        view and sum(a.extent > 1 for a in compute.axes) > sum(n > 1 for n in node.shape),
        bool(functions & COSTLY),
        any(not isinstance(i, Affine) for r in reads for i in r.index),
    )


def _walk(expr: Any) -> Iterator[Any]:
    """Every sub-expression once; bodies share them."""
    stack, seen = [expr], set()
    while stack:
        e = stack.pop()
        if id(e) in seen:
            continue
        seen.add(id(e))
        yield e
        match e:
            case Call(args=args):
                stack.extend(args)
            case Read(index=index, mask=mask):
                stack.extend(i for i in index if not isinstance(i, Affine))
                if mask is not None:
                    stack.append(mask)


def _is_product(compute: Compute) -> bool:
    match compute.value:
        case Call("mul", (Read(), Read())):
            return compute.reducer == "sum"
    return False


def _regular(compute: Compute, reads: tuple[Read, ...], node: Node) -> tuple[Shape, tuple[int, ...]] | None:
    value = compute.value
    while isinstance(value, Call) and value.op == "cast":
        value = value.args[0]
    if not isinstance(value, Read) or value.mask is not None or len(reads) != 1:
        return None
    axes: list[Axis] = []
    for index in value.index:
        if not isinstance(index, Affine) or index.const or len(index.terms) != 1 or index.terms[0][1] != 1:
            return None
        axes.append(index.terms[0][0])
    kept = tuple(a for a in axes if a in compute.axes)
    folded = tuple(a for a in axes if a not in compute.axes)
    if len(set(axes)) != len(axes) or kept != compute.axes or folded != compute.reduce:
        return None
    if flat_of(compute.target, node.shape) != row_major(kept):
        return None
    return node.inputs[value.operand].shape, tuple(i for i, a in enumerate(axes) if a in compute.axes)


def flat_of(index: tuple[Any, ...], shape: Shape) -> Affine | None:
    """The row-major number of the element at `index`, if it is affine."""
    total, step = Affine(), 1
    for at, extent in zip(reversed(index), reversed(shape), strict=True):
        if not isinstance(at, Affine):
            return None
        total, step = total + at * step, step * extent
    return total
