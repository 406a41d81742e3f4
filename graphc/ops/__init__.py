"""The operations: records (what the system knows of each) and the functions that users call.

elementwise reduction movement linalg convolution pooling indexing random, and marks for differentiation.
`PRIMITIVES` is the registry: every record by its name. A new record is added to its file's PRIMITIVES tuple.
"""

from __future__ import annotations

from graphc.ir.node import CONSTANT, INPUT, ITEM
from graphc.ops import elementwise, linalg, marks, movement, reduction
from graphc.primitive import Primitive

PRIMITIVES: dict[str, Primitive] = {
    primitive.name: primitive
    for room in (elementwise, reduction, movement, linalg, marks)
    for primitive in room.PRIMITIVES
} | {p.name: p for p in (INPUT, CONSTANT, ITEM)}
