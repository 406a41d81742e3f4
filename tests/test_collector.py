"""The collector, paused: what is left counts as old, and garbage is still found."""

from __future__ import annotations

import gc
import weakref

import pytest

from graphc.collector import paused


class _Knot:
    """Garbage that only the collector finds."""

    def __init__(self) -> None:
        self.self = self


@pytest.fixture(autouse=True)
def _as_before() -> object:
    yield
    gc.unfreeze()
    gc.enable()


def test_what_was_made_meanwhile_isnt_young_any_more() -> None:
    gc.collect()
    with paused():
        assert not gc.isenabled()
        made = [[] for _ in range(10_000)]
    assert gc.isenabled()
    assert gc.get_count()[0] < 1000
    assert not gc.get_freeze_count()
    assert len(made) == 10_000


def test_garbage_that_was_made_meanwhile_is_collected_with_the_old() -> None:
    with paused():
        knot = weakref.ref(_Knot())
    assert knot() is not None
    gc.collect()
    assert knot() is None


def test_who_keeps_objects_from_the_collector_keeps_them() -> None:
    gc.freeze()
    kept = gc.get_freeze_count()
    with paused():
        pass
    assert gc.get_freeze_count() >= kept > 0
    assert gc.isenabled()


def test_a_collector_that_was_off_stays_off() -> None:
    gc.disable()
    with paused():
        assert not gc.isenabled()
    assert not gc.isenabled()
