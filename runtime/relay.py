"""Copies of operands in another order, with zeros around them: made for a kernel where that saves more than it costs.

A contraction (a convolution, its gradients, a product of views) reads each element of its operands many times. Where
no order of its loops finds neighbours for the vector lanes in the operands as they lie, or where each element of a
window must be asked whether it is inside of the array, it pays to copy an operand first: with the dimension innermost
that the lanes are to walk, and with a rim of zeros. Whether it pays is asked of the schedule's own cost model.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from math import prod

from graphc.ir.digits import row_major_strides
from graphc.ir.expr import Affine, Axis, Call, Index, Literal, affine
from graphc.ir.node import Node
from graphc.types import DType, Shape, bool_, int64

from .loop.ir import Buffer, Expr, Load, Offset, Store
from .loop.lower import rims
from .loop.nest import Nest, Stage, contraction
from .loop.schedule.collapse import collapse
from .loop.schedule.memory import LAST_LEVEL
from .loop.storage import Rim, Storage, in_order, with_rim

Cost = Callable[[Nest], float]
Copies = Mapping[int, Storage]  # number of the operand -> how its copy lies

WORTH_ASKING = 30_000.0  # cycles that a kernel's arithmetic takes, from which on copies are thought about
VECTOR = 64  # bytes of the widest registers, two of which a processor multiplies and adds in a cycle
NEAR = 1.1  # times these cycles: nothing is to be gained
COPIED, FROM_MEMORY = 0.5, 1.75  # cycles to copy an element; of an array that no cache holds
SPARED = 0.95  # what is left must be less than this share
FEWEST_LANES = 8  # points of an axis that could fill lanes
MOST_RIM = 2.0  # times the array's own size


def copies(
    node: Node,
    nest: Nest,
    storage: Sequence[Storage | None],
    cost: Cost,
    lowered: Callable[[Copies], Nest],
    made: Callable[[int, Storage], bool],
) -> Copies:
    """Which operands of a fused node to copy, and how; none where nothing is gained.

    nest: of the node with its operands as they lie, in `storage`. lowered: its nest with copies. made: whether such a
    copy is there already.
    """
    if any(axis.extent == 0 for axis in (*nest.outer, *(a for stage in nest.stages for a in stage.axes))):
        return {}
    plain = collapse(nest)
    found = next(((c, stage) for stage in plain.stages if (c := contraction(stage)) is not None), None)
    if found is None:
        return {}
    (_, *loads), stage = found
    if len(stage.axes) == 1 and _of_matrices(loads):
        return {}
    steps = prod(axis.extent for axis in (*plain.outer, *stage.axes)) * loads[0].dtype.itemsize / (2 * VECTOR)
    if steps < WORTH_ASKING or (best := cost(nest)) < NEAR * steps:
        return {}
    chosen: Copies = {}
    best *= SPARED
    tried: set[tuple[tuple[int, Storage], ...]] = set()
    for candidate in _candidates(node, plain, storage, loads):
        key = tuple(sorted(candidate.items(), key=lambda one: one[0]))
        if not candidate or key in tried:
            continue
        tried.add(key)
        shapes = {i: node.inputs[i].shape for i in candidate}
        price = sum(_price(s.size(shapes[i]), node.inputs[i].dtype) for i, s in candidate.items() if not made(i, s))
        if price < best and (total := price + cost(lowered(candidate))) < best:
            chosen, best = candidate, total
    return chosen


def _price(size: int, dtype: DType) -> float:
    """Cycles to copy so many elements."""
    return size * (COPIED if size * dtype.itemsize <= LAST_LEVEL else FROM_MEMORY)


def _of_matrices(loads: Sequence[Load]) -> bool:
    """Whether the operands are matrices or batches of them: these have few orders, which packing covers."""
    axes = [frozenset(axis for axis, _ in load.offset.affine.terms) for load in loads]
    shared = frozenset.intersection(*axes)
    return all(load.mask is None for load in loads) and all(len(own - shared) <= 1 for own in axes)


def _candidates(
    node: Node, nest: Nest, storage: Sequence[Storage | None], loads: Sequence[Load]
) -> Iterator[dict[int, Storage]]:
    """For each axis that could fill lanes: the operands that it walks, with its dimension innermost."""
    numbers = [nest.params.index(load.buffer) for load in loads]
    masked = any(load.mask is not None for load in loads)
    around = rims(node.attrs["graph"], node.attrs["full"], node.attrs["outer"]) if masked else []
    for axis in (*nest.outer, *(a for stage in nest.stages for a in stage.axes)):
        if axis.extent < FEWEST_LANES:
            continue
        found: dict[int, Storage] = {}
        for number, load in zip(numbers, loads, strict=True):
            shape = node.inputs[number].shape
            lies = storage[number] or Storage(row_major_strides(shape))
            if storage[number] is not None and lies.strides[0] == 1:
                continue  # the batch fills lanes, and padding is decided for all of them at once
            rim = _worthwhile(shape, around[number]) if around and not lies.rim else ()
            coefficient = load.offset.affine.coefficient(axis)
            order = sorted(range(len(shape)), key=lambda d: -lies.strides[d])
            if abs(coefficient) > 1:
                inner = _dimension(coefficient, shape, lies)
                order = [d for d in order if d != inner] + [inner]
            copy = in_order(shape, order, rim)
            if rim or _differ(copy, lies, shape):
                found[number] = copy
        yield found


def _worthwhile(shape: Shape, rim: Rim) -> Rim:
    """The rim, if it isn't most of what would be copied."""
    if not any(map(any, rim)):
        return ()
    whole, own = 1, 1
    for n, m in zip(shape, with_rim(shape, rim), strict=True):
        whole, own = whole * m, own * n
    return rim if whole <= MOST_RIM * own else ()


def _dimension(coefficient: int, shape: Shape, lies: Storage) -> int:
    """The dimension that an axis with this coefficient walks."""
    within = [d for d, n in enumerate(shape) if n > 1 and lies.strides[d] <= abs(coefficient)]
    return max(within, key=lambda d: lies.strides[d], default=len(shape) - 1)


def _differ(a: Storage, b: Storage, shape: Shape) -> bool:
    return any(s != t for s, t, n in zip(a.strides, b.strides, shape, strict=True) if n > 1)


def copying(value: Node, source: Storage | None, target: Storage | None) -> Nest:
    """A nest that copies p0 to o0, zeros around it included."""
    shape, plain = value.shape, Storage(row_major_strides(value.shape))
    lies, target = source or plain, target or plain
    p0 = Buffer("p0", value.dtype, lies.size(shape))
    o0 = Buffer("o0", value.dtype, target.size(shape))
    rim = target.rim or ((0, 0),) * len(shape)
    axes = tuple(Axis(f"i{d}", n) for d, n in enumerate(with_rim(shape, target.rim)))
    read, write = Affine((), lies.first), Affine()
    inside: Expr | None = None
    for axis, n, (before, after), step, stride in zip(axes, shape, rim, lies.strides, target.strides, strict=True):
        at = affine(axis) - before
        read, write = read + at * step, write + affine(axis) * stride
        parts = [("ge", 0)] * (before > 0) + [("lt", n)] * (after > 0)
        for op, bound in parts:
            part = Call(op, (Index(at), Literal(bound, int64)), bool_)
            inside = part if inside is None else Call("and", (inside, part), bool_)
    stage = Stage(stores=(Store(o0, Offset(write), Load(p0, Offset(read), inside)),))
    return Nest(f"relay_{o0.size}", (p0, o0), axes, (stage,))
