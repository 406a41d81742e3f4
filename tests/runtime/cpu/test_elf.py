"""The loader of objects: data, constants, calls far and near, protection, and objects that are broken."""

from __future__ import annotations

import ctypes
import math
import struct
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from graphc.errors import CompileError
from graphc.runtime.cpu import elf, jit
from graphc.runtime.cpu.target import by_name, host

pytestmark = pytest.mark.skipif(not (host().x86 and host().linux), reason="for Linux on x86-64")

INT = ctypes.CFUNCTYPE(ctypes.c_int64, ctypes.c_int64)

TEXT = """
@counter = global i64 5, align 64
@history = internal global [4 x i64] zeroinitializer
@table = constant [3 x ptr] [ptr @increment, ptr @absolute, ptr @count]
@outside_number = external global i64
declare i64 @labs(i64)
declare double @cbrt(double)
declare i64 @outside(i64)
declare extern_weak i64 @perhaps(i64)

define internal i64 @increment(i64 %x) noinline {
  %y = add i64 %x, 1
  ret i64 %y
}
define internal i64 @absolute(i64 %x) noinline {
  %y = call i64 @labs(i64 %x)
  ret i64 %y
}
define i64 @count(i64 %x) {
  %old = load i64, ptr @counter
  %new = add i64 %old, %x
  store i64 %new, ptr @counter
  %last = getelementptr [4 x i64], ptr @history, i64 0, i64 3
  %before = load volatile i64, ptr %last
  store volatile i64 %new, ptr %last
  %both = add i64 %before, %new
  ret i64 %both
}
define i64 @through_table(i64 %which, i64 %x) {
  %at = getelementptr [3 x ptr], ptr @table, i64 0, i64 %which
  %function = load ptr, ptr %at
  %r = call i64 %function(i64 %x)
  ret i64 %r
}
define i64 @call_outside(i64 %x) {
  %y = call i64 @outside(i64 %x)
  %n = load i64, ptr @outside_number
  %z = add i64 %y, %n
  ret i64 %z
}
define double @root(double %x) {
  %y = call double @cbrt(double %x)
  %z = fadd double %y, 0.1
  ret double %z
}
define i32 @choose(i32 %x) {
  switch i32 %x, label %other [
    i32 0, label %a
    i32 1, label %b
    i32 2, label %c
    i32 3, label %d
    i32 4, label %e
  ]
a:
  call void @say(i32 11)
  ret i32 11
b:
  call void @say(i32 7)
  ret i32 -7
c:
  ret i32 3
d:
  call void @say(i32 1)
  ret i32 123
e:
  ret i32 9
other:
  ret i32 0
}
@said = internal global i32 0
define internal void @say(i32 %x) noinline {
  store volatile i32 %x, ptr @said
  ret void
}
define i64 @has_weak() {
  %is = icmp ne ptr @perhaps, null
  %r = zext i1 %is to i64
  ret i64 %r
}
"""


@pytest.fixture(scope="module")
def data() -> bytes:
    return jit.compile_text(TEXT)


times_ten = INT(lambda x: x * 10)
NUMBER = ctypes.c_int64(1000)
SYMBOLS = {"outside": ctypes.cast(times_ten, ctypes.c_void_p).value or 0, "outside_number": ctypes.addressof(NUMBER)}


def test_data_is_initialised_writable_and_each_load_s_own(data: bytes) -> None:
    first, second = elf.Code(data, SYMBOLS), elf.Code(data, SYMBOLS)
    assert [INT(first.address("count"))(x) for x in (1, 10)] == [6, 22]
    assert INT(second.address("count"))(1) == 6


def test_addresses_in_constants_and_calls_to_the_c_library(data: bytes) -> None:
    code = elf.Code(data, SYMBOLS)
    through = ctypes.CFUNCTYPE(ctypes.c_int64, ctypes.c_int64, ctypes.c_int64)(code.address("through_table"))
    assert (through(0, 4), through(1, -9), through(2, 1)) == (5, 9, 6)
    root = ctypes.CFUNCTYPE(ctypes.c_double, ctypes.c_double)(code.address("root"))
    assert root(27.0) == math.cbrt(27.0) + 0.1


