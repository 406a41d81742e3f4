"""The fork-join pool: every iteration once, whoever calls, however many threads there are and whatever forks."""

from __future__ import annotations

import ctypes
import os
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

from graphc.runtime.cpu import jit, pool, threads
from graphc.runtime.cpu.library import library, load
from graphc.runtime.cpu.target import TARGETS, by_name, host

Task = Callable[[int, int], None]
TASK = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_int64, ctypes.c_int64)
PARALLEL = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int64, ctypes.c_int64)

# mark(args, count, grain) adds 1 to each of `count` int32 at args; spin(times, count) runs empty loops.
NATIVE = """
declare void @graphc_parallel(ptr, ptr, i64, i64)
define internal void @mark_task(ptr %args, i64 %begin, i64 %end) {
entry:
  br label %next
next:
  %i = phi i64 [ %begin, %entry ], [ %more, %next ]
  %at = getelementptr i32, ptr %args, i64 %i
  %old = atomicrmw add ptr %at, i32 1 monotonic
  %more = add i64 %i, 1
  %left = icmp slt i64 %more, %end
  br i1 %left, label %next, label %out
out:
  ret void
}
define void @mark(ptr %args, i64 %count, i64 %grain) {
  call void @graphc_parallel(ptr @mark_task, ptr %args, i64 %count, i64 %grain)
  ret void
}
define internal void @empty_task(ptr %args, i64 %begin, i64 %end) {
  ret void
}
define void @spin(i64 %times, i64 %count) {
entry:
  br label %next
next:
  %i = phi i64 [ 0, %entry ], [ %more, %next ]
  call void @graphc_parallel(ptr @empty_task, ptr null, i64 %count, i64 1)
  %more = add i64 %i, 1
  %left = icmp slt i64 %more, %times
  br i1 %left, label %next, label %out
out:
  ret void
}
"""

pooled = pytest.mark.skipif(not host().linux, reason="the pool needs futex")
forks = pytest.mark.filterwarnings("ignore:This process.*is multi-threaded:DeprecationWarning")


@pytest.fixture(autouse=True)
def _threads() -> Iterator[None]:
    before = threads.get_num_threads()
    yield
    threads.set_num_threads(before)


def parallel(task: Task, count: int, grain: int) -> None:
    """Run a Python task on the pool; its threads take the interpreter lock in turns."""
    native = TASK(lambda args, begin, end: task(begin, end))
    address = ctypes.cast(native, ctypes.c_void_p).value
    PARALLEL(library().symbols["graphc_parallel"])(address, None, count, grain)


@pytest.fixture(scope="module")
def mark() -> Callable[[npt.NDArray[np.int32], int], None]:
    code = load(jit.compile_text(NATIVE), library().symbols)
    function = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_int64, ctypes.c_int64)(code.address("mark"))

    def marked(cells: npt.NDArray[np.int32], grain: int) -> None:
        assert code.loader  # keeps the code alive
        function(cells.ctypes.data, cells.size, grain)

    return marked


@pytest.fixture(scope="module")
def spin() -> Callable[[int, int], None]:
    code = load(jit.compile_text(NATIVE), library().symbols)
    function = ctypes.CFUNCTYPE(None, ctypes.c_int64, ctypes.c_int64)(code.address("spin"))

    def spun(times: int, count: int) -> None:
        assert code.loader
        function(times, count)

    return spun


@pytest.mark.parametrize("number", [1, 2, 3, 8])
@pytest.mark.parametrize("count", [0, 1, 2, 7, 1000, 100_003])
def test_every_iteration_runs_once(mark: Callable[[npt.NDArray[np.int32], int], None], number: int, count: int) -> None:
    threads.set_num_threads(number)
    for grain in (-3, 0, 1, 7, 1000, 2**40):
        cells = np.zeros(count, np.int32)
        mark(cells, grain)
        assert (cells == 1).all(), (grain, np.unique(cells))


@pytest.mark.parametrize("number", [1, 2, 5])
def test_cuts_fall_on_multiples_of_the_grain(number: int) -> None:
    threads.set_num_threads(number)
    ranges: list[tuple[int, int]] = []
    parallel(lambda begin, end: ranges.append((begin, end)), 1003, 10)
    ranges.sort()
    assert [begin for begin, _ in ranges] == [0, *(end for _, end in ranges[:-1])]
    assert ranges[-1][1] == 1003
    assert all(begin % 10 == 0 for begin, _ in ranges)
    assert len(ranges) <= 8 * number


def test_nothing_runs_for_no_iterations() -> None:
    ran: list[int] = []
    for count in (0, -1, -(2**62)):
        parallel(lambda begin, end: ran.append(begin), count, 1)
    assert ran == []


