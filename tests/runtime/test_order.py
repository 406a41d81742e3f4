"""The order of works: operands first, overwriting last, and what frees memory early."""

from __future__ import annotations

from graphc.runtime.order import ordered
from graphc.runtime.plan import copying
from graphc.runtime.program import Place
from graphc.runtime.values import Value
from graphc.runtime.works import Work, lifetimes
from graphc.types import float32

NEST = copying(float32, 1)


def value(size: int, target: Value | None = None, argument: int | None = None) -> Value:
    place = None if argument is None else Place("argument", argument)
    return Value(float32, 1000 * size, target=target, place=place)


def work(reads: list[Value], *writes: Value) -> Work:
    return Work(None, tuple(reads), writes, NEST)


def test_operands_come_first_and_otherwise_the_given_order() -> None:
    x = value(1, argument=0)
    a, c, d = (value(n) for n in (4, 2, 3))
    last, first, second, third = work([c, a, d], value(9)), work([x], a), work([a], c), work([x], d)
    assert ordered([last, first, second, third]) == [first, second, third, last]


def test_what_frees_memory_does_not_wait() -> None:
    x, result = value(1, argument=0), value(1, argument=1)
    large, other = value(9), value(1)
    writes, next_one, frees = work([x], large), work([x], other), work([large], result)
    assert ordered([writes, next_one, frees]) == [writes, frees, next_one]


def test_a_copy_that_its_only_reader_frees_with_the_original_does_not_wait() -> None:
    """A gradient is turned for a product that nothing follows: both at once, and it is gone."""
    x, result = value(1, argument=0), value(1, argument=1)
    kept, gradient, turned, other = value(3), value(9), value(9), value(1)
    works = [work([x], kept), work([x], gradient), work([x], other), work([gradient], turned)]
    works.append(work([turned, kept], result))
    order = ordered(works)
    assert [works.index(w) for w in order] == [0, 1, 3, 4, 2]


def test_an_update_waits_for_the_readers_of_the_old_numbers() -> None:
    x = value(1, argument=0)
    update, reader = work([x], value(1, target=x)), work([x], value(5))
    assert ordered([update, reader]) == [reader, update]


def test_lifetimes_reach_from_the_first_write_to_the_last_read() -> None:
    x = value(1, argument=0)
    joined, other = value(4), value(2)
    left = Value(float32, 2000, inside=joined)
    right = Value(float32, 2000, inside=joined, shift=2000)
    joined.parts += [left, right]
    works = [work([x], left), work([x], other), work([other], right), work([x], value(1)), work([left], value(1))]
    lives = lifetimes(works, lambda v: v.place is None)
    assert {v: (life.first, life.last) for v, life in lives.items() if v in (joined, other)} == {
        joined: (0, 4),
        other: (1, 2),
    }
    assert x not in lives
    assert left not in lives
