"""Functions composed of operations, which eager mode may run as one.

A composed function means what its operations mean, on every carrier. On large tensors it is worth more than their
sum: a runtime that stands above can run it as one native kernel, with its derivative as another. Such a runtime is
`provide`d by whoever assembles the house, and opened when a call is first large enough to ask for it.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, ParamSpec, Protocol, TypeVar

from graphc.dispatch import state

P = ParamSpec("P")
R = TypeVar("R")
_NO_TENSOR: Any = object()
LEAST = 2048  # elements of the largest operand from which a call is offered to the runtime


class Runner(Protocol):
    """Runs composed functions on tensors of numbers."""

    def call(self, function: Callable[..., Any], args: tuple[Any, ...], options: dict[str, Any]) -> Any:
        """function(*args, **options), by whichever means."""

    def step(self, optimizer: Any) -> bool:
        """Take one step of an optimizer; False if its own code has to."""

    def compiled(self, graph: Any, name: str) -> Callable[[], Callable[..., Any] | None]:
        """Begin to compile a graph; gives what waits for the result, a function of arrays (None: there can't be one)"""


class _House:
    """Who runs composed functions: nobody, until `opener` gives a runner that is asked for."""

    def __init__(self) -> None:
        self.wanted = True
        self._opener: Callable[[], Runner] | None = None
        self._runner: Runner | None = None

    def provide(self, opener: Callable[[], Runner]) -> None:
        self._opener, self._runner = opener, None

    @property
    def runner(self) -> Runner | None:
        """The runner, if there is one, it is wanted, and tensors have numbers for it."""
        if not self.wanted or self._opener is None or not state.interpreter.computes:
            return None
        if self._runner is None:
            self._runner = self._opener()
        return self._runner


house = _House()


def set_eager_kernels(on: bool) -> None:
    """Whether eager mode may use native kernels for whole functions and optimizer steps on large tensors (it does).

    A kernel takes over from NumPy when its function has been called a few times on operands of the same shapes; from
    then on results may differ by rounding from those before. When that is depends on the calls alone, never on time,
    so a program gives the same numbers each time it runs. Without kernels equal calls give equal bits throughout.
    """
    house.wanted = bool(on)


def composed(function: Callable[P, R]) -> Callable[P, R]:
    """Decorates a function of tensors that is made of operations alone: no randomness, no state, one result.

    Its tensors are positional arguments; all others must be hashable (if they aren't, it runs as it is written).
    """

    @functools.wraps(function)
    def call(*args: P.args, **options: P.kwargs) -> R:
        for x in args:
            data = getattr(x, "_data", _NO_TENSOR)
            if data is None:  # it is being traced
                return state.interpreter.composed(function, args, options)  # type: ignore[no-any-return]
            if data is not _NO_TENSOR and data.size >= LEAST and house.wanted:
                runner = house.runner
                return function(*args, **options) if runner is None else runner.call(function, args, options)
        return function(*args, **options)

    return call
