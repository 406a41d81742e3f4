"""Tensor: numbers with a shape, a dtype and, if asked, a history to differentiate.

What an operation on Tensors does is decided by the active Interpreter: the tape (graphc/tape.py) computes
at once and remembers; the tracer (graphc/tracer.py) builds a graph. A Tensor holds either an array (`_data`)
or, while it is traced, a node (`_node`).
"""

from __future__ import annotations

import abc
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias

import numpy as np
import numpy.typing as npt

from graphc import dispatch
from graphc.errors import DeviceError, DTypeError, IndexingError, InplaceError, ShapeError, TraceError
from graphc.ops import elementwise as ew
from graphc.ops import linalg, movement, reduction, subscript
from graphc.primitive import Primitive, Value
from graphc.types import BY_NUMPY, DType, Scalar, Shape, dtype_of

if TYPE_CHECKING:
    from graphc.ir.node import Node
    from graphc.records import Leaf, Record, Version, ViewOf

Operand: TypeAlias = "Tensor | npt.NDArray[Any] | Scalar"
AxisLike: TypeAlias = "int | Sequence[int] | None"
Hook: TypeAlias = "Callable[[Tensor], Tensor | None]"
_NO_ATTRS: dict[str, Any] = {}
_OVER_ALL = [{"axes": tuple(range(ndim)), "keepdims": False} for ndim in range(65)]  # a reduction to one number
_new = object.__new__


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

    @abc.abstractmethod
    def hook(self, tensor: Tensor, function: Hook) -> Callable[[], None]:
        """Call function(gradient) when the tensor's gradient is known; returns what removes it."""

    @abc.abstractmethod
    def retain_grad(self, tensor: Tensor) -> None: ...


class _State(Protocol):
    """dispatch.state, as those who know what a Tensor is see it."""

    interpreter: Interpreter
    evaluate: dispatch.Evaluate


_state: _State = dispatch.state


def install(interpreter: Interpreter) -> None:
    """Make `interpreter` the one that every thread starts with. tape.py calls it once."""
    dispatch.Interpretation.interpreter = interpreter
    dispatch.Interpretation.evaluate = staticmethod(interpreter.evaluate)


def active() -> Interpreter:
    """The interpreter in force."""
    return _state.interpreter


@contextmanager
def interpreting(interpreter: Interpreter) -> Iterator[None]:
    """Use `interpreter` in this thread within the context, also if it ends with an error."""
    before = _state.interpreter, _state.evaluate
    _state.interpreter, _state.evaluate = interpreter, interpreter.evaluate
    try:
        yield
    finally:
        _state.interpreter, _state.evaluate = before


def _operator(primitive: Primitive, function: Callable[[Value, Value], Value]) -> Callable[[Tensor, Operand], Tensor]:
    """A binary operator: straight to the interpreter for floats of one dtype, else by the promoting function."""

    def method(self: Tensor, other: Operand) -> Tensor:
        data = self._data
        if data is not None and data.dtype.kind == "f":
            kind = type(other)
            if kind is float or kind is int:
                return _state.evaluate(primitive, (self, other), _NO_ATTRS)  # type: ignore[no-any-return]
            if isinstance(other, Tensor) and other._data is not None and other._data.dtype is data.dtype:
                return _state.evaluate(primitive, (self, other), _NO_ATTRS)  # type: ignore[no-any-return]
        if not isinstance(other, (Tensor, bool, int, float, np.ndarray, np.generic, list, tuple)):
            return NotImplemented
        return function(self, other)  # type: ignore[no-any-return]

    method.__name__ = primitive.name
    return method


def _reflected(primitive: Primitive, function: Callable[[Value, Value], Value]) -> Callable[[Tensor, Operand], Tensor]:
    """A binary operator whose left operand isn't a Tensor."""

    def method(self: Tensor, other: Operand) -> Tensor:
        data = self._data
        if data is not None and data.dtype.kind == "f" and (type(other) is float or type(other) is int):
            return _state.evaluate(primitive, (other, self), _NO_ATTRS)  # type: ignore[no-any-return]
        return function(other, self)  # type: ignore[no-any-return]

    return method


