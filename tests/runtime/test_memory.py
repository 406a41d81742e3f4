"""Arena planning: values that live at one time never overlap, memory is used again."""

from __future__ import annotations

from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from graphc.runtime.memory import ALIGNMENT, Lifetime, in_use, place


def test_a_chain_needs_two_buffers() -> None:
    values = [Lifetime(1000, i, i + 1) for i in range(10)]
    offsets, size = place(values)
    assert size == 2 * 1024
    assert all(offsets[i] != offsets[i + 1] for i in range(9))


def test_a_chain_in_place_needs_one() -> None:
    values = [Lifetime(1000, i, i + 1, (i - 1,) if i else ()) for i in range(10)]
    offsets, size = place(values)
    assert (set(offsets), size) == ({0}, 1024)


def test_memory_is_taken_over_once() -> None:
    values = [Lifetime(64, 0, 1), Lifetime(64, 1, 2, (0,)), Lifetime(64, 1, 2, (0,))]
    offsets, _ = place(values)
    assert offsets[1] == offsets[0] != offsets[2]


def test_memory_of_a_value_that_lives_on_is_not_taken_over() -> None:
    offsets, _ = place([Lifetime(64, 0, 5), Lifetime(64, 1, 2, (0,))])
    assert offsets[0] != offsets[1]


def test_the_smallest_gap_that_fits_is_used() -> None:
    values = [Lifetime(640, 0, 1), Lifetime(64, 0, 9), Lifetime(128, 0, 1), Lifetime(64, 0, 9), Lifetime(128, 2, 3)]
    offsets, size = place(values)
    assert offsets[4] == offsets[2]
    assert size == 640 + 64 + 128 + 64


def test_large_values_that_come_late_find_one_gap() -> None:
    # in the order of writing, the small one that stays would lie between the two that go, and the last on top
    values = [Lifetime(640, 0, 1), Lifetime(64, 1, 9), Lifetime(640, 1, 2), Lifetime(1280, 3, 4)]
    offsets, size = place(values)
    assert size == 1280 + 64
    assert offsets[3] == 0


def test_very_many_values_are_placed_in_order() -> None:
    values = [Lifetime(64 * (1 + i % 7), i, i + 2) for i in range(5000)]
    offsets, size = place(values)
    assert size <= 5 * 64 * 7
    assert all(offsets[i] != offsets[i + 1] for i in range(4999))


@st.composite
def lifetimes(draw: Any) -> list[Lifetime]:
    values: list[Lifetime] = []
    for _ in range(draw(st.integers(1, 40))):
        first = draw(st.integers(0, 15))
        nbytes = draw(st.integers(0, 5)) * 100
        dying = [i for i, v in enumerate(values) if v.last == first and v.nbytes == nbytes]
        over = tuple(draw(st.permutations(dying))) if dying else ()
        values.append(Lifetime(nbytes, first, first + draw(st.integers(0, 5)), over))
    return values


@settings(max_examples=200, deadline=None)
@given(lifetimes())
def test_no_two_live_values_overlap(values: list[Lifetime]) -> None:
    offsets, size = place(values)
    for i, (a, at) in enumerate(zip(values, offsets, strict=True)):
        assert at % ALIGNMENT == 0
        assert at + a.nbytes <= size
        for j, (b, other) in enumerate(zip(values, offsets, strict=True)):
            if i == j or a.first > b.last or b.first > a.last:
                continue
            handed_over = (i in b.over and a.last == b.first) or (j in a.over and b.last == a.first)
            apart = at + a.nbytes <= other or other + b.nbytes <= at
            assert apart or (at == other and handed_over)


def test_bytes_in_use_in_each_step() -> None:
    values = [Lifetime(100, 0, 2), Lifetime(10, 1, 1), Lifetime(100, 2, 3, over=(0,)), Lifetime(1, 4, 4)]
    assert in_use(values, 5) == [100, 110, 100, 100, 1]
    assert in_use([], 2) == [0, 0]


@settings(max_examples=100, deadline=None)
@given(lifetimes())
def test_an_arena_holds_what_is_in_use(values: list[Lifetime]) -> None:
    assert place(values)[1] >= max(in_use(values, 25))
