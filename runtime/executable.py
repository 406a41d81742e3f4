"""Executable: a Program's machine code with all that is needed to call it, made or taken from the cache on disk.

Call it with the arrays of the program's inputs; it gives the arrays of its outputs. An output that overwrites an input
(state: a parameter, a moment) is that input's own array. The interpreter lock is free while long programs run; any
number of threads may call one executable at once, each with an arena of its own.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from operator import itemgetter
from typing import TYPE_CHECKING, Any, NoReturn

import numpy as np
import numpy.typing as npt
from numpy.lib.array_utils import byte_bounds

from graphc.errors import AliasError, ArgumentError, CompileError, DTypeError, IndexingError, ShapeError
from graphc.frozen import dataclass
from graphc.runtime.blocks import KEEP, LENT, Block, Lender
from graphc.runtime.cache import DiskCache, content_key, disk_cache, source_digest
from graphc.runtime.cpu import gate, jit
from graphc.runtime.cpu.arguments import INPUT, OUTPUT, STATE
from graphc.runtime.cpu.library import begin_shortcut, library, load
from graphc.runtime.cpu.target import Target, host
from graphc.runtime.memory import ALIGNMENT
from graphc.types import DType, Shape, TensorType, dtype_of

if TYPE_CHECKING:  # a call whose machine code is in the cache needs no loop IR
    from graphc.runtime.program import Program

Array = npt.NDArray[Any]

ENTRY = "graphc_entry"  # i64 (ptr table, ptr arena, ptr constants)
# Points of work from which on others may have the interpreter lock meanwhile. For less it is kept: who waits for it is
# woken when it is dropped, comes a little later, finds it taken again and waits on, but no longer asks for it, as
# those do who were let wait for the whole switch interval. A loop of short calls so starved every other thread.
LONG = 1 << 18

_ROLES = {INPUT: "input", STATE: "state", OUTPUT: "output"}


@dataclass(frozen=True, slots=True)
class Argument:
    """One entry of the pointer table. role: INPUT (read), STATE (read and written) or OUTPUT (written, fresh)."""

    dtype: DType
    shape: Shape
    role: int


@dataclass(frozen=True, slots=True)
class Interface:
    """What calling a program takes, beyond its machine code; this is what the cache keeps of a Program.

    arguments: inputs and state as the graph orders them, then fresh outputs. results: for each output of the graph the
    number of the argument that holds it. constants: dtype and little-endian bytes. arena_size: bytes.
    messages: code k of a failed check means messages[k - 1]. long: whether a call takes so long that releasing the
    interpreter lock is worth its price.
    """

    arguments: tuple[Argument, ...]
    results: tuple[int, ...]
    constants: tuple[tuple[DType, bytes], ...]
    arena_size: int
    messages: tuple[str, ...]
    long: bool = True

    @staticmethod
    def of(
        program: Program, inputs: Sequence[TensorType], outputs: Sequence[TensorType], state: Mapping[int, int]
    ) -> Interface:
        """The interface of a graph's program. state: output number -> number of the input that it overwrites.

        Raises CompileError where the program's buffers don't fit these types.
        """
        written = set(state.values())
        arguments = [Argument(t.dtype, t.shape, STATE if i in written else INPUT) for i, t in enumerate(inputs)]
        results = []
        for number, t in enumerate(outputs):
            results.append(state.get(number, len(arguments)))
            if number not in state:
                arguments.append(Argument(t.dtype, t.shape, OUTPUT))
        have = [(a.dtype, TensorType(a.shape, a.dtype).size) for a in arguments]
        want = [(b.dtype, b.size) for b in program.arguments]
        if have != want:
            raise CompileError(f"the program's buffers {want} don't fit the graph's inputs and outputs {have}.")
        long = program.points() >= LONG
        return Interface(
            tuple(arguments), tuple(results), program.constants, program.arena_size, program.messages, long
        )

    @property
    def takes(self) -> int:
        """How many arrays a call is given."""
        return sum(a.role != OUTPUT for a in self.arguments)

    def pack(self, code: bytes) -> tuple[dict[str, Any], bytes]:
        """JSON and bytes that unpack() turns back into this interface and the code."""
        told = {
            "arguments": [[a.dtype.name, list(a.shape), _ROLES[a.role]] for a in self.arguments],
            "results": list(self.results),
            "constants": [[dtype.name, len(data)] for dtype, data in self.constants],
            "arena_size": self.arena_size,
            "messages": list(self.messages),
            "long": self.long,
            "code": len(code),
        }
        return told, b"".join([code, *(data for _, data in self.constants)])

    @staticmethod
    def unpack(told: Mapping[str, Any], payload: bytes) -> tuple[Interface, bytes]:
        """The interface and the code. Raises KeyError, TypeError or ValueError if they weren't packed by pack()."""
        roles = {name: role for role, name in _ROLES.items()}
        at = int(told["code"])
        code, constants = payload[:at], []
        for name, size in told["constants"]:
            constants.append((dtype_of(name), payload[at : at + size]))
            at += size
        if at != len(payload):
            raise ValueError(f"{len(payload)} bytes instead of {at}")
        arguments = [Argument(dtype_of(name), tuple(shape), roles[role]) for name, shape, role in told["arguments"]]
        interface = Interface(
            tuple(arguments),
            tuple(told["results"]),
            tuple(constants),
            told["arena_size"],
            tuple(told["messages"]),
            told["long"],
        )
        return interface, code


