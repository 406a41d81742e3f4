"""LLVM IR text to objects, for this machine and for others."""

from __future__ import annotations

import ctypes
import struct
import subprocess
import sys

import llvmlite
import numpy as np
import pytest

from graphc.errors import CompileError
from graphc.runtime.cpu import jit
from graphc.runtime.cpu.library import load
from graphc.runtime.cpu.target import TARGETS, by_name

EM_X86_64, EM_AARCH64 = 62, 183


def scale_text(lanes: int) -> str:
    """y[i] = x[i] * x[i] + 1 for i < 16, in vectors of `lanes`."""
    vector = f"<{lanes} x float>"
    body = []
    for start in range(0, 16, lanes):
        body += [
            f"  %p{start} = getelementptr float, ptr %x, i64 {start}",
            f"  %q{start} = getelementptr float, ptr %y, i64 {start}",
            f"  %v{start} = load {vector}, ptr %p{start}, align 4",
            f"  %m{start} = fmul {vector} %v{start}, %v{start}",
            f"  %s{start} = fadd {vector} %m{start}, splat (float 1.0)",
            f"  store {vector} %s{start}, ptr %q{start}, align 4",
        ]
    lines = "\n".join(body)
    width = f'"prefer-vector-width"="{32 * lanes}"'
    return f"define void @scale(ptr noalias %x, ptr noalias %y) nounwind {width} {{\n{lines}\n  ret void\n}}\n"


@pytest.mark.parametrize("name", ["host", "x86-64", "x86-64-v3", "x86-64-v4"])
def test_code_for_each_level_runs_where_the_cpu_has_it(name: str) -> None:
    target = by_name(name)
    if not target.runs_here():
        pytest.skip(f"this CPU isn't {name}")
    code = load(jit.compile_text(scale_text(target.vector_bits // 32), target), {})
    x = np.linspace(-3, 3, 16, dtype=np.float32)
    y = np.full(18, 7, np.float32)
    ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_void_p)(code.address("scale"))(x.ctypes.data, y.ctypes.data)
    np.testing.assert_array_equal(y[:16], x * x + np.float32(1))
    assert (y[16:] == 7).all()


@pytest.mark.parametrize(
    ("name", "register"), [("x86-64", "%xmm"), ("x86-64-v3", "%ymm"), ("x86-64-v4", "%zmm"), ("aarch64", ".4s")]
)
def test_code_uses_the_registers_of_its_target(name: str, register: str) -> None:
    target = by_name(name)
    listing = jit.assembly(scale_text(target.vector_bits // 32), target)
    assert register in listing
    wider = {"x86-64": "%ymm", "x86-64-v3": "%zmm"}.get(name)
    assert wider is None or wider not in listing


@pytest.mark.parametrize("name", TARGETS)
def test_an_object_is_relocatable_elf_of_its_machine(name: str) -> None:
    target = by_name(name)
    data = jit.compile_text(scale_text(4), target)
    assert data[:4] == b"\x7fELF"
    assert struct.unpack_from("<HH", data, 16) == (1, EM_X86_64 if target.x86 else EM_AARCH64)


def test_the_same_text_gives_the_same_bytes() -> None:
    assert jit.compile_text(scale_text(4)) == jit.compile_text(scale_text(4))


def test_repeated_loads_become_one_if_asked_for() -> None:
    text = (
        "define i64 @f(ptr %p) nounwind {\n  %a = load i64, ptr %p\n  %b = load i64, ptr %p\n"
        "  %c = mul i64 %a, %b\n  ret i64 %c\n}\n"
    )
    assert jit.assembly(text, options=jit.Options(reloads=True)).count("(%rdi)") <= jit.assembly(text).count("(%rdi)")
    assert jit.Options().key != jit.Options(codegen=2).key != jit.Options(codegen=2, reloads=True).key


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("define i64 @f() {\n  %x = add i64 1, 2.0\n  ret i64 %x\n}", r">\s+2 \|   %x = add i64 1, 2.0"),
        ("define i64 @f() {\n  ret i64 %missing\n}", r">\s+2 \|   ret i64 %missing"),
        ("define i64 @f() {\na:\n  br label %b\nb:\n  %x = phi i64 [ 0, %b ]\n  ret i64 %x\n}", "PHI node entries"),
        ("what is this", r">\s+1 \| what is this"),
    ],
)
def test_a_module_that_llvm_refuses_is_shown(text: str, message: str) -> None:
    with pytest.raises(CompileError, match=message):
        jit.compile_text(text)


def test_the_version_is_known_without_loading_llvm() -> None:
    assert jit.version() == llvmlite.__version__
    told = "import sys; from graphc.runtime.cpu import jit; jit.version(); sys.exit('llvmlite' in sys.modules)"
    assert subprocess.run([sys.executable, "-W", "error", "-c", told], cwd=".").returncode == 0


def test_llvm_s_own_loader_finds_functions_and_symbols() -> None:
    text = (
        "declare i64 @test_jit_outside(i64)\ndefine i64 @twice(i64 %x) {\n"
        "  %y = call i64 @test_jit_outside(i64 %x)\n  %z = call i64 @test_jit_outside(i64 %y)\n  ret i64 %z\n}\n"
    )
    function = ctypes.CFUNCTYPE(ctypes.c_int64, ctypes.c_int64)
    outside = function(lambda x: x * 10 + 1)
    address = ctypes.cast(outside, ctypes.c_void_p).value
    assert address
    code = jit.LinkedCode(jit.compile_text(text), {"test_jit_outside": address})
    assert code.loader == "llvmlite"
    assert function(code.address("twice"))(4) == 411
    with pytest.raises(CompileError, match="'thrice'"):
        code.address("thrice")
    code.close()
    again = jit.LinkedCode(jit.compile_text(text), {"test_jit_outside": address})  # closing took nothing shared along
    assert function(again.address("twice"))(1) == 111
