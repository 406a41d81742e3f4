"""Random programs, in both modes, against PyTorch: values and gradients.

Longer runs: `pytest -m slow tests/test_fuzz.py`, or GRAPHC_FUZZ=first:last for the seeds of your choice.
"""

from __future__ import annotations

import os
from typing import Any

import numpy as np
import pytest

import graphc as gc
from tests.programs import OPERATIONS, Program, random_program
from tests.pytorch import pytorch

Array = Any

if "GRAPHC_FUZZ" in os.environ:
    FIRST, LAST = map(int, os.environ["GRAPHC_FUZZ"].split(":"))
    SEEDS: list[Any] = list(range(FIRST, LAST))
else:
    SEEDS = [*range(40), *(pytest.param(seed, marks=pytest.mark.slow) for seed in range(40, 600))]


def eager(program: Program, dtype: str = "float64") -> list[Array]:
    """Outputs, then gradients."""
    inputs = [gc.tensor(a.astype(dtype), requires_grad=True) for a in program.inputs]
    outputs, loss = program.run(inputs, 0, lambda w: gc.asarray(w.astype(dtype)))
    if loss.requires_grad:
        loss.backward()
    zeros = [np.zeros(a.shape, dtype) for a in program.inputs]
    gradients = [z if x.grad is None else x.grad.numpy() for x, z in zip(inputs, zeros, strict=True)]
    return [y.detach().numpy() for y in outputs] + gradients


def compiled(program: Program, dtype: str = "float64") -> list[Array]:
    """The same by the symbolic derivative, in one native call."""
    outputs, gradients = gc.compile(program.derived(dtype))([gc.tensor(a.astype(dtype)) for a in program.inputs])
    return [y.numpy() for y in (*outputs, *gradients)]


def reference(program: Program) -> list[Array]:
    torch = pytorch()
    inputs = [torch.tensor(a, requires_grad=True) for a in program.inputs]
    outputs, loss = program.run(inputs, 1, torch.tensor)
    gradients = torch.autograd.grad(loss, inputs, allow_unused=True)
    zeros = [np.zeros(a.shape) for a in program.inputs]
    return [y.detach().numpy() for y in outputs] + [
        z if g is None else g.numpy() for g, z in zip(gradients, zeros, strict=True)
    ]


def assert_agree(program: Program, found: list[Array], wanted: list[Array], tolerance: float) -> None:
    assert len(found) == len(wanted)
    for got, want in zip(found, wanted, strict=True):
        assert got.shape == want.shape
        scale = max(1.0, float(np.abs(want).max(initial=0)))
        try:
            np.testing.assert_allclose(got, want, rtol=tolerance, atol=tolerance * scale)
        except AssertionError as error:
            error.add_note(str(program))
            raise


@pytest.mark.parametrize("seed", SEEDS)
def test_both_modes_are_pytorch(seed: int) -> None:
    program = random_program(seed)
    try:
        wanted = reference(program)
        assert_agree(program, eager(program), wanted, 1e-9)
        assert_agree(program, compiled(program), wanted, 1e-9)
    except Exception as error:
        error.add_note(f"seed {seed}:\n{program}")
        raise


@pytest.mark.parametrize("seed", SEEDS[:20])
def test_float32_errs_no_more_compiled_than_eagerly(seed: int) -> None:
    """Against float64: the compiled program's error is at most some times the eager one's, or some ulps."""
    program = random_program(seed + 1000)
    exact = eager(program)
    for a, b, want in zip(eager(program, "float32"), compiled(program, "float32"), exact, strict=True):
        assert a.dtype == b.dtype == np.float32
        scale = max(1.0, float(np.abs(want).max(initial=0)))
        worst = float(np.abs(a - want).max(initial=0))
        assert float(np.abs(b - want).max(initial=0)) <= 8 * worst + 64 * 2.0**-24 * scale, f"seed {seed}:\n{program}"


def test_programs_use_every_operation() -> None:
    """The generator reaches all that it knows, within the seeds of a normal run."""
    seen = {step.operation for seed in range(150) for _, step in random_program(seed).steps}
    assert seen == set(OPERATIONS)
