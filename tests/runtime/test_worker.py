"""The process that compiles beside this one: what it makes is found in the cache, and it is never in the way."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from graphc.ir.graph import Graph
from graphc.ir.node import fresh_input, make
from graphc.ops.elementwise import EXP, add, multiply
from graphc.runtime import worker as module
from graphc.runtime.backend import Order, backend_for
from graphc.runtime.executable import Executable
from graphc.runtime.worker import Worker
from graphc.types import TensorType, float32

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def worker() -> Iterator[Worker]:
    found = Worker()
    yield found
    found.close()


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GRAPHC_CACHE_DIR", str(tmp_path / "cache"))


def ordered(n: int = 5, op: Any = EXP) -> Order:
    """state += x; exp(x)."""
    x, state = fresh_input("x", TensorType((n,), float32)), fresh_input("state", TensorType((n,), float32))
    order = backend_for("cpu").order(Graph([x, state], [make(op, (x,), {}), add(state, multiply(x, 1))]), {1: 1})
    assert order is not None
    return order


def number_of(worker: Worker) -> int:
    assert worker._process is not None
    return worker._process.pid


def test_what_it_compiles_is_found_in_the_cache(worker: Worker, tmp_path: Path) -> None:
    order = ordered()
    assert not order.ready
    assert worker.compile(order)
    assert order.ready
    run = order.build({})
    assert isinstance(run, Executable)
    assert run.from_cache
    x, state = np.linspace(-1, 1, 5, dtype=np.float32), np.ones(5, np.float32)
    y, changed = run(x, state)
    assert changed is state
    np.testing.assert_allclose(y, np.exp(x), rtol=1e-6)
    np.testing.assert_array_equal(state, x + 1)


def test_one_process_serves_all_requests(worker: Worker) -> None:
    assert worker.compile(ordered(6))
    first = number_of(worker)
    assert worker.compile(ordered(7))
    assert number_of(worker) == first


def test_another_process_is_started_when_one_died(worker: Worker) -> None:
    assert worker.compile(ordered(8))
    first = worker._process
    assert first is not None
    first.kill()
    first.wait()
    assert worker.compile(ordered(9))
    assert number_of(worker) != first.pid


def test_a_process_that_dies_meanwhile_is_a_no(worker: Worker, monkeypatch: pytest.MonkeyPatch) -> None:
    assert worker.compile(ordered(10))
    process = worker._process
    assert process is not None
    monkeypatch.setattr(process, "poll", lambda: None)
    process.kill()
    assert not worker.compile(ordered(11))
    assert worker.compile(ordered(11))


def test_what_it_cant_compile_is_a_no(worker: Worker, monkeypatch: pytest.MonkeyPatch) -> None:
    assert worker.compile(ordered(12))
    first = number_of(worker)
    with monkeypatch.context() as patched:
        patched.setattr(module, "print_graph", lambda graph: "no graph")
        assert not worker.compile(ordered(13))
    assert worker.compile(ordered(13))
    assert number_of(worker) == first


def test_foreign_operations_arent_known_there() -> None:
    worker = Worker()
    assert not worker.compile(ordered(5, replace(EXP)))
    assert worker._process is None


def test_without_a_cache_there_is_nowhere_to_leave_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GRAPHC_CACHE_DIR", "off")
    worker = Worker()
    assert not worker.compile(ordered())
    assert worker._process is None


@pytest.mark.parametrize("executable", ["", "/usr/bin/blender"])
def test_none_is_started_inside_of_another_program(executable: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", executable)
    worker = Worker()
    assert not worker.compile(ordered())
    assert worker._process is None


def test_an_interpreter_that_cant_be_started(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", "/nowhere/python3")
    assert not Worker().compile(ordered())


def test_a_closed_one_stays_closed() -> None:
    worker = Worker()
    worker.close()
    assert worker.closed
    assert not worker.compile(ordered())


@pytest.mark.skipif(os.name != "posix", reason="waits for pipes as POSIX does")
def test_lines_are_read_whole_until_nothing_comes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "IDLE", 0.05)
    reading, writing = os.pipe()
    with os.fdopen(reading, "rb", buffering=0) as requests:
        os.write(writing, b"first\nsec")
        line = module._line(requests, b"")
        assert line == (b"first", b"sec")
        os.write(writing, b"ond\n")
        assert module._line(requests, line[1]) == (b"second", b"")
        assert module._line(requests, b"") is None
        os.write(writing, b"unfinished")
        os.close(writing)
        assert module._line(requests, b"") is None


ENDING = """
import sys, threading
from tests.runtime.test_worker import ordered
from graphc.runtime import worker
from graphc.runtime.background import Task
def compiled():
    done = [worker.worker.compile(ordered(n)) for n in range(100, 120)]
    print(done)
task = Task(compiled)
task.begin()
while worker.worker._process is None:
    pass
print(worker.worker._process.pid, flush=True)
"""


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def test_it_ends_with_the_program_at_once() -> None:
    start = time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", ENDING], capture_output=True, text=True, check=True, cwd=ROOT
    )
    assert done.stderr == ""
    pid, told = done.stdout.splitlines()
    assert "False" in told
    assert not _alive(int(pid))
    assert time.perf_counter() - start < 30


FORKED = """
import os
from tests.runtime.test_worker import ordered
from graphc.runtime.worker import worker
assert worker.compile(ordered(20))
first = worker._process.pid
child = os.fork()
assert child or worker._process is None
assert worker.compile(ordered(21 if child else 22))
assert (worker._process.pid == first) == bool(child)
if child:
    assert os.waitpid(child, 0)[1] == 0
    print("both")
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_forked_child_has_one_of_its_own() -> None:
    environment = {**os.environ, "PYTHONWARNINGS": "error,ignore:This process:DeprecationWarning"}
    done = subprocess.run(
        [sys.executable, "-c", FORKED], capture_output=True, text=True, check=True, cwd=ROOT, env=environment
    )
    assert (done.stdout, done.stderr) == ("both\n", "")
