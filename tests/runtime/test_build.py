"""What becomes of a program before it can be called: its interface and machine code, and the cache behind both."""

from __future__ import annotations

import ctypes
import json
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from graphc.errors import CompileError
from graphc.runtime import executable
from graphc.runtime.cache import DiskCache
from graphc.runtime.cpu import jit
from graphc.runtime.cpu.arguments import INPUT, OUTPUT, STATE
from graphc.runtime.cpu.library import library
from graphc.runtime.cpu.target import by_name
from graphc.runtime.executable import Argument, Interface, build
from graphc.runtime.memory import ALIGNMENT
from graphc.runtime.program import Program
from graphc.types import DTYPES, bool_, float32, float64
from tests.runtime.executables import SHAPE, F, adding, built, expect, make, operands, program


def test_the_second_build_comes_from_the_cache(tmp_path: Path) -> None:
    kept = DiskCache(tmp_path / "cache")
    first = built(kept)
    assert not first.from_cache

    def unneeded(compilation: jit.Compilation) -> Program:
        raise AssertionError("the cache has it")

    t = [F] * 3
    second = build(f"test {SHAPE} 10", t, t[:2], {0: 2}, unneeded, cache=kept)
    assert second.from_cache
    assert second.interface == first.interface
    expect(second, *operands())
    assert not built(kept, factor=11).from_cache  # other content
    other = build(f"test {SHAPE} 10", t, t[:2], {0: 2}, make, cache=kept, options=jit.Options(codegen=2))
    assert not other.from_cache


def test_a_damaged_entry_is_built_anew(tmp_path: Path) -> None:
    kept = DiskCache(tmp_path / "cache")
    built(kept)
    assert kept.folder is not None
    (path,) = kept.folder.glob("*.entry")
    data = bytearray(path.read_bytes())
    data[-100] ^= 1
    path.write_bytes(data)
    again = built(kept)
    assert not again.from_cache
    expect(again, *operands())
    assert built(kept).from_cache


@pytest.mark.parametrize("name", ["x86-64", "x86-64-v3"])
def test_code_for_lesser_cpus_runs_too(name: str) -> None:
    target = by_name(name)
    if not target.runs_here():
        pytest.skip(f"this CPU isn't {name}")
    expect(build("lesser", [F] * 3, [F] * 2, {0: 2}, make, target=target), *operands())


def test_code_for_another_machine_isn_t_built_to_run() -> None:
    other = "aarch64" if by_name("host").x86 else "x86-64"
    with pytest.raises(CompileError, match="can't run on this machine"):
        build("foreign", [F] * 3, [F] * 2, {0: 2}, make, target=by_name(other))


def test_text_without_an_entry_is_refused() -> None:
    text = "define i64 @other(ptr %t, ptr %a, ptr %c) {\n  ret i64 0\n}\n"
    with pytest.raises(CompileError, match="graphc_entry"):
        build("no entry", [F] * 3, [F] * 2, {0: 2}, adding(program(SHAPE, 1), text))


def test_a_program_that_doesn_t_fit_its_types_is_refused() -> None:
    with pytest.raises(CompileError, match="don't fit"):
        Interface.of(program(SHAPE, 1), [F, F], [F, F], {0: 1})
    with pytest.raises(CompileError, match="don't fit"):
        Interface.of(program((7,), 1), [F] * 3, [F] * 2, {0: 2})


def test_roles_follow_from_the_state() -> None:
    interface = Interface.of(program(SHAPE, 1), [F] * 3, [F, F], {1: 0})
    assert [a.role for a in interface.arguments] == [STATE, INPUT, INPUT, OUTPUT]
    assert interface.results == (3, 0)
    assert interface.takes == 3


arguments = st.builds(
    Argument,
    dtype=st.sampled_from(DTYPES),
    shape=st.lists(st.integers(0, 2**40), max_size=5).map(tuple),
    role=st.sampled_from([INPUT, STATE, OUTPUT]),
)
interfaces = st.builds(
    Interface,
    arguments=st.lists(arguments, max_size=6).map(tuple),
    results=st.lists(st.integers(0, 9), max_size=4).map(tuple),
    constants=st.lists(st.tuples(st.sampled_from(DTYPES), st.binary(max_size=40)), max_size=4).map(tuple),
    arena_size=st.integers(0, 2**50),
    messages=st.lists(st.text(max_size=20), max_size=3).map(tuple),
)


@settings(deadline=None)
@given(interfaces, st.binary(max_size=100))
def test_an_interface_survives_json(interface: Interface, code: bytes) -> None:
    told, payload = interface.pack(code)
    assert Interface.unpack(json.loads(json.dumps(told)), payload) == (interface, code)
    with pytest.raises(ValueError, match="bytes instead of"):
        Interface.unpack(told, payload + b"x")


def test_constants_are_aligned() -> None:
    held = executable._Constants([(bool_, b"\1"), (float64, bytes(72)), (float32, b"abcd")])
    table = (ctypes.c_uint64 * 3).from_address(held.address)
    assert all(address % ALIGNMENT == 0 for address in table)
    assert [ctypes.string_at(a, 1) for a in table] == [b"\1", b"\0", b"a"]


IN_A_FRESH_PROCESS = """
import sys, time
sys.path[:0] = {path!r}
import numpy as np
from graphc.runtime.executable import build
from graphc.types import TensorType, float32
from graphc.runtime.cpu.library import library
library()
t = TensorType((2, 3), float32)
start = time.perf_counter()
run = build("test (2, 3) 10", [t] * 3, [t] * 2, {{0: 2}}, lambda compilation: 1 / 0)
ms = (time.perf_counter() - start) * 1e3
state = np.zeros((2, 3), np.float32)
run(np.ones((2, 3), np.float32), state + 1, state)
assert (state == 1).all()
loaded = [name for name in ("llvmlite", "networkx") if name in sys.modules]
print(run.from_cache, run.loader, loaded, ms)
"""


def test_a_cached_program_needs_neither_llvm_nor_networkx(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GRAPHC_CACHE_DIR", str(tmp_path / "cache"))
    built()
    assert library().code.loader  # loaded here before, so its entry isn't in this folder yet
    warm = "import sys; sys.path[:0] = {path!r}; from graphc.runtime.cpu.library import library; library()"
    path = [str(Path.cwd()), *sys.path]
    subprocess.run([sys.executable, "-W", "error", "-c", warm.format(path=path)], check=True)
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", IN_A_FRESH_PROCESS.format(path=path)], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    from_cache, loader, loaded, ms = done.stdout.split()
    assert (from_cache, loaded) == ("True", "[]")
    if by_name("host").x86 and by_name("host").linux:
        assert loader == "elf"
    assert float(ms) < 100  # some 10 ms, most of it the digest of the sources
