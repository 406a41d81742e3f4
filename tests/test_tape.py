"""The tape: leaves, accumulation, in-place operations, views, hooks, memory, threads; PyTorch is the reference."""

from __future__ import annotations

import gc as collector
import threading
import weakref
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest

import graphc as gc
from tests.pytorch import pytorch

A = np.random.default_rng(0).normal(size=(3, 4))


def T(a: Any, requires_grad: bool = True) -> gc.Tensor:
    return gc.tensor(np.array(a, dtype=np.float64), requires_grad=requires_grad)


def P(a: Any) -> Any:
    return pytorch().tensor(np.array(a, dtype=np.float64), requires_grad=True)


def v1(m: Any, x: Any) -> Any:
    y = x.clone()
    v = y[1]
    v *= 2
    return y * y


def v2(m: Any, x: Any) -> Any:
    y = x.clone()
    v = y[1]
    w = v[1:3]
    w.mul_(3.0)
    return y * v.sum() * w.sum()


def v3(m: Any, x: Any) -> Any:
    y = x * 2
    v = y[:, 1]
    y.mul_(3.0)
    return v * y[:, 0]


def v4(m: Any, x: Any) -> Any:
    y = x * 2
    v = y.reshape(4, 3)
    v[0, :] = 1.0
    return y * x


def v5(m: Any, x: Any) -> Any:
    y = x * 2
    v = y.permute(1, 0)
    v[0] = x[1, :3] * 5
    return y * y


def v6(m: Any, x: Any) -> Any:
    y = x * 2
    v = y.reshape(-1)[2:9]
    w = v[::2]
    w.add_(x[0])
    y.mul_(x)
    return w * 2 + v[::2] * y[0]


def v7(m: Any, x: Any) -> Any:
    y = m.zeros((3, 4), dtype=m.float64)
    y[1] = x[0] * 2
    return y * 3


def v9(m: Any, x: Any) -> Any:
    y = x.exp()
    d = y.detach()
    return y * d


def v10(m: Any, x: Any) -> Any:
    y = x * 2
    y += y
    y *= x
    y -= 1
    y /= 3
    return y


def v11(m: Any, x: Any) -> Any:
    y = x * 2
    y[0] = y[1]
    y[1] = y[0] * 2
    return y * y


def v12(m: Any, x: Any) -> Any:
    y = x * 2
    v = y[0:2]
    v.copy_(x[1:3])
    v.add_(1.0)
    return y * v.sum()


def v13(m: Any, x: Any) -> Any:
    y = x * 2
    v = y.transpose(0, 1)
    w = v.reshape(2, 2, 3)
    y.mul_(2.0)
    return w.sum() * v


def v14(m: Any, x: Any) -> Any:
    y = x * 2
    y.zero_()
    return y + x


def v15(m: Any, x: Any) -> Any:
    y = x * 2
    v = y[None, :, :, None]
    v[0, 1] = 7.0
    return y * y


VIEWS = [v1, v2, v3, v4, v5, v6, v7, v9, v10, v11, v12, v13, v14, v15]


