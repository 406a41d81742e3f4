"""PyTorch as a reference, where it is installed."""

from __future__ import annotations

import functools
from typing import Any

import pytest


@functools.cache
def pytorch() -> Any:
    """The torch module, on one thread (its pool costs more than it gives on small arrays). Skips without it."""
    torch = pytest.importorskip("torch")
    torch.set_num_threads(1)
    return torch
