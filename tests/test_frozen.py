"""graphc.frozen's dataclass behaves as that of dataclasses does, but for what it leaves out."""

from __future__ import annotations

import copy
import dataclasses
import itertools
import pickle
from collections.abc import Callable
from dataclasses import FrozenInstanceError, field, replace
from typing import Any

import pytest

from graphc import frozen


def classes(decorator: Callable[..., Any], **options: Any) -> tuple[Any, Any]:
    """A class with every kind of field, and one that inherits from it."""

    @decorator(**options)
    class Base:
        a: int
        b: list[int] = field(default_factory=list)
        c: float = field(default=2.0, compare=False)
        d: str = field(default="d", repr=False)
        e: tuple[int, ...] = field(init=False, default=(1,))
        f: dict[str, int] = field(init=False, default_factory=dict)
        g: int = field(init=False)

        def __post_init__(self) -> None:
            object.__setattr__(self, "g", self.a + 1)

    @decorator(**options)
    class Derived(Base):  # type: ignore[misc,valid-type]
        h: int = 7

    return Base, Derived


OPTIONS = [
    {"frozen": f, "slots": s, "eq": e}
    for f, s, e in itertools.product((False, True), repeat=3)
]  # fmt: skip


def outcome(f: Callable[[], Any]) -> Any:
    try:
        return f()
    except (TypeError, AttributeError) as error:
        return type(error)


@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_objects_are_those_of_dataclasses(options: dict[str, bool]) -> None:
    ours, theirs = classes(frozen.dataclass, **options), classes(dataclasses.dataclass, **options)

    def described(made: tuple[Any, Any]) -> list[Any]:
        base, derived = made
        x = base(1)
        y = base(1, [], c=3.0)
        found: list[Any] = [repr(x), x.g, x.b is not y.b, x == y, x != y, x == base(2), x == derived(1), x == 1, x == x]
        found += [repr(derived(1, [2], 3.0, "x", 5)), derived(1) == derived(1), derived(1, h=2) == derived(1)]
        found += [outcome(lambda: base()), outcome(lambda: base(1, 2, 3, 4, 5)), outcome(lambda: base(1, z=1))]
        found += [repr(replace(derived(1), a=4, h=9)), hasattr(x, "__dict__"), derived.__match_args__]
        found += [outcome(lambda: setattr(x, "a", 3)), x.a]
        found += [outcome(lambda: delattr(y, "a")), outcome(lambda: y.a)]
        found += [outcome(lambda: hash(x)) if options["eq"] else None]  # a list can't be hashed
        z = base(1, (2,))  # type: ignore[arg-type]
        found += [outcome(lambda: hash(z) == hash(base(1, (2,), 5.0))) if options["eq"] else None]
        return found

    assert described(ours) == described(theirs)


@frozen.dataclass(frozen=True, slots=True)
class Point:
    """One that can be found by its name."""

    x: int
    y: float = 0.0


@pytest.mark.parametrize("duplicate", [copy.copy, copy.deepcopy, lambda p: pickle.loads(pickle.dumps(p))])
def test_copies_are_equal(duplicate: Callable[[Any], Any]) -> None:
    p = Point(1, 2.0)
    assert duplicate(p) == p
    assert hash(duplicate(p)) == hash(p)


def test_equality_is_that_of_tuples() -> None:
    nan = float("nan")
    assert Point(1, nan) == Point(1, nan)  # the same object
    assert Point(1, nan) != Point(1, float("nan"))
    assert Point(1, 0.0) == Point(True, -0.0)
    assert len({Point(1), Point(1, 0.0), Point(2)}) == 2


def test_a_frozen_object_tells_who_refuses() -> None:
    with pytest.raises(FrozenInstanceError, match="Point is immutable: 'x'"):
        Point(1).x = 2  # type: ignore[misc]
    with pytest.raises(FrozenInstanceError, match="Point is immutable: 'new'"):
        Point(1).new = 2  # type: ignore[attr-defined]


def test_patterns_and_signatures() -> None:
    match Point(3, 4.0):
        case Point(x, y):
            assert (x, y) == (3, 4.0)


def test_methods_of_the_class_stay() -> None:
    @frozen.dataclass(frozen=True, slots=True)
    class Own:
        a: int

        def __eq__(self, other: object) -> bool:
            return isinstance(other, Own)

        def __hash__(self) -> int:
            return 5

        def __repr__(self) -> str:
            return "own"

    assert Own(1) == Own(2)
    assert (hash(Own(1)), repr(Own(1))) == (5, "own")


def test_methods_are_written_when_they_are_called() -> None:
    @frozen.dataclass(frozen=True, slots=True)
    class Lazy:
        a: int

    before = Lazy.__init__, Lazy.__eq__, Lazy.__hash__
    one = Lazy(1)
    assert Lazy.__init__ is not before[0]
    assert (Lazy.__eq__, Lazy.__hash__) == before[1:]
    assert one == Lazy(1)
    assert Lazy.__eq__ is not before[1]
    assert before[1](one, Lazy(1)) is True  # who still has the first one gets the same
    assert before[2](one) == hash(one)
