"""einsum against NumPy's; tan, sinh and cosh against NumPy's in float64."""

from __future__ import annotations

import numpy as np
import pytest

import graphc as gc
from graphc.errors import ShapeError

CASES = [
    ("ij,jk->ik", (3, 4), (4, 5)), ("ij,jk", (3, 4), (4, 5)), ("ij,kj->ki", (3, 4), (5, 4)), ("i,i->", (4,), (4,)),
    ("i,j->ij", (3,), (4,)), ("i,j->ji", (3,), (4,)), ("ij->ji", (3, 4)), ("ijk->", (2, 3, 4)), ("ijk->j", (2, 3, 4)),
    ("ii", (4, 4)), ("ii->i", (4, 4)), ("iij->ij", (3, 3, 2)), ("iii->i", (3, 3, 3)), ("bij,bj->bi", (2, 3, 4), (2, 4)),
    ("bhtd,bhsd->bhts", (2, 3, 4, 5), (2, 3, 6, 5)), ("ij,ij->ij", (3, 4), (3, 4)), ("ij,i->j", (3, 4), (3,)),
    ("ab,bc,cd->da", (2, 3), (3, 4), (4, 5)), ("i,i,i->", (5,), (5,), (5,)), ("ij,k->i", (3, 4), (5,)),
    (" i j , j -> i ", (3, 4), (4,)), ("abc,ad->dbc", (2, 3, 4), (2, 5)), ("ijk,kl,l->ij", (2, 3, 4), (4, 5), (5,)),
]  # fmt: skip


@pytest.mark.parametrize("case", CASES, ids=lambda case: case[0])
def test_einsum(case: tuple[str, *tuple[tuple[int, ...], ...]]) -> None:
    subscripts, *shapes = case
    rng = np.random.default_rng(1)
    arrays = [rng.normal(size=shape) for shape in shapes]
    tensors = [gc.asarray(a) for a in arrays]
    want = np.einsum(subscripts, *arrays)

    def f(*xs: gc.Tensor) -> gc.Tensor:
        return gc.einsum(subscripts, *xs)

    for call in (f, gc.compile(f)):
        got = call(*tensors).numpy()
        assert got.shape == want.shape
        np.testing.assert_allclose(got, want, rtol=1e-12, atol=1e-12)
    assert gc.gradcheck(f, [gc.tensor(a, requires_grad=True) for a in arrays])


@pytest.mark.parametrize(
    ("subscripts", "shapes", "message"),
    [
        ("ij,jk->ik", [(3, 4), (5, 6)], "j is 4 and 5 elements long"),
        ("ij->ij", [(3, 4), (3, 4)], "about 1 arrays, and was given 2"),
        ("i->i", [(3, 4)], "names 1 axes"),
        ("...i->i", [(3, 4)], "spell an ellipsis out"),
        ("ij->ii", [(3, 4)], "different ones"),
        ("ij->k", [(3, 4)], "different ones"),
    ],
)
def test_what_einsum_refuses(subscripts: str, shapes: list[tuple[int, ...]], message: str) -> None:
    with pytest.raises(ShapeError, match=message):
        gc.einsum(subscripts, *(gc.asarray(np.ones(shape)) for shape in shapes))


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("name", ["tan", "sinh", "cosh"])
def test_within_four_ulp(name: str, dtype: type) -> None:
    """Near 0, far out, and at the special numbers. The largest finite results are finite."""
    rng = np.random.default_rng(2)
    most = 89.4 if dtype is np.float32 else 710.4
    special = [0.0, -0.0, np.inf, -np.inf, np.nan, most, -most, 1e-30, -20.0, 20.1]
    x = np.concatenate([rng.uniform(-most, most, 3000), rng.normal(size=3000) * 1e-3, special]).astype(dtype)
    with np.errstate(all="ignore"):
        want = getattr(np, name)(x.astype(np.longdouble)).astype(dtype)
        for f in (getattr(gc, name), gc.compile(getattr(gc, name))):
            got = f(gc.asarray(x)).numpy()
            fine = np.isfinite(want)
            np.testing.assert_array_equal(np.isnan(got), np.isnan(want))
            np.testing.assert_array_equal(got[~fine & ~np.isnan(want)], want[~fine & ~np.isnan(want)])
            assert (np.abs(got - want)[fine] <= 4 * np.spacing(np.abs(want[fine]))).all()
            zero = want == 0
            np.testing.assert_array_equal(np.signbit(got[zero]), np.signbit(want[zero]))


@pytest.mark.parametrize("name", ["tan", "sinh", "cosh"])
def test_derivatives(name: str) -> None:
    f = getattr(gc, name)
    x = np.array([0.0, 0.3, -0.7, 1.2, -3.0])
    assert gc.gradcheck(f, [gc.tensor(x, requires_grad=True)])
    assert gc.gradgradcheck(f, [gc.tensor(x[1:], requires_grad=True)])
    want = {"tan": 1 / np.cos(x) ** 2, "sinh": np.cosh(x), "cosh": np.sinh(x)}[name]
    slope = gc.grad(lambda x: f(x).sum())
    for call in (slope, gc.compile(slope)):
        np.testing.assert_allclose(call(gc.asarray(x)).numpy(), want, rtol=1e-14, atol=1e-15)