def _inplace(name: str, function: Callable[[Value, Value], Value]) -> Callable[[Tensor, Operand], Tensor]:
    """x.name(other): x = function(x, other) written into x's memory."""

    def method(self: Tensor, other: Operand) -> Tensor:
        _state.interpreter.assign(self, function(self, other), name)
        return self

    method.__name__ = name
    method.__doc__ = f"x = {function.__name__}(x, other) in place; returns x."
    return method


class Tensor:
    """An n-dimensional array that can be differentiated. Make one with `graphc.tensor` or `graphc.asarray`.

    data: anything numpy.asarray takes, used without a copy where possible. Follows the array API standard;
    autograd methods (`backward`, `grad`, `detach`, trailing-underscore in-place operations) follow PyTorch.
    """

    __array_priority__ = 1000  # ndarray + Tensor asks Tensor
    weak = False  # whether it promotes as a Python number does (a traced float argument)

    _data: npt.NDArray[Any]
    # defaults in the class: an operation's result sets what differs, and most of it never does
    _node: Node | None = None  # while traced
    _record: Record | Leaf | None = None  # what made it; None if it requires no gradient
    _grad: Tensor | None = None
    _view: ViewOf | None = None  # set if it shares memory with another tensor
    _version: Version | None = None  # shared by a tensor and its views; None until one is written to

    def __init__(self, data: npt.ArrayLike | Tensor, requires_grad: bool = False) -> None:
        array = data._data if isinstance(data, Tensor) else np.asarray(data)
        dtype_of(array.dtype)
        self._data = array
        self._view = self._record = None
        _state.interpreter.created(self)
        if requires_grad:
            self.requires_grad_()

    # ------------------------------------------------------------------------------------- what it is

    @property
    def shape(self) -> Shape:
        """Sizes of the dimensions."""
        return self._data.shape if self._node is None else self._node.type.shape

    @property
    def dtype(self) -> DType:
        """Element type: graphc.float32 and so on."""
        if self._node is not None:
            return self._node.type.dtype
        return BY_NUMPY.get(self._data.dtype) or dtype_of(self._data.dtype)

    @property
    def ndim(self) -> int:
        """Number of dimensions."""
        return len(self.shape)

    @property
    def size(self) -> int:
        """Number of elements."""
        return int(np.prod(self.shape, dtype=np.int64))

    @property
    def nbytes(self) -> int:
        """Bytes of all elements."""
        return self.size * self.dtype.itemsize

    @property
    def device(self) -> str:
        """ "cpu" or "cuda"."""
        return "cuda" if hasattr(self._data, "__cuda_array_interface__") else "cpu"

    @property
    def traced(self) -> bool:
        """Whether this stands for a value of a function that is being compiled (no numbers yet)."""
        return self._node is not None

    @property
    def requires_grad(self) -> bool:
        """Whether derivatives reach this tensor."""
        return self._record is not None

    @requires_grad.setter
    def requires_grad(self, required: bool) -> None:
        _state.interpreter.require_grad(self, required)

    @property
    def is_leaf(self) -> bool:
        """True if no recorded operation made it: where `backward` leaves gradients."""
        return self._record is None or self._record.op is None

    @property
    def grad(self) -> Tensor | None:
        """What `backward` accumulated here, or None."""
        return _state.interpreter.grad_of(self)

    @grad.setter
    def grad(self, value: Tensor | None) -> None:
        _state.interpreter.set_grad(self, value)

    @property
    def mT(self) -> Tensor:
        """The last two dimensions exchanged."""
        return movement.matrix_transpose(self)  # type: ignore[no-any-return]

    @property
    def T(self) -> Tensor:
        """The transpose of a matrix (2 dimensions only, as in the array API)."""
        if self.ndim != 2:
            raise ShapeError(f"T: needs a matrix, got shape {self.shape}; use .mT or permute_dims.")
        return movement.matrix_transpose(self)  # type: ignore[no-any-return]

    # ------------------------------------------------------------------------------------ its numbers

    def _numbers(self, what: str) -> npt.NDArray[Any]:
        if self._node is not None:
            error = TraceError(
                f"{what} needs a number, but this tensor {self._node.type} is being traced by graphc.compile "
                f"(made at {self._node.origin.location or '?'}). Return it from the compiled function and look at "
                "it there; to branch on it, use graphc.where(condition, a, b)."
            )
            _state.interpreter.refused(error)
            raise error
        _state.interpreter.look(self, what)
        return self._data

    def numpy(self) -> npt.NDArray[Any]:
        """The array itself (shared memory, not a copy). Call detach() first if gradients are required."""
        if self._record is not None:
            raise TraceError(
                "numpy(): this tensor requires a gradient, which NumPy can't record; use x.detach().numpy()."
            )
        return _to_host(self._numbers("numpy()"))

    def item(self) -> Scalar:
        """The one element, as a Python number."""
        data = self._numbers("item()")
        if data.size != 1:
            raise ShapeError(f"item(): needs exactly one element, got shape {self.shape}; use .tolist().")
        return data.item()  # type: ignore[no-any-return]

    def tolist(self) -> Any:
        """The elements as nested Python lists."""
        return _to_host(self._numbers("tolist()")).tolist()

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> npt.NDArray[Any]:
        data = _to_host(self._numbers("numpy.asarray()"))
        return np.array(data, dtype=dtype, copy=copy)

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

    def __dlpack__(self, **options: Any) -> Any:
        return self._numbers("__dlpack__()").__dlpack__(**options)

    def __dlpack_device__(self) -> tuple[int, int]:
        return self._numbers("__dlpack_device__()").__dlpack_device__()

    def __bool__(self) -> bool:
        return bool(self._numbers("if, while, and, or, not, assert or bool()"))

    def __float__(self) -> float:
        return float(self._numbers("float()"))

    def __int__(self) -> int:
        return int(self._numbers("int()"))

    def __index__(self) -> int:
        return self._numbers("an index").__index__()

    def __len__(self) -> int:
        if not self.shape:
            raise ShapeError("len(): a 0-dimensional tensor has no length.")
        return self.shape[0]

    def __iter__(self) -> Iterator[Tensor]:
        return (self[i] for i in range(len(self)))

    def __repr__(self) -> str:
        if self._node is not None:
            return f"tensor(<traced {self._node.type}>)"
        text = np.array2string(_to_host(self._data), separator=", ", prefix="tensor(")
        extra = "" if self.dtype.name in ("float32", "int64", "bool") else f", dtype={self.dtype.name}"
        if self._record is not None:
            op = self._record.op
            extra += ", requires_grad=True" if op is None else f", made_by={op.name}"
        return f"tensor({text}{extra})"

    def __format__(self, spec: str) -> str:
        return format(self.item(), spec) if spec else repr(self)

    def __deepcopy__(self, memo: dict[int, Any]) -> Tensor:
        if not self.is_leaf:
            raise TraceError("deepcopy: only leaf tensors can be copied deeply; use x.detach().clone().")
        copied = type(self).__new__(type(self))
        memo[id(self)] = copied
        Tensor.__init__(copied, self._numbers("deepcopy").copy(), self.requires_grad)
        if self._grad is not None:
            copied._grad = Tensor(self._grad._data.copy())
        return copied

    def __reduce__(self) -> tuple[Any, ...]:
        return _rebuild, (type(self), _to_host(self._numbers("pickle")), self.is_leaf and self.requires_grad)

    # -------------------------------------------------------------------------------------- operators

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
        if a is not None and a.ndim == 2 and a.dtype.kind == "f" and isinstance(other, Tensor):
            b = other._data
            if b is not None and b.ndim == 2 and b.dtype is a.dtype:
                return _state.evaluate(linalg.MATMUL, (self, other), _NO_ATTRS)  # type: ignore[no-any-return]
        return linalg.matmul(self, other)  # type: ignore[no-any-return]

    def __rmatmul__(self, other: Operand) -> Tensor:
        return linalg.matmul(other, self)  # type: ignore[no-any-return]

    def __neg__(self) -> Tensor:
        return _state.evaluate(ew.NEGATIVE, (self,), _NO_ATTRS)  # type: ignore[no-any-return]

    def __pos__(self) -> Tensor:
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

    # --------------------------------------------------------------------------------------- in place

    add_ = _inplace("add_", ew.add)
    sub_ = _inplace("sub_", ew.subtract)
    mul_ = _inplace("mul_", ew.multiply)
    div_ = _inplace("div_", ew.divide)
    pow_ = _inplace("pow_", ew.power)
    __iadd__ = _inplace("+=", ew.add)
    __isub__ = _inplace("-=", ew.subtract)
    __imul__ = _inplace("*=", ew.multiply)
    __itruediv__ = _inplace("/=", ew.divide)
    __ipow__ = _inplace("**=", ew.power)

    def copy_(self, other: Operand) -> Tensor:
        """Overwrite the elements by those of `other`, broadcast and converted; returns self."""
        _state.interpreter.assign(self, other, "copy_")
        return self

    def fill_(self, value: Scalar) -> Tensor:
        """Overwrite every element by one number; returns self."""
        _state.interpreter.assign(self, value, "fill_")
        return self

    def zero_(self) -> Tensor:
        """Overwrite every element by 0; returns self."""
        _state.interpreter.assign(self, 0, "zero_")
        return self

    def __setitem__(self, key: Any, value: Operand) -> None:
        if isinstance(key, Tensor) and key.dtype.kind == "b":
            _state.interpreter.assign(self, ew.where(key, value, self), "x[mask] =")
        else:
            part = subscript.index(self, key)
            if isinstance(value, Tensor) and _same_elements(value, part):
                return  # x[key] += y ends in x[key] = what was just changed
            if part is not self and part._view is None and part.size:
                raise IndexingError(
                    "x[key] = value needs a key of ints, slices, None and Ellipsis (or one boolean mask); for integer "
                    "arrays use graphc.where with a mask, or scatter_add."
                )
            _state.interpreter.assign(part, value, "x[key] =")

    # --------------------------------------------------------------------------------------- autograd

    def backward(
        self, gradient: Tensor | None = None, retain_graph: bool | None = None, create_graph: bool = False
    ) -> None:
        """Add d(self)/d(leaf) to `.grad` of every leaf that requires it.

        gradient: the cotangent, of self's shape; needed unless self is a scalar. retain_graph: keep the tape for
        another backward (default: only with create_graph). create_graph: make the gradients differentiable.
        Raises AutodiffError if there is nothing to differentiate or the tape is gone.
        """
        keep = create_graph if retain_graph is None else retain_graph
        _state.interpreter.backward(self, gradient, keep, create_graph)

    def detach(self) -> Tensor:
        """The same numbers (shared memory) without history."""
        return _state.interpreter.detach(self)

    @property
    def data(self) -> Tensor:
        """The same numbers (shared memory) without history, as `detach()`. Assigning to it raises InplaceError."""
        return self.detach()

    @data.setter
    def data(self, value: object) -> None:
        raise InplaceError(
            "x.data = value: a tensor keeps its memory. To overwrite its numbers outside the tape, write\n"
            "    with graphc.no_grad():\n        x.copy_(value)"
        )

    def clone(self) -> Tensor:
        """A copy with memory of its own; the derivative passes through."""
        return ew.copy(self)  # type: ignore[no-any-return]

    def requires_grad_(self, required: bool = True) -> Tensor:
        """Make this a leaf whose gradient is wanted (or not); returns self. Floating dtypes only."""
        _state.interpreter.require_grad(self, required)
        return self

    def register_hook(self, function: Hook) -> Callable[[], None]:
        """Call function(gradient) when backward knows this tensor's gradient; a returned tensor replaces it.

        Returns a function that removes the hook.
        """
        return _state.interpreter.hook(self, function)

    def retain_grad(self) -> None:
        """Keep this non-leaf's gradient in `.grad` too."""
        _state.interpreter.retain_grad(self)

    # ------------------------------------------------------------------------- operations as methods

    def astype(self, dtype: Any) -> Tensor:
        """Converted to another dtype."""
        return ew.astype(self, dtype)  # type: ignore[no-any-return]

    def to(self, target: Any) -> Tensor:
        """On another device ("cpu" or "cuda", through cupy) or, given a dtype, converted.

        A tensor that is there already is returned as it is; one that moves loses its history. Raises DeviceError where
        there is no such device.
        """
        if target not in ("cpu", "cuda"):
            return self.astype(target)
        data = self._numbers("to()")
        if target == self.device:
            return self
        if target == "cpu":
            return _state.interpreter.created(wrap(_to_host(data)))
        cupy = sys.modules.get("cupy")  # heavy, and only the user knows whether it is wanted
        if cupy is None:
            raise DeviceError('to("cuda"): `import cupy` first; it comes with pip install "graphc[cuda]".')
        return _state.interpreter.created(wrap(cupy.asarray(data)))

    def sum(self, axis: AxisLike = None, keepdims: bool = False) -> Tensor:
        data = self._data
        if axis is None and keepdims is False and data is not None and data.dtype.kind == "f":
            return _state.evaluate(reduction.SUM, (self,), _OVER_ALL[data.ndim])  # type: ignore[no-any-return]
        return reduction.sum(self, axis, keepdims)  # type: ignore[no-any-return]

    def mean(self, axis: AxisLike = None, keepdims: bool = False) -> Tensor:
        data = self._data
        if axis is None and keepdims is False and data is not None and data.dtype.kind == "f":
            return self.sum() / data.size
        return reduction.mean(self, axis, keepdims)  # type: ignore[no-any-return]

    def var(self, axis: AxisLike = None, correction: float = 0.0, keepdims: bool = False) -> Tensor:
        return reduction.var(self, axis, correction, keepdims)  # type: ignore[no-any-return]

    def std(self, axis: AxisLike = None, correction: float = 0.0, keepdims: bool = False) -> Tensor:
        return reduction.std(self, axis, correction, keepdims)  # type: ignore[no-any-return]

    def max(self, axis: AxisLike = None, keepdims: bool = False) -> Tensor:
        return reduction.max(self, axis, keepdims)  # type: ignore[no-any-return]

    def min(self, axis: AxisLike = None, keepdims: bool = False) -> Tensor:
        return reduction.min(self, axis, keepdims)  # type: ignore[no-any-return]

    def argmax(self, axis: AxisLike = None, keepdims: bool = False) -> Tensor:
        return reduction.argmax(self, axis, keepdims)  # type: ignore[no-any-return]

    def argmin(self, axis: AxisLike = None, keepdims: bool = False) -> Tensor:
        return reduction.argmin(self, axis, keepdims)  # type: ignore[no-any-return]

    def any(self, axis: AxisLike = None, keepdims: bool = False) -> Tensor:
        return reduction.any(self, axis, keepdims)  # type: ignore[no-any-return]

    def all(self, axis: AxisLike = None, keepdims: bool = False) -> Tensor:
        return reduction.all(self, axis, keepdims)  # type: ignore[no-any-return]

    def reshape(self, *shape: Any) -> Tensor:
        """Another shape, row-major; given as one tuple or several ints, one of which may be -1."""
        return movement.reshape(self, _ints(shape))  # type: ignore[no-any-return]

    view = reshape

    def permute_dims(self, *axes: Any) -> Tensor:
        return movement.permute_dims(self, _ints(axes))  # type: ignore[no-any-return]

    permute = permute_dims

    def transpose(self, axis1: int, axis2: int) -> Tensor:
        """Two dimensions exchanged (PyTorch's meaning)."""
        return movement.swapaxes(self, axis1, axis2)  # type: ignore[no-any-return]

    swapaxes = transpose

    def flatten(self, start: int = 0, end: int = -1) -> Tensor:
        return movement.flatten(self, start, end)  # type: ignore[no-any-return]

    def squeeze(self, axis: AxisLike = None) -> Tensor:
        return movement.squeeze(self, axis)  # type: ignore[no-any-return]

    def unsqueeze(self, axis: int) -> Tensor:
        return movement.expand_dims(self, axis)  # type: ignore[no-any-return]

    def broadcast_to(self, *shape: Any) -> Tensor:
        return movement.broadcast_to(self, _ints(shape))  # type: ignore[no-any-return]

    def exp(self) -> Tensor:
        return ew.exp(self)  # type: ignore[no-any-return]

    def log(self) -> Tensor:
        return ew.log(self)  # type: ignore[no-any-return]

    def sqrt(self) -> Tensor:
        return ew.sqrt(self)  # type: ignore[no-any-return]

    def tanh(self) -> Tensor:
        return ew.tanh(self)  # type: ignore[no-any-return]

    def sin(self) -> Tensor:
        return ew.sin(self)  # type: ignore[no-any-return]

    def cos(self) -> Tensor:
        return ew.cos(self)  # type: ignore[no-any-return]

    def abs(self) -> Tensor:
        return ew.abs(self)  # type: ignore[no-any-return]

    def pow(self, exponent: Operand) -> Tensor:
        return ew.power(self, exponent)  # type: ignore[no-any-return]

    def clip(self, min: Operand | None = None, max: Operand | None = None) -> Tensor:
        return ew.clip(self, min, max)  # type: ignore[no-any-return]

    def matmul(self, other: Operand) -> Tensor:
        return linalg.matmul(self, other)  # type: ignore[no-any-return]


