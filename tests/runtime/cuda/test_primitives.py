"""The walk over the registry, on the emulated GPU: what each primitive's kernel computes is what `eval` computes.

A new primitive needs no line here; its samples come from tests/samples.py.
"""

from __future__ import annotations

import numpy as np
import pytest

from graphc.ir.node import make, parameter
from graphc.runtime.cuda.schedule import schedule
from graphc.runtime.loop.lower import lower_node
from tests.cuda.devices import DEVICES, device_named, needs_nvrtc
from tests.cuda.harness import Case, Suite, assert_lean
from tests.samples import computable, samples

# CUDA's own sin and cos reduce large arguments through a table in local memory; beyond that nothing may use any.
TABLES = ("sin", "cos")


A_FEW = 10  # samples of each primitive; all of them take two minutes to compile


def cases(at_most: int | None = None) -> list[Case]:
    made = []
    for primitive in computable():
        every = list(enumerate(samples(primitive)))
        step = 1 if at_most is None else -(-len(every) // at_most)
        for number, sample in every[::step]:
            node = make(primitive, [parameter(i, t) for i, t in enumerate(sample.types)], sample.attrs)
            arrays = {f"p{i}": np.ascontiguousarray(a) for i, a in enumerate(sample.arrays)}
            kernel = schedule(lower_node(node))
            made.append(Case(f"{primitive.name}_{number}", kernel, arrays, ulps=8, relative=8))
    return made


SUITE = Suite(cases(A_FEW))


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("name", SUITE.names)
def test_primitive(name: str, device: str) -> None:
    SUITE.check(name, device_named(device))


@needs_nvrtc
def test_compiled_for_hopper() -> None:
    assert_lean(SUITE.compiled(), lambda name: any(f"_{table}_" in name for table in TABLES))


@pytest.mark.slow
@pytest.mark.parametrize("device", DEVICES)
def test_every_sample(device: str) -> None:
    Suite(cases()).check_all(device_named(device))


@pytest.mark.gpu
def test_on_a_gpu() -> None:
    Suite(cases()).check_all(device_named("gpu"))
