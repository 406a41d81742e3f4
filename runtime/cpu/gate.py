"""The way from Python into a program: one native function checks the arrays, gathers their pointers, drops the
interpreter lock if the program is long, and runs its entry.

    i64 graphc_call(PyObject *arrays, ptr %record)

`arrays` is a tuple of NumPy arrays, `record` a Record's cells. Checked for each: exactly ndarray, dtype, shape, C
order, alignment, writeable if it is written; and that no written array shares memory with another argument. What
fails is handed back to Python (BAD_ARGUMENT - i, or SHARED - i), which mends it or raises; nothing has run then.
Reading an array so takes some nanoseconds, where `array.ctypes.data` alone takes a microsecond.

The offsets are those of NumPy's arrays (arguments.py) and of CPython's PyTupleObject, on 64-bit builds with the
interpreter lock. `usable()` checks sizes first and then readings against what Python says; where they don't hold,
executable.py gathers in Python.
"""

from __future__ import annotations

import ctypes
import sys
import sysconfig
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from graphc.types import DTYPES, DType, Shape

from . import arguments
from .arguments import ARRAYS, INPUT, STATE, described
from .cells import expanded

BAD_ARGUMENT = -1  # and below: argument BAD_ARGUMENT - status
SHARED = -(2**32)  # and below: argument SHARED - status

COUNT, WANTS, TABLE, ARENA, CONSTANTS, ENTRY, LONG, RECORD = range(8)  # cells of a record

_GATE = """
define i64 @graphc_call(ptr %arrays, ptr %record) nounwind {
entry:
  %count = cell i64 %record[COUNT]
  %wants = cell ptr %record[WANTS]
  %table = cell ptr %record[TABLE]
  %given = field i64 %arrays+16                                ; PyTupleObject.ob_size
  %items = getelementptr i8, ptr %arrays, i64 24               ; PyTupleObject.ob_item
  %agree = icmp eq i64 %given, %count
  br i1 %agree, label %next, label %count_differs
count_differs:
  ret i64 BAD_ARGUMENT
next:
  %i = phi i64 [ 0, %entry ], [ %i_next, %take ]
  %changes = phi i64 [ 0, %entry ], [ %changes_next, %take ]
  %more = icmp slt i64 %i, %count
  br i1 %more, label %look, label %gathered
look:
  %array = cell ptr %items[%i]
  %want = cell ptr %wants[%i]
  %fits = call i1 @graphc_fits(ptr %array, ptr %want)
  br i1 %fits, label %take, label %bad
bad:
  %bad_status = sub i64 BAD_ARGUMENT, %i
  ret i64 %bad_status
take:
  %moved = call i64 @graphc_address(ptr %array, ptr %want, ptr %table, i64 %i)
  %changes_next = add i64 %changes, %moved
  %i_next = add i64 %i, 1
  br label %next
gathered:
  %none_moved = icmp eq i64 %changes, 0
  br i1 %none_moved, label %run, label %compare
compare:
  %shared = call i64 @graphc_shared(i64 %count, ptr %wants, i64 1, ptr %table)
  %apart = icmp slt i64 %shared, 0
  br i1 %apart, label %run, label %overlap
overlap:
  %shared_status = sub i64 SHARED, %shared
  ret i64 %shared_status
run:
  %arena = cell ptr %record[ARENA]
  %constants = cell ptr %record[CONSTANTS]
  %function = cell ptr %record[ENTRY]
  %long = cell i64 %record[LONG]
  %only_look = icmp eq ptr %function, null
  br i1 %only_look, label %looked, label %enter
enter:
  %status = call i64 @graphc_enter(ptr %function, ptr %table, ptr %arena, ptr %constants, i64 %long)
  ret i64 %status
looked:
  ret i64 0
}

; Set a cell, so that a record's arena is a call's own; 1 if it was free. Called with the interpreter's lock held.
define i64 @graphc_claim(ptr %busy) nounwind {
  %before = load i64, ptr %busy
  store i64 1, ptr %busy
  %free = sub i64 1, %before
  ret i64 %free
}
"""


def gate_text() -> str:
    """LLVM IR of @graphc_call and @graphc_claim; it needs PYTHON_NAMES."""
    return expanded(ARRAYS + _GATE, {**vars(arguments), **globals()})


class Record:
    """What graphc_call reads and writes for one call at a time: so one for each call in flight.

    told: (dtype, shape, role) of each argument. arena, constants, entry: addresses; entry 0 only gathers. long:
    whether the interpreter lock is dropped meanwhile.
    """

    __slots__ = ("_cells", "_described", "_wants", "address", "table")

    def __init__(
        self, told: Sequence[tuple[DType, Shape, int]], arena: int = 0, constants: int = 0, entry: int = 0,
        long: bool = True,
    ) -> None:  # fmt: skip
        count = len(told)
        self._described = [described(dtype.numpy, shape, role) for dtype, shape, role in told]
        self._wants = (ctypes.c_int64 * count)(*(cells.ctypes.data for cells in self._described))
        self.table = (ctypes.c_int64 * count)()
        self._cells = (ctypes.c_int64 * RECORD)()
        self._cells[COUNT] = count
        self._cells[WANTS] = ctypes.addressof(self._wants)
        self._cells[TABLE] = ctypes.addressof(self.table)
        self._cells[ARENA], self._cells[CONSTANTS], self._cells[ENTRY] = arena, constants, entry
        self._cells[LONG] = long
        self.address = ctypes.addressof(self._cells)

    def forget(self) -> None:
        """Drop the pointers, which an earlier, refused call left unverified."""
        ctypes.memset(self.table, 0, ctypes.sizeof(self.table))


Gate = Callable[[tuple[Any, ...], int], int]


def usable(address: int) -> Gate | None:
    """The gate at an address as a Python function, or None where arrays can't be read in this way."""
    likely = (
        sys.implementation.name == "cpython"
        and not sysconfig.get_config_var("Py_GIL_DISABLED")
        and (ctypes.sizeof(ctypes.c_void_p), object.__basicsize__, tuple.__basicsize__) == (8, 16, 24)
        and np.ndarray.__basicsize__ >= 80
    )
    if not likely:
        return None
    gate: Gate = ctypes.PYFUNCTYPE(ctypes.c_int64, ctypes.py_object, ctypes.c_void_p)(address)
    return gate if _reads_well(gate) else None


def _reads_well(gate: Gate) -> bool:
    """Whether the gate sees what Python sees, in arrays of each dtype and of 0 to 4 dimensions."""
    for dtype in DTYPES:
        for shape in ((), (3,), (2, 3), (4, 1, 2), (1, 2, 3, 4), (0, 2)):
            array, other = np.zeros(shape, dtype.numpy), np.zeros((*shape, 2), dtype.numpy)
            locked = array.copy()
            locked.flags.writeable = False
            record = Record([(dtype, shape, STATE), (dtype, (*shape, 2), INPUT)])
            if gate((array, other), record.address) != 0 or list(record.table) != [
                array.ctypes.data,
                other.ctypes.data,
            ]:
                return False
            strided = np.zeros((*shape, 4), dtype.numpy)[..., ::2]
            refused = [(other, other), (locked, other), (array, array), (array, None), (array,)]
            if strided.size > 2:
                refused.append((array, strided))
            if any(gate(bad, record.address) >= 0 for bad in refused):
                return False
    return True
