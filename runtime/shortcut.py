"""Shortcuts: a compiled form of a function as the tables that native code calls it by (runtime/cpu/shortcut/).

A record holds what Specialisation.__call__ would look at: kinds of arguments, guards, where each array comes from, and
what becomes of the outputs. Whatever a record can't express, or finds changed, goes the long way, which decides.
Records are only written where the gate is usable: both read the same fields of the same objects.
"""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Callable, Iterator, Sequence
from functools import cache
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from graphc.captures import ArgumentSource, ArraySource, GradSource, NumberSource, Result, Source, TensorSource
from graphc.tensor import Tensor
from graphc.tree import Structure

from . import guardrows
from .cpu.arguments import INPUT, STATE, described
from .cpu.library import library, shortcut_address
from .cpu.shortcut import layout as at
from .executable import Executable

if TYPE_CHECKING:
    from .compile import Specialisation

MISS = object()  # what a chain of records gives where none fits
_LENGTH = 8  # records in one chain; beyond, the oldest is dropped
_METH_O = 8
_COMPARED = (int, str, bytes)  # Python values that are compared; others must be the same object

Cells = npt.NDArray[np.int64]


class UnfitError(Exception):
    """Something that a record can't express."""


def _address(cells: Cells) -> int:
    return int(cells.ctypes.data)


class _Names:
    """Objects that records share, by their addresses."""

    def __init__(self) -> None:
        self._held = [sys.intern(name) for name in ("_data", "_grad", "_record", "_view")]
        told: dict[int, Any] = {at.TENSOR: Tensor, at.NONE: None, at.TRUE: True}
        told |= zip((at.DATA, at.GRAD, at.HISTORY, at.VIEW), self._held, strict=True)
        self.cells: Cells = np.zeros(at.SHARED, np.int64)
        for cell, value in told.items():
            self.cells[cell] = id(value)


_names = cache(_Names)


class Shortcut:
    """The record of one compiled form, with all that its addresses lie in."""

    def __init__(self, made: Specialisation, leaves: Sequence[Any]) -> None:
        """leaves: arguments that the form was made for. Raises UnfitError if it can't be called in this way."""
        run, told = made.run, made.trace
        if not isinstance(run, Executable) or made.open or made.once:
            raise UnfitError
        interface = run.interface
        count, taken = len(interface.arguments), len(told.sources)
        self._held: list[Any] = [made]
        self._described = [self._array(a.dtype.numpy, a.shape, a.role) for a in interface.arguments]
        inputs = {id(source.tensor) for source in told.sources if isinstance(source, TensorSource)}
        steps: list[tuple[int, int]] = []
        _steps(told.structure, iter(range(len(told.results))), steps)
        tables: dict[int, Sequence[Sequence[int]]] = {
            at.LEAF_ROWS: [self._leaf(leaf, i, told.sources) for i, leaf in enumerate(leaves)],
            at.EXCLUSIVE: [(tensor,) for tensor in sorted(made.exclusive)],
            at.GUARD_ROWS: [
                *guardrows.modes(self._hold),
                *(guardrows.row(guard, inputs, self._hold, self._describe) for guard in told.guards),
            ],
            at.SOURCE_ROWS: [
                *(self._source(source, leaves, self._described[i]) for i, source in enumerate(told.sources)),
                *(self._output(lend, self._described[taken + i]) for i, lend in enumerate(run.lenders)),
            ],
            at.GRAD_ROWS: [self._grad(source, output, interface.results) for source, output in told.grads],
            at.RESULT_ROWS: [self._result(result, interface.results) for result in told.results],
            at.STEP_ROWS: steps,
        }
        counts = {at.LEAVES: at.LEAF_ROWS, at.EXCLUSIVES: at.EXCLUSIVE, at.GUARDS: at.GUARD_ROWS,
                  at.ARGUMENTS: at.SOURCE_ROWS, at.GRADS: at.GRAD_ROWS, at.STEPS: at.STEP_ROWS}  # fmt: skip
        self.cells: Cells = np.zeros(at.RECORD, np.int64)
        self.address = _address(self.cells)
        for cell, rows in tables.items():
            self.cells[cell] = self._table(rows)
        for cell, rows_cell in counts.items():
            self.cells[cell] = len(tables[rows_cell])
        for cell in (at.TABLE, at.HELD, at.SCRATCH):
            self.cells[cell] = self._table([(0,)] * count)
        self.cells[at.STACK] = self._table([(0,)] * len(steps))
        self.cells[at.NAMES], self.cells[at.OWNER] = _address(_names().cells), id(self)
        self.cells[at.LONG] = interface.long
        self.cells[at.WRITES] = any(a.role == STATE for a in interface.arguments)
        self.cells[at.FAIL] = self._hold(run.fail)
        self.cells[at.TOUCH] = self._hold(made.announce_and_touch) if told.writes else 0
        self.cells[at.ARENA], self.cells[at.CONSTANTS], self.cells[at.ENTRY] = run.reserve(self.cells[at.BUSY :])

    def _hold(self, value: Any) -> int:
        """The address of an object, which is kept alive."""
        self._held.append(value)
        return id(value)

    def _table(self, rows: Sequence[Sequence[int]]) -> int:
        cells = np.array(rows or [(0,)], np.int64)
        self._held.append(cells)
        return _address(cells)

    def _array(self, dtype: np.dtype[Any], shape: tuple[int, ...], role: int) -> int:
        """The address of an array's description."""
        cells = described(dtype, shape, role)
        self._held += dtype, cells
        return _address(cells)

    def _describe(self, array: npt.NDArray[Any]) -> int:
        return self._array(array.dtype, array.shape, INPUT)

    def _leaf(self, leaf: Any, position: int, sources: Sequence[Source]) -> tuple[int, ...]:
        described = [
            self._described[i]
            for i, s in enumerate(sources)
            if isinstance(s, ArgumentSource) and s.position == position
        ]
        if isinstance(leaf, Tensor):
            if leaf._grad is not None:
                raise UnfitError
            return at.LEAF_TENSOR, self._hold(type(leaf)), leaf._record is not None, described[0]
        if isinstance(leaf, np.ndarray):
            return at.LEAF_ARRAY, id(np.ndarray), 0, described[0]
        if type(leaf) is float:
            return at.LEAF_FLOAT, id(float), 0, 0
        return at.LEAF_EQUAL if type(leaf) in _COMPARED else at.LEAF_SAME, self._hold(leaf), 0, 0

    def _source(self, source: Source, leaves: Sequence[Any], described: int) -> tuple[int, ...]:
        match source:
            case ArgumentSource(position):
                match leaves[position]:
                    case Tensor():
                        return at.SOURCE_LEAF_TENSOR, 0, 0, position, described
                    case np.ndarray():
                        return at.SOURCE_LEAF_ARRAY, 0, 0, position, described
                    case _:
                        return at.SOURCE_LEAF_FLOAT, 0, 0, position, 0
            case TensorSource(tensor):
                return at.SOURCE_TENSOR, self._hold(tensor), 0, 0, described
            case ArraySource(array):
                return at.SOURCE_ARRAY, self._hold(array), 0, 0, described
            case NumberSource(group, str() as key):
                return at.SOURCE_NUMBER, self._hold(group), self._hold(key), 0, 0
            case NumberSource(group, (str() as key, int() as position)) if type(group[key]) is tuple:
                return at.SOURCE_NUMBER_AT, self._hold(group), self._hold(key), position, 0
            case GradSource(TensorSource(tensor)):
                return at.SOURCE_GRAD, self._hold(tensor), 0, 0, described
            case _:
                raise UnfitError

    def _output(self, lend: Callable[[], Any] | None, described: int) -> tuple[int, ...]:
        if lend is None:
            return at.SOURCE_FRESH, 0, 0, 0, described
        return at.SOURCE_LENT, self._hold(lend), 0, 0, described

    def _grad(self, source: Source, output: int | None, arguments: Sequence[int]) -> tuple[int, int, int]:
        number = -1 if output is None else arguments[output]
        match source:
            case ArgumentSource(position):
                return 1, position, number
            case TensorSource(tensor):
                return 0, self._hold(tensor), number
            case _:
                raise UnfitError

    def _result(self, result: Result, arguments: Sequence[int]) -> tuple[int, int]:
        if result.output is not None:
            return at.RESULT_OUTPUT, arguments[result.output]
        if result.argument is not None:
            return at.RESULT_LEAF, result.argument
        return at.RESULT_VALUE, self._hold(result.value)


