"""Every operation, by each way to schedule it for a GPU: against the interpreter, and against NumPy."""

from __future__ import annotations

import pytest

from graphc.runtime.cuda.schedule import schedule
from graphc.runtime.cuda.tile import tiled, tiles
from graphc.runtime.loop.ir import Kernel
from tests.cuda.devices import DEVICES, device_named, needs_nvrtc
from tests.cuda.harness import Case, Suite, assert_lean, compare, interpreted
from tests.cuda.nests import Sample, samples

SAMPLES = {sample.name: sample for sample in samples()}


def schedules(sample: Sample) -> list[Case]:
    """A case for each kernel that the sample's nest can be made into."""
    kernels: dict[str, Kernel] = {"best": schedule(sample.nest)}
    if any(stage.axes for stage in sample.nest.stages):
        kernels |= {f"{width}": schedule(sample.nest, width) for width in (1, 32, 128)}
        for tile in list(tiles(sample.nest))[::7]:
            kernels[f"tile_{tile.row_count}_{tile.column_count}"] = tiled(sample.nest, tile)
    return [Case(f"{sample.name}_{how}", kernel, sample.arrays, ulps=32) for how, kernel in kernels.items()]


CASES = {case.name: (case, sample) for sample in SAMPLES.values() for case in schedules(sample)}
SUITE = Suite([case for case, _ in CASES.values()])


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("name", CASES)
def test_operation(name: str, device: str) -> None:
    SUITE.check(name, device_named(device))


@pytest.mark.parametrize("name", CASES)
def test_schedule_keeps_the_meaning(name: str) -> None:
    case, sample = CASES[name]
    code, memory = interpreted(case.kernel, case.arrays)
    assert code == 0
    for output, wanted in sample.wanted.items():
        compare(output, memory[output], wanted, 32, relative=32)


@needs_nvrtc
def test_compiled_for_hopper() -> None:
    forced = ("_1",)  # one thread for each row, with the row in its local memory: only where a test asks for it
    assert_lean(SUITE.compiled(), lambda name: name.endswith(forced))


@pytest.mark.gpu
def test_on_a_gpu() -> None:
    SUITE.check_all(device_named("gpu"))
