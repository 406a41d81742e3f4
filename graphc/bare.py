"""Shorter ways to NumPy for the tape, whose small operations cost more to arrange than to compute.

Nothing here has a meaning of its own: each entry gives what the ordinary way gives, and where that is in
doubt there is no entry.
"""

from __future__ import annotations

from collections.abc import Callable
from types import FunctionType
from typing import Any

import numpy as np
import numpy.typing as npt

from graphc.ops import elementwise as ew
from graphc.primitive import Rule

FLOAT32 = np.dtype(np.float32)
_CAPACITY = 256  # numbers that are remembered at once


class _Weak(dict[float, Any]):
    """number -> what a ufunc makes of this Python number beside float32: a 0-d array, which it takes in half the time.

    A number that isn't plainly a float32 is given back as it is: zeros (0.0 and -0.0 are one key), nan, what
    overflows or underflows, integers that float32 doesn't have.
    """

    def __missing__(self, number: float) -> Any:
        magnitude = abs(number)
        if not 1e-30 < magnitude < (2**24 if type(number) is int else 1e30):
            return number
        if len(self) >= _CAPACITY:  # numbers that change with every step
            self.clear()
        array: npt.NDArray[Any] = np.array(number, FLOAT32)
        array.setflags(write=False)
        self[number] = array
        return array


SINGLES = _Weak()


def _bound(rule: Rule, names: dict[str, Any]) -> Rule:
    """The rule with these names for those of graphc.ops.elementwise; a rule from elsewhere as it is."""
    if not isinstance(rule, FunctionType) or rule.__globals__ is not vars(ew):
        return rule
    return _with_globals(rule, names)


def _with_globals(function: FunctionType, names: dict[str, Any]) -> Callable[..., Any]:
    return FunctionType(function.__code__, names, function.__name__, function.__defaults__, function.__closure__)


def _numpy_names() -> dict[str, Any]:
    """The names of graphc.ops.elementwise, in which each operation that is a NumPy function is that function."""
    names = dict(vars(ew))
    for name, value in vars(ew).items():
        if isinstance(value, FunctionType) and value.__globals__ is vars(ew):
            names[name] = _with_globals(value, names)
    for primitive in ew.PRIMITIVES:
        if primitive.ufunc is not None and primitive.name in names:
            names[primitive.name] = primitive.ufunc
    return names


def prepare() -> None:
    """Give every elementwise primitive its `numeric` rules.

    The same code as its partials, in which the names of operations mean NumPy's functions: `multiply(y, y)` is one
    ufunc call, where the function of graphc.ops first finds out what its operands are. What can go wrong is an
    operation on Python numbers alone, which NumPy computes to a double: who calls a rule looks at its result's dtype.
    """
    names = _numpy_names()
    for primitive in ew.PRIMITIVES:
        if primitive.partials is not None and not primitive.selects:
            primitive.prepare(tuple([None if rule is None else _bound(rule, names) for rule in primitive.partials]))


prepare()