def checked_arguments(wanted: Sequence[Argument], arrays: Sequence[Any]) -> list[Array]:
    """What a call is given as arrays of the declared types. Raises as Executable.__call__ says."""
    if len(arrays) != len(wanted):
        raise ArgumentError(f"the compiled function takes {len(wanted)} arrays, not {len(arrays)}.")
    return [_checked(i, want, array) for i, (want, array) in enumerate(zip(wanted, arrays, strict=True))]


def _checked(i: int, want: Argument, value: Any) -> Array:
    who = f"argument {i} of the compiled function"
    if want.role == STATE and not isinstance(value, np.ndarray):
        raise ArgumentError(f"{who} is written in place: it must be an array, not {type(value).__name__}.")
    if (
        not want.shape
        and isinstance(value, bool | int | float)
        and np.result_type(value, want.dtype.numpy) == want.dtype.numpy
    ):
        return np.asarray(value, want.dtype.numpy)
    array = np.asarray(value)
    if array.dtype != want.dtype.numpy:
        raise DTypeError(f"{who}: dtype {array.dtype} instead of {want.dtype.name}. Convert with .astype(...).")
    if array.shape != want.shape:
        raise ShapeError(f"{who}: shape {array.shape} instead of {want.shape}.")
    if want.role == STATE and not array.flags.writeable:
        raise ArgumentError(f"{who} is written in place, but its memory is read-only. Give a copy.")
    return array


def refuse_shared(states: Mapping[int, Array]) -> None:
    """Raises AliasError if two states share memory: which write comes last would decide the result."""
    spans = sorted((*byte_bounds(array), i) for i, array in states.items())
    reach: list[tuple[int, int]] = []  # (end, number) of those before that aren't over yet
    for start, end, i in spans:
        reach = [(last, j) for last, j in reach if last > start]
        for _, j in reach:
            if np.shares_memory(states[i], states[j]):
                raise AliasError(
                    f"arguments {min(i, j)} and {max(i, j)} of the compiled function are both written, but share "
                    "memory. Give each its own array."
                )
        reach.append((end, i))


class _Frame:
    """What one call in flight needs for itself: the arena and the record of pointers."""

    __slots__ = ("arena", "record")

    def __init__(self, interface: Interface, constants: int, entry: int) -> None:
        self.arena = Block(interface.arena_size)
        told = [(a.dtype, a.shape, a.role) for a in interface.arguments]
        self.record = gate.Record(told, self.arena.address, constants, entry, interface.long)


