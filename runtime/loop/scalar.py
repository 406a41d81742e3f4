"""What each scalar function of SCALAR_OPS is, in NumPy: the definition that printers are tested against."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from graphc.ops.random import philox4x32
from graphc.ops.special import erf
from graphc.types import DType, float32


def _select(condition: Any, x: Any, y: Any) -> Any:
    return np.where(condition, x, y)


def _rsqrt(x: Any) -> Any:
    return np.divide(np.asarray(1, np.asarray(x).dtype), np.sqrt(x))


def _power(a: Any, b: Any) -> Any:
    return _power_of_integers(a, b) if np.asarray(a).dtype.kind == "i" else np.power(a, b)


def _power_of_integers(a: Any, b: Any) -> Any:
    """Wrapping power; a negative exponent gives 0, 1 or -1 (what truncation of the exact result is)."""
    a, b = np.broadcast_arrays(a, b)
    whole = np.power(a, np.maximum(b, 0))
    unit = np.where(b % 2 == 0, a * a, a)
    return np.where(b >= 0, whole, np.where(np.abs(a) == 1, unit, 0)).astype(a.dtype)


def _philox(words: Callable[[Any, Any], Any]) -> Callable[[Any, Any, Any], Any]:
    """(seed, draw, element) -> what `words` makes of words 0 and 1. The seed is the same for all lanes."""

    def number(seed: Any, draw: Any, element: Any) -> Any:
        seed, draw, element = (np.asarray(x).view(np.uint64) for x in (seed, draw, element))
        key = int(seed.reshape(-1)[0]) if seed.size else 0
        assert (seed == key).all()
        low, half = np.uint64(0xFFFFFFFF), np.uint64(32)
        counter = (element & low, element >> half, draw & low, draw >> half)
        word0, word1, _, _ = philox4x32(np, counter, (key & 0xFFFFFFFF, key >> 32))
        return words(word0, word1)

    return number


def _bits32(word0: Any, word1: Any) -> Any:
    return (word0 >> np.uint64(8)).astype(float32.numpy) * np.float32(2.0**-24)


def _bits64(word0: Any, word1: Any) -> Any:
    return (((word0 >> np.uint64(5)) << np.uint64(26)) | (word1 >> np.uint64(6))).astype(np.float64) * 2.0**-53


FUNCTIONS: dict[str, Callable[..., Any]] = {
    "add": np.add, "sub": np.subtract, "mul": np.multiply, "div": np.divide, "neg": np.negative,
    "pow": _power, "floordiv": np.floor_divide, "mod": np.remainder,
    "exp": np.exp, "expm1": np.expm1, "log": np.log, "log1p": np.log1p, "sqrt": np.sqrt, "rsqrt": _rsqrt,
    "tanh": np.tanh, "erf": lambda x: erf(np, x), "sin": np.sin, "cos": np.cos, "abs": np.abs, "sign": np.sign,
    "floor": np.floor, "maximum": np.maximum, "minimum": np.minimum,
    "eq": np.equal, "ne": np.not_equal, "lt": np.less, "le": np.less_equal, "gt": np.greater, "ge": np.greater_equal,
    "and": np.logical_and, "or": np.logical_or, "not": np.logical_not, "select": _select,
    "philox32": _philox(_bits32), "philox64": _philox(_bits64),
}  # fmt: skip

FOLDS: dict[str, Any] = {"sum": np.add, "max": np.maximum, "min": np.minimum}  # the ufuncs of Accumulate


def evaluate(op: str, arguments: list[Any], dtype: DType) -> Any:
    """The result of a Call on numbers or arrays, of exactly `dtype`."""
    if op == "cast":
        return np.asarray(arguments[0]).astype(dtype.numpy)
    return np.asarray(FUNCTIONS[op](*arguments)).astype(dtype.numpy, copy=False)
