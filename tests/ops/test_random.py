"""Random numbers: the published test vectors of Philox4x32-10, and the distributions made of it."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from graphc.errors import DTypeError, ShapeError
from graphc.ops import random
from graphc.tensor import Tensor, as_tensor
from graphc.types import float32, float64
from tests.references import philox


def state(seed: int, draw: int = 0) -> Tensor:
    return as_tensor(random.key(seed, draw))


# Random123's kat_vectors: counter, key, result.
VECTORS = [
    ((0, 0, 0, 0), (0, 0), (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)),
    ((2**32 - 1,) * 4, (2**32 - 1,) * 2, (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD)),
    (
        (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344),
        (0xA4093822, 0x299F31D0),
        (0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1),
    ),
]


@pytest.mark.parametrize(("counter", "key", "result"), VECTORS)
def test_philox_gives_the_published_vectors(
    counter: tuple[int, int, int, int], key: tuple[int, int], result: tuple[int, ...]
) -> None:
    words = random.philox4x32(np, tuple(np.array([c], np.uint64) for c in counter), key)  # type: ignore[arg-type]
    assert tuple(int(w[0]) for w in words) == result
    seed, draw = key[0] | key[1] << 32, counter[2] | counter[3] << 32
    assert tuple(philox(seed, draw, counter[0] | counter[1] << 32)) == result


def test_one_stream_whatever_the_shape_and_block() -> None:
    """Element e depends on seed, draw and e alone: not on the shape, nor on how many are made at once."""
    flat = random.uniform(state(5, 2), (40000,)).numpy()
    np.testing.assert_array_equal(random.uniform(state(5, 2), (100, 400)).numpy().ravel(), flat)
    np.testing.assert_array_equal(random.uniform(state(5, 2), (7,)).numpy(), flat[:7])
    for e in (0, 16383, 16384, 39999):
        assert flat[e] == np.float32((philox(5, 2, e)[0] >> 8) / 2**24)


def test_seeds_and_draws_give_other_numbers() -> None:
    base = random.uniform(state(0), (50,)).numpy()
    for other in (state(1), state(0, 1), state(2**32), state(0, 2**32), state(-1)):
        assert (random.uniform(other, (50,)).numpy() != base).mean() > 0.99


@pytest.mark.parametrize("dtype", [float32, float64])
def test_uniform_is_uniform(dtype: object) -> None:
    u = random.uniform(state(3), (50000,), dtype=dtype).numpy()
    assert u.min() >= 0
    assert u.max() < 1
    assert stats.kstest(u, "uniform").pvalue > 1e-3
    v = random.uniform(state(3), (1000,), -2.0, 3.0, dtype=dtype).numpy()
    assert v.min() >= -2
    assert v.max() <= 3


@pytest.mark.parametrize("dtype", [float32, float64])
def test_normal_is_normal(dtype: object) -> None:
    z = random.normal(state(4), (50000,), dtype=dtype)
    assert z.dtype is dtype
    assert stats.kstest(z.numpy(), "norm").pvalue > 1e-3
    shifted = random.normal(state(4), (50000,), 2.0, 3.0, dtype=dtype).numpy()
    np.testing.assert_allclose(shifted, 2 + 3 * z.numpy(), rtol=1e-5, atol=1e-5)


def test_bernoulli_takes_numbers_and_arrays() -> None:
    hits = random.bernoulli(state(6), 0.3, (20000,)).numpy()
    assert hits.dtype == bool
    assert stats.binomtest(int(hits.sum()), 20000, 0.3).pvalue > 1e-3
    each = random.bernoulli(state(6), as_tensor(np.array([0.0, 1.0, 0.0, 1.0]))).numpy()
    np.testing.assert_array_equal(each, [False, True, False, True])


def test_randint_covers_its_range_evenly() -> None:
    dice = random.randint(state(7), -2, 4, (30000,)).numpy()
    assert dice.dtype == np.int64
    assert stats.chisquare(np.bincount(dice + 2, minlength=6)).pvalue > 1e-3
    wide = random.randint(state(7), 0, 2**53, (1000,)).numpy()
    assert wide.max() < 2**53
    assert wide.max() > 2**52
    for low, high in ((3, 3), (0, 2**53 + 1)):
        with pytest.raises(ShapeError, match="between 1 and"):
            random.randint(state(7), low, high)


def test_permutations_are_all_equally_likely() -> None:
    counts: dict[tuple[int, ...], int] = {}
    for draw in range(3000):
        p = tuple(random.permutation(state(8, draw), 4).numpy().tolist())
        assert sorted(p) == [0, 1, 2, 3]
        counts[p] = counts.get(p, 0) + 1
    assert len(counts) == 24
    assert stats.chisquare(list(counts.values())).pvalue > 1e-3


def test_errors_teach() -> None:
    with pytest.raises(ShapeError, match="seed, draw"):
        random.uniform(as_tensor(np.array([1, 2, 3])), (2,))
    with pytest.raises(DTypeError, match="randint"):
        random.uniform(state(0), (2,), dtype="int32")
