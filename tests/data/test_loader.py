"""Datasets and DataLoader: what comes, in which order, and made into what."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import pytest

from graphc import random
from graphc.data import DataLoader, Dataset, TensorDataset, collate
from graphc.errors import ArgumentError, DataError, DTypeError, ShapeError
from graphc.tensor import Tensor


def pairs(count: int) -> TensorDataset:
    return TensorDataset(np.arange(count * 2, dtype=np.float32).reshape(count, 2), Tensor(np.arange(count)))


class Squares:
    """A dataset of its own kind."""

    def __init__(self, count: int) -> None:
        self.count = count

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> dict[str, Any]:
        assert type(index) is int
        return {"x": np.full(2, index, np.float32), "y": index**2, "name": f"n{index}"}


def test_tensor_dataset() -> None:
    data = pairs(5)
    assert isinstance(data, Dataset)
    assert len(data) == 5
    x, y = data[3]
    assert x.tolist() == [6, 7]
    assert y.item() == 3
    x, y = data[np.array([4, 0])]
    assert y.tolist() == [4, 0]
    assert x.shape == (2, 2)
    assert data[1:3][1].tolist() == [1, 2]
    source = np.zeros((3, 2), np.float32)
    assert TensorDataset(source).arrays[0] is source
    with pytest.raises(ShapeError, match=r"one length, got shapes \(2,\), \(3,\)"):
        TensorDataset(np.zeros(2), np.zeros(3))
    for arrays in ((), (np.zeros(()),)):
        with pytest.raises(ShapeError, match="one length"):
            TensorDataset(*arrays)
    with pytest.raises(DTypeError, match="complex128"):
        TensorDataset(np.zeros(2, complex))


@pytest.mark.parametrize(("count", "size", "drop", "lengths"), [
    (10, 3, False, [3, 3, 3, 1]),
    (10, 3, True, [3, 3, 3]),
    (9, 3, False, [3, 3, 3]),
    (2, 5, False, [2]),
    (2, 5, True, []),
    (0, 4, False, []),
    (3, 1, False, [1, 1, 1]),
])  # fmt: skip
def test_batches_in_order(count: int, size: int, drop: bool, lengths: list[int]) -> None:
    loader = DataLoader(pairs(count), size, drop_last=drop)
    batches = list(loader)
    assert len(loader) == len(batches)
    assert [len(y) for _, y in batches] == lengths
    assert [n for _, y in batches for n in y.tolist()] == list(range(sum(lengths)))
    assert all(x.shape == (len(y), 2) and isinstance(x, Tensor) for x, y in batches)
    for x, y in batches:
        np.testing.assert_array_equal(x.numpy()[:, 0], 2 * y.numpy())


def test_batches_own_their_memory() -> None:
    data = pairs(4)
    (x, _), *_ = DataLoader(data, 4)
    x.fill_(9.0)
    assert data.arrays[0].max() == 7


def order(loader: DataLoader) -> list[int]:
    return [n for _, y in loader for n in y.tolist()]


def test_shuffling_is_a_permutation_that_the_seed_decides() -> None:
    loader = DataLoader(pairs(100), 7, shuffle=True)
    random.manual_seed(4)
    first, second = order(loader), order(loader)
    assert sorted(first) == sorted(second) == list(range(100))
    assert first != second != list(range(100))
    random.manual_seed(4)
    assert order(loader) == first
    own = DataLoader(pairs(100), 7, shuffle=True, generator=random.Generator(4))
    state = random.default_generator.get_state().tolist()
    assert order(own) == first  # the same stream, drawn from a generator of its own
    assert order(own) == second
    assert random.default_generator.get_state().tolist() == state
    dropped = DataLoader(pairs(100), 7, shuffle=True, drop_last=True)
    assert len(set(order(dropped))) == 98


def test_two_iterations_may_run_at_once() -> None:
    loader = DataLoader(pairs(6), 2)
    assert [(a.tolist(), b.tolist()) for (_, a), (_, b) in zip(loader, loader, strict=True)] == [
        ([0, 1], [0, 1]), ([2, 3], [2, 3]), ([4, 5], [4, 5])
    ]  # fmt: skip


def test_other_datasets_are_collated() -> None:
    loader = DataLoader(Squares(5), 2, shuffle=False)
    batches = list(loader)
    assert [b["y"].tolist() for b in batches] == [[0, 1], [4, 9], [16]]
    assert batches[1]["x"].tolist() == [[2, 2], [3, 3]]
    assert batches[2]["name"] == ["n4"]
    assert [list(b) for b in DataLoader([1.5, 2.5, 3.5], 2, collate_fn=reversed)] == [[2.5, 1.5], [3.5]]
    (custom,) = DataLoader(pairs(3), 3, collate_fn=lambda items: [y.item() for _, y in items])
    assert custom == [0, 1, 2]


class Point(NamedTuple):
    x: float
    flag: bool


def test_collate_keeps_the_structure() -> None:
    (point, arrays), texts = collate(
        [((Point(1.0, True), [np.ones(2, np.int32)]), "a"), ((Point(2.0, False), [np.zeros(2, np.int32)]), "b")]
    )
    assert isinstance(point, Point)
    assert point.x.tolist() == [1, 2]
    assert point.x.dtype.name == "float32"
    assert point.flag.dtype.name == "bool"
    assert isinstance(arrays, list)
    assert arrays[0].dtype.name == "int32"
    assert arrays[0].shape == (2, 2)
    assert texts == ["a", "b"]
    assert collate([1, 2]).dtype.name == "int64"
    assert collate([Tensor(np.ones(3)), Tensor(np.zeros(3))]).shape == (2, 3)


@pytest.mark.parametrize(
    ("items", "pattern"),
    [
        ([np.ones(2), np.ones(3)], "don't fit together.*collate_fn"),
        ([(1, 2), (1,)], "don't fit together"),
        ([{"a": 1}, {"b": 1}], "don't fit together"),
        ([object()], "can't make a batch of object"),
    ],
)
def test_items_that_do_not_fit(items: list[Any], pattern: str) -> None:
    with pytest.raises(DataError, match=pattern):
        collate(items)


def test_a_batch_needs_a_size() -> None:
    with pytest.raises(ArgumentError, match="batch_size=0"):
        DataLoader(pairs(3), 0)
