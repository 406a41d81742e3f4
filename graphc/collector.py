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

    What is left afterwards counts as old, or the collector would go through all of it as soon as it is back. What
    others made meanwhile grows old with it, and is collected with the old.
    """
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            if not gc.get_freeze_count():  # else the user keeps objects out of the collector's reach
                gc.freeze()
                gc.unfreeze()
            gc.enable()
