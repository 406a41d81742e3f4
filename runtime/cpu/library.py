"""What every native program of this process shares, compiled once a machine and loaded once a process: the pool, the
matrix products, the gate and the shortcut. Also the choice of a loader."""

from __future__ import annotations

import ctypes
import os
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from graphc.runtime.cache import content_key, disk_cache, source_digest
from graphc.runtime.cpu import blas, elf, gate, gemm, jit, pool, shortcut, threads
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
    shortcut, claim: the way in from a compiled function's arguments (runtime/cpu/shortcut/), where there is a gate.
    blas: what computes products, None for the generated one. code: keeps the machine code alive."""

    symbols: Mapping[str, int]
    gate: gate.Gate | None
    shortcut: int
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
    return "\n".join([f'target triple = "{target.triple}"', pool.pool_text(target), gemm.gemm_text(found, target),
                      gate.GATE_TEXT, shortcut.shortcut_text()])  # fmt: skip


def _load_library() -> Library:
    target, found = host(), blas.find_blas()
    # not the text itself: to write it takes longer than to load what was compiled of it
    needs = repr(found and (found.integer_bits, sorted(found.symbols)))
    key = content_key("library", source_digest(), needs, jit.version(), target.key, jit.Options().key)
    entry = disk_cache().get_or_make(key, lambda: ({}, jit.compile_text(library_text(target, found), target)))
    needed = dict(found.symbols) if found is not None else {}
    for name in ("PyEval_SaveThread", "PyEval_RestoreThread", *shortcut.PYTHON_NAMES):
        needed[name] = ctypes.addressof(ctypes.c_char.in_dll(ctypes.pythonapi, name))
    needed |= shortcut.numpy_symbols()
    code = load(entry.payload, needed)
    threads.attach(code.address, target)
    if hasattr(os, "register_at_fork"):
        hold, free, reset = (
            ctypes.PYFUNCTYPE(None)(code.address(f"graphc_{name}_blas")) for name in ("hold", "free", "reset")
        )
        os.register_at_fork(before=hold, after_in_parent=free, after_in_child=reset)
    symbols = {name: code.address(name) for name in _PUBLIC}
    claim = ctypes.PYFUNCTYPE(ctypes.c_int64, ctypes.c_void_p)(code.address("graphc_claim"))
    return Library(
        symbols, gate.usable(code.address("graphc_call")), code.address("graphc_shortcut"), claim, found, code
    )


_LOCK = threading.Lock()
_LIBRARY: list[Library] = []  # never emptied: the pool's threads run its code until the process ends


def library() -> Library:
    """The library of this process."""
    if not _LIBRARY:
        with _LOCK:
            if not _LIBRARY:
                _LIBRARY.append(_load_library())
    return _LIBRARY[0]
