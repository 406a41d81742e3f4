"""Running sums in blocks: each within itself, then the sums of all blocks before it, which are running sums too.

An element's own sum over all before it would cost the square of the length; this costs a block's length for each,
is as parallel as the blocks are many, and rounds less than one sum after another.
"""

from __future__ import annotations

from graphc.dispatch import apply
from graphc.ir.node import Node
from graphc.ops.cumulative import CUMULATIVE_SUM
from graphc.ops.elementwise import add
from graphc.ops.movement import narrow, pad, reshape
from graphc.primitive import Value

BLOCK = 32


def running_sum(node: Node) -> Node | None:
    """A long running sum as sums of blocks and of the blocks before."""
    (x,), axis = node.inputs, node.attrs["axis"]
    return _running(x, axis) if x.shape[axis] > BLOCK and x.type.size else None


def _running(x: Value, axis: int) -> Value:
    shape = x.shape
    n = shape[axis]
    if n <= BLOCK:
        return apply(CUMULATIVE_SUM, x, axis=axis)
    blocks = -(-n // BLOCK)
    none = [0] * len(shape)
    whole = pad(x, none, [blocks * BLOCK - n if i == axis else 0 for i in range(len(shape))])
    cut = reshape(whole, (*shape[:axis], blocks, BLOCK, *shape[axis + 1 :]))
    within = apply(CUMULATIVE_SUM, cut, axis=axis + 1)
    totals = narrow(narrow(within, axis + 1, BLOCK - 1, 1), axis, 0, blocks - 1)
    above = _running(reshape(totals, (*shape[:axis], blocks - 1, *shape[axis + 1 :])), axis)
    before = pad(above, [int(i == axis) for i in range(len(shape))], none)
    spread = reshape(before, (*shape[:axis], blocks, 1, *shape[axis + 1 :]))
    full = reshape(add(within, spread), (*shape[:axis], blocks * BLOCK, *shape[axis + 1 :]))
    return narrow(full, axis, 0, n)
