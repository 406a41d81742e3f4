"""The record of one operation: everything the whole system knows about it, in one place.

A primitive is defined once (see graphc/ops/) and read by every mode: `eval` gives numbers now, `infer`
types it for errors, tracer and verifier, `vjp`/`jvp` are its derivative rules (written in operations, so
they run on arrays, on taped tensors and on graph nodes alike) and `body` is its meaning element by
element for the native backends.
"""

from __future__ import annotations

import enum
from collections.abc import Callable
from dataclasses import field
from typing import Any, TypeAlias

from graphc.frozen import dataclass
from graphc.ir.expr import Compute
from graphc.types import TensorType

# A value is whatever the rules are running on: numpy.ndarray, Tensor or Node. Rules can't tell.
Value: TypeAlias = Any
Rule: TypeAlias = Callable[..., Value]


class Fact(enum.Flag):
    """What rewrites and schedules may rely on."""

    NONE = 0
    ELEMENTWISE = enum.auto()  # out[i] depends on the operands' elements that broadcast to i
    COMMUTATIVE = enum.auto()
    ODD = enum.auto()  # f(-x) = -f(x) exactly
    EVEN = enum.auto()
    MONOTONE = enum.auto()  # non-decreasing
    PRESERVES_ZERO = enum.auto()  # f(0) = 0
    VIEW = enum.auto()  # may share memory with its first operand
    REDUCTION = enum.auto()
    CONTRACTION = enum.auto()  # sums of products: matmul, convolution
    COSTLY = enum.auto()  # tens of instructions: not worth computing twice
    SYMBOLIC = enum.auto()  # has no body: a pass must expand it (gradient, tangent, leaf)
    JOINS = enum.auto()  # the operands lie side by side in the result, along the attribute `axis`
    SELECTS = enum.auto()  # its vjp puts exact zeros where an operand wasn't chosen (see autodiff.pull)


@dataclass(frozen=True, eq=False, slots=True)
class Primitive:
    """One operation.

    name: the array API's name where it has one; unique.
    infer: (*operand_types, **attrs) -> TensorType. Raises ShapeError/DTypeError with a message that teaches.
    eval: (xp, *arrays, **attrs) -> array; xp is numpy or cupy. The eager meaning.
    vjp: one rule per operand, or a function of the operand's number for variadic primitives, or None
        for an operand (or the whole primitive) with no derivative. Rule: (g, y, *xs, **attrs) -> the
        cotangent of that operand, with exactly its shape, or None for zero.
    pullback: instead of vjp, where the operands' rules share their work: (g, y, *xs, wanted, masked, **attrs) ->
        one cotangent (or None) for each operand. wanted: which of them are asked for. masked: whether g holds
        exact zeros for what wasn't chosen, against which nothing may put a nan (see autodiff.pull).
    jvp: (tangents, y, *xs, **attrs) -> tangent of y; an absent tangent is None.
    partials: elementwise primitives give, instead of vjp and jvp, one local derivative per operand:
        (y, *xs) -> dy/dx_i as a value or a Python number. autodiff makes both rules from it.
    body: (*operand_types, **attrs) -> Compute. None only if SYMBOLIC.
    """

    name: str
    infer: Callable[..., TensorType]
    eval: Callable[..., Any]
    vjp: tuple[Rule | None, ...] | Callable[[int], Rule] | None = None
    pullback: Rule | None = None
    jvp: Rule | None = None
    partials: tuple[Rule | None, ...] | None = None
    body: Callable[..., Compute] | None = None
    facts: Fact = Fact.NONE
    # the facts that are asked of every operation or node, as plain booleans: an enum's `&` costs as much as a small
    # operation
    elementwise: bool = field(init=False, default=False)
    selects: bool = field(init=False, default=False)
    view: bool = field(init=False, default=False)
    contraction: bool = field(init=False, default=False)
    # NumPy's own function, where `eval` is nothing else: called directly on NumPy arrays
    ufunc: Callable[..., Any] | None = field(init=False, default=None)
    # `partials` for NumPy arrays of one floating dtype (graphc/bare.py); None: not known
    numeric: tuple[Rule | None, ...] | None = field(init=False, default=None)

    def __post_init__(self) -> None:
        object.__setattr__(self, "elementwise", Fact.ELEMENTWISE in self.facts)
        object.__setattr__(self, "selects", Fact.SELECTS in self.facts)
        object.__setattr__(self, "view", Fact.VIEW in self.facts)
        object.__setattr__(self, "contraction", Fact.CONTRACTION in self.facts)
        object.__setattr__(self, "ufunc", getattr(self.eval, "ufunc", None))

    def prepare(self, numeric: tuple[Rule | None, ...]) -> None:
        """Set `numeric`, once."""
        object.__setattr__(self, "numeric", numeric)

    def __repr__(self) -> str:
        return f"<primitive {self.name}>"

    def __reduce__(self) -> str:
        return self.name
