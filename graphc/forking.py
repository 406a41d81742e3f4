"""What a fork doesn't cut short.

A forked child has only the thread that forked. Locks that others held then are never released in it, and what they were
in the midst of is never finished: a module half imported, LLVM half set up. A child that needs these waits for ever.
graphc starts threads of its own, so it sees to that by itself: what stands in `whole` is finished before a fork.
"""

from __future__ import annotations

import importlib
import os
import threading
from types import ModuleType


class Whole:
    """A context for any number of threads. A fork waits until no other thread is inside; meanwhile none enters anew.

    Inside, a thread mustn't wait for one that may still want to enter.
    """

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._inside: dict[int, int] = {}  # how often each thread has entered
        self._forking = 0  # threads that wait to fork
        self._locks: list[threading.RLock] = []

    def __enter__(self) -> None:
        me = threading.get_ident()
        with self._changed:
            while self._forking and me not in self._inside:
                self._changed.wait()
            self._inside[me] = self._inside.get(me, 0) + 1

    def __exit__(self, *error: object) -> None:
        me = threading.get_ident()
        with self._changed:
            self._inside[me] -= 1
            if not self._inside[me]:
                del self._inside[me]
                self._changed.notify_all()

    def lock(self) -> threading.RLock:
        """A lock that no other thread holds when one forks. Who holds it doesn't enter the context any more."""
        self._locks.append(threading.RLock())
        return self._locks[-1]

    def before_fork(self) -> None:
        me = threading.get_ident()
        self._changed.acquire()
        self._forking += 1
        while self._inside.keys() - {me}:
            self._changed.wait()
        self._forking -= 1
        for lock in self._locks:
            lock.acquire()

    def after_fork(self) -> None:
        for lock in self._locks:
            lock.release()
        self._changed.notify_all()
        self._changed.release()

    def after_fork_in_child(self) -> None:
        self._changed.release()
        self._changed = threading.Condition()  # those who waited aren't here
        self._forking = 0
        for lock in self._locks:
            lock.release()


whole = Whole()
if hasattr(os, "register_at_fork"):
    os.register_at_fork(
        before=whole.before_fork, after_in_parent=whole.after_fork, after_in_child=whole.after_fork_in_child
    )


def import_module(name: str) -> ModuleType:
    """As importlib's: for what is imported late, maybe by a thread behind the program."""
    with whole:
        return importlib.import_module(name)
