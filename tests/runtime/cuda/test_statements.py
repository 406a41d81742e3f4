"""Every kind of statement, expression and scalar function, printed as CUDA C++, against the interpreter."""

from __future__ import annotations

import pytest

from graphc.ir.expr import SCALAR_OPS
from tests.cuda.cases import DOMAINS, scalar_cases, statement_cases
from tests.cuda.devices import DEVICES, device_named, needs_nvrtc
from tests.cuda.harness import Suite, assert_lean

SCALARS = Suite(list(scalar_cases()))
STATEMENTS = Suite(list(statement_cases()))


def test_every_scalar_function_has_a_case() -> None:
    assert set(DOMAINS) | {"cast", "select", "philox32", "philox64"} == set(SCALAR_OPS)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("name", SCALARS.names)
def test_scalar(name: str, device: str) -> None:
    SCALARS.check(name, device_named(device))


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("name", STATEMENTS.names)
def test_statement(name: str, device: str) -> None:
    STATEMENTS.check(name, device_named(device))


@needs_nvrtc
def test_compiled_for_hopper() -> None:
    # Large arguments of float32 sin and cos are reduced through a table in local memory, by CUDA's own library; so
    # are those of float64. A thread's scratch memory is local memory by definition.
    reduced = ("sin_float", "cos_float")
    assert_lean(SCALARS.compiled(), lambda name: any(r in name for r in reduced))
    assert_lean(STATEMENTS.compiled(), lambda name: "scratch_of_a_thread" in name)


@pytest.mark.gpu
def test_on_a_gpu() -> None:
    SCALARS.check_all(device_named("gpu"))
    STATEMENTS.check_all(device_named("gpu"))
