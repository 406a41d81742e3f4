"""Datasets: anything with a length whose items can be asked for by number."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol, TypeVar, runtime_checkable

import numpy as np
import numpy.typing as npt

from graphc.errors import ShapeError
from graphc.tensor import Tensor, as_tensor
from graphc.types import dtype_of

Item = TypeVar("Item", covariant=True)


@runtime_checkable
class Dataset(Protocol[Item]):
    """What a DataLoader reads: items by number, 0 to len - 1. Any class with these two methods will do."""

    def __len__(self) -> int:
        """How many items there are."""

    def __getitem__(self, index: int, /) -> Item:
        """One item: a tensor, array or number, or a tuple, list or dict of such."""


class TensorDataset:
    """Arrays whose first dimensions run together: item i is the tuple of their rows i.

    arrays: tensors or arrays of one length, at least one. They are held as NumPy arrays and aren't copied where
    that can be avoided. An index may also be a slice or an array of integers: then the rows come as one batch.
    Raises ShapeError if the lengths differ, DTypeError for an element type that graphc doesn't have.
    """

    def __init__(self, *arrays: Tensor | npt.ArrayLike) -> None:
        self.arrays = tuple(_as_array(a) for a in arrays)
        lengths = [len(a) if a.ndim else None for a in self.arrays]
        if not lengths or None in lengths or len(set(lengths)) > 1:
            shapes = ", ".join(str(a.shape) for a in self.arrays) or "none"
            raise ShapeError(f"TensorDataset needs arrays of one length, got shapes {shapes}")

    def __len__(self) -> int:
        return len(self.arrays[0])

    def __getitem__(self, index: int | slice | Sequence[int] | npt.NDArray[np.integer[Any]]) -> tuple[Tensor, ...]:
        return tuple(as_tensor(a[index]) for a in self.arrays)


def _as_array(values: Tensor | npt.ArrayLike) -> npt.NDArray[Any]:
    if isinstance(values, Tensor):
        return values.detach().numpy()
    array = np.asarray(values)
    return array.astype(dtype_of(array.dtype).numpy, copy=False)  # refuses what a tensor can't hold
