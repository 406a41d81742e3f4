"""What a value is before it has numbers: dtype, shape, and the rules that combine them.

Sources: the Python array API standard (2024.12) for kinds and broadcasting. Where the standard leaves
promotion between kinds undefined, graphc takes PyTorch's rule: a floating operand decides
(`int64 * float32 -> float32`), so a float32 program never becomes float64 by accident.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TypeAlias

import numpy as np

from graphc.errors import AxisError, DTypeError, ShapeError
from graphc.frozen import dataclass

Shape: TypeAlias = tuple[int, ...]
Scalar: TypeAlias = bool | int | float


@dataclass(frozen=True, slots=True, eq=False)
class DType:
    """An element type. Exactly five exist: `float32 float64 int32 int64 bool`; compare by `is` or `==`.

    name: NumPy's name. kind: "f", "i" or "b". itemsize: bytes. rank: place in the promotion order.
    """

    name: str
    kind: str
    itemsize: int
    rank: int
    short: str
    numpy: np.dtype[np.generic]

    def __repr__(self) -> str:
        return f"graphc.{self.name}"

    def __reduce__(self) -> tuple[object, ...]:
        return dtype_of, (self.name,)


bool_ = DType("bool", "b", 1, 0, "b", np.dtype(np.bool_))
int32 = DType("int32", "i", 4, 1, "i32", np.dtype(np.int32))
int64 = DType("int64", "i", 8, 2, "i64", np.dtype(np.int64))
float32 = DType("float32", "f", 4, 3, "f32", np.dtype(np.float32))
float64 = DType("float64", "f", 8, 4, "f64", np.dtype(np.float64))

DTYPES: tuple[DType, ...] = (bool_, int32, int64, float32, float64)
DEFAULT_FLOAT = float32  # PyTorch's default; what `1 / 3` of integers and `gc.tensor([1.0])` give
DEFAULT_INT = int64

BY_NUMPY: dict[object, DType] = {d.numpy: d for d in DTYPES}
_BY_NAME: dict[str, DType] = {d.name: d for d in DTYPES} | {d.short: d for d in DTYPES} | {"bool_": bool_}


def dtype_of(spec: object) -> DType:
    """The DType for a DType, a NumPy dtype or scalar type, a Python type or a name.

    Raises DTypeError for any other element type.
    """
    if isinstance(spec, DType):
        return spec
    found = BY_NUMPY.get(spec) if isinstance(spec, np.dtype) else None
    if found is not None:
        return found
    if isinstance(spec, str) and spec in _BY_NAME:
        return _BY_NAME[spec]
    if spec is float:
        return DEFAULT_FLOAT
    if spec is int:
        return DEFAULT_INT
    if spec is bool:
        return bool_
    try:
        return BY_NUMPY[np.dtype(spec).newbyteorder("=")]  # type: ignore[call-overload]
    except (TypeError, KeyError):
        names = ", ".join(d.name for d in DTYPES)
        raise DTypeError(f"graphc has no dtype {spec!r}; it has {names}. Convert with .astype(...).") from None


@dataclass(frozen=True, slots=True)
class TensorType:
    """The type of one value: its shape (tuple of non-negative ints) and dtype."""

    shape: Shape
    dtype: DType

    @property
    def ndim(self) -> int:
        return len(self.shape)

    @property
    def size(self) -> int:
        """Number of elements."""
        n = 1
        for extent in self.shape:
            n *= extent
        return n

    @property
    def nbytes(self) -> int:
        return self.size * self.dtype.itemsize

    def __str__(self) -> str:
        return f"{self.dtype.short}[{','.join(map(str, self.shape))}]"


def scalar_dtype(value: Scalar) -> DType:
    """The default dtype of a Python scalar standing alone."""
    if isinstance(value, bool):
        return bool_
    return DEFAULT_INT if isinstance(value, int) else DEFAULT_FLOAT


def promote(*dtypes: DType) -> DType:
    """The dtype that mixed operands are computed in: the highest of bool < int32 < int64 < float32 < float64."""
    best = dtypes[0]
    for dtype in dtypes[1:]:
        if dtype.rank > best.rank:
            best = dtype
    return best


def promote_scalar(dtype: DType, value: Scalar) -> DType:
    """The dtype of `array op value` for a Python scalar: weak, so it raises the kind but never the width."""
    if dtype.kind == "f":
        return dtype
    kind = scalar_dtype(value)
    if "bif".index(kind.kind) <= "bif".index(dtype.kind):
        return dtype
    return kind


def broadcast_shapes(*shapes: Shape, op: str = "broadcast") -> Shape:
    """The common shape by NumPy's rule. Raises ShapeError naming the two sizes that differ."""
    first = shapes[0]
    for other in shapes[1:]:
        if other != first:
            if not first:
                first = other
            elif other:
                break
    else:
        return first
    ndim = max(len(s) for s in shapes)
    out = [1] * ndim
    for shape in shapes:
        for axis, extent in enumerate(shape, ndim - len(shape)):
            if extent == 1 or extent == out[axis]:
                continue
            if out[axis] != 1:
                listed = " and ".join(str(s) for s in shapes)
                raise ShapeError(
                    f"{op}: shapes {listed} don't broadcast: sizes {out[axis]} and {extent} "
                    f"differ on axis {axis - ndim}. Sizes must be equal, or one of them 1."
                )
            out[axis] = extent
    return tuple(out)


def normalize_axis(axis: int, ndim: int, op: str = "axis") -> int:
    """A non-negative axis. Raises AxisError if out of range."""
    if -ndim <= axis < ndim:
        return axis + ndim if axis < 0 else axis
    raise AxisError(f"{op}: axis {axis} is out of range for an array of {ndim} dimensions.")


def normalize_axes(axis: int | Iterable[int] | None, ndim: int, op: str = "axis") -> tuple[int, ...]:
    """Sorted unique non-negative axes; None means all. Raises AxisError on range or repetition."""
    if axis is None:
        return tuple(range(ndim))
    axes = [normalize_axis(a, ndim, op) for a in ((axis,) if isinstance(axis, int) else axis)]
    if len(set(axes)) != len(axes):
        raise AxisError(f"{op}: axis {axis} names a dimension twice.")
    return tuple(sorted(axes))


def reduced_shape(shape: Sequence[int], axes: Sequence[int], keepdims: bool) -> Shape:
    """The shape left after reducing over `axes` (sorted, non-negative)."""
    if keepdims:
        return tuple(1 if i in axes else n for i, n in enumerate(shape))
    return tuple(n for i, n in enumerate(shape) if i not in axes)
