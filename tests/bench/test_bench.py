"""The suite's correctness: every work at a small size, graphc's results against every installed peer's."""

from __future__ import annotations

import pytest

from .libraries import installed
from .suite import all_works, check
from .work import Work

QUICK = ("graphc", "graphc eager", "numpy", "torch")  # the other peers compile for seconds


@pytest.mark.parametrize("work", all_works("SMALL"), ids=lambda work: work.name)
def test_agrees(work: Work) -> None:
    libraries = installed(2, QUICK)
    runs, _, _ = check(work, libraries, work.dtype or "float32")
    assert runs
