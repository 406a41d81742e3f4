"""DataLoader: a dataset in batches."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from graphc import random
from graphc.data.dataset import Dataset, TensorDataset
from graphc.errors import ArgumentError, DataError
from graphc.tensor import Tensor, as_tensor


def collate(items: list[Any]) -> Any:
    """One batch from items of one structure: a tuple of tensors from tuples, a dict from dicts, and so on.

    Tensors, arrays and numbers are stacked along a new first dimension; strings stay a list. Raises DataError for
    items that don't fit together or whose kind isn't known.
    """
    first = items[0]
    try:
        if isinstance(first, Tensor):
            return as_tensor(np.stack([item.detach().numpy() for item in items]))
        if isinstance(first, np.ndarray | np.generic):
            return as_tensor(np.stack(items))
        if isinstance(first, bool | int | float):
            return as_tensor(items)
        if isinstance(first, str | bytes):
            return items
        if isinstance(first, tuple) and hasattr(first, "_fields"):
            return type(first)(*map(collate, _columns(items)))
        if isinstance(first, tuple | list):
            return type(first)(map(collate, _columns(items)))
        if isinstance(first, Mapping):
            return {key: collate([item[key] for item in items]) for key in first}
    except (ValueError, KeyError) as error:
        raise DataError(f"items of a batch don't fit together: {error}. Give DataLoader a collate_fn.") from error
    raise DataError(f"can't make a batch of {type(first).__name__}; give DataLoader a collate_fn")


def _columns(items: list[Any]) -> list[list[Any]]:
    return [list(column) for column in zip(*items, strict=True)]


class DataLoader:
    """Iterates over a dataset in batches, anew each time it is iterated.

    dataset: with __len__ and __getitem__. shuffle: a new order each time, drawn from `generator`, or from
    graphc.random's own. drop_last: leave out a last batch that is smaller. collate_fn: makes a batch of a list of
    items (see collate). len() is the number of batches. The arrays of a TensorDataset are indexed batch by batch.
    Raises ArgumentError for a batch size below 1.
    """

    def __init__(
        self,
        dataset: Dataset[Any] | TensorDataset,
        batch_size: int = 1,
        shuffle: bool = False,
        *,
        drop_last: bool = False,
        generator: random.Generator | None = None,
        collate_fn: Callable[[list[Any]], Any] | None = None,
    ) -> None:
        if batch_size < 1:
            raise ArgumentError(f"DataLoader: batch_size={batch_size} must be at least 1")
        self.dataset, self.batch_size, self.shuffle, self.drop_last = dataset, batch_size, shuffle, drop_last
        self.generator, self.collate_fn = generator, collate_fn

    def __len__(self) -> int:
        full, rest = divmod(len(self.dataset), self.batch_size)
        return full if self.drop_last or not rest else full + 1

    def __iter__(self) -> Iterator[Any]:
        order = self._order()
        for start in range(0, len(self) * self.batch_size, self.batch_size):
            yield self._batch(order[start : start + self.batch_size])

    def _order(self) -> npt.NDArray[np.int64]:
        count = len(self.dataset)
        if not self.shuffle:
            return np.arange(count)
        order: npt.NDArray[np.int64] = random.permutation(count, self.generator).numpy()
        return order

    def _batch(self, indices: npt.NDArray[np.int64]) -> Any:
        if self.collate_fn is None and isinstance(self.dataset, TensorDataset):
            return self.dataset[indices]
        items = [self.dataset[int(i)] for i in indices]
        return (self.collate_fn or collate)(items)
