"""A shorthand for LLVM IR text that reads and writes tables of cells, 8 bytes each, and fields of C structures:

    %x = cell ptr %record[3]        cell %record[3] = ptr %x        %x = field i32 %array+24

Numbers may have names, in capitals, so that a table's layout stands once, in Python.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from itertools import count

_NAME = re.compile(r"(?<![%@\w.])[A-Z][A-Z0-9_]*\b")
_CELL = re.compile(r"^  (%\w+) = cell (\w+) (%\w+)\[([%\w]+)\]", re.M)
_PUT = re.compile(r"^  cell (%\w+)\[([%\w]+)\] = (\w+) (.+)$", re.M)
_FIELD = re.compile(r"^  (%\w+) = field (\w+) (%\w+)\+(\d+)", re.M)


def expanded(text: str, numbers: Mapping[str, object]) -> str:
    """LLVM IR. numbers: by their names; what else is among them, as among a module's names, is passed over."""
    text = _NAME.sub(lambda m: str(numbers[m[0]]) if type(numbers.get(m[0])) is int else m[0], text)
    text = _CELL.sub(r"  \1.at = getelementptr i64, ptr \3, i64 \4\n  \1 = load \2, ptr \1.at", text)
    text = _FIELD.sub(r"  \1.at = getelementptr i8, ptr \3, i64 \4\n  \1 = load \2, ptr \1.at", text)
    put = count()
    return _PUT.sub(
        lambda m: (
            f"  %put.{(n := next(put))} = getelementptr i64, ptr {m[1]}, i64 {m[2]}\n"
            f"  store {m[3]} {m[4]}, ptr %put.{n}"
        ),
        text,
    )
