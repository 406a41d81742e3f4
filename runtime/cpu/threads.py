"""How many threads parallel loops run on, and what generated code may ask of them. pool.py is the pool itself.

What generated code sees (PARALLEL_DECLARATION):

    declare void @graphc_parallel(ptr %task, ptr %args, i64 %count, i64 %grain)

runs `task(args, begin, end)`, of type `void (ptr args, i64 begin, i64 end)`, over disjoint ranges that together
cover 0 <= i < count, on any threads, and returns when all are done. Cuts fall on multiples of `grain`, on which
of them is not promised: results must not depend on it. count <= 0 runs nothing; one range is run directly by the
caller. A task may call @graphc_parallel again: the inner call then runs serially, as does a call
that finds the pool busy with another thread's. Choose `grain` so that it is 10 microseconds of work or more.
"""

from __future__ import annotations

import ctypes
import math
import os
from collections.abc import Callable
from pathlib import Path

from graphc.frozen import dataclass
from graphc.runtime.cpu.target import Target

PARALLEL_DECLARATION = "declare void @graphc_parallel(ptr, ptr, i64, i64)"

MAX_THREADS = 1024  # 8 chunks for each thread must fit in 16 bits


def available_cores() -> int:
    """Physical cores that this process may use: by affinity, and by the control group's quota of time.

    Two hardware threads of one core share its arithmetic units, so the second adds nothing to kernels like ours.
    """
    if not hasattr(os, "sched_getaffinity"):
        return os.cpu_count() or 1
    allowed = sorted(os.sched_getaffinity(0))
    siblings = {_read(f"/sys/devices/system/cpu/cpu{cpu}/topology/thread_siblings_list") or str(cpu) for cpu in allowed}
    return max(1, min(len(siblings), _quota()))


def _quota() -> int:
    """Whole cores' worth of time that the control group (version 2) grants; many if it sets no limit."""
    group = next((line[3:] for line in _read("/proc/self/cgroup").splitlines() if line.startswith("0::")), "/")
    for folder in (f"/sys/fs/cgroup{group}", "/sys/fs/cgroup"):
        match _read(f"{folder.rstrip('/')}/cpu.max").split():
            case [quota, period] if quota.isdigit() and period.isdigit():
                return max(1, math.ceil(int(quota) / int(period)))
    return MAX_THREADS


def _read(path: str) -> str:
    try:
        return Path(path).read_text(encoding="ascii").strip()
    except (OSError, UnicodeDecodeError):
        return ""


def default_num_threads() -> int:
    """GRAPHC_NUM_THREADS if set, else the cores at hand. Raises ValueError if the variable isn't a count."""
    told = os.environ.get("GRAPHC_NUM_THREADS", "").strip()
    if not told:
        return min(available_cores(), MAX_THREADS)
    if not told.isdecimal() or not 1 <= int(told) <= MAX_THREADS:
        raise ValueError(f"GRAPHC_NUM_THREADS={told!r}: write a number from 1 to {MAX_THREADS}, or unset it.")
    return int(told)


@dataclass(frozen=True, slots=True)
class State:
    """threads: how many a parallel loop may use. workers: threads of the pool that run now. parallel: whether this
    platform has a pool at all; None before the first native call."""

    threads: int
    workers: int
    parallel: bool | None


class _Pool:
    """The pool of this process: a number now, and the machine code once some program needed it."""

    def __init__(self) -> None:
        self._threads: int | None = None
        self._set: Callable[[int], None] | None = None
        self._workers: Callable[[], int] | None = None
        self._parallel: bool | None = None

    @property
    def threads(self) -> int:
        if self._threads is None:
            self._threads = default_num_threads()
        return self._threads

    def resize(self, threads: int) -> None:
        if not 1 <= threads <= MAX_THREADS:
            raise ValueError(f"set_num_threads({threads}): the number of threads is from 1 to {MAX_THREADS}.")
        self._threads = threads
        if self._set is not None:
            self._set(threads)

    def attach(self, address: Callable[[str], int], target: Target) -> None:
        """The machine code of pool_text(target) has been loaded, its functions at address(name)."""
        self._parallel = target.linux
        self._set = ctypes.PYFUNCTYPE(None, ctypes.c_int)(address("graphc_set_threads"))
        self._workers = ctypes.PYFUNCTYPE(ctypes.c_int)(address("graphc_workers"))
        self._set(self.threads)
        if hasattr(os, "register_at_fork"):
            os.register_at_fork(after_in_child=ctypes.PYFUNCTYPE(None)(address("graphc_reset_threads")))

    def state(self) -> State:
        return State(self.threads, self._workers() if self._workers else 0, self._parallel)


_POOL_OF_PROCESS = _Pool()
attach = _POOL_OF_PROCESS.attach
state = _POOL_OF_PROCESS.state


def get_num_threads() -> int:
    """How many threads compiled functions run on, the caller's among them."""
    return _POOL_OF_PROCESS.threads


def set_num_threads(threads: int) -> None:
    """Let compiled functions run on so many threads, from the next parallel loop on. Results don't depend on it.

    Raises ValueError below 1 or above MAX_THREADS.
    """
    _POOL_OF_PROCESS.resize(threads)