def _steps(structure: Structure, leaves: Iterator[int], steps: list[tuple[int, int]]) -> None:
    """How a nested value is put together, children first. Raises UnfitError for kinds other than tuples and lists."""
    kinds = {tuple: at.STEP_TUPLE, list: at.STEP_LIST}
    if structure.kind is None:
        steps.append((at.STEP_LEAF, next(leaves)))
        return
    if structure.kind not in kinds:
        raise UnfitError
    for child in structure.children:
        _steps(child, leaves, steps)
    steps.append((kinds[structure.kind], len(structure.children)))


class _MethodDef(ctypes.Structure):
    """CPython's PyMethodDef."""

    _fields_ = (("name", ctypes.c_char_p), ("call", ctypes.c_void_p), ("flags", ctypes.c_int), ("doc", ctypes.c_char_p))


@cache
def _method() -> _MethodDef:
    return _MethodDef(b"shortcut", shortcut_address(), _METH_O, None)


class Chain:
    """Records for arguments of one structure, the newest first. call: a native function from the tuple of the leaves
    to the result, or to MISS."""

    def __init__(self) -> None:
        self._shortcuts: tuple[Shortcut, ...] = ()
        self._head: Cells = np.array([0, id(MISS)], np.int64)
        make = ctypes.PYFUNCTYPE(ctypes.py_object, ctypes.c_void_p, ctypes.py_object, ctypes.c_void_p)(
            ("PyCFunction_NewEx", ctypes.pythonapi)
        )
        self.call: Callable[[tuple[Any, ...]], Any] = make(ctypes.addressof(_method()), self._head, None)

    def add(self, shortcut: Shortcut) -> None:
        """Let a record be tried first. Calls that run meanwhile see the chain before or after."""
        before, self._shortcuts = self._shortcuts, (shortcut, *self._shortcuts[: _LENGTH - 1])
        shortcut.cells[at.NEXT] = before[0].address if before else 0
        self._head[0] = shortcut.address
        if len(before) == _LENGTH:
            before[-2].cells[at.NEXT] = 0


def usable() -> bool:
    """Whether this interpreter's objects are the ones that native code can read."""
    return library().gate is not None