def _same_elements(x: Tensor, y: Tensor) -> bool:
    """Whether two tensors are the same view of the same memory."""
    if x._view is None or y._view is None:
        return x is y
    return x._view.base is y._view.base and x._view.path == y._view.path


def wrap(array: npt.NDArray[Any]) -> Tensor:
    """A Tensor around an array, with nothing else set. The fast constructor."""
    tensor = _new(Tensor)
    tensor._data = array
    tensor._view = tensor._record = None  # as the class says, but read faster from the object
    return tensor


def _rebuild(kind: type[Tensor], array: npt.NDArray[Any], requires_grad: bool) -> Tensor:
    tensor = kind.__new__(kind)
    Tensor.__init__(tensor, array, requires_grad)
    return tensor


def _to_host(array: Any) -> npt.NDArray[Any]:
    return array.get() if hasattr(array, "__cuda_array_interface__") else array  # type: ignore[no-any-return]


def _ints(arguments: tuple[Any, ...]) -> tuple[int, ...]:
    """f(2, 3) and f((2, 3)) alike."""
    if len(arguments) == 1 and not isinstance(arguments[0], int):
        return tuple(arguments[0])
    return arguments


def as_tensor(value: Operand | Sequence[Any]) -> Tensor:
    """A Tensor as it is; anything else through numpy.asarray, Python floats as float32."""
    if isinstance(value, Tensor):
        return value
    array: Any
    if hasattr(value, "__cuda_array_interface__") or isinstance(value, np.ndarray):
        array = value
    else:
        array = np.asarray(value)
        if array.dtype == np.float64 and not isinstance(value, np.generic):
            array = array.astype(np.float32)
        elif array.dtype.kind not in "fib":
            raise DTypeError(f"can't make a tensor of {type(value).__name__}: {value!r}")
    dtype_of(array.dtype)
    return _state.interpreter.created(wrap(array))
