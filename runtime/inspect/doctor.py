"""What this installation has, what it lacks, and how to get it."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import platform
import shutil
from collections.abc import Iterator

from graphc.errors import GraphcError
from graphc.runtime.cache import disk_cache
from graphc.runtime.cpu.blas import find_blas
from graphc.runtime.cpu.target import host
from graphc.runtime.cpu.threads import available_cores, get_num_threads
from graphc.types import float32, float64
from graphc.version import __version__

# package -> (what it is for, how to get it)
_OPTIONAL = {
    "cupy": ("running on an NVIDIA GPU", "pip install 'graphc[cuda]'"),
    "matplotlib": ("pictures", "pip install 'graphc[viz]'"),
    "rich": ("tables and progress bars of the examples", "pip install 'graphc[viz]'"),
    "pooch": ("downloading full data sets", "pip install 'graphc[data]'"),
    "safetensors": ("saving models as .safetensors", "pip install 'graphc[safetensors]'"),
    "torch": ("a peer for tests and benchmarks", "pip install torch"),
    "jax": ("a peer for benchmarks", "pip install jax"),
}
_REQUIRED = ("numpy", "llvmlite", "networkx", "platformdirs")


def report() -> str:
    """The report of `python -m graphc doctor`."""
    sections = [
        ("graphc", _versions()),
        ("processor", _processor()),
        ("cache", _cache()),
        ("GPU", _gpu()),
        ("extras", _extras()),
    ]
    lines: list[str] = []
    for title, entries in sections:
        lines.append(title)
        lines += [f"  {name:14} {value}" for name, value in entries]
    return "\n".join(lines)


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _versions() -> Iterator[tuple[str, str]]:
    yield "graphc", __version__
    yield "python", f"{platform.python_version()} on {platform.platform()}"
    for package in _REQUIRED:
        yield package, _version(package) or f"MISSING: pip install {package}"


def _processor() -> Iterator[tuple[str, str]]:
    try:
        target = host()
    except GraphcError as error:
        yield "unsupported", str(error)
        return
    yield "cpu", target.cpu
    used = [f for f in ("avx512f", "avx512bw", "avx2", "fma", "sse4.1", "neon") if target.has(f)]
    yield "features", ", ".join(used) or "baseline"
    yield "vectors", f"{target.lanes(float32)} float32, {target.lanes(float64)} float64 lanes"
    yield "threads", f"{get_num_threads()} of {available_cores()} cores (GRAPHC_NUM_THREADS or graphc.set_num_threads)"
    blas = find_blas()
    yield "BLAS", f"{blas.name}, from {blas.source}" if blas else "none found: generated products are used"


def _cache() -> Iterator[tuple[str, str]]:
    usage = disk_cache().usage()
    if usage.folder is None:
        yield "off", usage.reason
        return
    yield "folder", str(usage.folder)
    yield "size", f"{usage.entries} programs, {usage.size / 1e6:.1f} MB"


def _gpu() -> Iterator[tuple[str, str]]:
    driver = shutil.which("nvidia-smi")
    yield "driver", driver or "no NVIDIA driver found: compile(device='cuda') needs one"
    yield "cupy", _version("cupy-cuda13x") or _version("cupy-cuda12x") or "missing: pip install 'graphc[cuda]'"
    yield "NVRTC", _version("nvidia-cuda-nvrtc") or "missing: pip install 'graphc[cuda]'"


def _extras() -> Iterator[tuple[str, str]]:
    for package, (purpose, command) in _OPTIONAL.items():
        if importlib.util.find_spec(package) is None:
            yield package, f"missing ({purpose}): {command}"
        else:
            yield package, f"{_version(package) or 'present'} ({purpose})"
