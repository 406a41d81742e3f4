"""apply(): what a primitive means depends on what its operands are.

Three carriers, one language. On raw arrays a primitive computes (this is how the tape's backward sweep
runs the derivative rules). On graph nodes it builds a node (how the `differentiate` pass runs the same
rules). On Tensors the interpreter in force decides: eager, taped or traced.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy import ndarray

from graphc.errors import DTypeError
from graphc.ir.node import Node, constant, make
from graphc.primitive import Primitive, Value
from graphc.types import BY_NUMPY, DType, Scalar, Shape, TensorType, dtype_of, promote, promote_scalar, scalar_dtype

SCALARS = frozenset({bool, int, float})
_NO_ATTRS: dict[str, Any] = {}
NUMBERS = frozenset({bool, int, float, np.ndarray, np.float32, np.float64, np.int32, np.int64, np.bool_})

Evaluate = Callable[[Primitive, tuple[Any, ...], dict[str, Any]], Any]


class Interpretation(threading.local):
    """What operations on values that aren't nodes mean, for each thread: one may trace while others compute."""

    interpreter: Any  # a graphc.interpreter.Interpreter; tape.py, which stands above, installs the first one
    evaluate: Evaluate


state = Interpretation()


class numbers:
    """Within this context operations on raw arrays give raw arrays: `with numbers(): rule(g, y, *xs)`."""

    __slots__ = ("_before",)

    def __enter__(self) -> None:
        self._before = state.evaluate
        state.evaluate = _evaluate_numbers

    def __exit__(self, *_: object) -> None:
        state.evaluate = self._before


def apply(primitive: Primitive, *operands: Any, **attrs: Any) -> Value:
    """The result of `primitive` on values of one carrier (Python scalars mix with any)."""
    for x in operands:
        if type(x) is Node:
            return make(primitive, as_nodes(operands), attrs)
    return state.evaluate(primitive, operands, attrs)


def unary(primitive: Primitive, x: Any, attrs: dict[str, Any] = _NO_ATTRS) -> Value:
    """apply(primitive, x, **attrs), with less ado."""
    evaluate = state.evaluate
    if type(x) is ndarray:
        if evaluate is _evaluate_numbers:
            return primitive.ufunc(x) if primitive.ufunc is not None else primitive.eval(np, x, **attrs)
    elif type(x) is Node:
        return make(primitive, (x,), dict(attrs))
    return evaluate(primitive, (x,), attrs)


def binary(primitive: Primitive, x: Any, y: Any) -> Value:
    """apply(primitive, x, y), with less ado."""
    evaluate = state.evaluate
    if type(x) is Node or type(y) is Node:
        return make(primitive, as_nodes((x, y)), {})
    a, b = type(x), type(y)
    if evaluate is _evaluate_numbers and (a is ndarray or b is ndarray) and a in NUMBERS and b in NUMBERS:
        ufunc = primitive.ufunc
        return ufunc(x, y) if ufunc is not None else primitive.eval(np, x, y)
    return evaluate(primitive, (x, y), _NO_ATTRS)


def _evaluate_numbers(primitive: Primitive, operands: tuple[Any, ...], attrs: dict[str, Any]) -> Value:
    """`evaluate` on raw numbers. Operations on Tensors (a hook's) or on nothing keep their meaning."""
    python = True  # whether all are Python's numbers
    foreign = False  # whether some may belong to another array library
    for x in operands:
        kind = type(x)
        if kind not in SCALARS:
            python = False
            if kind is not ndarray:
                foreign = True
                if hasattr(x, "requires_grad"):
                    return state.interpreter.evaluate(primitive, operands, attrs)
    if not operands:
        return state.interpreter.evaluate(primitive, operands, attrs)
    if python:  # a number computed from Python numbers stays a (weak) Python number
        return primitive.eval(np, *operands, **attrs).item()
    if foreign:
        return primitive.eval(array_namespace(operands), *operands, **attrs)
    return primitive.eval(np, *operands, **attrs)


def array_namespace(arrays: tuple[Any, ...]) -> Any:
    """The module (numpy or cupy) that computes on these arrays."""
    for x in arrays:
        if hasattr(x, "__cuda_array_interface__"):
            return sys.modules["cupy"]
    return np


def as_nodes(operands: tuple[Any, ...]) -> tuple[Node, ...]:
    """Nodes from a mixture of nodes, arrays and Python scalars; scalars take the arrays' dtype (weakly)."""
    if all(type(x) is Node for x in operands):
        return operands
    strong = [dtype_of_value(x) for x in operands if type(x) not in SCALARS and dtype_of_value(x).kind != "b"]
    if not strong:
        strong = [dtype_of_value(x) for x in operands if type(x) not in SCALARS]
    common = promote(*strong) if strong else None
    out = []
    for x in operands:
        if type(x) is Node:
            out.append(x)
        elif type(x) in SCALARS:
            out.append(constant(x, promote_scalar(common, x) if common else scalar_dtype(x)))
        else:
            out.append(constant(x))
    return tuple(out)


def shape_of(value: Value) -> Shape:
    """The shape of a value of any carrier; () for a Python scalar."""
    return () if type(value) in SCALARS else tuple(value.shape)


def dtype_of_value(value: Value) -> DType:
    """The dtype of a value of any carrier."""
    if type(value) is ndarray:
        return BY_NUMPY.get(value.dtype) or dtype_of(value.dtype)
    if type(value) in SCALARS:
        return scalar_dtype(value)
    dtype = getattr(value, "dtype", None)
    if dtype is None:
        raise DTypeError(f"expected a tensor, an array or a number, got {type(value).__name__}: {value!r}")
    return dtype if type(dtype) is DType else dtype_of(dtype)


def type_of(value: Value) -> TensorType:
    """The TensorType of a value of any carrier."""
    return TensorType(shape_of(value), dtype_of_value(value))


def number_like(value: Value, number: Scalar, dtype: DType) -> Value:
    """A 0-d constant on the carrier of `value`."""
    return constant(number, dtype) if type(value) is Node else dtype.numpy.type(number)