def test_a_loop_within_a_loop_runs_serially_and_whole() -> None:
    threads.set_num_threads(4)
    cells = np.zeros((6, 5), np.int64)

    def outer(begin: int, end: int) -> None:
        for row in range(begin, end):

            def inner(first: int, last: int, row: int = row) -> None:
                assert (first, last) == (0, 5)
                cells[row, first:last] += 1

            parallel(inner, 5, 1)

    parallel(outer, 6, 1)
    assert (cells == 1).all()


@pooled
def test_other_threads_take_part_and_no_more_than_asked_for() -> None:
    def seen(number: int) -> set[int]:
        threads.set_num_threads(number)
        found: set[int] = set()

        def task(begin: int, end: int) -> None:
            found.add(threading.get_native_id())
            time.sleep(0.002)

        parallel(task, 32, 1)
        return found

    four = seen(4)
    assert 2 <= len(four) <= 4
    assert threading.get_native_id() in four
    assert threads.state().workers >= 3
    assert seen(1) == {threading.get_native_id()}
    assert len(seen(2)) <= 2


@pooled
def test_callers_at_once_don_t_disturb_each_other(mark: Callable[[npt.NDArray[np.int32], int], None]) -> None:
    threads.set_num_threads(3)
    cells = [np.zeros(20_011, np.int32) for _ in range(5)]

    def work(mine: npt.NDArray[np.int32]) -> None:
        for _ in range(60):
            mark(mine, 50)

    callers = [threading.Thread(target=work, args=(mine,)) for mine in cells]
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join()
    assert all((mine == 60).all() for mine in cells)


@pooled
def test_many_more_threads_than_cores_still_get_on(
    spin: Callable[[int, int], None], mark: Callable[[npt.NDArray[np.int32], int], None]
) -> None:
    threads.set_num_threads(8 * threads.available_cores())
    cells = np.zeros(1 << 16, np.int32)
    start = time.perf_counter()
    for _ in range(50):
        spin(20, 64)
        mark(cells, 64)
    assert (cells == 50).all()
    assert time.perf_counter() - start < 20  # some 0.05 s on an idle machine; a pool that waits for workers hangs


@pooled
def test_idle_threads_use_no_time(spin: Callable[[int, int], None]) -> None:
    threads.set_num_threads(4)
    spin(1, 64)
    time.sleep(0.05)
    before = time.process_time()
    time.sleep(0.4)
    assert time.process_time() - before < 0.1


@pooled
def test_workers_are_woken_from_sleep(mark: Callable[[npt.NDArray[np.int32], int], None]) -> None:
    threads.set_num_threads(3)
    cells = np.zeros(5000, np.int32)
    for _ in range(10):
        time.sleep(0.003)  # longer than workers stay awake
        mark(cells, 10)
    assert (cells == 10).all()


@pooled
def test_workers_take_no_signals_and_have_a_name(spin: Callable[[int, int], None]) -> None:
    threads.set_num_threads(2)
    spin(1, 64)
    named = []
    for folder in Path("/proc/self/task").iterdir():
        if (folder / "comm").read_text().strip() == "graphc":
            status = dict(line.split(":", 1) for line in (folder / "status").read_text().splitlines() if ":" in line)
            named.append(int(status["SigBlk"], 16))
    if not named:
        pytest.skip("this kernel doesn't tell names of threads")
    for blocked in named:
        assert blocked & (1 << 1)  # SIGINT
        assert blocked & (1 << 14)  # SIGTERM


def exit_status(child: Callable[[], bool]) -> int:
    """Fork; the child's verdict: 0 true, 1 false, 2 an exception, 3 no answer in 20 s."""
    pid = os.fork()
    if pid == 0:
        try:
            os._exit(0 if child() else 1)
        except BaseException:
            os._exit(2)
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        done, status = os.waitpid(pid, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.005)
    os.kill(pid, 9)
    os.waitpid(pid, 0)
    return 3


@pooled
@forks
def test_a_forked_child_starts_its_own_workers(mark: Callable[[npt.NDArray[np.int32], int], None]) -> None:
    threads.set_num_threads(3)
    mark(np.zeros(1000, np.int32), 1)
    assert threads.state().workers >= 2

    def child() -> bool:
        if threads.state().workers != 0:
            return False
        cells = np.zeros(100_003, np.int32)
        for _ in range(20):
            mark(cells, 100)
        return bool((cells == 20).all()) and threads.state().workers == 2

    assert exit_status(child) == 0
    cells = np.zeros(1000, np.int32)
    mark(cells, 1)
    assert (cells == 1).all()


