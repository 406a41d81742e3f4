"""A process beside this one that compiles for it. What it makes is left in the cache on disk.

A thread can't do that unnoticed: planning is Python, and while it has the interpreter lock nobody else computes. A
training step of many NumPy calls takes little longer beside a compiling process, but several times as long beside a
compiling thread.

The process is started by the first request (its import takes its time, not ours), works at a lower priority, and ends
when it has had nothing to do for a while, when this one ends, or when it is told to. A request is a line of JSON on its
standard input, the answer a line on its standard output. Whatever goes wrong with it, here or there, is no error: the
caller compiles by itself, and meets what is wrong with the graph.
"""

from __future__ import annotations

import atexit
import json
import os
import select
import subprocess
import sys
import threading
from collections.abc import Mapping
from typing import Any, BinaryIO

from graphc.ir.graph import Graph
from graphc.ir.text import parse, print_graph
from graphc.ops import PRIMITIVES

from .backend import Order, backend_for
from .cache import disk_cache

IDLE = 60.0  # seconds without a request, after which the process ends
PRIORITY = 5  # how nice it is to others: it gets a third of the time of a core that they want too
_START = """
import json, sys
sys.path[:] = json.loads(sys.argv[1])
from graphc.runtime.worker import serve
serve()
"""


class Worker:
    """This process's worker: at most one, started when it is needed."""

    def __init__(self) -> None:
        self._lock = threading.Lock()  # of whoever waits for an answer
        self._process: subprocess.Popen[bytes] | None = None
        self.closed = False

    def compile(self, order: Order) -> bool:
        """Have a program compiled for the CPU, and wait for it. Whether it is in the cache now."""
        folder = disk_cache().folder
        if folder is None or not _can_be_told(order.graph):
            return False
        request = {
            "graph": print_graph(order.graph), "state": list(order.state.items()), "folder": str(folder.absolute())
        }  # fmt: skip
        with self._lock:
            if self.closed:
                return False
            try:
                return self._asked(json.dumps(request).encode())
            except OSError:  # it ended, or there can't be one
                self._end()
                return False

    def _asked(self, request: bytes) -> bool:
        if self._process is None or self._process.poll() is not None:
            self._end()
            self._process = _started()
        process = self._process
        if process is None:
            return False
        assert process.stdin is not None
        assert process.stdout is not None
        rest = memoryview(request + b"\n")
        while rest:
            rest = rest[process.stdin.write(rest) :]
        answer = process.stdout.readline()
        if not answer:
            raise BrokenPipeError
        return bool(json.loads(answer))

    def _end(self) -> None:
        process, self._process = self._process, None
        if process is not None:
            process.kill()
            process.wait()
            _close(process)

    def close(self) -> None:
        """End the process, and start none any more. Whoever waits for it is told that it failed."""
        self.closed = True
        process = self._process
        if process is not None:
            process.kill()
        with self._lock:
            self._end()

    def forget(self) -> None:
        """In a forked child: the process is its parent's."""
        process, self._process = self._process, None
        self._lock = threading.Lock()
        if process is not None:
            process.returncode = 0  # nobody here waits for it
            _close(process)


def _close(process: subprocess.Popen[bytes]) -> None:
    for pipe in (process.stdin, process.stdout):
        if pipe is not None:
            pipe.close()


def _can_be_told(graph: Graph) -> bool:
    """Whether every operation is graphc's own: another process doesn't know others."""
    return all(PRIMITIVES.get(node.op.name) is node.op for node in graph.nodes)


def _started() -> subprocess.Popen[bytes] | None:
    """A new process; None where this one's interpreter can't be started again."""
    if not os.path.basename(sys.executable or "").lower().startswith("python") or getattr(sys, "frozen", False):
        return None  # Python is part of another program
    atexit.register(worker.close)  # before the thread that waits for it is waited for
    return subprocess.Popen(
        [sys.executable, "-c", _START, json.dumps(sys.path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        bufsize=0,  # no buffer, whose lock a child forked meanwhile would find taken
        start_new_session=True,  # an interrupt from the keyboard is for this process
    )


worker = Worker()
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=worker.forget)


def serve() -> None:
    """What the process does: compile what its standard input asks for."""
    if hasattr(os, "nice"):
        os.nice(PRIORITY)
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what libraries print is no answer
    requests = os.fdopen(os.dup(0), "rb", buffering=0)
    pending = b""
    while (line := _line(requests, pending)) is not None:
        request, pending = line
        answers.write(json.dumps(_done(json.loads(request))).encode() + b"\n")
        answers.flush()


def _line(requests: BinaryIO, pending: bytes) -> tuple[bytes, bytes] | None:
    """The next line of the input, and what was read after it. None at the end, or if nothing comes for a while."""
    parts = [pending]
    while b"\n" not in parts[-1]:
        if os.name == "posix" and not select.select([requests], [], [], IDLE)[0]:
            return None
        parts.append(requests.read(2**20))
        if not parts[-1]:
            return None
    line, _, rest = b"".join(parts).partition(b"\n")
    return line, rest


def _done(request: Mapping[str, Any]) -> bool:
    os.environ["GRAPHC_CACHE_DIR"] = request["folder"]
    try:
        backend_for("cpu").build(parse(request["graph"], PRIMITIVES), dict(request["state"]), {})
    except Exception:  # the asker compiles by itself, and meets it
        return False
    return True
