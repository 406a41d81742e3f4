"""Python's cyclic garbage collector, paused."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def paused() -> Iterator[None]:
    """No collection within the context.

    Graphs hold no cycles, so counting references frees them; the collector would walk every living node again each
    time that their number has grown by a quarter, which makes work on large graphs slower than linear.
    """
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()
