"""The operations: records (what the system knows of each) and the functions that users call.

elementwise logistic reduction movement patch cumulative linalg convolution pooling indexing sorting random, and marks
(for differentiation).
`PRIMITIVES` is the registry: every record by its name. A new record is added to its file's PRIMITIVES tuple.
"""

from __future__ import annotations

from graphc.ir.node import CONSTANT, INPUT, ITEM
from graphc.ops import (
    convolution,
    cumulative,
    elementwise,
    indexing,
    linalg,
    logistic,
    marks,
    movement,
    patch,
    pooling,
    random,
    reduction,
    sorting,
)
from graphc.primitive import Primitive

_ROOMS = (
    *(elementwise, logistic, reduction, movement, patch, cumulative, linalg, convolution, pooling),
    *(indexing, sorting, random, marks),
)

PRIMITIVES: dict[str, Primitive] = {primitive.name: primitive for room in _ROOMS for primitive in room.PRIMITIVES} | {
    p.name: p for p in (INPUT, CONSTANT, ITEM)
}
