"""graphc.random: generators, their state, and which stream the functions draw from."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from graphc import random
from graphc.ops import random as stream
from graphc.random import Generator

DRAWS: list[Callable[[Generator | None], Any]] = [
    lambda g: random.uniform((5,), -1, 2, generator=g),
    lambda g: random.normal((3, 2), 1, 2, dtype="float64", generator=g),
    lambda g: random.bernoulli(0.3, (20,), generator=g),
    lambda g: random.randint(-5, 5, (20,), generator=g),
    lambda g: random.permutation(20, generator=g),
]


def test_each_draw_is_the_next_of_the_stream() -> None:
    generator = Generator(7)
    for number in range(3):
        expected = stream.uniform(stream.key(7, number), (4,))
        np.testing.assert_array_equal(random.uniform((4,), generator=generator).numpy(), np.asarray(expected))
    assert generator.state.tolist() == [7, 3]


@pytest.mark.parametrize("draw", DRAWS)
def test_the_seed_decides_in_every_generator(draw: Callable[[Generator | None], Any]) -> None:
    random.manual_seed(11)
    first, second = draw(None).numpy(), draw(None).numpy()
    assert (first != second).any()
    own = Generator(11)
    np.testing.assert_array_equal(draw(own).numpy(), first)
    np.testing.assert_array_equal(draw(own).numpy(), second)
    np.testing.assert_array_equal(draw(random.manual_seed(11)).numpy(), first)
    assert (draw(Generator(12)).numpy() != first).any()
    assert not draw(own).requires_grad


def test_states_are_kept_copied_and_pickled() -> None:
    generator = Generator(-3)
    random.normal(generator=generator)
    state = generator.get_state()
    copies = [copy.deepcopy(generator), pickle.loads(pickle.dumps(generator))]
    numbers = random.uniform((9,), generator=generator).numpy()
    assert state.tolist() == [-3, 1]
    generator.set_state(state)
    for g in (generator, *copies):
        np.testing.assert_array_equal(random.uniform((9,), generator=g).numpy(), numbers)
    memory = generator.state
    assert generator.manual_seed(2**64 + 5).state is memory
    assert memory.tolist() == [5, 0]