def test_jump_tables(data: bytes) -> None:
    code = elf.Code(data, SYMBOLS)  # a name of its own: the memory goes when the last reference does
    choose = ctypes.CFUNCTYPE(ctypes.c_int32, ctypes.c_int32)(code.address("choose"))
    assert [choose(i) for i in range(-1, 6)] == [0, 11, -7, 3, 123, 9, 0]


def test_symbols_given_are_called_and_read(data: bytes) -> None:
    code = elf.Code(data, SYMBOLS)
    assert INT(code.address("call_outside"))(4) == 1040


def test_a_weak_symbol_may_be_absent(data: bytes) -> None:
    code = elf.Code(data, SYMBOLS)
    assert ctypes.CFUNCTYPE(ctypes.c_int64)(code.address("has_weak"))() == 0
    given = elf.Code(data, {**SYMBOLS, "perhaps": SYMBOLS["outside"]})
    assert ctypes.CFUNCTYPE(ctypes.c_int64)(given.address("has_weak"))() == 1


def test_a_missing_symbol_is_named(data: bytes) -> None:
    with pytest.raises(CompileError, match="'outside'"):
        elf.Code(data, {"outside_number": 8})
    with pytest.raises(CompileError, match="no function 'nothing'"):
        elf.Code(data, SYMBOLS).address("nothing")


def mapped(start: int, size: int) -> list[str]:
    """The protections of the pages from `start` on, by the kernel's own words."""
    found = []
    for line in Path("/proc/self/maps").read_text().splitlines():
        low, high = (int(x, 16) for x in line.split()[0].split("-"))
        if low < start + size and high > start:
            found.append(line.split()[1])
    return found


def test_no_page_is_writable_and_executable(data: bytes) -> None:
    code = elf.Code(data, SYMBOLS)
    protections = mapped(code.address("count") & -4096, code.size)
    assert "r-xp" in protections
    assert "rw-p" in protections
    assert not any("w" in p and "x" in p for p in protections)


def test_closing_gives_the_memory_back(data: bytes) -> None:
    code = elf.Code(data, SYMBOLS)
    at = code.address("count") & -4096
    assert "r-xp" in mapped(at, 1)
    code.close()
    assert "r-xp" not in mapped(at, 1)
    code.close()  # once more does nothing

    other = elf.Code(data, SYMBOLS)
    at = other.address("count") & -4096
    del other
    assert "r-xp" not in mapped(at, 1)


def test_both_loaders_agree(data: bytes) -> None:
    own, llvm = elf.Code(data, SYMBOLS), jit.LinkedCode(data, {**SYMBOLS, "perhaps": 0})
    assert own.loader == "elf"
    for x in (0, 5, -3):
        assert INT(own.address("call_outside"))(x) == INT(llvm.address("call_outside"))(x)
        assert INT(own.address("count"))(x) == INT(llvm.address("count"))(x)


def test_objects_of_other_kinds_are_refused(data: bytes) -> None:
    with pytest.raises(CompileError, match="x86-64"):
        elf.Code(jit.compile_text("define i64 @f() {\n  ret i64 1\n}", by_name("aarch64")), {})
    with pytest.raises(CompileError, match="not a relocatable"):
        elf.Code(Path("/proc/self/exe").read_bytes(), {})
    thread_local = "@x = thread_local global i64 1\ndefine ptr @f() {\n  ret ptr @x\n}"
    with pytest.raises(CompileError, match="thread-local"):
        elf.Code(jit.compile_text(thread_local), {})
    for garbage in (b"", b"\x7fELF", bytes(64), b"MZ" * 100):
        with pytest.raises(CompileError):
            elf.Code(garbage, {})


def test_truncated_objects_are_refused(data: bytes) -> None:
    (table,) = struct.unpack_from("<Q", data, 40)
    for length in range(0, len(data), 97):
        if length < table:
            with pytest.raises(CompileError):
                elf.Code(data[:length], SYMBOLS)


@settings(max_examples=200, deadline=None)
@given(choices=st.data())
def test_damage_never_breaks_the_process(data: bytes, choices: st.DataObject) -> None:
    """Nothing damaged is ever run (the cache checks sums); but placing it must stay inside of its own memory."""
    damaged = bytearray(data)
    for _ in range(choices.draw(st.integers(1, 4))):
        damaged[choices.draw(st.integers(0, len(data) - 1))] = choices.draw(st.integers(0, 255))
    try:
        code = elf.Code(bytes(damaged), SYMBOLS)
    except CompileError:
        return
    assert code.size >= elf.PAGE
