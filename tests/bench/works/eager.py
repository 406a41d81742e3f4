"""The same small graphs and training steps, not compiled, against PyTorch eager.

Their results are those of the third step; a kernel may take over from NumPy before or after it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from tests.bench.work import Work

from . import gpt, lenet, mlp, small


def _small(works: Sequence[Work]) -> list[Work]:
    return [replace(work, name=f"eager {work.name}", line="eager-small") for work in works]


def _steps(works: Sequence[Work]) -> list[Work]:
    """What graphc runs compiled elsewhere, run as it is written."""
    return [
        replace(
            work,
            name=f"eager {work.name}",
            line="eager-steps",
            own={"graphc eager": work.own["graphc"], "torch": work.own["torch"]},
        )
        for work in works
    ]


WORKS = [*_small(small.WORKS), *_steps([lenet.WORKS[0], *mlp.WORKS, gpt.WORKS[0]])]
SMALL = [*_small(small.SMALL), *_steps([lenet.SMALL[0], *mlp.SMALL, *gpt.SMALL])]
