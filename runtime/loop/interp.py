"""The interpreter of the loop IR on NumPy arrays: the meaning of a kernel, and the oracle of both printers.

Serial and unrolled loops run in Python, one iteration after the other. Parallel and vector loops run side by
side: each such loop is a dimension of every value computed inside it, its axis is an index array along that
dimension, and NumPy's broadcasting does the rest. New dimensions stand in front, so that values from outside
broadcast without being touched. Registers have one copy for each lane that was active where they were allocated.

It is strict where a machine is not: a load or store out of range, a register read before it was written
(which holds NaN or a large odd integer), and two lanes that store different numbers to one element are errors.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import field
from typing import Any, assert_never

import numpy as np
import numpy.typing as npt

from graphc.errors import VerifyError
from graphc.frozen import dataclass
from graphc.ir.expr import Affine, Call, Index, Literal

from . import scalar
from .ir import Accumulate, Alloc, Block, Buffer, Check, Expr, For, If, Kernel, Let, Load, Offset, Prefetch, Store, Var
from .naive import collapsed
from .nest import Nest

Array = npt.NDArray[Any]

MAX_LANES = 1 << 18  # parallel and vector loops are cut into pieces of at most so many points


def run_nest(nest: Nest, arrays: Mapping[str, Array]) -> int:
    """Run an unscheduled nest; see run()."""
    return run(collapsed(nest), arrays)


def run(kernel: Kernel, arrays: Mapping[str, Array]) -> int:
    """Run `kernel` on `arrays` (param name -> array of the buffer's size and dtype, C-contiguous), in place.

    Returns 0, or the code of the first Check that failed. Raises VerifyError for what no kernel may do.
    """
    memory = {}
    for buffer in kernel.params:
        array = arrays[buffer.name]
        if array.size != buffer.size or array.dtype != buffer.dtype.numpy or not array.flags.c_contiguous:
            raise VerifyError(
                f"{kernel.name}: buffer {buffer.name} is {buffer.size} x {buffer.dtype.name}, "
                f"given {array.size} x {array.dtype}"
            )
        memory[buffer.name] = _Memory(array.reshape(-1), ())
    machine = _Machine(kernel.name, memory)
    with np.errstate(all="ignore"):
        machine.block(kernel.body, _Lanes((), None))
    return machine.failed


@dataclass(frozen=True, slots=True)
class _Lanes:
    """shape: extents of the enclosing side-by-side loops, innermost first. active: where the Ifs hold, None: all."""

    shape: tuple[int, ...]
    active: Array | None


@dataclass(frozen=True, slots=True)
class _Memory:
    """values: (*lanes, size): one copy for each lane active at the Alloc; (size,) for params."""

    values: Array
    lanes: tuple[int, ...]


@dataclass(slots=True)
class _Machine:
    kernel: str
    memory: dict[str, _Memory]
    axes: dict[str, Any] = field(default_factory=dict)
    variables: dict[str, Any] = field(default_factory=dict)
    active: Array | None = None  # as in _Lanes: what loads may touch
    failed: int = 0

    # ------------------------------------------------------------------ statements

    def block(self, block: Block, lanes: _Lanes) -> None:
        for statement in block:
            match statement:
                case For():
                    self.loop(statement, lanes)
                case Alloc(buffer):
                    self.memory[buffer.name] = _Memory(_undefined(buffer, lanes.shape), lanes.shape)
                case Let(var, value):
                    self.variables[var.name] = self.value(value)
                case Store(buffer, offset, value, mask):
                    self.store(buffer, offset, self.value(value), self.where(lanes, mask), lanes)
                case Accumulate():
                    self.accumulate(statement, lanes)
                case Prefetch():
                    pass
                case If(condition, body):
                    active = self.where(lanes, condition)
                    if active is None or active.any():
                        before, self.active = self.active, active
                        self.block(body, _Lanes(lanes.shape, active))
                        self.active = before
                case Check(condition, code):
                    wrong = ~np.asarray(self.value(condition))
                    if lanes.active is not None:
                        wrong = wrong & lanes.active
                    if wrong.any() and not self.failed and 0 not in lanes.shape:
                        self.failed = code
                case _:
                    assert_never(statement)

    def loop(self, loop: For, lanes: _Lanes) -> None:
        name, extent = loop.axis.name, loop.axis.extent
        shadowed = self.axes.get(name)
        match loop.kind:
            case "serial" | "unroll":
                for i in range(extent):
                    self.axes[name] = i
                    self.block(loop.body, lanes)
            case "parallel" | "vector":
                piece = max(1, MAX_LANES // max(1, int(np.prod(lanes.shape))))
                for start in range(0, extent, piece):
                    points = np.arange(start, min(extent, start + piece), dtype=np.int64)
                    self.axes[name] = points.reshape(-1, *[1] * len(lanes.shape))
                    self.block(loop.body, _Lanes((len(points), *lanes.shape), lanes.active))
            case _:
                assert_never(loop.kind)
        self.axes[name] = shadowed

    def where(self, lanes: _Lanes, mask: Expr | None) -> Array | None:
        """The lanes that act: those active here for which `mask` holds. None: all."""
        if mask is None:
            return lanes.active
        value = np.asarray(self.value(mask))
        return value if lanes.active is None else value & lanes.active

    def store(self, buffer: Buffer, offset: Offset, value: Any, mask: Array | None, lanes: _Lanes) -> None:
        values, place = self.place(buffer, offset, mask, lanes.shape)
        value = np.broadcast_to(value, lanes.shape)
        if mask is not None:
            value = value[np.broadcast_to(mask, lanes.shape)]
        values[place] = value
        if not np.array_equal(values[place], value, equal_nan=buffer.dtype.kind == "f"):
            raise VerifyError(f"{self.kernel}: two lanes store different numbers to one element of {buffer.name}")

    def accumulate(self, statement: Accumulate, lanes: _Lanes) -> None:
        buffer, ufunc = statement.buffer, scalar.FOLDS[statement.op]
        value = np.asarray(self.value(statement.value))
        mask = self.where(lanes, statement.mask)
        memory = self.memory[buffer.name]
        own = len(memory.lanes)
        offset = np.asarray(self.offset(statement.offset))
        folded = len(lanes.shape) - max(own, offset.ndim)  # leading lanes that share an element
        if mask is None and folded > 0 and 0 not in lanes.shape:
            value = np.broadcast_to(value, lanes.shape)
            value = ufunc.reduce(value, axis=tuple(range(folded)), dtype=buffer.dtype.numpy)
            lanes = _Lanes(lanes.shape[folded:], None)
        values, place = self.place(buffer, statement.offset, mask, lanes.shape)
        value = np.broadcast_to(value, lanes.shape)
        if mask is not None:
            value = value[np.broadcast_to(mask, lanes.shape)]
        if own == len(lanes.shape) and mask is None:  # each lane has its own copy
            values[place] = ufunc(values[place], value)
        else:
            ufunc.at(values, place, value)

    # ------------------------------------------------------------------ addresses

    def affine(self, at: Affine) -> Any:
        total: Any = at.const
        for axis, coefficient in at.terms:
            total = total + self.axes[axis.name] * coefficient
        return total

    def offset(self, offset: Offset) -> Any:
        total = self.affine(offset.affine)
        for index, coefficient in offset.dynamic:
            total = total + np.asarray(self.value(index)).astype(np.int64) * coefficient
        return total

    def place(self, buffer: Buffer, offset: Offset, mask: Array | None, lanes: tuple[int, ...]) -> tuple[Array, Any]:
        """The memory of `buffer` and an index into it: for each (acting) lane its element."""
        memory = self.memory[buffer.name]
        at = np.broadcast_to(self.offset(offset), lanes)
        copies = tuple(np.broadcast_to(i, lanes) for i in np.ix_(*map(np.arange, memory.lanes))) if memory.lanes else ()
        if mask is not None:
            acting = np.broadcast_to(mask, lanes)
            at, copies = at[acting], tuple(c[acting] for c in copies)
        self.in_range(buffer, at)
        return memory.values, (*copies, at)

    def in_range(self, buffer: Buffer, at: Array) -> None:
        if at.size and (at.min() < 0 or at.max() >= buffer.size):
            raise VerifyError(
                f"{self.kernel}: offsets {at.min()}..{at.max()} of {buffer.name}, which has {buffer.size} elements"
            )

    # ------------------------------------------------------------------ expressions

    def value(self, expr: Expr) -> Any:
        match expr:
            case Literal(number, dtype):
                return np.asarray(number, dtype.numpy)
            case Index(at):
                return np.asarray(self.affine(at), np.int64)
            case Var(name):
                return self.variables[name]
            case Load():
                return self.load(expr)
            case Call(op, args, dtype):
                return scalar.evaluate(op, [self.value(a) for a in args], dtype)
            case _:
                assert_never(expr)

    def load(self, load: Load) -> Any:
        memory = self.memory[load.buffer.name]
        at = np.asarray(self.offset(load.offset))
        mask = None if load.mask is None else np.asarray(self.value(load.mask))
        if mask is not None and not mask.any():
            return np.asarray(load.other, load.buffer.dtype.numpy)
        for guard in (mask, self.active):
            at = at if guard is None else np.where(guard, at, 0)
        self.in_range(load.buffer, at)
        copies = np.ix_(*map(np.arange, memory.lanes)) if memory.lanes else ()
        found = memory.values[(*copies, at)]
        if mask is None:
            return found
        return np.where(mask, found, np.asarray(load.other, load.buffer.dtype.numpy))


def _undefined(buffer: Buffer, lanes: tuple[int, ...]) -> Array:
    shape = (*lanes, buffer.size)
    if buffer.dtype.kind == "f":
        return np.full(shape, np.nan, buffer.dtype.numpy)
    if buffer.dtype.kind == "b":
        return np.ones(shape, np.bool_)
    return np.full(shape, -0x5A5A5A5B, buffer.dtype.numpy)
