"""LLVM IR text of the shortcut: a whole call of a compiled function, from its arguments to its result, in machine code.

    PyObject *graphc_shortcut(ndarray *head, tuple *leaves)         (METH_O; head[0]: the first record's address)

For each record in turn: do the arguments fit, do the guards hold, are the arrays what the code was made for? Then it
allocates the outputs, runs the program's entry, writes gradients, and builds the result. Where a record doesn't fit,
nothing has been changed yet; if none fits, head[1], the object MISS, is returned, and Python goes the long way.

runtime/shortcut.py writes the records; the layout below is all that the two share. Everything read from objects is
read by CPython's public functions, but for the fields that the gate reads, too (and has verified): ob_type, a tuple's
items, an array's data, shape, dtype and flags.

The text is LLVM IR with the shorthand of cells.py.
"""

from __future__ import annotations

import ctypes

from numpy._core import _multiarray_umath as multiarray  # type: ignore[attr-defined]

from graphc.runtime.cpu import arguments
from graphc.runtime.cpu.arguments import ARRAYS
from graphc.runtime.cpu.cells import expanded

from . import layout
from .calls import CALLS
from .checks import CHECKS
from .gathering import GATHERING
from .results import RESULTS

# The functions that the text calls, of CPython and of NumPy.
PYTHON_NAMES = (
    *arguments.PYTHON_NAMES,
    "PyDict_Next", "PyDict_Size", "PyErr_Clear", "PyErr_Occurred", "PyFloat_AsDouble", "PyDict_GetItemWithError",
    "PyList_New", "PyList_SetItem", "PyLong_FromLongLong", "PyObject_CallNoArgs", "PyObject_CallOneArg",
    "PyObject_GetAttr", "PyObject_RichCompareBool", "PyObject_SetAttr", "PyTuple_GetItem", "PyTuple_New",
    "PyTuple_SetItem", "PyType_GenericAlloc", "Py_DecRef", "Py_IncRef",
)  # fmt: skip
NUMPY_NAMES = {"PyArray_Empty": 184}  # their places in NumPy's table of C functions

_DECLARATIONS = """
declare i32 @PyDict_Next(ptr, ptr, ptr, ptr)
declare i64 @PyDict_Size(ptr)
declare void @PyErr_Clear()
declare ptr @PyErr_Occurred()
declare double @PyFloat_AsDouble(ptr)
declare ptr @PyDict_GetItemWithError(ptr, ptr)
declare ptr @PyList_New(i64)
declare i32 @PyList_SetItem(ptr, i64, ptr)
declare ptr @PyLong_FromLongLong(i64)
declare ptr @PyObject_CallNoArgs(ptr)
declare ptr @PyObject_CallOneArg(ptr, ptr)
declare ptr @PyObject_GetAttr(ptr, ptr)
declare i32 @PyObject_RichCompareBool(ptr, ptr, i32)
declare i32 @PyObject_SetAttr(ptr, ptr, ptr)
declare ptr @PyTuple_GetItem(ptr, i64)
declare ptr @PyTuple_New(i64)
declare i32 @PyTuple_SetItem(ptr, i64, ptr)
declare ptr @PyType_GenericAlloc(ptr, i64)
declare void @Py_DecRef(ptr)
declare void @Py_IncRef(ptr)
declare ptr @PyArray_Empty(i32, ptr, ptr, i32)
declare i32 @memcmp(ptr, ptr, i64)
declare void @llvm.memset.p0.i64(ptr, i8, i64, i1)
"""


def shortcut_text() -> str:
    """The module's text: it defines graphc_shortcut, and needs PYTHON_NAMES and NUMPY_NAMES."""
    text = _DECLARATIONS + ARRAYS + CHECKS + GATHERING + RESULTS + CALLS
    return expanded(text, {**vars(arguments), **vars(layout)})


def numpy_symbols() -> dict[str, int]:
    """The addresses of NumPy's functions, from the table that it publishes."""
    pointer = ctypes.pythonapi.PyCapsule_GetPointer
    pointer.restype, pointer.argtypes = ctypes.c_void_p, (ctypes.py_object, ctypes.c_char_p)
    table = ctypes.cast(pointer(multiarray._ARRAY_API, None), ctypes.POINTER(ctypes.c_void_p))
    return {name: table[place] or 0 for name, place in NUMPY_NAMES.items()}
