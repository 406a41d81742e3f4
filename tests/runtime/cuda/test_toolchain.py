"""NVRTC and cupy: what comes back, and what is said when they aren't there or refuse."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from graphc.errors import CompileError, DeviceError
from graphc.runtime.cuda import device, toolchain
from graphc.runtime.cuda.toolchain import Resources, compile_cuda, resources, version
from tests.cuda.devices import needs_nvrtc


@pytest.fixture
def forgetful() -> Iterator[None]:
    """Libraries are looked for anew, before and after."""
    cached = (toolchain.nvrtc, toolchain.nvidia_library, device.load_cupy)
    for function in cached:
        function.cache_clear()
    yield
    for function in cached:
        function.cache_clear()


@needs_nvrtc
def test_cubin_and_resources() -> None:
    source = 'extern "C" __global__ void f(float* x) { __shared__ float s[64]; s[threadIdx.x] = x[0]; x[1] = s[3]; }'
    compiled = compile_cuda(source)
    assert compiled.cubin[:4] == b"\x7fELF"
    used = compiled.resources["f"]
    assert used.shared == 256
    assert used.stack == used.spill_stores == used.spill_loads == 0
    assert 0 < used.registers < 32
    assert version() >= (12, 0)


@needs_nvrtc
def test_spills_and_stack_are_seen() -> None:
    body = "float r[64]; for (int i = 0; i < 64; i++) r[(i * k) % 64] = x[i]; x[0] = r[k];"
    source = f'extern "C" __global__ void f(float* x, int k) {{ {body} }}'
    assert compile_cuda(source).resources["f"].stack >= 256


@needs_nvrtc
def test_the_compilers_words_are_passed_on() -> None:
    with pytest.raises(CompileError, match=r"graphc.cu\(1\): error: .*undeclared_name"):
        compile_cuda('extern "C" __global__ void f(float* x) { x[0] = undeclared_name; }')


@needs_nvrtc
def test_machine_code_is_kept_on_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GRAPHC_CACHE_DIR", str(tmp_path / "cache"))
    source = 'extern "C" __global__ void f(float* x) { x[0] = 1.0f; }'
    made = toolchain.cubin(source)
    other = toolchain.cubin(source, "80")
    assert made[:4] == other[:4] == b"\x7fELF"
    assert made != other

    def refuse(*_: object) -> None:
        raise AssertionError("compiled again")

    monkeypatch.setattr(toolchain, "compile_cuda", refuse)
    assert toolchain.cubin(source) == made
    assert toolchain.cubin(source, "80") == other
    with pytest.raises(AssertionError, match="compiled again"):
        toolchain.cubin(source + "\n")


def test_log_is_read() -> None:
    log = (
        "ptxas info    : Compiling entry function 'a' for 'sm_90'\nptxas info    : Function properties for a\n"
        "ptxas         .     8 bytes stack frame, 4 bytes spill stores, 12 bytes spill loads\n"
        "ptxas info    : Used 40 registers, used 1 barriers, 8 bytes cumulative stack size, 432 bytes smem\n"
        "ptxas info    : Compiling entry function 'b' for 'sm_90'\nptxas info    : Function properties for b\n"
        "ptxas         .     0 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads\n"
        "ptxas info    : Used 8 registers, used 0 barriers\n"
    )
    assert resources(log) == {"a": Resources(40, 8, 4, 12, 432), "b": Resources(8, 0, 0, 0, 0)}


def test_missing_nvrtc_says_what_to_install(monkeypatch: pytest.MonkeyPatch, forgetful: None) -> None:
    monkeypatch.setitem(sys.modules, "cuda.pathfinder", None)
    with pytest.raises(CompileError, match=r"NVRTC isn't there .*pip install 'graphc\[cuda\]'"):
        compile_cuda("")


def test_missing_cupy_says_what_to_install(monkeypatch: pytest.MonkeyPatch, forgetful: None) -> None:
    monkeypatch.setitem(sys.modules, "cupy", None)
    with pytest.raises(DeviceError, match=r"device='cuda' needs cupy .*pip install 'graphc\[cuda\]'.*cupy-cuda13x"):
        device.CupyDevice()
