"""Tensor: numbers with a shape, a dtype and, if asked, a history to differentiate.

What an operation on Tensors does is decided by the interpreter in force (graphc/interpreter.py). A Tensor holds either
an array (`_data`) or, while it is traced, a node (`_node`). Its operators and the operations that are methods stand in
graphc/operators.py; here stand what it is, its numbers, writing in place, and its history.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from graphc.errors import DeviceError, DTypeError, IndexingError, InplaceError, ShapeError, TraceError
from graphc.interpreter import Hook, Operand, state
from graphc.operators import Operators
from graphc.ops import elementwise as ew
from graphc.ops import subscript
from graphc.primitive import Value
from graphc.types import BY_NUMPY, DType, Scalar, Shape, dtype_of

if TYPE_CHECKING:
    from graphc.ir.node import Node
    from graphc.records import Leaf, Record, Version, ViewOf

_new = object.__new__


def _inplace(name: str, function: Callable[[Value, Value], Value]) -> Callable[[Tensor, Operand], Tensor]:
    """x.name(other): x = function(x, other) written into x's memory."""

    def method(self: Tensor, other: Operand) -> Tensor:
        state.interpreter.assign(self, function(self, other), name)
        return self

    method.__name__ = name
    method.__doc__ = f"x = {function.__name__}(x, other) in place; returns x."
    return method


class Tensor(Operators):
    """An n-dimensional array that can be differentiated. Make one with `graphc.tensor` or `graphc.asarray`.

    data: anything numpy.asarray takes, used without a copy where possible. Follows the array API standard;
    autograd methods (`backward`, `grad`, `detach`, trailing-underscore in-place operations) follow PyTorch.
    """

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
        state.interpreter.created(self)
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
        state.interpreter.require_grad(self, required)

    @property
    def is_leaf(self) -> bool:
        """True if no recorded operation made it: where `backward` leaves gradients."""
        return self._record is None or self._record.op is None

    @property
    def grad(self) -> Tensor | None:
        """What `backward` accumulated here, or None."""
        return state.interpreter.grad_of(self)

    @grad.setter
    def grad(self, value: Tensor | None) -> None:
        state.interpreter.set_grad(self, value)

    # ------------------------------------------------------------------------------------ its numbers

    def _numbers(self, what: str) -> npt.NDArray[Any]:
        if self._node is not None:
            error = TraceError(
                f"{what} needs a number, but this tensor {self._node.type} is being traced by graphc.compile "
                f"(made at {self._node.origin.location or '?'}). Return it from the compiled function and look at "
                "it there; to branch on it, use graphc.where(condition, a, b)."
            )
            state.interpreter.refused(error)
            raise error
        state.interpreter.look(self, what)
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
        state.interpreter.assign(self, other, "copy_")
        return self

    def fill_(self, value: Scalar) -> Tensor:
        """Overwrite every element by one number; returns self."""
        state.interpreter.assign(self, value, "fill_")
        return self

    def zero_(self) -> Tensor:
        """Overwrite every element by 0; returns self."""
        state.interpreter.assign(self, 0, "zero_")
        return self

    def __setitem__(self, key: Any, value: Operand) -> None:
        if isinstance(key, Tensor) and key.dtype.kind == "b":
            state.interpreter.assign(self, ew.where(key, value, self), "x[mask] =")
        else:
            part = subscript.index(self, key)
            if isinstance(value, Tensor) and _same_elements(value, part):
                return  # x[key] += y ends in x[key] = what was just changed
            if part is not self and part._view is None and part.size:
                raise IndexingError(
                    "x[key] = value needs a key of ints, slices, None and Ellipsis (or one boolean mask); for integer "
                    "arrays use graphc.where with a mask, or scatter_add."
                )
            state.interpreter.assign(part, value, "x[key] =")

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
        state.interpreter.backward(self, gradient, keep, create_graph)

    def detach(self) -> Tensor:
        """The same numbers (shared memory) without history."""
        return state.interpreter.detach(self)

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
        state.interpreter.require_grad(self, required)
        return self

    def register_hook(self, function: Hook) -> Callable[[], None]:
        """Call function(gradient) when backward knows this tensor's gradient; a returned tensor replaces it.

        Returns a function that removes the hook.
        """
        return state.interpreter.hook(self, function)

    def retain_grad(self) -> None:
        """Keep this non-leaf's gradient in `.grad` too."""
        state.interpreter.retain_grad(self)

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
            return state.interpreter.created(wrap(_to_host(data)))
        cupy = sys.modules.get("cupy")  # heavy, and only the user knows whether it is wanted
        if cupy is None:
            raise DeviceError('to("cuda"): `import cupy` first; it comes with pip install "graphc[cuda]".')
        return state.interpreter.created(wrap(cupy.asarray(data)))


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
    return state.interpreter.created(wrap(array))