@pytest.mark.parametrize("f", VIEWS)
def test_writes_and_views_as_in_pytorch(f: Any) -> None:
    x, p = T(A), P(A)
    y, z = f(gc, x), f(pytorch(), p)
    np.testing.assert_allclose(y.detach().numpy(), z.detach().numpy(), rtol=1e-12)
    y.sum().backward()
    z.sum().backward()
    zero = np.zeros_like(A)
    got, want = (zero if t.grad is None else t.grad.numpy() for t in (x, p))
    np.testing.assert_allclose(got, want, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("f", VIEWS)
def test_writes_and_views_compiled(f: Any) -> None:
    x, e = T(A), T(A)
    f(gc, e).sum().backward()

    def step(x: Any) -> Any:
        y = f(gc, x)
        y.sum().backward()
        return y

    y = gc.compile(step)(x)
    np.testing.assert_allclose(y.numpy(), f(gc, T(A)).detach().numpy(), rtol=1e-12)
    assert x.grad is not None
    assert e.grad is not None
    np.testing.assert_allclose(x.grad.numpy(), e.grad.numpy(), rtol=1e-10, atol=1e-12)
    formula = gc.compile(gc.grad(lambda x: f(gc, x).sum()))(T(A, False))
    np.testing.assert_allclose(formula.numpy(), e.grad.numpy(), rtol=1e-10, atol=1e-12)


def test_writing_what_the_other_operand_is_a_view_of_is_refused() -> None:
    x = T(A)
    y = x * 1.0
    z, same = y[0], y[0]
    z.mul_(same)
    with pytest.raises(gc.InplaceError, match=r"mul_ at .*test_tape.py:\d+"):
        (y.sum() * same).sum().backward()


def test_nograd_view_write() -> None:
    x = T(A)
    p = P(A)
    with gc.no_grad():
        x[0] = 5.0
        x[1].mul_(2.0)
        x.reshape(-1)[11] = 0.0
    with pytorch().no_grad():
        p[0] = 5.0
        p[1].mul_(2.0)
        p.reshape(-1)[11] = 0.0
    (x * x).sum().backward()
    (p * p).sum().backward()
    np.testing.assert_allclose(x.grad.numpy(), p.grad.numpy())


def test_leaf_inplace() -> None:
    x = T(A)
    with pytest.raises(gc.InplaceError):
        x.add_(1.0)
    with pytest.raises(gc.InplaceError):
        x[0] = 1.0
    with pytest.raises(gc.InplaceError):
        x[0].add_(1.0)
    np.testing.assert_array_equal(x.detach().numpy(), A)


def test_version() -> None:
    x = T(A)
    y = x.exp()
    y.add_(1.0)
    with pytest.raises(gc.InplaceError, match=r"add_.*test_tape.py:\d+"):
        y.sum().backward()
    x = T(A)
    a = x * 2
    y = a * a
    a.mul_(2.0)
    with pytest.raises(gc.InplaceError, match=r"mul_.*test_tape.py:\d+"):
        y.sum().backward()
    x = T(A)
    w = T(A, False)
    y = x * w
    w[0] = 1.0
    with pytest.raises(gc.InplaceError, match=r"x\[key\] =.*test_tape.py:\d+"):
        y.sum().backward()
    x = T(A)
    w = T(A, False)
    y = x * w
    w.detach().add_(1.0)
    with pytest.raises(gc.InplaceError):
        y.sum().backward()
    x = T(A)
    w = T(A)
    y = (x * w).sum()
    with gc.no_grad():
        w.mul_(0.0)
    with pytest.raises(gc.InplaceError):
        y.backward()
    x = T(A)
    y = x + 1
    z = y * 2
    y.add_(1.0)
    z.sum().backward()  # fine
    np.testing.assert_allclose(x.grad.numpy(), 2.0)
    x = T(A)
    y = x.sin()
    z = y.tanh()
    with gc.no_grad():
        z.mul_(2.0)
    with pytest.raises(gc.InplaceError):
        z.sum().backward()
    # view of an output
    x = T(A)
    y = x.exp()
    v = y[0]
    v.mul_(2.0)
    with pytest.raises(gc.InplaceError):
        y.sum().backward()


def test_free() -> None:
    x = T(A)
    y = (x * x).sum()
    y.backward()
    with pytest.raises(gc.AutodiffError, match="freed"):
        y.backward()
    x = T(A)
    y = (x * x).sum()
    y.backward(retain_graph=True)
    y.backward()
    np.testing.assert_allclose(x.grad.numpy(), 4 * A)


def test_integer() -> None:
    with pytest.raises(gc.DTypeError):
        gc.tensor([1, 2], requires_grad=True)
    with pytest.raises(gc.DTypeError):
        gc.tensor([True], requires_grad=True)
    with pytest.raises(gc.DTypeError):
        gc.grad(lambda x: x.sum())(gc.tensor([1, 2]))
    with pytest.raises(gc.AutodiffError):
        gc.tensor([1.0]).sum().backward()
    with pytest.raises(gc.AutodiffError):
        gc.tensor([1.0, 2.0], requires_grad=True).backward()


def test_hooks() -> None:
    def run(m, x, log):
        y = x * 2
        y.register_hook(lambda g: g * 3)
        x.register_hook(lambda g: log.append(np.array(g.detach().numpy())))
        y.retain_grad()
        z = (y * y).sum()
        z.backward()
        return y.grad.detach().numpy()

    x, p = T(A), P(A)
    l1, l2 = [], []
    np.testing.assert_allclose(run(gc, x, l1), run(pytorch(), p, l2))
    np.testing.assert_allclose(l1, l2)
    np.testing.assert_allclose(x.grad.numpy(), p.grad.numpy())
    x = T(A)
    r = x.register_hook(lambda g: g * 0)
    r()
    x.sum().backward()
    assert x.grad.numpy().all()
    r()


def test_retain_accum() -> None:
    for _m, x in ((gc, T(A)), (pytorch(), P(A))):
        y = x * 2
        y.retain_grad()
        y.sum().backward(retain_graph=True)
        y.sum().backward()
        np.testing.assert_allclose(y.grad.numpy(), 2.0)
        np.testing.assert_allclose(x.grad.numpy(), 4.0)


def test_chains_of_any_length_are_differentiated_and_freed() -> None:
    """No walk along the tape is recursive, nor is freeing it."""
    steps, factor = 100_000, 1.00001

    def chain(x: gc.Tensor) -> gc.Tensor:
        y = x
        for _ in range(steps):
            y = y * factor
        return y

    x = T(1.0)
    chain(x).backward()
    np.testing.assert_allclose(x.grad.item(), factor**steps, rtol=1e-9)
    y = chain(x)
    made = weakref.ref(y)
    del y  # without a backward
    assert made() is None
    x.grad = None
    y = chain(x)
    y.backward(retain_graph=True)
    np.testing.assert_allclose(x.grad.item(), factor**steps, rtol=1e-9)
    x.grad = None
    y = x
    for _ in range(steps):
        y = y + 1.00001
    y.backward(create_graph=True)
    assert x.grad.item() == 1


def test_many_writes_in_place_are_differentiated() -> None:
    x = T(np.ones(4))
    y = x * 1
    for _ in range(100_000):
        y.mul_(1.00001)
    y.sum().backward()
    np.testing.assert_allclose(x.grad.numpy(), 1.00001**100_000, rtol=1e-9)
    x.grad = None
    y = x * 1
    for i in range(20):
        y[i % 4] = y[(i + 1) % 4] * 0.5
    for _ in range(5000):
        y[0] = y[0] * 0.999
    y.sum().backward()
    derivative = np.eye(4)  # of each element, a row for each
    for i in range(20):
        derivative[i % 4] = derivative[(i + 1) % 4] * 0.5
    derivative[0] *= 0.999**5000
    np.testing.assert_allclose(x.grad.numpy(), derivative.sum(0), rtol=1e-9)


def test_threads_have_tapes_of_their_own() -> None:
    def work(k: int) -> None:
        for _ in range(50):
            x = T(A * k)
            with gc.no_grad():
                q = x * 2
            assert not q.requires_grad
            (x * x * x).sum().backward()
            np.testing.assert_allclose(x.grad.numpy(), 3 * (A * k) ** 2)
            f = gc.grad(gc.grad(lambda v: v * v * v))
            assert abs(f(T(2.0, False)).item() - 12) < 1e-9

    with ThreadPoolExecutor(4) as threads:
        list(threads.map(work, range(1, 5)))  # raises what they raise


def test_training_while_another_thread_traces() -> None:
    errs = []
    stop = []

    def eager():
        try:
            while not stop:
                x = T(A)
                y = (x * x * x).sum()
                assert y._data is not None
                y.backward()
                np.testing.assert_allclose(x.grad.numpy(), 3 * A**2)
        except BaseException as e:
            errs.append(e)

    t = threading.Thread(target=eager)
    t.start()
    try:
        for _ in range(6):

            def f(x):
                for _j in range(300):
                    x = x * 1.5 + 1
                return x

            gc.compile(f)(T(A, False))
    finally:
        stop.append(1)
        t.join()
    assert not errs, errs[0]


def test_data_is_read_without_history_and_not_assigned() -> None:
    x = T(A)
    assert not x.data.requires_grad
    assert np.shares_memory(x.data.numpy(), x.detach().numpy())
    with pytest.raises(gc.InplaceError, match="no_grad"):
        x.data = T(A + 1)
    np.testing.assert_array_equal(x.data.numpy(), A)


def test_nograd_deco() -> None:
    @gc.no_grad()
    def f(x):
        return x * 2

    assert not f(T(A)).requires_grad
    assert not f(T(A)).requires_grad
    x = T(A)
    with gc.no_grad():
        with gc.enable_grad():
            y = x * 2
        z = x * 2
    assert y.requires_grad and not z.requires_grad


def test_alias_seed() -> None:
    x = T(A)
    s = gc.tensor(np.ones((3, 4)))
    (x + 0).backward(s)
    x.grad.add_(1.0)
    assert (s.numpy() == 1).all()
    a, b = T(A), T(A)
    (a + b).sum().backward()
    a.grad.mul_(0.0)
    assert (b.grad.numpy() == 1).all()
    x = T(A)
    seen = []
    x.register_hook(lambda g: seen.append(g))
    (x * 2).sum().backward()
    x.grad.zero_()
    assert (seen[0].numpy() == 2).all()


def test_grad_set() -> None:
    x = T(A)
    with pytest.raises(gc.ShapeError):
        x.grad = gc.zeros((2,))
    assert x.grad is None
    x.grad = gc.zeros((3, 4), dtype=gc.float64)
    x.sum().backward()
    assert (x.grad.numpy() == 1).all()


def test_double_backward() -> None:
    x, p = T(A), P(A)
    ((x**3).sum() * x.sin().sum()).backward(create_graph=True)
    g, x.grad = x.grad, None
    assert g is not None
    (g * g).sum().backward()
    assert x.grad is not None
    torch = pytorch()
    (h,) = torch.autograd.grad((p**3).sum() * p.sin().sum(), p, create_graph=True)
    (want,) = torch.autograd.grad((h * h).sum(), p)
    np.testing.assert_allclose(x.grad.numpy(), want.numpy(), rtol=1e-10)


def test_gradients_of_create_graph_are_tensors_of_their_own() -> None:
    a, b = T(A), T(A)
    (a + b).sum().backward(create_graph=True)
    assert a.grad is not None
    assert b.grad is not None
    with gc.no_grad():
        a.grad.zero_()
    assert (b.grad.detach().numpy() == 1).all()


def test_a_hooks_replacement_must_fit() -> None:
    for wrong in (lambda g: g.sum(), lambda g: 1.0, lambda g: g.astype("float32")):
        x = T(A)
        x.register_hook(wrong)
        with pytest.raises(gc.AutodiffError, match=r"a hook must return None or a tensor float64\(3, 4\)"):
            (x * 2).sum().backward()
        assert x.grad is None


def test_anomaly_mode_names_the_operation_whose_derivative_is_nan() -> None:
    gc.set_anomaly(True)
    try:
        x = T([0.0, 1.0])
        y = (x.sqrt() * 0).sum()
        with pytest.raises(gc.AnomalyError, match=r"the derivative of sqrt \(computed at .*test_tape.py:\d+\) is nan"):
            y.backward()
        x = T([4.0, 1.0])
        x.sqrt().sum().backward()
        assert x.grad is not None
        np.testing.assert_allclose(x.grad.numpy(), [0.25, 0.5])
    finally:
        gc.set_anomaly(False)


@pytest.mark.parametrize("f", [lambda x: (x.exp() * x).sum(), lambda x: v6(gc, x).sum(), lambda x: v2(gc, x).sum()])
def test_intermediates_die_with_the_last_reference(f: Any) -> None:
    collector.disable()
    try:
        x = T(A)
        m = x * 2
        y = f(m)
        kept = [weakref.ref(m), weakref.ref(y), weakref.ref(m._data)]
        y.backward()
        del m, y
        assert all(r() is None for r in kept)
        x = T(A)
        m = x * 2
        y = f(m)
        y.backward(create_graph=True)
        g = x.grad
        (g * g).sum().backward()
        kept = [weakref.ref(m), weakref.ref(y), weakref.ref(g)]
        x.grad = None
        del m, y, g
        assert all(r() is None for r in kept)
        x = T(A)
        m = x * 2
        m.retain_grad()
        m.register_hook(lambda g: g)
        y = (m.exp() * m).sum()  # without a backward
        kept = [weakref.ref(m), weakref.ref(y)]
        del m, y
        assert all(r() is None for r in kept)
        leaf = weakref.ref(x)
        del x
        assert leaf() is None
    finally:
        collector.enable()


def test_methods_that_are_other_names_of_operations() -> None:
    x = gc.tensor([[4.0, 9.0, 16.0]])
    assert x.mT.tolist() == x.T.tolist() == [[4.0], [9.0], [16.0]]
    assert x.unsqueeze(0).shape == (1, 1, 3)
    x.div_(2.0).pow_(2.0)
    assert x.tolist() == [[4.0, 20.25, 64.0]]
