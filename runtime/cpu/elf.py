"""Loads a relocatable x86-64 ELF object into this process, in well under a millisecond and without LLVM.

Sources: the ELF-64 object file format (version 1.5), and the System V ABI, AMD64 supplement, for relocations.
Only what LLVM emits for position-independent code in the small code model is understood; anything
else raises CompileError. Memory is written first and made executable after: never both at once.
"""

from __future__ import annotations

import ctypes
import struct
import weakref
from collections.abc import Mapping
from functools import cache
from typing import TypeAlias

from graphc.errors import CompileError
from graphc.frozen import dataclass

PAGE = 4096

_READ, _WRITE, _EXECUTE = 1, 2, 4  # PROT_*
_PRIVATE_ANONYMOUS = 0x22

_RELOCATABLE, _X86_64 = 1, 62
_SYMTAB, _RELA, _NOBITS = 2, 4, 8  # kinds of sections
_UNWIND = 0x70000001  # tables for exceptions, which never pass through this code
_FLAG_WRITE, _FLAG_ALLOC, _FLAG_EXECUTE, _FLAG_TLS = 1, 2, 4, 0x400
_UNDEFINED, _ABSOLUTE = 0, 0xFFF1

# Relocations. What is far away (another library) is called by a jump nearby, and read through a table of addresses.
_R_64, _R_PC64 = 1, 24
_CALLS = (2, 4)  # R_X86_64_PC32, R_X86_64_PLT32
_BY_TABLE = (9, 41, 42)  # R_X86_64_GOTPCREL and its relaxable forms


@dataclass(frozen=True, slots=True)
class _Section:
    name: int
    kind: int
    flags: int
    address: int
    offset: int
    size: int
    link: int
    info: int
    align: int
    entry: int


# An entry of the symbol table, as it stands in the file: name, info, other, section, value, size. Big objects have
# thousands of local ones (each vector constant), so they stay tuples, and names are read when asked for.
_Symbol: TypeAlias = tuple[int, int, int, int, int, int]
_SYMBOL, _RELOCATION = struct.Struct("<IBBHQQ"), struct.Struct("<QQq")
_GLOBAL, _WEAK = 1, 2  # the upper half of a symbol's info


@cache
def _libc() -> ctypes.CDLL:
    """The process's own symbols, which hold libc's. Not CDLL("libc.so.6"): musl has another name for it."""
    libc = ctypes.CDLL(None, use_errno=True)
    libc.mmap.restype = ctypes.c_void_p
    libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, *[ctypes.c_int] * 3, ctypes.c_long]
    libc.mprotect.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
    libc.munmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t]
    return libc


@cache
def _libm() -> ctypes.CDLL | None:
    try:
        return ctypes.CDLL("libm.so.6")
    except OSError:
        return None


def find_symbol(name: str) -> int | None:
    """The address of a symbol of this process or of the C mathematics library."""
    for library in (_libc(), _libm()):
        try:
            return ctypes.addressof(ctypes.c_char.in_dll(library, name))  # type: ignore[arg-type]
        except (ValueError, TypeError):
            continue
    return None


class Code:
    """An object in memory. symbols: addresses of what it refers to; all else is looked for in the process.

    Raises CompileError for an object of another format or machine, or a symbol that nothing defines.
    """

    loader = "elf"

    def __init__(self, data: bytes, symbols: Mapping[str, int]) -> None:
        try:
            self._load(data, symbols)
        except (struct.error, ArithmeticError, LookupError, MemoryError, ValueError) as error:
            raise CompileError(f"the object is damaged, or of a kind that graphc can't load: {error}") from None

    def _load(self, data: bytes, symbols: Mapping[str, int]) -> None:
        image = _Image(data, symbols)
        memory = _libc().mmap(None, image.size, _READ | _WRITE, _PRIVATE_ANONYMOUS, -1, 0)
        if memory in (None, ctypes.c_void_p(-1).value):
            raise CompileError(f"no memory for {image.size} bytes of code: errno {ctypes.get_errno()}")
        # Not at exit: a daemon thread may still be running the code while the interpreter goes down.
        self._finalizer = weakref.finalize(self, _libc().munmap, memory, image.size)
        self._finalizer.atexit = False
        image.place(memory)
        for start, end, protection in image.protections:
            if end > start and _libc().mprotect(memory + start, end - start, protection):
                raise CompileError(f"the system refuses executable memory: errno {ctypes.get_errno()}")
        self.size = image.size
        self.exports = image.functions(memory)

    def address(self, name: str) -> int:
        """Where function `name` starts. Raises CompileError if there is none."""
        if name not in self.exports:
            raise CompileError(f"the object defines no function {name!r}.")
        return self.exports[name]

    def close(self) -> None:
        """Give the memory back; no function of the object may be running or be called again."""
        self._finalizer()