class _Constants:
    """The constants in one block, aligned, and the table of their addresses."""

    __slots__ = ("_block", "_table", "address")

    def __init__(self, constants: Sequence[tuple[DType, bytes]]) -> None:
        offsets, size = [], 0
        for _, data in constants:
            offsets.append(size)
            size += -(-len(data) // ALIGNMENT) * ALIGNMENT
        self._block = Block(size)
        for offset, (_, data) in zip(offsets, constants, strict=True):
            ctypes.memmove(self._block.address + offset, data, len(data))
        self._table = (ctypes.c_void_p * len(constants))(*(self._block.address + offset for offset in offsets))
        self.address = ctypes.addressof(self._table)


class Executable:
    """Machine code, ready to be called. interface: what it takes and gives.

    from_cache: whether the machine code was found on disk.
    """

    def __init__(self, interface: Interface, code: bytes, from_cache: bool = False) -> None:
        shared = library()
        self.interface = interface
        self.from_cache = from_cache
        self._code = load(code, shared.symbols)
        self._entry = self._code.address(ENTRY)
        self._function = ctypes.CFUNCTYPE(ctypes.c_int64, *[ctypes.c_void_p] * 3)(self._entry)
        self._gate = shared.gate
        self._constants = _Constants(interface.constants)
        self._frames: list[_Frame] = []  # idle ones; a call takes one and puts it back
        self._reserved: tuple[_Frame, npt.NDArray[np.int64]] | None = None
        self._claim = shared.claim
        self._takes = interface.takes
        self.lenders = [_lender(a) for a in interface.arguments if a.role == OUTPUT]
        self._fresh = [
            lend or partial(np.empty, a.shape, a.dtype.numpy)
            for lend, a in zip(self.lenders, interface.arguments[self._takes :], strict=True)
        ]
        self._pick = _picker(interface.results)

    @property
    def loader(self) -> str:
        """What placed the code in memory: "elf" (graphc's own) or "llvmlite"."""
        return self._code.loader

    def __call__(self, *arrays: Array) -> list[Array]:
        """Run the program on arrays of the declared dtypes and shapes; returns the outputs' arrays.

        Inputs in another memory order, or that share memory with state, are copied first; state in another order is
        copied back after. Numbers stand for inputs of shape (). Raises ArgumentError for a wrong number of arguments or
        for state that is read-only or no array, ShapeError, DTypeError, AliasError for two states that
        share memory, IndexingError where an index is out of bounds (state may then be partly written).
        """
        fresh = [make() for make in self._fresh]
        every = (*arrays, *fresh)
        frame = self._take()
        try:
            status = self._gate(every, frame.record.address) if self._gate is not None else gate.BAD_ARGUMENT
            if status < 0:
                every, status = self._run_mended(frame, arrays, fresh)
        finally:
            self._give(frame)
        if status:
            self.fail(status)
        return self._pick(every)

    def release(self) -> None:
        """Give the memory of idle arenas back to the system; the next call takes fresh memory."""
        self._frames.clear()
        if self._reserved is not None and self._claim(self._reserved[1].ctypes.data):
            self._reserved[0].arena.forget()
            self._give(self._reserved[0])

    def fail(self, status: int) -> NoReturn:
        """Raise the IndexingError that a status of the entry means."""
        raise IndexingError(self.interface.messages[status - 1])

    def reserve(self, busy: npt.NDArray[np.int64]) -> tuple[int, int, int]:
        """Addresses of an arena, the constants and the entry, for a caller other than __call__.

        The arena is the caller's own while busy[0] is 1, which it sets and clears with the interpreter lock held; in
        between __call__ uses it too, so that one arena is enough for calls that follow one another.
        """
        frame = self._take()
        self._reserved = frame, busy
        return frame.arena.address, self._constants.address, self._entry

    def _take(self) -> _Frame:
        try:
            return self._frames.pop()
        except IndexError:
            pass
        if self._reserved is not None and self._claim(self._reserved[1].ctypes.data):
            return self._reserved[0]
        return _Frame(self.interface, self._constants.address, self._entry)

    def _give(self, frame: _Frame) -> None:
        if self._reserved is not None and frame is self._reserved[0]:
            self._reserved[1][0] = 0
        elif len(self._frames) < KEEP:
            self._frames.append(frame)

    def _run_mended(
        self, frame: _Frame, arrays: Sequence[Array], fresh: Sequence[Array]
    ) -> tuple[tuple[Array, ...], int]:
        """The careful way: convert and copy what the gate refused, run, and bring state home."""
        frame.record.forget()
        given = checked_arguments(self.interface.arguments[: self._takes], arrays)
        ready = self._apart([_dense(array) for array in given], given)
        for i, array in enumerate((*ready, *fresh)):
            frame.record.table[i] = array.ctypes.data
        table = ctypes.addressof(frame.record.table)
        status = self._function(table, frame.arena.address, self._constants.address)
        frame.record.forget()
        for i in self._states():
            if ready[i] is not given[i]:
                np.copyto(given[i], ready[i])
        return (*arrays, *fresh), status

    def _states(self) -> Iterator[int]:
        return (i for i, a in enumerate(self.interface.arguments) if a.role == STATE)

    def _apart(self, ready: list[Array], given: Sequence[Array]) -> list[Array]:
        """`ready` with copies of the inputs that share memory with state: they keep the values from before the call.

        Raises AliasError if two states share memory: which write comes last would decide the result.
        """
        states = list(self._states())
        refuse_shared({i: given[i] for i in states})
        return [
            array.copy()
            if self.interface.arguments[i].role == INPUT and any(np.may_share_memory(array, ready[j]) for j in states)
            else array
            for i, array in enumerate(ready)
        ]


def _dense(array: Array) -> Array:
    """The array itself if native code can read it as it stands, else a copy in C order."""
    if array.flags.c_contiguous and array.flags.aligned:
        return array
    return np.array(array, order="C", copy=True)


def _lender(argument: Argument) -> Callable[[], Array] | None:
    """What gives arrays for a large output, uninitialised; None where a new array costs less. Programs rely on such
    outputs to start on a page."""
    if TensorType(argument.shape, argument.dtype).nbytes < LENT:
        return None
    return Lender(argument.shape, argument.dtype.numpy).take


def _picker(results: Sequence[int]) -> Callable[[tuple[Array, ...]], list[Array]]:
    """A function that takes the outputs' arrays out of all arguments."""
    if len(results) < 2:  # itemgetter gives no tuple then
        return lambda every: [every[i] for i in results]
    pick = itemgetter(*results)
    return lambda every: list(pick(every))


def key_of(
    content: str,
    inputs: Sequence[TensorType],
    outputs: Sequence[TensorType],
    state: Mapping[int, int],
    target: Target | None = None,
    options: jit.Options | None = None,
) -> str:
    """The key of what build() makes, in the cache."""
    target, options = target or host(), options or jit.Options()
    types = " ".join(map(str, (*inputs, "->", *outputs, *sorted(state.items()))))
    return content_key("program", content, types, source_digest(), jit.version(), target.key, options.key)


def build(
    content: str,
    inputs: Sequence[TensorType],
    outputs: Sequence[TensorType],
    state: Mapping[int, int],
    make: Callable[[jit.Compilation], Program],
    *,
    target: Target | None = None,
    options: jit.Options | None = None,
    cache: DiskCache | None = None,
) -> Executable:
    """The executable of a graph: from the cache, or from the program that `make` gives and the modules of LLVM IR
    that it adds to the compilation.

    content: all that decides what `make` would give (the graph with the values of its constants, options of passes
    and schedule); the types, graphc's source, llvmlite, target and options are added here.
    inputs, outputs, state: as in Interface.of. Raises CompileError if LLVM refuses the text.
    """
    target, options = target or host(), options or jit.Options()
    if not target.runs_here():
        raise CompileError(f"code for {target.triple}, {target.cpu} can't run on this machine.")
    key = key_of(content, inputs, outputs, state, target, options)
    fresh = False

    def made() -> tuple[dict[str, Any], bytes]:
        nonlocal fresh
        fresh = True
        with jit.Compilation(target, options, prepare=library) as compilation:
            compilation.warm_up()
            interface = Interface.of(make(compilation), inputs, outputs, state)
            return interface.pack(compilation.result())

    entry = (cache if cache is not None else disk_cache()).get_or_make(key, made)
    interface, code = Interface.unpack(entry.metadata, entry.payload)
    ready = Executable(interface, code, from_cache=not fresh)
    if fresh:  # where LLVM is loaded anyway; who finds the machine code has it compiled when it is needed
        begin_shortcut()
    return ready
