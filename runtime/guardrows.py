"""Guards as rows of a table that native code checks (runtime/cpu/shortcut/checks.py).

Each row says how to find what a guard watches, and which object was there. The same object there again means that the
guard holds; for another one, native code asks the guard itself. So a row may only stand for a guard where what is
watched can't change in itself: plain values, and objects whose insides have guards of their own.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from functools import partial
from operator import getitem
from types import CellType, FunctionType
from typing import Any

import numpy as np

from graphc import dispatch, records
from graphc.guards import MISSING, PLAIN, Contents, Guard, itself, kind_of_grad, kind_of_tensor, tested, tested_at
from graphc.interpreter import active
from graphc.tensor import Tensor

from .cpu.shortcut import layout as at

Row = tuple[int, int, int, int, int, int]
Hold = Callable[[Any], int]  # keeps an object alive, and gives its address
Describe = Callable[[np.ndarray[Any, Any]], int]  # the address of an array's description


def _python(name: str) -> int:
    """The address of one of CPython's functions."""
    return ctypes.addressof(ctypes.c_char.in_dll(ctypes.pythonapi, name))


def modes(hold: Hold) -> list[Row]:
    """Rows for this thread's modes: which interpreter is active, and whether the tape records."""
    attribute = _python("PyObject_GetAttr")
    recording = (at.GUARD_THROUGH, hold("recording"), hold(records.thread), hold("modes"))
    return [
        (at.GUARD_NEW, attribute, hold(dispatch.state), hold("interpreter"), hold(active()), 0),
        (*recording, hold(records.recording()), 0),
    ]


def row(guard: Guard, inputs: set[int], hold: Hold, describe: Describe) -> Row:
    """The row of one guard. inputs: ids of the captured tensors whose arrays are checked as the call's inputs."""
    decides = hold(guard.holds)
    found = _contents(guard, hold, describe) if isinstance(guard, Contents) else _identity(guard, inputs, hold)
    return (*found, decides) if found is not None else (at.GUARD_PYTHON, 0, 0, 0, 0, decides)


def _contents(guard: Contents, hold: Hold, describe: Describe) -> tuple[int, int, int, int, int] | None:
    match guard.read:
        case partial(func=read, args=(array,)) if read is itself and array.dtype.hasobject is False:
            if type(array) is np.ndarray and array.flags.c_contiguous:
                return at.GUARD_BYTES, 0, hold(array), describe(array), _data(guard.expected, hold)
    return None


def _data(array: np.ndarray[Any, Any], hold: Hold) -> int:
    """The address of an array's elements."""
    hold(array)
    return int(array.ctypes.data)


def _identity(guard: Guard, inputs: set[int], hold: Hold) -> tuple[int, int, int, int, int] | None:
    expected = guard.expected
    there = 0 if expected is MISSING else hold(expected)
    match guard.read:
        case partial(func=read, args=(mapping, key)) if read is getitem:
            return (*_item(mapping, key, hold), there)
        case partial(func=dict.get, args=(dict() as mapping, key, missing)) if missing is MISSING:
            return at.GUARD_BORROWED, _python("PyDict_GetItemWithError"), hold(mapping), hold(key), there
        case partial(func=read, args=(FunctionType() as function, "__code__")) if read is getattr:
            return at.GUARD_BORROWED, _python("PyFunction_GetCode"), hold(function), 0, there
        case partial(func=read, args=(FunctionType() as function, "__defaults__")) if read is getattr:
            return (
                at.GUARD_BORROWED,
                _python("PyFunction_GetDefaults"),
                hold(function),
                0,
                there * (expected is not None),
            )
        case partial(func=read, args=(CellType() as cell, "cell_contents")) if read is getattr:
            return at.GUARD_NEW, _python("PyCell_Get"), hold(cell), 0, there
        case partial(func=read, args=(holder, str() as name)) if read is getattr:
            return at.GUARD_NEW, _python("PyObject_GetAttr"), hold(holder), hold(name), there
        case partial(func=read, args=(values,)) if read is len and type(values) is list:
            return at.GUARD_NUMBER, _python("PyList_Size"), hold(values), 0, expected
        case partial(func=read, args=(dict() as mapping,)) if read is tuple:
            return at.GUARD_KEYS, 0, hold(mapping), 0, there
        case partial(func=read, args=(Tensor() as x,)) if read is kind_of_grad and expected is None:
            return at.GUARD_NEW, _python("PyObject_GetAttr"), hold(x), hold("_grad"), there
        case partial(func=read, args=(Tensor() as x,)) if read is kind_of_tensor and id(x) in inputs:
            return at.GUARD_NEW, _python("PyObject_GetAttr"), hold(x), hold("_record"), hold(x._record)
        case partial(func=read, args=(_, dict() as group, name)) if read is tested and isinstance(group[name], PLAIN):
            return (*_item(group, name, hold), hold(group[name]))
        case partial(func=read, args=(_, dict() as group, name, _)) if read is tested_at and _plain(group[name]):
            return (*_item(group, name, hold), hold(group[name]))
    return None


def _plain(value: Any) -> bool:
    return isinstance(value, PLAIN) or (type(value) is tuple and all(isinstance(x, PLAIN) for x in value))


def _item(mapping: Any, key: Any, hold: Hold) -> tuple[int, int, int, int]:
    """How to find mapping[key], without running code of the user's where Python wouldn't."""
    if isinstance(mapping, dict) and type(mapping).__getitem__ is dict.__getitem__:
        return at.GUARD_BORROWED, _python("PyDict_GetItemWithError"), hold(mapping), hold(key)
    if type(mapping) is list and type(key) is int:
        return at.GUARD_BORROWED, _python("PyList_GetItem"), hold(mapping), key
    return at.GUARD_NEW, _python("PyObject_GetItem"), hold(mapping), hold(key)
