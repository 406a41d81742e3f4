"""How the shortcut's tables are laid out: cells of 8 bytes, read by the text beside this file, written by
runtime/shortcut.py. Arrays are described as in ../arguments.py."""

from __future__ import annotations

# Cells of a record.
(
    NEXT, OWNER, BUSY, NAMES, LEAVES, LEAF_ROWS, EXCLUSIVES, EXCLUSIVE, GUARDS, GUARD_ROWS, ARGUMENTS, SOURCE_ROWS,
    TABLE, HELD, SCRATCH, ARENA, CONSTANTS, ENTRY, LONG, WRITES, FAIL, TOUCH, GRADS, GRAD_ROWS, RESULT_ROWS,
    STEPS, STEP_ROWS, STACK, RECORD,
) = range(29)  # fmt: skip

# Cells of NAMES: objects that records share.
TENSOR, NONE, TRUE, DATA, GRAD, HISTORY, VIEW, SHARED = range(8)

# Rows, by their cells. A leaf: kind, expected object or type, whether it has a history, its array's description.
LEAF_TENSOR, LEAF_ARRAY, LEAF_FLOAT, LEAF_SAME, LEAF_EQUAL = range(5)
LEAF_ROW = 4
# A guard: kind, function, its two operands, expected, what decides where that differs (a callable, or 0).
GUARD_BORROWED, GUARD_NEW, GUARD_NUMBER, GUARD_KEYS, GUARD_BYTES, GUARD_THROUGH, GUARD_PYTHON = range(7)
GUARD_ROW = 6
# Where an argument of the program comes from: kind, two operands, a position, its description.
(
    SOURCE_LEAF_TENSOR, SOURCE_LEAF_ARRAY, SOURCE_LEAF_FLOAT, SOURCE_TENSOR, SOURCE_ARRAY, SOURCE_NUMBER,
    SOURCE_NUMBER_AT, SOURCE_GRAD, SOURCE_FRESH, SOURCE_LENT,
) = range(10)  # fmt: skip
SOURCE_ROW = 5
# A gradient to set: 1 if of a leaf, its owner (or the leaf's number), number of the argument, or -1 for None.
GRAD_ROW = 3
# A leaf of the result: kind, number of an argument, an object, number of a leaf.
RESULT_OUTPUT, RESULT_VALUE, RESULT_LEAF = range(3)
RESULT_ROW = 2
# A step in building the result from its leaves, children first: kind, how many children (number of the leaf).
STEP_LEAF, STEP_TUPLE, STEP_LIST = range(3)
STEP_ROW = 2
