"""What a Tensor shares with other arrays: operators, and operations as methods.

Each hands its operands to the function of that name in graphc/ops, or, where floats of one dtype meet and nothing is to
be promoted, straight to the interpreter.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Self, TypeAlias

import numpy as np
import numpy.typing as npt

from graphc.dispatch import shape_of
from graphc.errors import DTypeError, ShapeError
from graphc.interpreter import Operand, state
from graphc.ops import elementwise as ew
from graphc.ops import linalg, movement, reduction, subscript
from graphc.ops.reduction import AxisLike
from graphc.primitive import Primitive, Value

if TYPE_CHECKING:
    from graphc.tensor import Tensor

_Function: TypeAlias = Callable[[Value, Value], Value]
_Method: TypeAlias = "Callable[[Operators, Operand], Tensor]"
_NO_ATTRS: dict[str, Any] = {}
# of a reduction to one number, by ndim
_OVER_ALL = [{"axes": tuple(range(ndim)), "keepdims": False} for ndim in range(65)]


def _operator(primitive: Primitive, function: _Function) -> _Method:
    """A binary operator: straight to the interpreter for floats of one dtype, else by the promoting function."""

    def method(self: Operators, other: Operand) -> Tensor:
        data = self._data
        if data is not None and data.dtype.kind == "f":
            kind = type(other)
            if kind is float or kind is int:
                return state.evaluate(primitive, (self, other), _NO_ATTRS)  # type: ignore[no-any-return]
            if isinstance(other, Operators) and other._data is not None and other._data.dtype is data.dtype:
                return state.evaluate(primitive, (self, other), _NO_ATTRS)  # type: ignore[no-any-return]
        if not isinstance(other, (Operators, bool, int, float, np.ndarray, np.generic, list, tuple)):
            return NotImplemented
        return function(self, other)  # type: ignore[no-any-return]

    method.__name__ = primitive.name
    return method


def _reflected(primitive: Primitive, function: _Function) -> _Method:
    """A binary operator whose left operand isn't a Tensor."""

    def method(self: Operators, other: Operand) -> Tensor:
        data = self._data
        if data is not None and data.dtype.kind == "f" and (type(other) is float or type(other) is int):
            return state.evaluate(primitive, (other, self), _NO_ATTRS)  # type: ignore[no-any-return]
        return function(other, self)  # type: ignore[no-any-return]

    return method