class _Image:
    """Where each section goes. Pages in order: code and jumps to other libraries; read-only data and the table of
    their addresses (the GOT); writable data."""

    def __init__(self, data: bytes, symbols: Mapping[str, int]) -> None:
        self._data = data
        self._known = symbols
        if data[:6] != b"\x7fELF\x02\x01" or struct.unpack_from("<HH", data, 16) != (_RELOCATABLE, _X86_64):
            raise ValueError("not a relocatable ELF object for x86-64")
        (table,) = struct.unpack_from("<Q", data, 40)
        (count,) = struct.unpack_from("<H", data, 60)
        self._sections = [_Section(*struct.unpack_from("<IIQQQQIIQQ", data, table + 64 * i)) for i in range(count)]
        self._symbols = self._read_symbols()
        self._relocations = [
            (section.info, *entry)
            for section in self._sections
            if section.kind == _RELA and self._loaded(self._sections[section.info])
            for entry in _RELOCATION.iter_unpack(self._content(section))
        ]
        self._got: dict[int, int] = {}  # symbol -> offset of the cell that holds its address
        self._jumps: dict[int, int] = {}  # symbol -> offset of the jump to it
        self._base: dict[int, int] = {}  # section -> offset
        self._lay_out()

    @staticmethod
    def _loaded(section: _Section) -> bool:
        return bool(section.flags & _FLAG_ALLOC) and section.kind != _UNWIND

    def _content(self, section: _Section) -> bytes:
        found = self._data[section.offset : section.offset + section.size]
        if len(found) != section.size:
            raise ValueError("a section ends beyond the object")
        return found

    def _read_symbols(self) -> list[_Symbol]:
        table = next((s for s in self._sections if s.kind == _SYMTAB), None)
        if table is None:
            raise ValueError("no symbols")
        self._names = self._content(self._sections[table.link])
        return list(_SYMBOL.iter_unpack(self._content(table)))

    def _name(self, symbol: _Symbol) -> str:
        return self._names[symbol[0] : self._names.index(b"\0", symbol[0])].decode()

    def _lay_out(self) -> None:
        for section in self._sections:
            if self._loaded(section) and section.flags & _FLAG_TLS:
                raise ValueError("thread-local data")
        for _, _, info, _ in self._relocations:
            kind, symbol = info & 0xFFFFFFFF, info >> 32
            undefined = self._symbols[symbol][3] == _UNDEFINED
            if kind in _BY_TABLE or (kind in _CALLS and undefined):
                self._got.setdefault(symbol, 0)
            if kind in _CALLS and undefined:
                self._jumps.setdefault(symbol, 0)
        at = self._group(0, _FLAG_EXECUTE)
        for symbol in self._jumps:
            self._jumps[symbol], at = at, at + 16
        code = at = -(-at // PAGE) * PAGE
        at = -(-self._group(at, 0) // 8) * 8
        for symbol in self._got:
            self._got[symbol], at = at, at + 8
        read_only = at = -(-at // PAGE) * PAGE
        self.size = max(-(-self._group(at, _FLAG_WRITE) // PAGE) * PAGE, PAGE)
        self.protections = ((0, code, _READ | _EXECUTE), (code, read_only, _READ))

    def _group(self, at: int, flag: int) -> int:
        """Place the sections of one protection from offset `at`; where the next may start."""
        for index, section in enumerate(self._sections):
            if self._loaded(section) and section.flags & (_FLAG_WRITE | _FLAG_EXECUTE) == flag:
                align = max(section.align, 1)
                if align > PAGE:
                    raise ValueError(f"alignment {align}")
                at = -(-at // align) * align
                self._base[index], at = at, at + section.size
        return -(-at // 16) * 16

    def place(self, memory: int) -> None:
        """Copy the sections to address `memory`, and fill in every address."""
        view = memoryview((ctypes.c_ubyte * self.size).from_address(memory)).cast("B")
        for index, base in self._base.items():
            section = self._sections[index]
            if section.kind != _NOBITS:
                view[base : base + section.size] = self._content(section)
        address = {symbol: self._resolve(symbol, memory) for symbol in self._needed()}
        for symbol, cell in self._got.items():
            struct.pack_into("<Q", view, cell, address[symbol])
        for symbol, jump in self._jumps.items():  # jmp *cell(%rip)
            struct.pack_into("<HiH", view, jump, 0x25FF, self._got[symbol] - (jump + 6), 0x0B0F)
        for target, offset, info, addend in self._relocations:
            kind, symbol = info & 0xFFFFFFFF, info >> 32
            at = self._base[target] + offset
            here = memory + at
            if kind == _R_64:
                struct.pack_into("<Q", view, at, (address[symbol] + addend) % 2**64)
            elif kind in _CALLS:
                to = memory + self._jumps[symbol] if symbol in self._jumps else address[symbol]
                struct.pack_into("<i", view, at, to + addend - here)
            elif kind in _BY_TABLE:
                struct.pack_into("<i", view, at, self._got[symbol] + addend - at)
            elif kind == _R_PC64:
                struct.pack_into("<q", view, at, address[symbol] + addend - here)
            else:
                raise ValueError(f"relocation of type {kind}")

    def _needed(self) -> dict[int, None]:
        return dict.fromkeys(info >> 32 for _, _, info, _ in self._relocations)

    def _resolve(self, number: int, memory: int) -> int:
        symbol = self._symbols[number]
        _, info, _, section, value, _ = symbol
        if section in self._base:
            return memory + self._base[section] + value
        if section == _ABSOLUTE:
            return value
        if section != _UNDEFINED:
            raise ValueError(f"symbol {self._name(symbol)!r} in section {section:#x}, which isn't loaded")
        name = self._name(symbol)
        address = self._known.get(name) or find_symbol(name)
        if address is None and info >> 4 != _WEAK:
            raise CompileError(f"machine code refers to {name!r}, which nothing in this process defines.")
        return address or 0

    def functions(self, memory: int) -> dict[str, int]:
        """Name -> address of everything the object exports."""
        return {
            self._name(symbol): memory + self._base[symbol[3]] + symbol[4]
            for symbol in self._symbols
            if symbol[1] >> 4 == _GLOBAL and symbol[3] in self._base
        }
