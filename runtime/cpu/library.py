"""What every native program of this process shares, compiled once a machine and loaded once a process: the pool, the
matrix products and the gate; and the shortcut, which a function needs from its second call on, by itself: the first
call needn't wait for it. Also the choice of a loader."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

from graphc.frozen import dataclass
from graphc.runtime.background import Task
from graphc.runtime.cache import content_key, disk_cache, source_digest
from graphc.runtime.cpu import arguments, blas, elf, gate, gemm, jit, pool, shortcut, threads
from graphc.runtime.cpu.bundle import objects
from graphc.runtime.cpu.target import Target, host

_PUBLIC = ("graphc_parallel", "graphc_gemm_f32", "graphc_gemm_f64")


class Loaded(Protocol):
    """An object in memory. loader: "elf" (graphc's own) or "llvmlite"."""

    loader: str

    def address(self, name: str) -> int: ...

    def close(self) -> None: ...


@dataclass(frozen=True, slots=True)
class Library:
    """symbols: what programs may call. gate: the way in, None where programs are entered through Python.
    claim: takes a shortcut's arena. blas: what computes products, None for the generated one. code: keeps the machine
    code alive."""

    symbols: Mapping[str, int]
    gate: gate.Gate | None
    claim: Callable[[int], int]
    blas: blas.Blas | None
    code: Loaded


class _Several:
    """Objects of one program, placed one after the other: each may call what those before it export. What is asked
    for is in the last."""

    def __init__(self, objects: Sequence[bytes], symbols: Mapping[str, int]) -> None:
        known = dict(symbols)
        self._parts: list[elf.Code] = []
        for data in objects:
            self._parts.append(elf.Code(data, known))
            known.update(self._parts[-1].exports)
        self.loader = elf.Code.loader

    def address(self, name: str) -> int:
        return self._parts[-1].address(name)

    def close(self) -> None:
        for part in self._parts:
            part.close()


def load(data: bytes, symbols: Mapping[str, int]) -> Loaded:
    """Place an object, or a bundle of them, in memory. Linux on x86-64 needs no LLVM for it; elsewhere llvmlite's
    loader does the work, which `loader` tells."""
    here = host()
    if not (here.x86 and here.linux):
        return jit.LinkedCode(data, symbols)
    parts = objects(data)
    return _Several(parts, symbols) if len(parts) > 1 else elf.Code(data, symbols)


def library_text(target: Target, found: blas.Blas | None) -> str:
    """The module: LLVM IR of pool, products and gate."""
    return "\n".join([pool.pool_text(target), gemm.gemm_text(found, target), gate.gate_text()])


@dataclass(frozen=True, slots=True)
class _Module:
    """One that is compiled once a machine. needs: what decides its text besides the target: that takes longer to write
    than what was compiled of it takes to load."""

    name: str
    needs: str
    text: Callable[[Target], str]

    @property
    def key(self) -> str:
        return content_key(self.name, source_digest(), self.needs, jit.version(), host().key, jit.Options().key)

    def code(self) -> bytes:
        """The object, from the cache or compiled."""
        return disk_cache().get_or_make(self.key, self._compiled).payload

    def _compiled(self) -> tuple[dict[str, Any], bytes]:
        target = host()
        with jit.fair():
            return {}, jit.compile_text(f'target triple = "{target.triple}"\n{self.text(target)}', target)


def _library_module(found: blas.Blas | None) -> _Module:
    needs = repr(found and (found.integer_bits, sorted(found.symbols)))
    return _Module("library", needs, lambda target: library_text(target, found))


_SHORTCUT_MODULE = _Module("shortcut", "", lambda _: shortcut.shortcut_text())


def _python(names: Sequence[str]) -> dict[str, int]:
    """Addresses of CPython's functions."""
    return {name: ctypes.addressof(ctypes.c_char.in_dll(ctypes.pythonapi, name)) for name in names}


def _load_library() -> Library:
    found = blas.find_blas()
    needed = dict(found.symbols) if found is not None else {}
    code = load(_library_module(found).code(), needed | _python(arguments.PYTHON_NAMES))
    threads.attach(code.address, host())
    if hasattr(os, "register_at_fork"):
        hold, free, reset = (
            ctypes.PYFUNCTYPE(None)(code.address(f"graphc_{name}_blas")) for name in ("hold", "free", "reset")
        )
        os.register_at_fork(before=hold, after_in_parent=free, after_in_child=reset)
    symbols = {name: code.address(name) for name in _PUBLIC}
    claim = ctypes.PYFUNCTYPE(ctypes.c_int64, ctypes.c_void_p)(code.address("graphc_claim"))
    return Library(symbols, gate.usable(code.address("graphc_call")), claim, found, code)


def _load_shortcut() -> Loaded:
    return load(_SHORTCUT_MODULE.code(), {**_python(shortcut.PYTHON_NAMES), **shortcut.numpy_symbols()})


# Never emptied: they keep the machine code alive, which the pool's threads run until the process ends.
_LIBRARY, _SHORTCUT = Task(_load_library), Task(_load_shortcut)


def library() -> Library:
    """The library of this process."""
    return _LIBRARY.result()


def shortcut_address() -> int:
    """Where the way in from a compiled function's arguments starts (runtime/cpu/shortcut/); only where there is a
    gate."""
    return _SHORTCUT.result().address("graphc_shortcut")


def begin_library() -> None:
    """If LLVM will have to compile the library, start now, beside whatever comes before it is needed."""
    if not _LIBRARY.done and not disk_cache().has(_library_module(blas.find_blas()).key):
        _LIBRARY.begin()


def begin_shortcut() -> None:
    """The same for the shortcut."""
    if not _SHORTCUT.done and not disk_cache().has(_SHORTCUT_MODULE.key):
        _SHORTCUT.begin()
