"""NVRTC through ctypes: CUDA C++ to a cubin for one architecture. Needs no driver and no GPU.

Cubins and not PTX: PTX of a newer compiler isn't accepted by an older driver, a cubin of the same major version is.
"""

from __future__ import annotations

import ctypes
import re
from collections.abc import Sequence
from functools import cache
from typing import Any

from graphc.errors import CompileError
from graphc.frozen import dataclass
from graphc.runtime.cache import content_key, disk_cache

INSTALL = "pip install 'graphc[cuda]' (or: pip install nvidia-cuda-nvrtc==13.0.88 cuda-pathfinder)"
ARCHITECTURE = "90"  # H100, H200
# No contraction of a * b + c but where the loop IR asks for it by an accumulation: the same numbers as eager mode.
OPTIONS = ("--std=c++17", "--fmad=false", "--ptxas-options=-v")


@dataclass(frozen=True, slots=True)
class Resources:
    """What ptxas gave one function, in registers and bytes. stack: local memory, which is slow; it holds the spills."""

    registers: int
    stack: int
    spill_stores: int
    spill_loads: int
    shared: int


@dataclass(frozen=True, slots=True)
class Compiled:
    """cubin: the image to load. resources: of each function. log: what the compiler said."""

    cubin: bytes
    resources: dict[str, Resources]
    log: str


@cache
def nvidia_library(name: str) -> Any:
    """One of NVIDIA's libraries ("nvrtc", "cublas"), from its wheel or the system. Raises OSError where it isn't."""
    try:
        from cuda.pathfinder import load_nvidia_dynamic_lib  # an extra, and only this function's
    except ImportError as error:
        raise OSError(str(error)) from error
    try:
        return ctypes.CDLL(load_nvidia_dynamic_lib(name).abs_path)
    except RuntimeError as error:  # DynamicLibNotFoundError
        raise OSError(str(error)) from error


@cache
def nvrtc() -> Any:
    """The NVRTC library. Raises CompileError, saying what to install, where there is none."""
    try:
        library = nvidia_library("nvrtc")
    except OSError as error:
        raise CompileError(
            f"CUDA code can't be compiled: NVRTC isn't there ({error}). Install it: {INSTALL}"
        ) from error
    library.nvrtcGetErrorString.restype = ctypes.c_char_p
    return library


def version() -> tuple[int, int]:
    """NVRTC's version: part of the key under which machine code is kept."""
    major, minor = ctypes.c_int(), ctypes.c_int()
    _check(nvrtc().nvrtcVersion(ctypes.byref(major), ctypes.byref(minor)))
    return major.value, minor.value


def compile_cuda(source: str, architecture: str = ARCHITECTURE, options: Sequence[str] = OPTIONS) -> Compiled:
    """`source` as a cubin. architecture: compute capability without the point. Raises CompileError with the log."""
    library = nvrtc()
    program = ctypes.c_void_p()
    _check(library.nvrtcCreateProgram(ctypes.byref(program), source.encode(), b"graphc.cu", 0, None, None))
    try:
        flags = [f"--gpu-architecture=sm_{architecture}".encode(), *(option.encode() for option in options)]
        status = library.nvrtcCompileProgram(program, len(flags), (ctypes.c_char_p * len(flags))(*flags))
        log = _bytes(library.nvrtcGetProgramLogSize, library.nvrtcGetProgramLog, program)
        text = log.rstrip(b"\0").decode(errors="replace")
        _check(status, text)
        image = _bytes(library.nvrtcGetCUBINSize, library.nvrtcGetCUBIN, program)
    finally:
        library.nvrtcDestroyProgram(ctypes.byref(program))
    return Compiled(image, resources(text), text)


def cubin(source: str, architecture: str = ARCHITECTURE) -> bytes:
    """The machine code of `source`, from the cache on disk or from NVRTC, which then isn't asked again."""
    release = ".".join(map(str, version()))
    key = content_key("cubin", source, release, architecture, *OPTIONS)
    made = disk_cache().get_or_make(key, lambda: ({}, compile_cuda(source, architecture).cubin))
    return made.payload


def _bytes(size_of: Any, fetch: Any, program: ctypes.c_void_p) -> bytes:
    size = ctypes.c_size_t()
    _check(size_of(program, ctypes.byref(size)))
    buffer = ctypes.create_string_buffer(size.value)
    _check(fetch(program, buffer))
    return buffer.raw


def _check(status: int, log: str = "") -> None:
    if status:
        reason = nvrtc().nvrtcGetErrorString(status).decode()
        raise CompileError(f"NVRTC: {reason}\n{log}".rstrip())


_FUNCTION = re.compile(
    r"Compiling entry function '(?P<name>\w+)'.*?(?P<stack>\d+) bytes stack frame, (?P<stores>\d+) bytes spill stores, "
    r"(?P<loads>\d+) bytes spill loads.*?Used (?P<registers>\d+) registers(?P<rest>[^\n]*)",
    re.DOTALL,
)


def resources(log: str) -> dict[str, Resources]:
    """What `--ptxas-options=-v` printed, by name of the function."""
    found = {}
    for match in _FUNCTION.finditer(log):
        shared = re.search(r"(\d+) bytes smem", match["rest"])
        found[match["name"]] = Resources(
            int(match["registers"]),
            int(match["stack"]),
            int(match["stores"]),
            int(match["loads"]),
            int(shared[1]) if shared else 0,
        )
    return found
