"""Run every kernel of the CUDA tests on a real GPU: `python -m tests.cuda.on_gpu`. Exits with 1 if one differs."""

from __future__ import annotations

import sys
import time

import numpy as np

from graphc.errors import GraphcError
from graphc.ir.expr import Axis
from graphc.runtime.cuda.device import CupyDevice
from graphc.runtime.cuda.prelude import PRELUDE
from graphc.runtime.cuda.schedule import schedule
from graphc.runtime.cuda.source import print_kernel
from graphc.runtime.loop.ir import Buffer, Kernel, Load, Store
from graphc.types import float32
from tests.cuda.cases import scalar_cases, statement_cases
from tests.cuda.harness import Case, Suite
from tests.cuda.nests import samples
from tests.runtime.loop.shorthand import at, parallel

COPIED = 1 << 26  # elements: 256 MiB read and as much written, beyond the second-level cache


def suites() -> dict[str, Suite]:
    scheduled = [Case(s.name, schedule(s.nest), s.arrays, ulps=32) for s in samples()]
    return {
        "scalar functions": Suite(list(scalar_cases())),
        "statements": Suite(list(statement_cases())),
        "operations": Suite(scheduled),
    }


def copy_rate(device: CupyDevice) -> float:
    """Bytes a second of the simplest kernel there is, median of ten runs."""
    i = Axis("i", COPIED)
    x, y = Buffer("x", float32, COPIED), Buffer("y", float32, COPIED)
    kernel = print_kernel(Kernel("copy", (x, y), (parallel(i, Store(y, at(i), Load(x, at(i)))),)))
    launch = kernel.launches[0]
    function = device.load(PRELUDE + kernel.text, [launch.function])[launch.function]
    source, target = device.allocate(4 * COPIED), device.allocate(4 * COPIED)
    device.clear(source)
    times = []
    for _ in range(11):
        device.synchronize()
        start = time.perf_counter()
        device.launch(function, launch.grid, launch.block, [source, target])
        device.synchronize()
        times.append(time.perf_counter() - start)
    return 8 * COPIED / float(np.median(times[1:]))


def main() -> int:
    try:
        device = CupyDevice()
    except GraphcError as error:
        print(error)
        return 1
    print(device.name)
    failed = 0
    for name, suite in suites().items():
        start = time.perf_counter()
        try:
            suite.check_all(device)
            print(f"{name}: {len(suite.cases)} cases agree with the interpreter, {time.perf_counter() - start:.1f} s")
        except ExceptionGroup as group:
            failed = 1
            print(f"{name}: {group}")
            for error in group.exceptions:
                print(f"  {error.__notes__[0]}: {str(error).strip().splitlines()[0]}")
    print(f"copy: {copy_rate(device) / 1e12:.2f} TB/s")
    return failed


if __name__ == "__main__":
    sys.exit(main())
