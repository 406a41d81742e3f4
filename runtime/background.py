"""Work for later: compiled by one thread behind the others, or at once by whoever can't wait any longer.

The thread is started by the first task, and is no obstacle to the end of the program: what it hasn't begun by then is
dropped.
"""

from __future__ import annotations

import atexit
import os
import threading
from collections import deque
from collections.abc import Callable
from typing import Generic, TypeVar

T = TypeVar("T")


class Task(Generic[T]):
    """Something to be computed once. `result()` gives it: by waiting for the thread, or by computing it here."""

    def __init__(self, make: Callable[[], T]) -> None:
        self._make: Callable[[], T] | None = make
        self._claim = threading.Lock()
        self._owner = os.getpid()
        self._value: T | None = None
        self._error: BaseException | None = None

    @property
    def done(self) -> bool:
        return self._make is None

    def result(self) -> T:
        """The value. Raises what computing it raised, each time."""
        if self._make is not None:
            self._run()
        if self._error is not None:
            raise self._error
        return self._value  # type: ignore[return-value]

    def _run(self) -> None:
        if self._owner != os.getpid():  # a forked child has the lock, but not the thread that may have held it
            self._owner, self._claim = os.getpid(), threading.Lock()
        with self._claim:
            if self._make is None:
                return
            try:
                self._value = self._make()
            except Exception as error:
                self._error = error
            self._make = None

    def begin(self, urgent: bool = False) -> None:
        """Have the thread behind compute it, when its turn comes. urgent: before what others wait for."""
        _here.behind.add(self._run, urgent)


def busy() -> bool:
    """Whether the thread behind has something to do."""
    return _here.behind.busy


class _Behind:
    """The thread, which ends when nothing is left to do, and what it has yet to do."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._waiting: deque[Callable[[], None]] = deque()
        self._thread: threading.Thread | None = None
        self._closed = False

    def add(self, run: Callable[[], None], urgent: bool) -> None:
        with self._lock:
            if self._closed:
                return
            if urgent:
                self._waiting.appendleft(run)
            else:
                self._waiting.append(run)
            if self._thread is None:
                self._thread = threading.Thread(target=self._work, name="graphc-compile", daemon=True)
                self._thread.start()

    @property
    def busy(self) -> bool:
        return self._thread is not None

    def _work(self) -> None:
        while True:
            with self._lock:
                if self._closed or not self._waiting:
                    self._thread = None
                    return
                run = self._waiting.popleft()
            run()

    def close(self) -> None:
        """Begin nothing more, and wait for what is being computed: LLVM mustn't run while the process ends."""
        with self._lock:
            self._closed = True
            thread = self._thread
        if thread is not None:
            thread.join()


class _Here:
    """This process's thread."""

    def __init__(self) -> None:
        self.renew()

    def renew(self) -> None:
        self.behind = _Behind()


_here = _Here()
atexit.register(lambda: _here.behind.close())
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_here.renew)  # a child has none of its parent's threads
