"""A program's arguments as native code looks at them: descriptions of arrays, and LLVM IR text that compares arrays
with these, takes their addresses, and runs the program. The gate and the shortcut are both made of it.

It is inlined where it is called from: a whole call takes less than a microsecond. Read of an array are
PyObject.ob_type and, of PyArrayObject_fields (NumPy's C interface, unchanged from 1.7 to 2.x), data, nd, dimensions,
descr and flags, where 64-bit builds have them.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from graphc.types import Shape

INPUT, STATE, OUTPUT = range(3)  # roles
C_CONTIGUOUS, ALIGNED, WRITEABLE = 0x1, 0x100, 0x400  # NPY_ARRAY_*

# Cells of a description: type, dtype, dimensions, flags, bytes, role, whether the array lies elsewhere than in the call
# before, shape...
(ARRAY_TYPE, ARRAY_DTYPE, ARRAY_NDIM, ARRAY_FLAGS, ARRAY_SIZE, ARRAY_ROLE, ARRAY_MOVED, ARRAY_SHAPE) = range(8)

PYTHON_NAMES = ("PyEval_RestoreThread", "PyEval_SaveThread")
ARRAYS = """
declare void @PyEval_RestoreThread(ptr)
declare ptr @PyEval_SaveThread()

; Whether an object is an array as described.
define internal i1 @graphc_fits(ptr %array, ptr %want) nounwind {
entry:
  %want_type = cell ptr %want[ARRAY_TYPE]
  %type = field ptr %array+8
  %exact = icmp eq ptr %type, %want_type
  br i1 %exact, label %fields, label %no
fields:
  %ndim32 = field i32 %array+24
  %ndim = sext i32 %ndim32 to i64
  %shape = field ptr %array+32
  %dtype = field ptr %array+56
  %flags32 = field i32 %array+64
  %flags = zext i32 %flags32 to i64
  %want_dtype = cell ptr %want[ARRAY_DTYPE]
  %want_ndim = cell i64 %want[ARRAY_NDIM]
  %want_flags = cell i64 %want[ARRAY_FLAGS]
  %same_dtype = icmp eq ptr %dtype, %want_dtype
  %same_ndim = icmp eq i64 %ndim, %want_ndim
  %has = and i64 %flags, %want_flags
  %same_flags = icmp eq i64 %has, %want_flags
  %same_kind = and i1 %same_dtype, %same_ndim
  %same = and i1 %same_kind, %same_flags
  %want_shape = getelementptr i64, ptr %want, i64 ARRAY_SHAPE
  br i1 %same, label %axes, label %no
axes:
  %axis = phi i64 [ 0, %fields ], [ %next, %extent ]
  %left = icmp slt i64 %axis, %ndim
  br i1 %left, label %extent, label %yes
extent:
  %have = cell i64 %shape[%axis]
  %wanted = cell i64 %want_shape[%axis]
  %next = add i64 %axis, 1
  %equal = icmp eq i64 %have, %wanted
  br i1 %equal, label %axes, label %no
yes:
  ret i1 true
no:
  ret i1 false
}

; Put an array's address into a table. 1 if it isn't the one of the call before.
define internal i64 @graphc_address(ptr %array, ptr %want, ptr %table, i64 %i) alwaysinline nounwind {
  %data = field i64 %array+16
  %before = cell i64 %table[%i]
  %moved = icmp ne i64 %before, %data
  %moved64 = zext i1 %moved to i64
  cell %want[ARRAY_MOVED] = i64 %moved64
  cell %table[%i] = i64 %data
  ret i64 %moved64
}

; The number of an array that shares memory with another, where one of them is written; -1 if there is none. Only what
; moved is compared; outputs are fresh memory. wants: descriptions, `step` cells from one to the next, null of numbers.
define internal i64 @graphc_shared(i64 %count, ptr %wants, i64 %step, ptr %table) alwaysinline nounwind {
entry:
  br label %next
next:
  %p = phi i64 [ 0, %entry ], [ %p_next, %next_p ]
  %more = icmp slt i64 %p, %count
  br i1 %more, label %look, label %apart
look:
  %p_next = add i64 %p, 1
  %p_at = mul i64 %p, %step
  %p_want = cell ptr %wants[%p_at]
  %p_number = icmp eq ptr %p_want, null
  br i1 %p_number, label %next_p, label %consider
consider:
  %p_moved = cell i64 %p_want[ARRAY_MOVED]
  %p_role = cell i64 %p_want[ARRAY_ROLE]
  %p_stays = icmp eq i64 %p_moved, 0
  %p_output = icmp eq i64 %p_role, OUTPUT
  %skip = or i1 %p_stays, %p_output
  br i1 %skip, label %next_p, label %compare
compare:
  %p_from = cell i64 %table[%p]
  %p_size = cell i64 %p_want[ARRAY_SIZE]
  %p_to = add i64 %p_from, %p_size
  br label %others
next_p:
  br label %next
others:
  %q = phi i64 [ 0, %compare ], [ %q_next, %next_q ]
  %q_more = icmp slt i64 %q, %count
  br i1 %q_more, label %pair, label %next_p
pair:
  %q_next = add i64 %q, 1
  %q_at = mul i64 %q, %step
  %q_want = cell ptr %wants[%q_at]
  %q_number = icmp eq ptr %q_want, null
  %same = icmp eq i64 %p, %q
  %no_pair = or i1 %q_number, %same
  br i1 %no_pair, label %next_q, label %ranges
ranges:
  %q_role = cell i64 %q_want[ARRAY_ROLE]
  %q_from = cell i64 %table[%q]
  %q_size = cell i64 %q_want[ARRAY_SIZE]
  %q_to = add i64 %q_from, %q_size
  %either = or i64 %p_role, %q_role
  %written = icmp ne i64 %either, INPUT
  %p_before = icmp ult i64 %p_from, %q_to
  %q_before = icmp ult i64 %q_from, %p_to
  %meet = and i1 %p_before, %q_before
  %shared = and i1 %meet, %written
  br i1 %shared, label %found, label %next_q
next_q:
  br label %others
found:
  ret i64 %p
apart:
  ret i64 -1
}

; Run a program's entry. Others may have the interpreter's lock meanwhile, if it is so long that they gain by that.
define internal i64 @graphc_enter(ptr %function, ptr %table, ptr %arena, ptr %constants, i64 %long)
    alwaysinline nounwind {
  %is_long = icmp ne i64 %long, 0
  br i1 %is_long, label %unlock, label %stay
stay:
  %status_short = call i64 %function(ptr %table, ptr %arena, ptr %constants)
  ret i64 %status_short
unlock:
  %thread = call ptr @PyEval_SaveThread()
  %status_long = call i64 %function(ptr %table, ptr %arena, ptr %constants)
  call void @PyEval_RestoreThread(ptr %thread)
  ret i64 %status_long
}
"""


def described(dtype: np.dtype[Any], shape: Shape, role: int) -> npt.NDArray[np.int64]:
    """The description of an array: dense, aligned, and writeable if the role isn't INPUT. dtype must be kept alive."""
    flags = C_CONTIGUOUS | ALIGNED | (WRITEABLE if role != INPUT else 0)
    size = dtype.itemsize * int(np.prod(shape, dtype=np.int64))
    return np.array([id(np.ndarray), id(dtype), len(shape), flags, size, role, 0, *shape], np.int64)
