"""What the tape consists of: records, leaves, versions of shared memory, and the modes of each thread.

A global clock stamps records and writes: a record that finds one of its values written after its own stamp hands the
rule a stand-in that knows its shape, and raises InplaceError naming the writer when it is read.
"""

from __future__ import annotations

import contextvars
import itertools
import threading
import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from types import MappingProxyType
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from graphc.errors import (
    InplaceError,
)
from graphc.primitive import Primitive
from graphc.tensor import Tensor, wrap
from graphc.types import dtype_of

tick = itertools.count(1).__next__  # stamps records and writes
_READERS = 64  # of one version, before those that are gone are dropped


class _Clock:
    """last_write: the stamp of the latest write in place, of whichever tensor."""

    __slots__ = ("last_write",)

    def __init__(self) -> None:
        self.last_write = 0


clock = _Clock()


class Version:
    """When and by what the memory that tensors share was last written.

    readers: records of whole functions that read this memory. Such a record remembers its operands where the function's
    own operations would remember results that nobody else can write to; so before a write it takes copies.
    """

    __slots__ = ("readers", "stamp", "what", "where")

    def __init__(self) -> None:
        self.stamp = 0
        self.what = ""
        self.where: str | None = None
        self.readers: list[weakref.ref[Record]] = []

    def read_by(self, record: Record) -> None:
        """Note a record that needs what is in this memory now."""
        if len(self.readers) >= _READERS:
            self.readers = [reader for reader in self.readers if reader() is not None]
        self.readers.append(weakref.ref(record))

    def keep(self) -> None:
        """Before a write: let the readers remember copies."""
        readers, self.readers = self.readers, []
        for reader in readers:
            record = reader()
            if record is not None and record.arrays is not None:
                record.copy_operands(self)

    def written(self, what: str, where: str | None) -> None:
        """Note a write, now."""
        self.stamp = clock.last_write = tick()
        self.what, self.where = what, where


def about_to_write(tensors: Iterable[Tensor]) -> None:
    """Before a write to the memory of these tensors: let its readers remember copies."""
    for tensor in tensors:
        version = tensor._version
        if version is not None and version.readers:
            version.keep()


def written(tensors: Iterable[Tensor], what: str) -> None:
    """Note that `what` wrote to the memory of these tensors, now: one stamp for all of them."""
    stamp = clock.last_write = tick()
    for tensor in tensors:
        version = tensor._version
        if version is None:
            version = tensor._version = Version()
        version.stamp = stamp
        if version.what is not what:
            version.what = what
        version.where = None


class ViewOf:
    """That a tensor shares its base's memory: the operations that lead from the base to it."""

    __slots__ = ("base", "path", "stamp")

    def __init__(self, base: Tensor, path: tuple[tuple[Primitive, dict[str, Any]], ...], stamp: int) -> None:
        self.base = base
        self.path = path
        self.stamp = stamp  # the base's version when the tensor's record was made


class Record:
    """One entry of the tape. `operands`, `arrays` (their numbers) and `y` are None once a backward has used it up."""

    __slots__ = (
        "__weakref__",
        "arrays",
        "attrs",
        "hooks",
        "location",
        "op",
        "operands",
        "overwritten",
        "sources",
        "stamp",
        "y",
    )

    # No __init__: calling one takes longer than a small operation. evaluate() and record() set all of these.
    op: Primitive | None
    operands: tuple[Any, ...] | None
    arrays: tuple[Any, ...] | None
    sources: tuple[Record | Leaf | None, ...]
    attrs: dict[str, Any]
    y: Any
    stamp: int
    hooks: list[Callable[[Tensor], Tensor | None]] | None
    overwritten: Version | None
    location: str | None

    def copy_operands(self, version: Version) -> None:
        """Remember copies of the operands of that version, which keep their history."""
        operands = []
        for x in self.operands or ():
            if isinstance(x, Tensor) and x._version is version:
                kept = wrap(x._data.copy())
                kept._record = x._record
                operands.append(kept)
            else:
                operands.append(x)
        self.operands = tuple(operands)
        self.arrays = tuple([x._data if isinstance(x, Tensor) else x for x in operands])


class Leaf:
    """Where a derivative ends: a tensor that the user asked the gradient of."""

    __slots__ = ("__weakref__", "done", "hooks", "tensor")
    op = None
    attrs: Mapping[str, Any] = MappingProxyType({})
    sources: tuple[()] = ()
    stamp = 0

    def __init__(self, tensor: Tensor) -> None:
        self.tensor = weakref.ref(tensor)
        self.done = False  # a transform's own variable, whose function has run: nobody else differentiates by it
        self.hooks: list[Callable[[Tensor], Tensor | None]] | None = None


Vertex: TypeAlias = Record | Leaf


class Overwritten:
    """Stands for a value that is gone; its shape and dtype are still known."""

    requires_grad = False

    def __init__(self, array: npt.NDArray[Any], op: Primitive, version: Version) -> None:
        self.shape = array.shape
        self.dtype = dtype_of(array.dtype)
        self._message = (
            f"the derivative of {op.name} needs a value of shape {array.shape} that {version.what} at "
            f"{version.where or '?'} has overwritten. Write y = f(x) instead of changing x in place, "
            "or call x.clone() before."
        )

    def __array__(self, *_: object, **__: object) -> npt.NDArray[Any]:
        raise InplaceError(self._message)


class _Modes:
    """quiet: a context in which NumPy reports no floating-point errors (entering it costs a tenth of np.errstate)."""

    __slots__ = ("anomaly", "quiet", "recording", "sweep")

    def __init__(self) -> None:
        self.recording = True
        self.anomaly = False
        self.sweep = 0  # number of the reverse sweep that is running, 0 outside of any
        self.quiet = contextvars.copy_context()
        self.quiet.run(np.seterr, all="ignore")


class _Thread(threading.local):
    """The modes of each thread, in an object: one that is looked up once is read several times."""

    def __init__(self) -> None:
        self.modes = _Modes()


thread = _Thread()
sweeps_begun = itertools.count(1)


def current_sweep() -> int:
    """The number of the reverse sweep that is running in this thread, 0 if none: no two are alike."""
    return thread.modes.sweep


@contextmanager
def no_grad() -> Iterator[None]:
    """Within this context nothing is recorded: results require no gradient. Also a decorator."""
    before, thread.modes.recording = thread.modes.recording, False
    try:
        yield
    finally:
        thread.modes.recording = before


@contextmanager
def enable_grad() -> Iterator[None]:
    """Recording again, inside of no_grad."""
    before, thread.modes.recording = thread.modes.recording, True
    try:
        yield
    finally:
        thread.modes.recording = before


def recording() -> bool:
    """Whether operations are being recorded."""
    return thread.modes.recording


def set_anomaly(on: bool) -> None:
    """Anomaly mode: records keep the user's line, and backward raises AnomalyError at the first nan it makes."""
    thread.modes.anomaly = on
