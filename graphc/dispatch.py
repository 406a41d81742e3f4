"""apply(): what a primitive means depends on what its operands are.

Three carriers, one language. On raw arrays a primitive computes (this is how the tape's backward sweep
runs the derivative rules). On graph nodes it builds a node (how the `differentiate` pass runs the same
rules). On Tensors the interpreter that tensor.py installs decides: eager, taped or traced.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy import ndarray

from graphc.errors import DTypeError
from graphc.ir.node import Node, constant, make
from graphc.primitive import Primitive, Value
from graphc.types import DType, Scalar, Shape, TensorType, dtype_of, promote, promote_scalar, scalar_dtype

SCALARS = frozenset({bool, int, float})
NUMBERS = frozenset({bool, int, float, np.ndarray, np.float32, np.float64, np.int32, np.int64, np.bool_})

Interpreter = Callable[[Primitive, tuple[Any, ...], dict[str, Any]], Any]


def _not_installed(primitive: Primitive, operands: tuple[Any, ...], attrs: dict[str, Any]) -> Any:
    raise AssertionError("graphc.tensor installs the interpreter of Tensors when it is imported")


_interpret: Interpreter = _not_installed
_raw = 0  # > 0 while derivative rules run on numbers: arrays in, arrays out


def install(interpreter: Interpreter) -> None:
    """Called once by tensor.py, which stands above and knows what a Tensor is."""
    global _interpret
    _interpret = interpreter


class numbers:
    """Within this context operations on raw arrays give raw arrays: `with numbers(): rule(g, y, *xs)`."""

    def __enter__(self) -> None:
        global _raw
        _raw += 1

    def __exit__(self, *_: object) -> None:
        global _raw
        _raw -= 1


def apply(primitive: Primitive, *operands: Any, **attrs: Any) -> Value:
    """The result of `primitive` on values of one carrier (Python scalars mix with any)."""
    if _raw:
        for x in operands:
            kind = type(x)
            if kind is ndarray:
                ufunc = primitive.ufunc
                return ufunc(*operands) if ufunc is not None else primitive.eval(np, *operands, **attrs)
            if kind is Node or hasattr(x, "requires_grad"):
                break
        else:
            if operands:
                return _numbers_of(primitive, operands, attrs)
    for x in operands:
        if type(x) is Node:
            return make(primitive, as_nodes(operands), attrs)
    return _interpret(primitive, operands, attrs)


def _numbers_of(primitive: Primitive, operands: tuple[Any, ...], attrs: dict[str, Any]) -> Value:
    """Raw evaluation on NumPy scalars, Python scalars or arrays of another library."""
    result = primitive.eval(array_namespace(operands), *operands, **attrs)
    # a number computed from Python numbers stays a (weak) Python number
    return result.item() if all(type(x) in SCALARS for x in operands) else result


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