@pooled
@forks
def test_a_fork_in_the_middle_of_a_loop(mark: Callable[[npt.NDArray[np.int32], int], None]) -> None:
    threads.set_num_threads(2)
    stop = threading.Event()

    def busy() -> None:
        mine = np.zeros(200_000, np.int32)
        while not stop.is_set():
            mark(mine, 100)

    def child() -> bool:
        cells = np.zeros(50_000, np.int32)
        mark(cells, 100)
        return bool((cells == 1).all()) and threads.state().workers == 1  # the loop of the parent isn't in the way

    other = threading.Thread(target=busy)
    other.start()
    try:
        assert [exit_status(child) for _ in range(5)] == [0] * 5
    finally:
        stop.set()
        other.join()


def run_python(source: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-W", "error", "-c", source],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), **environment},
        capture_output=True,
        text=True,
        timeout=60,
    )


def test_the_environment_and_affinity_decide_the_number() -> None:
    told = "from graphc.runtime.cpu import threads as t; print(t.get_num_threads())"
    assert run_python(told, GRAPHC_NUM_THREADS="7").stdout == "7\n"
    for wrong in ("0", "many", "-1", "1.5", "99999"):
        failed = run_python(told, GRAPHC_NUM_THREADS=wrong)
        assert failed.returncode == 1
        assert f"GRAPHC_NUM_THREADS='{wrong}'" in failed.stderr
    if hasattr(os, "sched_setaffinity"):
        one = f"import os; os.sched_setaffinity(0, {{min(os.sched_getaffinity(0))}}); {told}"
        assert run_python(one, GRAPHC_NUM_THREADS="").stdout == "1\n"


def test_a_process_ends_while_workers_live() -> None:
    source = (
        "import numpy as np\n"
        "from graphc.runtime.cpu import threads\n"
        "from graphc.runtime.cpu.library import library\n"
        "import ctypes\n"
        "threads.set_num_threads(4)\n"
        "P = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int64, ctypes.c_int64)\n"
        "T = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_int64, ctypes.c_int64)\n"
        "task = T(lambda a, b, e: None)\n"
        "P(library().symbols['graphc_parallel'])(ctypes.cast(task, ctypes.c_void_p).value, None, 100, 1)\n"
        "print('end')\n"
    )
    done = run_python(source)
    assert (done.returncode, done.stdout, done.stderr) == (0, "end\n", "")


@pytest.mark.parametrize("number", [0, -1, threads.MAX_THREADS + 1])
def test_impossible_numbers_are_refused(number: int) -> None:
    before = threads.get_num_threads()
    with pytest.raises(ValueError, match=f"set_num_threads\\({number}\\)"):
        threads.set_num_threads(number)
    assert threads.get_num_threads() == before


def test_cores_are_counted_by_quota_and_siblings(monkeypatch: pytest.MonkeyPatch) -> None:
    files = {
        f"/sys/devices/system/cpu/cpu{i}/topology/thread_siblings_list": f"{i // 2},{i // 2 + 4}" for i in range(8)
    }
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(8)), raising=False)
    monkeypatch.setattr(threads, "_read", lambda path: files.get(path, ""))
    assert threads.available_cores() == 4
    files["/proc/self/cgroup"] = "1:cpu:/old\n0::/box"
    files["/sys/fs/cgroup/box/cpu.max"] = "150000 100000"
    assert threads.available_cores() == 2
    files["/sys/fs/cgroup/box/cpu.max"] = "max 100000"
    assert threads.available_cores() == 4


@pytest.mark.parametrize("name", ["host", *TARGETS])
def test_the_pool_compiles_for_every_target(name: str) -> None:
    target = by_name(name)
    listing = jit.assembly(pool.pool_text(target), target)
    assert "graphc_parallel:" in listing
    if target.linux:
        assert ("pause" if target.x86 else "yield") in listing


def test_the_serial_form_runs_everything_in_the_caller() -> None:
    other = replace(host(), triple="x86_64-pc-windows-msvc")
    code = load(jit.compile_text(pool.pool_text(other).replace("graphc_", "serial_"), host()), {})
    ranges: Counter[tuple[int, int]] = Counter()
    task = TASK(lambda args, begin, end: ranges.update([(begin, end)]))
    run = PARALLEL(code.address("serial_parallel"))
    run(ctypes.cast(task, ctypes.c_void_p).value, None, 10, 1)
    run(ctypes.cast(task, ctypes.c_void_p).value, None, 0, 1)
    assert ranges == {(0, 10): 1}
