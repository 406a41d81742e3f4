"""A forked child finishes what it needs: it never waits for a thread that only its parent has."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from graphc.forking import Whole

ROOT = Path(__file__).resolve().parents[1]

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")


def test_a_fork_waits_for_the_threads_inside_and_none_enters_meanwhile() -> None:
    whole, happened = Whole(), []
    inside, leave, late = threading.Event(), threading.Event(), threading.Event()

    def first() -> None:
        with whole:
            inside.set()
            assert leave.wait(60)
            with whole:  # it is inside already
                happened.append("first")

    def fork() -> None:
        whole.before_fork()
        happened.append("fork")
        whole.after_fork()

    def second() -> None:
        late.set()
        with whole:
            happened.append("second")

    threads = [threading.Thread(target=f) for f in (first, fork, second)]
    threads[0].start()
    assert inside.wait(60)
    threads[1].start()
    while not whole._forking:
        pass
    threads[2].start()
    assert late.wait(60)
    assert happened == []
    leave.set()
    for thread in threads:
        thread.join(60)
    assert happened == ["first", "fork", "second"]


def test_a_thread_may_fork_inside_and_its_child_is_inside_too() -> None:
    whole = Whole()
    with whole:
        whole.before_fork()
        whole.after_fork_in_child()
        with whole:
            pass
        assert whole._inside == {threading.get_ident(): 1}
    assert whole._inside == {}


def test_locks_are_held_while_forking() -> None:
    whole = Whole()
    lock = whole.lock()
    tried: list[bool] = []

    def attempt() -> None:
        tried.append(lock.acquire(blocking=False))

    for after in (whole.after_fork, whole.after_fork_in_child):
        whole.before_fork()
        (thread := threading.Thread(target=attempt)).start(), thread.join()
        after()
        assert tried == [False]
        tried.clear()
        assert lock.acquire(blocking=False)
        lock.release()


# A thread imports the compiler and compiles; the program forks at different moments of that, and the child compiles.
PROGRAM = """
import os, sys, threading, time
import numpy as np
import graphc as gc
import graphc.runtime.compile
x = gc.tensor(np.linspace(-1, 1, 700, dtype=np.float32))
for k, delay in enumerate(map(float, sys.argv[1:])):
    thread = threading.Thread(target=lambda: gc.compile(lambda x: gc.tanh(x) * k + gc.exp(x).sum())(x))
    thread.start()
    time.sleep(delay)
    child = os.fork()
    if not child:
        y = gc.compile(lambda x: gc.sin(x) + k)(x)
        np.testing.assert_allclose(y.numpy(), np.sin(x.numpy()) + k, rtol=1e-5, atol=1e-6)
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0
    thread.join()
print("done")
"""


@pytest.mark.parametrize("delays", [("0.01",), ("0.03",), ("0.06",), ("0.1",), ("0.2", "0.02", "0.05", "0.1")])
def test_a_child_compiles_whenever_it_is_forked(delays: tuple[str, ...]) -> None:
    environment = {**os.environ, "GRAPHC_CACHE_DIR": "off", "PYTHONWARNINGS": "ignore"}
    found = subprocess.run(
        [sys.executable, "-c", PROGRAM, *delays], env=environment, cwd=ROOT, capture_output=True, text=True, timeout=300
    )
    assert (found.stdout, found.stderr) == ("done\n", "")
