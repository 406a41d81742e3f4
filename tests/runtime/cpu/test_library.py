"""What native programs share is compiled once a machine, as late as may be or as early as must be."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from graphc.runtime import shortcut as records
from graphc.runtime.cpu import arguments, gate, gemm, pool, shortcut
from graphc.runtime.cpu.library import library_text
from graphc.runtime.cpu.shortcut import layout
from graphc.runtime.cpu.target import host

HEAD = """
import sys, threading, time
sys.path[:0] = {path!r}
import numpy as np
import graphc as gc
from graphc.runtime.cpu import library as lib

@gc.compile
def f(x):
    return gc.exp(x) + 1.0

x = gc.tensor(np.ones(3, np.float32))
"""


def told(program: str, cache: Path) -> list[str]:
    """What the program prints in a fresh process."""
    text = HEAD.format(path=[str(Path.cwd()), *sys.path]) + program
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", text], env={**os.environ, "GRAPHC_CACHE_DIR": str(cache)},
        capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout.split()


@pytest.mark.skipif(not records.usable(), reason="this interpreter's objects are laid out otherwise")
def test_the_shortcut_is_loaded_by_the_second_call(tmp_path: Path) -> None:
    calls = """
loaded = []
for _ in range(3):
    y = f(x)
    loaded.append(lib._SHORTCUT.done)
print(*loaded, "llvmlite" in sys.modules, y.numpy()[0])
"""
    first = told(calls, tmp_path)
    assert first[1:3] == ["True", "True"]  # in the first call a thread behind may be compiling it
    assert told(calls, tmp_path) == ["False", "True", "True", "False", first[-1]]


@pytest.mark.skipif(not records.usable(), reason="this interpreter's objects are laid out otherwise")
def test_a_first_call_from_the_cache_leaves_a_missing_shortcut_to_the_second(tmp_path: Path) -> None:
    told("from graphc.runtime import executable; executable.begin_shortcut = lambda: None; f(x)", tmp_path)
    calls = """
f(x)
print(threading.active_count(), "llvmlite" in sys.modules)
f(x)
print(lib._SHORTCUT.done)
"""
    assert told(calls, tmp_path) == ["1", "False", "True"]


def test_what_must_be_compiled_is_begun_before_the_trace(tmp_path: Path) -> None:
    begun = """
@gc.compile
def g(x):
    seen.extend(t.name for t in threading.enumerate())
    return x * 2.0

seen = []
g(x)
print("graphc-compile" in seen)
"""
    assert told(begun, tmp_path) == ["True"]
    assert told(begun, tmp_path) == ["False"]


def test_a_cached_library_needs_no_thread(tmp_path: Path) -> None:
    told("lib.library()", tmp_path)
    idle = "lib.begin_library(); print(threading.active_count(), lib._LIBRARY.done); lib.library(); lib.begin_library()"
    assert told(idle, tmp_path) == ["1", "False"]


def test_texts_hold_no_shorthand_and_define_what_is_asked_for() -> None:
    text = shortcut.shortcut_text()
    code = re.sub(r";.*", "", text + gate.gate_text())
    names = [name for name in (*vars(arguments), *vars(layout), *vars(gate)) if name.isupper()]
    assert not re.findall(rf"(?<![%@\w.])(?:{'|'.join(names)})\b", code)
    assert " = cell " not in code
    assert " = field " not in code
    assert "define ptr @graphc_shortcut(" in text
    assert all(f"@{name}(" in text for name in (*shortcut.PYTHON_NAMES, *shortcut.NUMPY_NAMES))
    own = library_text(host(), None)
    for part in (pool.pool_text(host()), gemm.gemm_text(None, host()), gate.gate_text()):
        assert part in own
    assert "@graphc_shortcut" not in own


def test_eager_kernels_are_not_opened_by_a_trace(tmp_path: Path) -> None:
    traced = """
w = gc.tensor(np.ones((64, 64), np.float32), requires_grad=True)
optimizer = gc.optim.Adam([w])

@gc.compile
def step(x):
    loss = gc.nn.functional.linear(x, w).sum()
    loss.backward()
    optimizer.step()
    return loss

step(gc.tensor(np.ones((64, 64), np.float32)))
print("graphc.runtime.eager" in sys.modules)
gc.nn.functional.linear(w, w)
print("graphc.runtime.eager" in sys.modules)
"""
    assert told(traced, tmp_path) == ["False", "True"]
