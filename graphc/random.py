"""Random numbers for programs: generators whose state is a tensor, so that both modes draw the same stream.

A generator's state is (seed, draw), int64[2]. Each draw takes a copy of it and adds 1 to the second number; the
numbers themselves are a function of that copy alone (graphc.ops.random). A compiled function treats the state as
any other tensor that it changes.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from graphc.ops import random as stream
from graphc.records import no_grad
from graphc.tensor import Tensor, wrap
from graphc.types import DEFAULT_FLOAT

_STEP = np.array([0, 1], np.int64)


class Generator:
    """A stream of random numbers. Two with the same seed give the same numbers for the same calls.

    state: int64[2] = (seed, number of the next draw). deepcopy and pickle continue the same stream.
    """

    def __init__(self, seed: int = 0) -> None:
        self.state = wrap(stream.key(seed))

    def manual_seed(self, seed: int) -> Generator:
        """Begin the stream of `seed` (any integer, taken modulo 2**64), in place. Returns self."""
        with no_grad():
            self.state.copy_(stream.key(seed))
        return self

    def get_state(self) -> Tensor:
        """A copy of the state, for set_state."""
        return self.state.detach().clone()

    def set_state(self, state: Tensor) -> None:
        """Continue where get_state() was called."""
        with no_grad():
            self.state.copy_(state)

    def draw(self) -> Tensor:
        """The state of one draw: an operand for the functions of graphc.ops.random."""
        with no_grad():
            now = self.state.clone()
            self.state.add_(_STEP)
        return now

    def __repr__(self) -> str:
        return f"<Generator {self.state!r}>"


default_generator = Generator(0)


def manual_seed(seed: int) -> Generator:
    """Begin the stream of `seed` in the default generator, which is what all draw from unless given another."""
    return default_generator.manual_seed(seed)


def uniform(
    shape: Sequence[int] = (),
    low: float = 0.0,
    high: float = 1.0,
    dtype: Any = DEFAULT_FLOAT,
    generator: Generator | None = None,
) -> Tensor:
    """Numbers evenly spread over [low, high)."""
    state = (generator or default_generator).draw()
    result: Tensor = stream.uniform(state, shape, low, high, dtype)
    return result


def normal(
    shape: Sequence[int] = (),
    mean: float = 0.0,
    std: float = 1.0,
    dtype: Any = DEFAULT_FLOAT,
    generator: Generator | None = None,
) -> Tensor:
    """Normally distributed numbers."""
    state = (generator or default_generator).draw()
    result: Tensor = stream.normal(state, shape, mean, std, dtype)
    return result


def bernoulli(p: Any, shape: Sequence[int] | None = None, generator: Generator | None = None) -> Tensor:
    """Booleans that are true with probability p: a number, or a tensor (of `shape` unless given)."""
    result: Tensor = stream.bernoulli((generator or default_generator).draw(), p, shape)
    return result


def randint(low: int, high: int, shape: Sequence[int] = (), generator: Generator | None = None) -> Tensor:
    """int64 numbers evenly spread over low, ..., high - 1."""
    result: Tensor = stream.randint((generator or default_generator).draw(), low, high, shape)
    return result


def permutation(n: int, generator: Generator | None = None) -> Tensor:
    """0, ..., n - 1 in random order, int64."""
    result: Tensor = stream.permutation((generator or default_generator).draw(), n)
    return result
