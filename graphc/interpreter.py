"""What operations on Tensors mean: an Interpreter, one of which is in force in each thread.

The tape (graphc/tape.py) computes at once and remembers; the tracer (graphc/tracer.py) builds a graph.
"""

from __future__ import annotations

import abc
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias

import numpy.typing as npt

from graphc import dispatch
from graphc.errors import AutodiffError, DTypeError, TraceError
from graphc.primitive import Primitive
from graphc.types import Scalar

if TYPE_CHECKING:
    from graphc.tensor import Tensor

Operand: TypeAlias = "Tensor | npt.NDArray[Any] | Scalar"
Hook: TypeAlias = "Callable[[Tensor], Tensor | None]"


class Interpreter(abc.ABC):
    """What operations on Tensors mean. One is active at a time. computes: whether tensors have numbers."""

    computes = False

    @abc.abstractmethod
    def evaluate(self, primitive: Primitive, operands: tuple[Any, ...], attrs: dict[str, Any]) -> Tensor: ...

    def composed(self, function: Callable[..., Any], args: tuple[Any, ...], options: dict[str, Any]) -> Any:
        """function(*args, **options), of a function that consists of operations (graphc/composed.py)."""
        return function(*args, **options)

    @abc.abstractmethod
    def assign(self, target: Tensor, value: Operand, what: str) -> None:
        """Overwrite target's elements (in place) by `value`, broadcast to its shape; `what` names the operation."""

    @abc.abstractmethod
    def created(self, tensor: Tensor) -> Tensor:
        """Called for a tensor that user code just made of an array; returns it."""

    @abc.abstractmethod
    def look(self, tensor: Tensor, what: str) -> None:
        """Called before Python gets to see the tensor's numbers; raises where they may not be seen."""

    @abc.abstractmethod
    def refused(self, error: TraceError) -> None:
        """Told that a traced tensor's numbers were asked for, in case the caller swallows the error."""

    @abc.abstractmethod
    def grad_of(self, tensor: Tensor) -> Tensor | None: ...

    @abc.abstractmethod
    def set_grad(self, tensor: Tensor, grad: Tensor | None) -> None: ...

    @abc.abstractmethod
    def backward(self, tensor: Tensor, gradient: Tensor | None, retain_graph: bool, create_graph: bool) -> None: ...

    @abc.abstractmethod
    def variable(self, tensor: Tensor) -> Tensor:
        """The same value as a variable of its own, for a functional transform to differentiate by."""

    @abc.abstractmethod
    def pull(self, ys: Sequence[Tensor], seeds: Sequence[Tensor], variables: Sequence[Tensor]) -> list[Tensor]:
        """Cotangents of the variables from those of ys; zeros where ys don't depend on one."""

    @abc.abstractmethod
    def push(self, ys: Sequence[Tensor], variables: Sequence[Tensor], tangents: Sequence[Tensor]) -> list[Tensor]:
        """Tangents of ys from those of the variables."""

    @abc.abstractmethod
    def settled(self, y: Tensor, variables: Sequence[Tensor]) -> Tensor:
        """y for those outside of the transform, whom its private variables don't concern."""

    @abc.abstractmethod
    def require_grad(self, tensor: Tensor, required: bool) -> None: ...

    @abc.abstractmethod
    def detach(self, tensor: Tensor) -> Tensor: ...

    def hook(self, tensor: Tensor, function: Hook) -> Callable[[], None]:
        """Call function(gradient) when the tensor's gradient is known; returns what removes it."""
        record = tensor._record
        if record is None:
            raise AutodiffError(
                "register_hook(): this tensor requires no gradient, so the hook would never run; see requires_grad_()."
            )
        if record.hooks is None:
            record.hooks = []
        hooks = record.hooks
        hooks.append(function)

        def remove() -> None:
            if function in hooks:
                hooks.remove(function)

        return remove

    @abc.abstractmethod
    def retain_grad(self, tensor: Tensor) -> None: ...


def check_has_gradient(tensor: Tensor) -> None:
    """Raise DTypeError if this tensor is of integers or truth values."""
    if tensor.dtype.kind != "f":
        raise DTypeError(
            f"requires_grad_(): only floating tensors have gradients, this one is {tensor.dtype.name}; see astype()."
        )


class _State(Protocol):
    """dispatch.state, as those who know what a Tensor is see it."""

    interpreter: Interpreter
    evaluate: dispatch.Evaluate


state: _State = dispatch.state


def install(interpreter: Interpreter) -> None:
    """Make `interpreter` the one that every thread starts with. tape.py calls it once."""
    dispatch.Interpretation.interpreter = interpreter
    dispatch.Interpretation.evaluate = staticmethod(interpreter.evaluate)


def active() -> Interpreter:
    """The interpreter in force."""
    return state.interpreter


@contextmanager
def interpreting(interpreter: Interpreter) -> Iterator[None]:
    """Use `interpreter` in this thread within the context, also if it ends with an error."""
    before = state.interpreter, state.evaluate
    state.interpreter, state.evaluate = interpreter, interpreter.evaluate
    try:
        yield
    finally:
        state.interpreter, state.evaluate = before