class Operators:
    """The base class of Tensor, for what is written x + y, x[key] or x.sum()."""

    __array_priority__ = 1000  # ndarray + Tensor asks Tensor

    _data: npt.NDArray[Any]  # None while traced

    __add__ = _operator(ew.ADD, ew.add)
    __sub__ = _operator(ew.SUBTRACT, ew.subtract)
    __mul__ = _operator(ew.MULTIPLY, ew.multiply)
    __truediv__ = _operator(ew.DIVIDE, ew.divide)
    __floordiv__ = _operator(ew.FLOOR_DIVIDE, ew.floor_divide)
    __mod__ = _operator(ew.REMAINDER, ew.remainder)
    __radd__ = _reflected(ew.ADD, ew.add)
    __rsub__ = _reflected(ew.SUBTRACT, ew.subtract)
    __rmul__ = _reflected(ew.MULTIPLY, ew.multiply)
    __rtruediv__ = _reflected(ew.DIVIDE, ew.divide)
    __rfloordiv__ = _reflected(ew.FLOOR_DIVIDE, ew.floor_divide)
    __rmod__ = _reflected(ew.REMAINDER, ew.remainder)
    __rpow__ = _reflected(ew.POWER, ew.power)
    __lt__ = _operator(ew.LESS, ew.less)
    __le__ = _operator(ew.LESS_EQUAL, ew.less_equal)
    __gt__ = _operator(ew.GREATER, ew.greater)
    __ge__ = _operator(ew.GREATER_EQUAL, ew.greater_equal)
    __eq__ = _operator(ew.EQUAL, ew.equal)  # type: ignore[assignment]
    __ne__ = _operator(ew.NOT_EQUAL, ew.not_equal)  # type: ignore[assignment]
    __hash__ = object.__hash__

    def __pow__(self, exponent: Operand) -> Tensor:
        return ew.power(self, exponent)  # type: ignore[no-any-return]

    def __matmul__(self, other: Operand) -> Tensor:
        a = self._data
        if a is not None and a.ndim == 2 and a.dtype.kind == "f" and isinstance(other, Operators):
            b = other._data
            if b is not None and b.ndim == 2 and b.dtype is a.dtype:
                return state.evaluate(linalg.MATMUL, (self, other), _NO_ATTRS)  # type: ignore[no-any-return]
        return linalg.matmul(self, other)  # type: ignore[no-any-return]

    def __rmatmul__(self, other: Operand) -> Tensor:
        return linalg.matmul(other, self)  # type: ignore[no-any-return]

    def __neg__(self) -> Tensor:
        return state.evaluate(ew.NEGATIVE, (self,), _NO_ATTRS)  # type: ignore[no-any-return]

    def __pos__(self) -> Self:
        return self

    def __abs__(self) -> Tensor:
        return ew.abs(self)  # type: ignore[no-any-return]

    def __invert__(self) -> Tensor:
        return ew.logical_not(self)  # type: ignore[no-any-return]

    def __and__(self, other: Operand) -> Tensor:
        return ew.logical_and(self, other)  # type: ignore[no-any-return]

    def __or__(self, other: Operand) -> Tensor:
        return ew.logical_or(self, other)  # type: ignore[no-any-return]

    __rand__ = __and__
    __ror__ = __or__

    def __getitem__(self, key: Any) -> Tensor:
        return subscript.index(self, key)  # type: ignore[no-any-return]

    def __array_ufunc__(self, ufunc: np.ufunc, method: str, *operands: Any, **options: Any) -> Tensor:
        """numpy.exp(x), array * x: graphc's function of that name, so that NumPy code runs in both modes."""
        name = {"absolute": "abs"}.get(ufunc.__name__, ufunc.__name__)
        function = getattr(linalg if name == "matmul" else ew, name, None)
        if function is None or method != "__call__" or options:
            called = f"numpy.{ufunc.__name__}{'' if method == '__call__' else '.' + method}"
            with_ = f" with {', '.join(options)}" if options else ""
            raise DTypeError(
                f"{called}{with_} can't take a graphc tensor; use graphc's functions, or x.detach().numpy()."
            )
        return function(*operands)  # type: ignore[no-any-return]

    @property
    def mT(self) -> Tensor:
        """The last two dimensions exchanged."""
        return movement.matrix_transpose(self)  # type: ignore[no-any-return]

    @property
    def T(self) -> Tensor:
        """The transpose of a matrix (2 dimensions only, as in the array API)."""
        shape = shape_of(self)
        if len(shape) != 2:
            raise ShapeError(f"T: needs a matrix, got shape {shape}; use .mT or permute_dims.")
        return movement.matrix_transpose(self)  # type: ignore[no-any-return]

    # ------------------------------------------------------------------------- operations as methods

    def astype(self, dtype: Any) -> Tensor:
        """Converted to another dtype."""
        return ew.astype(self, dtype)  # type: ignore[no-any-return]

    def sum(self, axis: AxisLike = None, keepdims: bool = False) -> Tensor:
        """The sum over the axes (all of them for None), which stay with extent 1 if keepdims."""
        data = self._data
        if axis is None and keepdims is False and data is not None and data.dtype.kind == "f":
            return state.evaluate(reduction.SUM, (self,), _OVER_ALL[data.ndim])  # type: ignore[no-any-return]
        return reduction.sum(self, axis, keepdims)  # type: ignore[no-any-return]

    def mean(self, axis: AxisLike = None, keepdims: bool = False) -> Tensor:
        """The mean over the axes; integers are averaged as float32."""
        data = self._data
        if axis is None and keepdims is False and data is not None and data.dtype.kind == "f":
            return self.sum() / data.size
        return reduction.mean(self, axis, keepdims)  # type: ignore[no-any-return]

    def var(self, axis: AxisLike = None, correction: float = 0.0, keepdims: bool = False) -> Tensor:
        """The mean squared deviation over the axes, divided by n - correction instead of n. Raises ShapeError."""
        return reduction.var(self, axis, correction, keepdims)  # type: ignore[no-any-return]

    def std(self, axis: AxisLike = None, correction: float = 0.0, keepdims: bool = False) -> Tensor:
        """The square root of var."""
        return reduction.std(self, axis, correction, keepdims)  # type: ignore[no-any-return]

    def max(self, axis: AxisLike = None, keepdims: bool = False) -> Tensor:
        """The largest element over the axes; nan if one is."""
        return reduction.max(self, axis, keepdims)  # type: ignore[no-any-return]

    def min(self, axis: AxisLike = None, keepdims: bool = False) -> Tensor:
        """The smallest element over the axes; nan if one is."""
        return reduction.min(self, axis, keepdims)  # type: ignore[no-any-return]

    def argmax(self, axis: AxisLike = None, keepdims: bool = False) -> Tensor:
        """Where the first largest element is, int64: its place in row-major order over the axes."""
        return reduction.argmax(self, axis, keepdims)  # type: ignore[no-any-return]

    def argmin(self, axis: AxisLike = None, keepdims: bool = False) -> Tensor:
        """Where the first smallest element is, int64: its place in row-major order over the axes."""
        return reduction.argmin(self, axis, keepdims)  # type: ignore[no-any-return]

    def any(self, axis: AxisLike = None, keepdims: bool = False) -> Tensor:
        """Whether any element over the axes isn't 0, bool."""
        return reduction.any(self, axis, keepdims)  # type: ignore[no-any-return]

    def all(self, axis: AxisLike = None, keepdims: bool = False) -> Tensor:
        """Whether no element over the axes is 0, bool."""
        return reduction.all(self, axis, keepdims)  # type: ignore[no-any-return]

    def reshape(self, *shape: Any) -> Tensor:
        """Another shape, row-major; given as one tuple or several ints, one of which may be -1."""
        return movement.reshape(self, _ints(shape))  # type: ignore[no-any-return]

    view = reshape

    def permute_dims(self, *axes: Any) -> Tensor:
        """The dimensions in another order; given as one tuple or several ints."""
        return movement.permute_dims(self, _ints(axes))  # type: ignore[no-any-return]

    permute = permute_dims

    def transpose(self, axis1: int, axis2: int) -> Tensor:
        """Two dimensions exchanged (PyTorch's meaning)."""
        return movement.swapaxes(self, axis1, axis2)  # type: ignore[no-any-return]

    swapaxes = transpose

    def flatten(self, start: int = 0, end: int = -1) -> Tensor:
        """Dimensions start to end (included) as one."""
        return movement.flatten(self, start, end)  # type: ignore[no-any-return]

    def squeeze(self, axis: AxisLike = None) -> Tensor:
        """Without the dimensions of extent 1, or those among `axis`. Raises ShapeError if one is longer."""
        return movement.squeeze(self, axis)  # type: ignore[no-any-return]

    def unsqueeze(self, axis: int) -> Tensor:
        """With a new dimension of extent 1 at `axis`."""
        return movement.expand_dims(self, axis)  # type: ignore[no-any-return]

    def broadcast_to(self, *shape: Any) -> Tensor:
        """Repeated to a shape, by NumPy's rule; given as one tuple or several ints. Raises ShapeError."""
        return movement.broadcast_to(self, _ints(shape))  # type: ignore[no-any-return]

    def exp(self) -> Tensor:
        """e ** x, elementwise."""
        return ew.exp(self)  # type: ignore[no-any-return]

    def log(self) -> Tensor:
        """Natural logarithm, elementwise."""
        return ew.log(self)  # type: ignore[no-any-return]

    def sqrt(self) -> Tensor:
        """Square root, elementwise."""
        return ew.sqrt(self)  # type: ignore[no-any-return]

    def tanh(self) -> Tensor:
        """Hyperbolic tangent, elementwise."""
        return ew.tanh(self)  # type: ignore[no-any-return]

    def sin(self) -> Tensor:
        """Sine, elementwise."""
        return ew.sin(self)  # type: ignore[no-any-return]

    def cos(self) -> Tensor:
        """Cosine, elementwise."""
        return ew.cos(self)  # type: ignore[no-any-return]

    def abs(self) -> Tensor:
        """|x|, elementwise."""
        return ew.abs(self)  # type: ignore[no-any-return]

    def pow(self, exponent: Operand) -> Tensor:
        """x ** exponent, elementwise."""
        return ew.power(self, exponent)  # type: ignore[no-any-return]

    def clip(self, min: Operand | None = None, max: Operand | None = None) -> Tensor:
        """Limited to [min, max]; None leaves that side open."""
        return ew.clip(self, min, max)  # type: ignore[no-any-return]

    def matmul(self, other: Operand) -> Tensor:
        """self @ other."""
        return linalg.matmul(self, other)  # type: ignore[no-any-return]


def _ints(arguments: tuple[Any, ...]) -> tuple[int, ...]:
    """f(2, 3) and f((2, 3)) alike."""
    if len(arguments) == 1 and not isinstance(arguments[0], int):
        return tuple(arguments[0])
    return arguments
