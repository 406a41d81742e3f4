"""How long each part of a compilation took."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TypeAlias

Times: TypeAlias = dict[str, float]  # part -> seconds


@contextmanager
def timed(seconds: Times, part: str) -> Iterator[None]:
    """Note how long the context took."""
    start = time.perf_counter()
    yield
    seconds[part] = time.perf_counter() - start
