"""A small tape that recurs: its kernel finds what the sweep over numbers finds, and steps aside for all else."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest

import graphc as gc
from graphc import recurring
from graphc.errors import AnomalyError, AutodiffError, InplaceError
from graphc.nn import functional as F
from graphc.tensor import Tensor

rng = np.random.default_rng(0)


@pytest.fixture(autouse=True)
def _soon(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A kernel takes over at the second or third sweep."""
    monkeypatch.setattr(recurring, "WORTH", 3)
    recurring._sweeps.clear()
    yield
    gc.set_eager_kernels(True)
    gc.set_anomaly(False)


def kernels() -> int:
    return sum(sweep.run is not None for sweep in recurring._sweeps.values())


def leaves(*shapes: tuple[int, ...], dtype: Any = np.float32) -> list[Tensor]:
    return [gc.tensor(rng.uniform(0.5, 2, shape).astype(dtype), requires_grad=True) for shape in shapes]


def gradients(f: Callable[..., Tensor], xs: list[Tensor], **options: bool) -> list[Any]:
    for x in xs:
        x.grad = None
    f(*xs).backward(**options)
    return [None if x.grad is None else x.grad.numpy() for x in xs]


def chain(x: Tensor, y: Tensor) -> Tensor:
    a = gc.sin(x * y) + x
    b = gc.exp(-(a * a)) * 0.5 + y
    return (b * a - x).sum()


TABLE = np.array([2, 0, 1, 1])
FORMULAS: list[tuple[str, Callable[..., Tensor], list[tuple[int, ...]]]] = [
    ("chain", chain, [(7,), (7,)]),
    ("broadcast", lambda x, y: (x / y - 2 * x).sum(), [(3, 1), (1, 4)]),
    ("one number", lambda x: x * x * 3, [()]),
    ("the same gradient twice", lambda x, y: (x + y).sum(), [(5,), (5,)]),
    ("a leaf alone", lambda x: x.sum(), [(5,)]),
    ("products", lambda x, w, b: ((gc.tanh(x @ w + b) - 1) ** 2).mean(), [(2, 3), (3, 4), (4,)]),
    ("vectors", lambda x, y: x @ y, [(5,), (5,)]),
    ("where", lambda x: gc.where(x > 1, gc.log(x - 1), 0.0).sum(), [(9,)]),
    ("views", lambda x: (x[1:, 0] * x.mT[0, 1:] + x.reshape(-1)[:2].sum()).sum(), [(3, 2)]),
    ("reductions", lambda x: x.max(0).sum() + x.var() + gc.logsumexp(x, 1).mean(), [(3, 5)]),
    ("indices", lambda x: (x[TABLE] * gc.tensor([1.0, 2.0, 3.0, 4.0])).sum(), [(3,)]),
    ("losses", lambda x: F.cross_entropy(F.gelu(F.layer_norm(x, 3)), gc.tensor(TABLE)), [(4, 3)]),
    ("convolution", lambda x, w: F.max_pool2d(F.relu(F.conv2d(x, w)), 2).sum(), [(1, 2, 5, 5), (3, 2, 2, 2)]),
    ("a diamond", lambda x: (lambda a: (a * a + gc.exp(a) / a).sum())(x * 0.5), [(4,)]),
    ("nothing", lambda x: (x * x).sum(), [(0,)]),
]


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize(("f", "shapes"), [x[1:] for x in FORMULAS], ids=[x[0] for x in FORMULAS])
def test_the_kernel_finds_what_the_sweep_finds(f: Any, shapes: Any, dtype: Any) -> None:
    bound = 32 * float(np.finfo(dtype).eps)
    for _ in range(5):
        xs = leaves(*shapes, dtype=dtype)
        found = gradients(f, xs)
        gc.set_eager_kernels(False)
        for a, b in zip(found, gradients(f, xs), strict=True):
            assert a.dtype == b.dtype
            np.testing.assert_allclose(a, b, rtol=bound, atol=bound * max(1.0, float(np.abs(b).max(initial=0))))
        gc.set_eager_kernels(True)
    assert kernels() == 1


