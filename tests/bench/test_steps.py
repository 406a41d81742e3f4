"""The gradients of the suite's training steps: compiled against eager, and both against PyTorch where it is installed.

Gradients, not parameters: Adam divides each gradient by its own size, so where one is nothing but rounding error,
so is the step.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import graphc as gc

from .models import graphc_work, torch_work

try:
    import torch
except ImportError:
    torch = None

SIZES = {"lenet": 9, "mlp": 17, "gpt": 3}
MOST = 40.0  # ulps of each gradient's largest element: sums of thousands of terms in other orders


def ulps(ours: Any, theirs: Any) -> float:
    """The largest difference of two models' gradients, in ulps of each gradient's largest element."""
    worst = 0.0
    for p, q in zip(ours.parameters(), theirs.parameters(), strict=True):
        a, b = p.grad.numpy(), q.grad.numpy()
        worst = max(worst, float(np.abs(a - b).max() / np.spacing(np.abs(a).max())))
    return worst


def stepped(name: str, compiled: bool) -> Any:
    work = graphc_work(name, SIZES[name])
    (gc.compile(work.step) if compiled else work.step)(*(gc.asarray(a) for a in work.batch))
    return work.model


@pytest.mark.parametrize("name", SIZES)
def test_compiled_is_eager_to_rounding(name: str) -> None:
    assert ulps(stepped(name, True), stepped(name, False)) <= MOST


@pytest.mark.skipif(torch is None, reason="PyTorch isn't installed")
@pytest.mark.parametrize("name", SIZES)
def test_both_are_pytorch_to_rounding(name: str) -> None:
    theirs = torch_work(torch, name, SIZES[name])
    theirs.step(*(torch.from_numpy(a) for a in theirs.batch))
    for compiled in (True, False):
        assert ulps(stepped(name, compiled), theirs.model) <= MOST
