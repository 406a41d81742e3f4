"""The way from Python into a program: one native function checks the arrays, gathers their pointers, drops the
interpreter lock if the program is long, and runs its entry.

    i64 graphc_call(PyObject *arrays, ptr %record)

`arrays` is a tuple of NumPy arrays, `record` a Record's cells. Checked for each: exactly ndarray, dtype, shape, C
order, alignment, writeable if it is written; and that no written array shares memory with another argument. What
fails is handed back to Python (BAD_ARGUMENT - i, or SHARED - i), which mends it or raises; nothing has run then.
Reading an array so takes some nanoseconds, where `array.ctypes.data` alone takes a microsecond.

The offsets are those of PyArrayObject_fields (NumPy's C interface, unchanged from 1.7 to 2.x) and of CPython's
PyTupleObject, on 64-bit builds with the interpreter lock. `usable()` checks sizes first and then readings against what
Python says; where they don't hold, executable.py gathers in Python.
"""

from __future__ import annotations

import ctypes
import sys
import sysconfig
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from graphc.types import DTYPES, DType, Shape

BAD_ARGUMENT = -1  # and below: argument BAD_ARGUMENT - status
SHARED = -(2**32)  # and below: argument SHARED - status

# Cells of a record, and of the description of one argument, 8 bytes each.
_COUNT, _ARGUMENTS, _TABLE, _ARENA, _CONSTANTS, _ENTRY, _TYPE, _LONG, _RECORD = range(9)
_DTYPE, _NDIM, _SHAPE, _FLAGS, _SIZE, _ROLE, _CHANGED, _ARGUMENT = range(8)
INPUT, STATE, OUTPUT = range(3)

C_CONTIGUOUS, ALIGNED, WRITEABLE = 0x1, 0x100, 0x400  # NPY_ARRAY_*