def test_gradients_are_arrays_of_their_own_and_accumulate() -> None:
    x, y = leaves((5,), (5,))
    for _ in range(6):
        gradients(lambda x, y: (x + y).sum(), [x, y])
    assert kernels() == 1
    kept = x.grad
    assert kept is not None
    assert y.grad is not None
    y.grad.mul_(7.0)
    (x + y).sum().backward()
    np.testing.assert_array_equal(kept.numpy(), np.full(5, 2, np.float32))
    np.testing.assert_array_equal(y.grad.numpy(), np.full(5, 8, np.float32))
    assert kernels() == 1


def test_a_leaf_without_a_derivative_gets_none() -> None:
    for _ in range(5):
        found = gradients(lambda x, y: (gc.floor(x) * y).sum() + gc.sign(x).sum(), leaves((4,), (4,)))
        assert found[1] is not None
    assert kernels() == 1
    gc.set_eager_kernels(False)
    expected = gradients(lambda x, y: (gc.floor(x) * y).sum() + gc.sign(x).sum(), leaves((4,), (4,)))
    assert (found[0] is None) == (expected[0] is None)


def test_other_formulas_are_told_apart() -> None:
    """What differs only in numbers of the formula, shapes, dtypes, attributes or in which operand is which."""
    x, y = leaves((4,), (4,))
    different: list[Callable[[], Tensor]] = [
        lambda: (x * 2.0).sum(),
        lambda: (x * 2.5).sum(),
        lambda: (x * 0.0).sum(),
        lambda: (x * -0.0).sum(),
        lambda: (x / y).sum(),
        lambda: (y / (y * x)).sum(),
        lambda: (x / (y * x)).sum(),
        lambda: (x / gc.tensor(np.ones(4, np.float32))).sum(),
        lambda: (gc.tensor(np.ones(4, np.float32)) / x).sum(),
        lambda: (x * gc.tensor(np.ones((3, 1), np.float32))).sum(),
        lambda: (x.reshape(2, 2) * x.reshape(2, 2)[0]).sum(),
        lambda: (x.reshape(2, 2) * x.reshape(2, 2)[1]).sum(),
        lambda: (x.astype("float64") * 2.0).sum(),
        lambda: (x**3.0).sum(),
    ]
    for _ in range(5):
        for f in different:
            for on in (True, False):
                gc.set_eager_kernels(on)
                x.grad = y.grad = None
                f().backward()
                if on:
                    found = [None if v.grad is None else v.grad.numpy() for v in (x, y)]
            for a, v in zip(found, (x, y), strict=True):
                assert (a is None) == (v.grad is None)
                if a is not None and v.grad is not None:
                    np.testing.assert_allclose(a, v.grad.numpy(), rtol=1e-5)
                    np.testing.assert_array_equal(np.signbit(a), np.signbit(v.grad.numpy()))
    assert kernels() == len(different)


def settled(f: Callable[..., Tensor], xs: list[Tensor]) -> None:
    """Sweep f until a kernel does."""
    for _ in range(4):
        gradients(f, xs)
    assert kernels() == 1


def test_hooks_are_called() -> None:
    xs = leaves((7,), (7,))
    settled(chain, xs)
    before = gradients(chain, xs)
    seen: list[Tensor] = []
    remove = xs[0].register_hook(lambda g: seen.append(g) or g * 2)  # type: ignore[func-returns-value]
    np.testing.assert_allclose(gradients(chain, xs)[0], 2 * before[0], rtol=1e-5)
    assert len(seen) == 1
    remove()

    def hooked(x: Tensor, y: Tensor) -> Tensor:
        a = x * y
        a.register_hook(lambda g: g * 3)
        return a.sum()

    for _ in range(6):
        found = gradients(hooked, xs)
    np.testing.assert_allclose(found[0], 3 * xs[1].detach().numpy(), rtol=1e-6)


