"""What the schedule, the printer, the code generator and the cache must know about a processor.

A Target is plain data: it names no object of LLVM, so machine code can be keyed by it and printed for
processors that aren't at hand, and `host()` is known without loading LLVM: it reads the kernel's own description
of the CPU (Linux: /proc/cpuinfo, which lists what the operating system enabled, not only what the chip has).
"""

from __future__ import annotations

import hashlib
import platform
import sys
from collections.abc import Mapping
from functools import cache
from pathlib import Path

from graphc.errors import CompileError
from graphc.frozen import dataclass
from graphc.types import DType

CPUINFO = Path("/proc/cpuinfo")
APART = 4  # elements from lane to lane up to which whole rows are read or written, and lanes shuffled, one for all
MACHINES = {"x86_64": "x86_64", "amd64": "x86_64", "aarch64": "aarch64", "arm64": "aarch64"}
NATIVE = "native"  # a cpu whose name and features jit.py asks of LLVM

# LLVM's names of the features that decisions rest on, and the kernel's where they differ.
_KERNEL_NAMES = {"sse3": "pni", "sse4.1": "sse4_1", "sse4.2": "sse4_2", "lzcnt": "abm", "bmi": "bmi1"}
_V2 = ("cx16", "popcnt", "sse3", "ssse3", "sse4.1", "sse4.2")
_V3 = (*_V2, "avx", "avx2", "bmi", "bmi2", "f16c", "fma", "lzcnt", "movbe", "xsave")
_V4 = (*_V3, "avx512f", "avx512bw", "avx512cd", "avx512dq", "avx512vl")  # the levels of the x86-64 psABI


@dataclass(frozen=True, slots=True)
class Target:
    """triple, cpu, features: as LLVM names them; cpu NATIVE leaves cpu and features to LLVM's own detection, and
    `features` then lists those that decisions rest on. vector_bits: width of the vector registers to use.
    key: differs wherever the machine code made for two targets could."""

    triple: str
    cpu: str
    features: str
    vector_bits: int
    key: str = ""

    def has(self, feature: str) -> bool:
        return feature in _enabled(self.features)

    @property
    def x86(self) -> bool:
        return self.triple.startswith(("x86_64", "i686"))

    @property
    def linux(self) -> bool:
        return "-linux-" in self.triple

    @property
    def fma(self) -> bool:
        """Fused multiply-add in hardware. Without it `llvm.fma` would call libm once for each lane."""
        return self.has("fma") or not self.x86

    @property
    def rounding(self) -> bool:
        """Floor and round in hardware; baseline x86-64 (SSE2) has neither."""
        return self.has("sse4.1") or not self.x86

    @property
    def vector_registers(self) -> int:
        return 32 if self.vector_bits == 512 or not self.x86 else 16

    def lanes(self, dtype: DType) -> int:
        """How many elements of `dtype` one vector register holds."""
        return self.vector_bits // (8 * dtype.itemsize)

    def runs_here(self) -> bool:
        """Whether this machine can execute the code."""
        here = host()
        return self.triple == here.triple and _enabled(self.features) <= _enabled(here.features)


@cache
def _enabled(features: str) -> frozenset[str]:
    return frozenset(f[1:] for f in features.split(",") if f.startswith("+"))


def target_for(triple: str, cpu: str, features: str) -> Target:
    """A Target with the widest vectors that its features allow."""
    enabled = _enabled(features)
    wide = {"avx512f", "avx512vl", "avx512dq", "avx512bw"} <= enabled
    bits = 512 if wide else 256 if {"avx2", "fma"} <= enabled else 128
    return Target(triple, cpu, features, bits, key=f"{triple} {cpu} {features}")


def _listed(features: tuple[str, ...]) -> str:
    return ",".join(f"+{feature}" for feature in features)


_LINUX_X86 = "x86_64-unknown-linux-gnu"
TARGETS: dict[str, Target] = {
    "x86-64": target_for(_LINUX_X86, "x86-64", ""),
    "x86-64-v3": target_for(_LINUX_X86, "x86-64-v3", _listed(_V3)),
    "x86-64-v4": target_for(_LINUX_X86, "x86-64-v4", _listed(_V4)),
    "aarch64": target_for("aarch64-unknown-linux-gnu", "generic", "+neon"),
}


def by_name(name: str) -> Target:
    """The target of that name; "host" is this machine. Raises CompileError for an unknown name."""
    if name == "host":
        return host()
    if name not in TARGETS:
        raise CompileError(f"no target named {name!r}; there are: host, {', '.join(TARGETS)}.")
    return TARGETS[name]


@cache
def host() -> Target:
    """This machine. Raises CompileError on a processor that graphc makes no code for."""
    machine = MACHINES.get(platform.machine().lower())
    if machine is None:
        raise CompileError(f"graphc makes machine code for x86-64 and aarch64, not for {platform.machine()!r}.")
    return describe(host_triple(machine, sys.platform), cpu_facts())


def host_triple(machine: str, system: str) -> str:
    """LLVM's triple of an operating system, given as sys.platform."""
    if system == "darwin":
        return f"{'arm64' if machine == 'aarch64' else machine}-apple-darwin"
    if system == "win32":
        return f"{machine}-pc-windows-msvc"
    return f"{machine}-unknown-linux-gnu"


def cpu_facts() -> dict[str, str]:
    """What tells this CPU from another: the kernel's words on the first processor, or what Python knows."""
    try:
        with CPUINFO.open(encoding="utf-8", errors="replace") as file:
            text = file.read(16384)  # one processor is some 2 kB; the kernel computes each page as it is read
    except OSError:
        return {"processor": platform.processor(), "version": platform.version()}
    return parse_cpuinfo(text)


def parse_cpuinfo(text: str) -> dict[str, str]:
    """The lasting facts of the first processor of a /proc/cpuinfo (frequencies and numbers of cores left out)."""
    lasting = (
        *("vendor_id", "cpu family", "model", "model name", "stepping", "flags"),  # x86
        *("CPU implementer", "CPU architecture", "CPU variant", "CPU part", "CPU revision", "Features"),  # Arm
    )
    facts: dict[str, str] = {}
    for line in text.splitlines():
        name, _, value = line.partition(":")
        if name.strip() == "processor" and facts:
            break
        if name.strip() in lasting:
            facts.setdefault(name.strip(), value.strip())
    return facts


def describe(triple: str, facts: Mapping[str, str]) -> Target:
    """The host target of a CPU with these facts. Where they list no flags, the baseline's vectors are assumed."""
    flags = frozenset(facts.get("flags", facts.get("Features", "")).split())
    features = tuple(f for f in _V4 if _KERNEL_NAMES.get(f, f) in flags)
    found = target_for(triple, NATIVE, _listed(features) if triple.startswith("x86_64") else "+neon")
    told = "\n".join(f"{name}: {facts[name]}" for name in sorted(facts))
    digest = hashlib.sha256(told.encode()).hexdigest()
    return Target(triple, NATIVE, found.features, found.vector_bits, key=f"{triple} {NATIVE} {digest}")
