"""Gathers and scatters, and x[key] against NumPy's for random keys of every kind."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from graphc.errors import AxisError, DTypeError, IndexingError, ShapeError
from graphc.ops.indexing import scatter_add, take, take_along_axis
from graphc.ops.subscript import index
from graphc.tensor import Tensor, as_tensor

SHAPE = (3, 4, 5, 2)


def numbered(shape: tuple[int, ...] = SHAPE) -> Tensor:
    x = as_tensor(np.arange(np.prod(shape), dtype=np.float64).reshape(shape))
    x.requires_grad = True
    return x


def one_index(extent: int) -> Any:
    """An entry that is valid on an axis of this extent."""
    bound = st.none() | st.integers(-extent - 2, extent + 2)
    steps = st.sampled_from([None, 1, 2, 3, -1, -2, -3])
    inside = st.integers(-extent, extent - 1)
    shapes = st.sampled_from([(2,), (3, 1), (3, 2), (1,)])
    arrays = shapes.flatmap(
        lambda s: st.lists(inside, min_size=int(np.prod(s)), max_size=int(np.prod(s))).map(
            lambda values: np.array(values).reshape(s)
        )
    )
    return st.one_of(inside, st.builds(slice, bound, bound, steps), arrays)


@st.composite
def keys(draw: Any) -> tuple[Any, ...]:
    used = draw(st.integers(0, len(SHAPE)))
    gap = draw(st.none() | st.integers(0, used))  # where the Ellipsis stands
    key: list[Any] = []
    for position in range(used):
        if gap == position:
            key.append(Ellipsis)
        if draw(st.integers(0, 4)) == 0:
            key.append(None)
        axis = position if gap is None or position < gap else len(SHAPE) - used + position
        key.append(draw(one_index(SHAPE[axis])))
    if gap == used:
        key.append(Ellipsis)
    return tuple(key)


def _broadcasts(key: tuple[Any, ...]) -> bool:
    try:
        np.broadcast_shapes(*(e.shape for e in key if isinstance(e, np.ndarray)))
    except ValueError:
        return False
    return True


@settings(max_examples=200, deadline=None)
@given(keys(), st.booleans())
def test_subscript_and_its_gradient_are_numpys(key: tuple[Any, ...], traced: bool) -> None:
    """traced: index arrays are Tensors, whose numbers can't be looked at."""
    x = numbered()
    ours = tuple(as_tensor(e) if traced and isinstance(e, np.ndarray) else e for e in key)
    if not _broadcasts(key):
        with pytest.raises(ShapeError):
            index(x, ours)
        return
    want = x.detach().numpy()[key]
    y = index(x, ours)
    assert y.shape == want.shape
    np.testing.assert_array_equal(y.detach().numpy(), want)
    g = np.random.default_rng(0).normal(size=want.shape)
    y.backward(as_tensor(g))
    scattered = np.zeros(SHAPE)
    np.add.at(scattered, key, g)
    assert x.grad is not None
    np.testing.assert_allclose(x.grad.numpy(), scattered, rtol=1e-13, atol=1e-13)


@pytest.mark.parametrize(
    ("key", "message"),
    [
        (3, "index 3 is out of bounds for axis 0 with size 3; valid are -3 to 2"),
        (-4, "index -4 is out of bounds"),
        ((0, 0, 0, 0, 0), "too many indices: 5"),
        ((..., ...), "only one Ellipsis"),
        (np.array([True, False, True]), "where\\(mask, x, other\\)"),
        (True, "can't be indexed with bool"),
        (np.array([0.5]), "Indices are integers"),
        ([0, 5], "index 5 is out of bounds for axis 0 with size 3"),
        (slice(None, None, 0), "step can't be 0"),
    ],
)
def test_errors_of_keys_teach(key: Any, message: str) -> None:
    with pytest.raises(IndexingError, match=message):
        index(numbered(), key)


def test_a_pair_of_indices_out_of_its_own_bounds_never_aliases_another_element() -> None:
    """(0, 4) of a (3, 4) array would be element (1, 0) of the merged dimensions."""
    x = as_tensor(np.arange(12.0).reshape(3, 4))
    with pytest.raises(IndexingError):
        index(x, (as_tensor(np.array([0])), as_tensor(np.array([4]))))
    with pytest.raises(IndexingError):
        index(x, (as_tensor(np.array([1])), as_tensor(np.array([-5]))))


def test_empty_index_gives_nothing() -> None:
    assert index(numbered(), []).shape == (0, 4, 5, 2)
    assert index(numbered(), np.zeros((2, 0), np.int64)).shape == (2, 0, 4, 5, 2)


def test_take_counts_from_the_end_and_names_the_index_out_of_bounds() -> None:
    x = as_tensor(np.array([10.0, 20.0, 30.0]))
    np.testing.assert_array_equal(take(x, [[-1, 0], [2, -3]]).numpy(), [[30, 10], [30, 10]])
    with pytest.raises(IndexingError, match=r"out of bounds for axis 0 with size 3; valid are -3 to 2\. Got -4"):
        take(x, [0, -4])
    with pytest.raises(IndexingError, match="no elements"):
        take(as_tensor(np.zeros((0,))), [0])
    with pytest.raises(DTypeError, match="boolean mask"):
        take(x, as_tensor(np.array([True, False, True])))
    with pytest.raises(AxisError, match="give the axis"):
        take(as_tensor(np.ones((2, 2))), [0])


def test_take_along_axis_broadcasts_the_other_dimensions() -> None:
    x = np.random.default_rng(0).normal(size=(4, 1, 3))
    indices = np.random.default_rng(1).integers(0, 3, (1, 5, 2))
    got = take_along_axis(as_tensor(x), as_tensor(indices), 2)
    want = np.take_along_axis(np.broadcast_to(x, (4, 5, 3)), np.broadcast_to(indices, (4, 5, 2)), 2)
    np.testing.assert_array_equal(got.numpy(), want)
    with pytest.raises(ShapeError, match="as many dimensions"):
        take_along_axis(as_tensor(x), as_tensor(np.array([0])), 0)


def test_scatter_add_sums_repeated_indices_in_order() -> None:
    """Large and small numbers: the sum is that of a loop over the updates."""
    rng = np.random.default_rng(0)
    updates = (rng.normal(size=(200, 3)) * 10.0 ** rng.integers(-8, 8, (200, 1))).astype(np.float32)
    indices = rng.integers(-7, 7, 200)
    got = scatter_add(as_tensor(updates), as_tensor(indices), 0, 7).numpy()
    want = np.zeros((7, 3), np.float64)
    for row, i in zip(updates, indices, strict=True):
        want[i] += row
    scale = np.zeros((7, 3))
    np.add.at(scale, indices, np.abs(updates))
    assert (np.abs(got - want) <= 40 * np.finfo(np.float32).eps * scale).all()


def test_scatter_add_of_nothing_is_zeros() -> None:
    got = scatter_add(as_tensor(np.zeros((0, 2))), as_tensor(np.zeros((0,), np.int64)), 0, 3)
    np.testing.assert_array_equal(got.numpy(), np.zeros((3, 2)))