def test_what_was_overwritten_is_noticed() -> None:
    x, y = leaves((4,), (4,))

    def overwritten(x: Tensor, y: Tensor) -> Tensor:
        a = gc.exp(x)
        b = a * y
        a.add_(1.0)
        return b.sum()

    for _ in range(6):
        with pytest.raises(InplaceError, match="add_"):
            gradients(overwritten, [x, y])
    settled(lambda x, y: (x * y).sum(), [x, y])
    z = (x * y).sum()
    with gc.no_grad():
        y.mul_(2.0)
    with pytest.raises(InplaceError, match="mul_"):
        z.backward()
    np.testing.assert_array_equal(gradients(lambda x, y: (x * y).sum(), [x, y])[0], y.detach().numpy())


def test_the_tape_is_freed_or_kept() -> None:
    xs = leaves((7,), (7,))
    settled(chain, xs)
    y = chain(*xs)
    y.backward()
    with pytest.raises(AutodiffError, match="freed"):
        y.backward()
    z = chain(*xs)
    first = gradients(lambda *_: z, xs, retain_graph=True)
    np.testing.assert_array_equal(gradients(lambda *_: z, xs)[0], first[0])
    with pytest.raises(AutodiffError, match="freed"):
        z.backward()


def test_other_sweeps_stay_as_they_are() -> None:
    xs = leaves((7,), (7,), dtype=np.float64)
    settled(chain, xs)
    plain = gradients(chain, xs)
    xs[0].grad = xs[1].grad = None
    chain(*xs).backward(create_graph=True)
    assert xs[0].grad is not None
    np.testing.assert_allclose(xs[0].grad.detach().numpy(), plain[0], rtol=1e-12)
    y = gc.sin(xs[0] * xs[1])
    xs[0].grad = None
    y.backward(gc.tensor(np.full(7, 2.0)))
    assert xs[0].grad is not None
    np.testing.assert_allclose(xs[0].grad.numpy(), (2 * np.cos(xs[0]._data * xs[1]._data) * xs[1]._data), rtol=1e-12)
    small = leaves((3,))
    settled_before = kernels()
    for _ in range(4):
        gradients(lambda x: gc.sqrt(x - x).sum() * 0.0, small)
    assert kernels() == settled_before + 1
    gc.set_anomaly(True)
    with pytest.raises(AnomalyError, match=r"sqrt \(computed at"):
        gradients(lambda x: gc.sqrt(x - x).sum() * 0.0, small)


def test_large_and_long_tapes_are_left_alone() -> None:
    large = leaves((recurring.LARGEST + 1,))
    long = leaves((2,))
    for _ in range(5):
        gradients(lambda x: (x * x).sum(), large)
        found = gradients(lambda x: sum((x for _ in range(recurring.MOST + 2)), start=x * 0).sum(), long)
    assert kernels() == 0
    np.testing.assert_array_equal(found[0], np.full(2, recurring.MOST + 2, np.float32))


def test_threads_share_sweeps() -> None:
    expected = None
    results: list[Any] = [None] * 6
    start = [x.detach().numpy() for x in leaves((7,), (7,))]

    def run(k: int) -> None:
        xs = [gc.tensor(a.copy(), requires_grad=True) for a in start]
        for _ in range(50):
            results[k] = gradients(chain, xs)

    with ThreadPoolExecutor(6) as threads:
        list(threads.map(run, range(6)))  # raises what they raise
    expected = results[0]
    for found in results[1:]:
        for a, b in zip(found, expected, strict=True):
            np.testing.assert_array_equal(a, b)


def test_which_sweep_is_the_first_native_one_is_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recurring, "WORTH", 40)
    native = []
    for _ in range(12):
        gradients(chain, leaves((3,), (3,)))
        native.append(kernels())
    operations = 11
    assert native.index(1) + 1 == -(-40 // operations)