PYTHON_NAMES = ("PyEval_SaveThread", "PyEval_RestoreThread")
GATE_TEXT = r"""
declare ptr @PyEval_SaveThread()
declare void @PyEval_RestoreThread(ptr)

define i64 @graphc_call(ptr %arrays, ptr %record) nounwind {
entry:
  %count = load i64, ptr %record
  %arguments_cell = getelementptr i64, ptr %record, i64 1
  %arguments = load ptr, ptr %arguments_cell
  %table_cell = getelementptr i64, ptr %record, i64 2
  %table = load ptr, ptr %table_cell
  %type_cell = getelementptr i64, ptr %record, i64 6
  %ndarray = load ptr, ptr %type_cell
  %given_cell = getelementptr i8, ptr %arrays, i64 16          ; PyTupleObject.ob_size
  %given = load i64, ptr %given_cell
  %items = getelementptr i8, ptr %arrays, i64 24               ; PyTupleObject.ob_item
  %agree = icmp eq i64 %given, %count
  br i1 %agree, label %arguments_loop, label %count_differs
count_differs:
  ret i64 -1
arguments_loop:
  %i = phi i64 [ 0, %entry ], [ %i_next, %argument_done ]
  %changes = phi i64 [ 0, %entry ], [ %changes_next, %argument_done ]
  %more = icmp slt i64 %i, %count
  br i1 %more, label %argument, label %gathered
argument:
  %item = getelementptr ptr, ptr %items, i64 %i
  %array = load ptr, ptr %item
  %told = getelementptr [7 x i64], ptr %arguments, i64 %i
  %array_type_cell = getelementptr i8, ptr %array, i64 8       ; PyObject.ob_type
  %array_type = load ptr, ptr %array_type_cell
  %exact = icmp eq ptr %array_type, %ndarray
  br i1 %exact, label %fields, label %bad
fields:
  %data_cell = getelementptr i8, ptr %array, i64 16            ; PyArrayObject_fields.data
  %ndim_cell = getelementptr i8, ptr %array, i64 24            ; .nd
  %shape_cell = getelementptr i8, ptr %array, i64 32           ; .dimensions
  %dtype_cell = getelementptr i8, ptr %array, i64 56           ; .descr
  %flags_cell = getelementptr i8, ptr %array, i64 64           ; .flags
  %data = load i64, ptr %data_cell
  %ndim32 = load i32, ptr %ndim_cell
  %ndim = sext i32 %ndim32 to i64
  %shape = load ptr, ptr %shape_cell
  %dtype = load i64, ptr %dtype_cell
  %flags32 = load i32, ptr %flags_cell
  %flags = zext i32 %flags32 to i64
  %want_dtype = load i64, ptr %told
  %want_ndim_cell = getelementptr i64, ptr %told, i64 1
  %want_ndim = load i64, ptr %want_ndim_cell
  %want_shape_cell = getelementptr i64, ptr %told, i64 2
  %want_shape = load ptr, ptr %want_shape_cell
  %want_flags_cell = getelementptr i64, ptr %told, i64 3
  %want_flags = load i64, ptr %want_flags_cell
  %same_dtype = icmp eq i64 %dtype, %want_dtype
  %same_ndim = icmp eq i64 %ndim, %want_ndim
  %has_flags = and i64 %flags, %want_flags
  %same_flags = icmp eq i64 %has_flags, %want_flags
  %same_kind = and i1 %same_dtype, %same_ndim
  %same = and i1 %same_kind, %same_flags
  br i1 %same, label %axes, label %bad
axes:
  %axis = phi i64 [ 0, %fields ], [ %axis_next, %extent ]
  %axes_left = icmp slt i64 %axis, %ndim
  br i1 %axes_left, label %extent, label %fits
extent:
  %have_cell = getelementptr i64, ptr %shape, i64 %axis
  %have = load i64, ptr %have_cell
  %want_cell = getelementptr i64, ptr %want_shape, i64 %axis
  %want = load i64, ptr %want_cell
  %same_extent = icmp eq i64 %have, %want
  %axis_next = add i64 %axis, 1
  br i1 %same_extent, label %axes, label %bad
bad:
  %bad_status = sub i64 -1, %i
  ret i64 %bad_status
fits:
  %slot = getelementptr i64, ptr %table, i64 %i
  %before = load i64, ptr %slot
  %moved = icmp ne i64 %before, %data
  %moved64 = zext i1 %moved to i64
  %changed_cell = getelementptr i64, ptr %told, i64 6
  store i64 %moved64, ptr %changed_cell
  store i64 %data, ptr %slot
  br label %argument_done
argument_done:
  %changes_next = add i64 %changes, %moved64
  %i_next = add i64 %i, 1
  br label %arguments_loop
gathered:
  %none_moved = icmp eq i64 %changes, 0
  br i1 %none_moved, label %run, label %overlaps
overlaps:                                         ; each array that moved, against all; outputs are fresh memory
  %p = phi i64 [ 0, %gathered ], [ %p_next, %overlaps_next ]
  %p_more = icmp slt i64 %p, %count
  br i1 %p_more, label %look, label %run
look:
  %p_told = getelementptr [7 x i64], ptr %arguments, i64 %p
  %p_changed_cell = getelementptr i64, ptr %p_told, i64 6
  %p_changed = load i64, ptr %p_changed_cell
  %p_role_cell = getelementptr i64, ptr %p_told, i64 5
  %p_role = load i64, ptr %p_role_cell
  %p_same_place = icmp eq i64 %p_changed, 0
  %p_output = icmp eq i64 %p_role, 2
  %skip = or i1 %p_same_place, %p_output
  br i1 %skip, label %overlaps_next, label %compare_start
compare_start:
  %p_slot = getelementptr i64, ptr %table, i64 %p
  %p_from = load i64, ptr %p_slot
  %p_size_cell = getelementptr i64, ptr %p_told, i64 4
  %p_size = load i64, ptr %p_size_cell
  %p_to = add i64 %p_from, %p_size
  br label %compare
compare:
  %q = phi i64 [ 0, %compare_start ], [ %q_next, %compare_next ]
  %q_more = icmp slt i64 %q, %count
  br i1 %q_more, label %pair, label %overlaps_next
pair:
  %q_told = getelementptr [7 x i64], ptr %arguments, i64 %q
  %q_role_cell = getelementptr i64, ptr %q_told, i64 5
  %q_role = load i64, ptr %q_role_cell
  %q_size_cell = getelementptr i64, ptr %q_told, i64 4
  %q_size = load i64, ptr %q_size_cell
  %q_slot = getelementptr i64, ptr %table, i64 %q
  %q_from = load i64, ptr %q_slot
  %q_to = add i64 %q_from, %q_size
  %either = or i64 %p_role, %q_role
  %written = icmp ne i64 %either, 0
  %other = icmp ne i64 %p, %q
  %p_before = icmp ult i64 %p_from, %q_to
  %q_before = icmp ult i64 %q_from, %p_to
  %meet = and i1 %p_before, %q_before
  %relevant = and i1 %written, %other
  %shared = and i1 %meet, %relevant
  br i1 %shared, label %overlap, label %compare_next
overlap:
  %shared_status = sub i64 -4294967296, %p
  ret i64 %shared_status
compare_next:
  %q_next = add i64 %q, 1
  br label %compare
overlaps_next:
  %p_next = add i64 %p, 1
  br label %overlaps
run:
  %arena_cell = getelementptr i64, ptr %record, i64 3
  %arena = load ptr, ptr %arena_cell
  %constants_cell = getelementptr i64, ptr %record, i64 4
  %constants = load ptr, ptr %constants_cell
  %function_cell = getelementptr i64, ptr %record, i64 5
  %function = load ptr, ptr %function_cell
  %only_look = icmp eq ptr %function, null
  br i1 %only_look, label %looked, label %enter
enter:
  %long_cell = getelementptr i64, ptr %record, i64 7
  %long = load i64, ptr %long_cell
  %is_long = icmp ne i64 %long, 0
  br i1 %is_long, label %unlock, label %stay
stay:
  %status_short = call i64 %function(ptr %table, ptr %arena, ptr %constants)
  ret i64 %status_short
unlock:
  %thread = call ptr @PyEval_SaveThread()
  %status = call i64 %function(ptr %table, ptr %arena, ptr %constants)
  call void @PyEval_RestoreThread(ptr %thread)
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


class Record:
    """What graphc_call reads and writes for one call at a time: so one for each call in flight.

    arguments: (dtype, shape, role) each. arena, constants, entry: addresses; entry 0 only gathers. long: whether the
    interpreter lock is dropped meanwhile.
    """

    __slots__ = ("_arguments", "_cells", "_shapes", "address", "table")

    def __init__(
        self, arguments: Sequence[tuple[DType, Shape, int]], arena: int = 0, constants: int = 0, entry: int = 0,
        long: bool = True,
    ) -> None:  # fmt: skip
        count = len(arguments)
        self._shapes = [(ctypes.c_int64 * len(shape))(*shape) for _, shape, _ in arguments]
        self.table = (ctypes.c_int64 * count)()
        self._arguments = (ctypes.c_int64 * (_ARGUMENT * count))()
        for i, (dtype, shape, role) in enumerate(arguments):
            cells = [0] * _ARGUMENT
            cells[_DTYPE] = id(dtype.numpy)
            cells[_NDIM] = len(shape)
            cells[_SHAPE] = ctypes.addressof(self._shapes[i])
            cells[_FLAGS] = C_CONTIGUOUS | ALIGNED | (WRITEABLE if role != INPUT else 0)
            cells[_SIZE] = dtype.itemsize * int(np.prod(shape, dtype=np.int64))
            cells[_ROLE] = role
            for j, cell in enumerate(cells):
                self._arguments[_ARGUMENT * i + j] = cell
        self._cells = (ctypes.c_int64 * _RECORD)()
        self._cells[_COUNT] = count
        self._cells[_ARGUMENTS] = ctypes.addressof(self._arguments)
        self._cells[_TABLE] = ctypes.addressof(self.table)
        self._cells[_ARENA], self._cells[_CONSTANTS], self._cells[_ENTRY] = arena, constants, entry
        self._cells[_TYPE], self._cells[_LONG] = id(np.ndarray), long
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
