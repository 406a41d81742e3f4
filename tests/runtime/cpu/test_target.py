"""Targets: what is read from a CPU's description, and what decisions follow from it."""

from __future__ import annotations

import platform

import pytest

from graphc.errors import CompileError
from graphc.runtime.cpu import target
from graphc.types import float32, float64

CPUINFO = """processor\t: 0
vendor_id\t: GenuineIntel
cpu family\t: 6
model\t\t: 85
model name\t: Some Xeon
stepping\t: 7
cpu MHz\t\t: {mhz}
flags\t\t: fpu sse2 cx16 lahf_lm popcnt pni ssse3 sse4_1 sse4_2 {more}

processor\t: 1
vendor_id\t: Other
flags\t\t: none
"""
AVX2 = "abm avx avx2 bmi1 bmi2 f16c fma movbe xsave"
AVX512 = f"{AVX2} avx512f avx512bw avx512cd avx512dq avx512vl"
LINUX = "x86_64-unknown-linux-gnu"


def described(more: str, mhz: str = "2000") -> target.Target:
    return target.describe(LINUX, target.parse_cpuinfo(CPUINFO.format(more=more, mhz=mhz)))


def test_only_the_first_processor_and_what_lasts_is_read() -> None:
    facts = target.parse_cpuinfo(CPUINFO.format(more="avx", mhz="2000"))
    assert facts["vendor_id"] == "GenuineIntel"
    assert facts["flags"].endswith("avx")
    assert "cpu MHz" not in facts


@pytest.mark.parametrize(
    ("more", "bits", "fma", "registers"),
    [("", 128, False, 16), ("avx", 128, False, 16), (AVX2, 256, True, 16), (AVX512, 512, True, 32)],
)
def test_the_widest_vectors_that_the_flags_allow(more: str, bits: int, fma: bool, registers: int) -> None:
    found = described(more)
    assert (found.vector_bits, found.fma, found.vector_registers) == (bits, fma, registers)
    assert (found.lanes(float32), found.lanes(float64)) == (bits // 32, bits // 64)
    assert found.rounding


def test_a_key_follows_the_cpu_and_not_its_frequency() -> None:
    assert described(AVX2).key == described(AVX2, mhz="3999").key
    assert described(AVX2).key != described(AVX512).key
    assert len({found.key for found in target.TARGETS.values()} | {target.host().key}) == len(target.TARGETS) + 1


def test_levels_of_x86_64() -> None:
    baseline, v3 = target.by_name("x86-64"), target.by_name("x86-64-v3")
    assert (baseline.vector_bits, baseline.fma, baseline.rounding) == (128, False, False)
    assert (v3.vector_bits, v3.fma, v3.rounding) == (256, True, True)
    arm = target.by_name("aarch64")
    assert (arm.vector_bits, arm.fma, arm.x86, arm.linux) == (128, True, False, True)


def test_this_machine() -> None:
    here = target.by_name("host")
    assert here.runs_here()
    assert here.triple.split("-")[0] in ("x86_64", "aarch64", "arm64")
    other = "aarch64" if here.x86 else "x86-64"
    assert not target.by_name(other).runs_here()


def test_triples() -> None:
    assert target.host_triple("x86_64", "linux") == LINUX
    assert target.host_triple("aarch64", "darwin") == "arm64-apple-darwin"
    assert target.host_triple("x86_64", "win32") == "x86_64-pc-windows-msvc"


def test_unknown_names_and_processors_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(CompileError, match="no target named 'z80'.*x86-64-v3"):
        target.by_name("z80")
    monkeypatch.setattr(platform, "machine", lambda: "riscv64")
    with pytest.raises(CompileError, match="riscv64"):
        target.host.__wrapped__()
